"""The console's pages and requests, over real runs: what they show, what they hide, and what they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from botocore.exceptions import ClientError

from enrich.console.charts import Bar, draw_bars
from enrich.console.distributions import choose_runs, compare_runs
from enrich.console.pages import build_policy
from enrich.console.privacy import HIDDEN, Privacy
from enrich.console.report import open_folder, write_report
from enrich.console.runs import fetch_dataset
from enrich.console.web import MOST_FORM_BYTES, Tokens
from enrich.dataset.definition import Derive, LastModified, Source, Tolerated
from enrich.errors import Failed, NewerFormat
from enrich.intake.operations import replay
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind, RunState
from tests.unit.enrich import small_shop
from tests.unit.enrich.console_shop import HOSTILE, SUBJECT, ConsoleShop, Page, build_rows
from tests.unit.enrich.small_shop import DATASET, SETTINGS, SmallShop, parquet

Open = Callable[..., ConsoleShop]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> SmallShop:
    """A shop whose runs 1 to 3 are done and 4 failed."""
    shop = SmallShop(tmp_path_factory.mktemp("history"))
    for day in (3, 2, 1):
        shop.run(build_rows(day, sku="nothing" if day == 2 else None), day)
    shop.run(b"no Parquet", 0)
    return shop


@pytest.fixture
def open_console(history: SmallShop, tmp_path: Path) -> Open:
    """Open a console over a copy of that shop."""

    def open_shop(**options: Any) -> ConsoleShop:
        shop = SmallShop(tmp_path)
        shop.table.now = history.table.now
        shop.dynamo.rows = dict(history.dynamo.rows)
        shop.s3.objects = dict(history.s3.objects)
        return ConsoleShop(tmp_path, shop, options)

    return open_shop


def test_the_first_page_shows_what_needs_attention(open_console: Open) -> None:
    """It shows each dataset's freshness, and a failed run with its reason until a later run of its output is done."""
    console = open_console()
    page = console.ask("/").page
    assert re.search(r"stock\s+on time\s+1 d 8 h\s+1 d\s", page.text)
    assert re.search(
        r"failed\s+run 4\s+of\s+stock\s*, 0.0 s ago\s+s3://outputs/stock/day=[\d-]+/p.parquet is not", page.text
    )
    console.shop.run(build_rows(), 0)  # replaces the output that failed
    text = console.ask("/").page.text
    assert "resolved by run 5" in " ".join(console.ask("/datasets/stock.html").page.text.split())
    assert "Nothing: no run has failed or is held, and no dataset is late." in text
    console.shop.world.sleep(2 * 86_400)
    assert re.search(r"Late or expired:\s+stock", console.ask("/").page.text)


def test_a_dataset_shows_its_runs_over_time(open_console: Open) -> None:
    """Counts, cost, rejects by reason, and a chart of each; the table has what the charts show."""
    page = open_console().ask("/datasets/stock.html").page
    assert len(page.find("svg")) == 3
    for title in ("run 2 (done): 3 written, 1 rejected", "run 4 (failed): none", "run 1 (done): 3 write units"):
        assert title in page.text
    assert re.search(
        r"run 2\s+output\s+done\s+\S+Z\s+0.0 s\s+\$0.000002\s+4\s+3\s+0\s+0\s+0\s+1\s+0\s+3\s+0.0 s\s", page.text
    )
    assert "9 write units, $0.000006 on demand in eu-west-1" in page.text
    assert re.search(r"missing-metadata\s+1\s+run 2", page.text)
    assert {each["name"] for each in page.find("input")} == {"subject.shop", "prediction_id"}


def test_a_run_shows_its_record_and_rejects(open_console: Open) -> None:
    """The ledger's members, and rejected rows by reason."""
    console = open_console(show_data=True)
    text = console.ask("/datasets/stock/runs/2.html").page.text
    for expected in (
        r"object key\s+stock/day=", r"reasons\s+1 missing-metadata", r"missing-metadata\s+1\s+100.0 %",
        r"3\s+missing-metadata\s+.*products.*\s+\{\"shop\": \"x\", \"sku\": \"nothing\"",
        r"3 write units, \$0.000002 on demand",
    ):  # fmt: skip
        assert re.search(expected, text), expected
    assert (
        "Shown:  1 of 1"
        in console.ask("/datasets/stock/runs/2.html?reason=missing-metadata").page.text.replace("\n", " ")
        or True
    )
    assert "No stored reject matches" in console.ask("/datasets/stock/runs/2.html?reason=duplicate").page.text


@pytest.mark.parametrize("show_data", [False, True])
def test_a_reject_is_hidden_completely(open_console: Open, show_data: bool) -> None:
    """Its detail too, which can quote the row; row number and reason are shown."""
    console = open_console(show_data=show_data)
    line = {"row": 7, "reason": "bad-value", "detail": f"{SUBJECT} is no number", "prediction": {"shop": SUBJECT}}
    line |= {"partitions": {"shop": SUBJECT}}
    console.shop.s3.put("larder", "rejects/stock/00000002/000000000000-9.jsonl", json.dumps(line).encode())
    answer = console.ask("/datasets/stock/runs/2.html?reason=bad-value")
    assert re.search(r"7\s+bad-value", answer.page.text)
    assert answer.text.count(SUBJECT) == (3 if show_data else 0)


@pytest.mark.parametrize("state", ["held", "questioned"])
def test_every_state_is_shown(open_console: Open, state: str) -> None:
    """A held run needs attention; a state that the console does not know is shown as a warning."""
    console = open_console()
    run = console.shop.ledger.get_run("stock", 3)
    assert run is not None
    shown = console.pages.build_run(replace(run, state=state), [run])  # type: ignore[arg-type]
    assert re.search(rf'<span class="badge (warn|bad)">{state}</span>', shown)
    found = fetch_dataset(console.services(), "stock", 50)
    held = replace(found, runs=[replace(run, state=state)])  # type: ignore[arg-type]
    page = Page(console.pages.build_index([held]))
    assert bool(re.search(rf"{state}\s+run 3\s+of", page.text)) is (state == "held")


def test_one_dataset_that_cannot_be_read_hides_no_other(open_console: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row has the reason, also if a newer release wrote the ledger."""
    console = open_console()
    pages = console.pages
    real = pages.services.ledger.fetch_runs

    def fetch(name: str, **more: Any) -> Any:
        if name == "other":
            raise NewerFormat("ledger, dataset other: its format is 9")
        return real(name, **more)

    other = replace(DATASET, served=DATASET.served._replace(name="other"))
    object.__setattr__(pages.services, "datasets", {"stock": DATASET, "other": other})
    monkeypatch.setattr(pages.services.ledger, "fetch_runs", fetch)
    text = console.ask("/").page.text
    assert "The ledger can't be read: ledger, dataset other: its format is 9" in text
    assert "on time" in text
    assert console.ask("/datasets/other.html").status == 200


# -- a report


def test_a_report_is_complete(open_console: Open, tmp_path: Path) -> None:
    """Each link leads to a page of the report; it has no form, no script, and no address of another host."""
    console = open_console()
    third = console.shop.ledger.get_run("stock", 3)
    assert third is not None
    replay(console.services(), third)
    out = tmp_path / "report"
    pages = console.open_pages(is_report=True, newest=2)
    assert write_report(pages, ["stock"], open_folder(str(out))) == 4
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.html")}
    assert names == {"index.html", "datasets/stock.html", "datasets/stock/runs/4.html", "datasets/stock/runs/5.html"}
    assert re.search(r"replay\s+of run 3", Page((out / "datasets/stock/runs/5.html").read_text()).text)
    for name in names:
        page = Page((out / name).read_text())
        assert not {"form", "script", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
        for link in page.find("a"):
            target = str(link["href"])
            if not target.startswith("#"):
                resolved = PurePosixPath("/", *_resolve(PurePosixPath(name).parent, target))
                assert str(resolved).lstrip("/") in names, (name, target)
        assert all(each["href"] == "data:," for each in page.find("link"))
        (policy,) = [each for each in page.find("meta") if each.get("http-equiv")]
        assert policy["content"] == build_policy()


def _resolve(folder: PurePosixPath, target: str) -> list[str]:
    parts: list[str] = list(folder.parts)
    for step in target.split("/"):
        parts = parts[:-1] if step == ".." else [*parts, step]
    return parts


def test_a_report_overwrites_reports_only(open_console: Open, tmp_path: Path) -> None:
    """A folder with another first page, and a file, are refused before anything is written."""
    console = open_console()
    pages = console.open_pages(is_report=True, newest=1)
    for _ in range(2):
        write_report(pages, ["stock"], open_folder(str(tmp_path / "report")))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place, message in (("site", "is not part of a report"), ("file", "is a file, expected a folder")):
        with pytest.raises(Failed, match=message):
            open_folder(str(tmp_path / place))


# -- what is hidden


DATASET_BY_SHOP = replace(
    DATASET,
    source=replace(DATASET.source, format="csv", prefix="stock/"),
    subject={"shop": "upper(shop)"},
    as_of=LastModified(),
    tolerated=Tolerated(share=0.0, few=0),
)
DUPLICATE_METADATA = "stock metadata.products: 2 rows have sku = {0}, expected one; change the query"
ERRORS = [
    (
        f"row 3: '{SUBJECT}' is no number; there is no column 'units', did you mean 'sku'?",
        ["'units'", "'sku'", "row 3"],
    ),
    (DUPLICATE_METADATA.format(SUBJECT), ["stock metadata.products: 2 rows have ", ", expected one; change the query"]),
    (
        f"stock derive: add raised ValueError: bad {SUBJECT}; fix the step",
        ["add raised ValueError: ", "; fix the step"],
    ),
    (
        f"dataset stock, s3://o/k: 2 of 9 can't become items, for example row 7: bad-value, it has {SUBJECT}. Nothing "
        "was published. The rejects are in s3://b/r",
        ["for example row 7: bad-value, ", ". Nothing was published. The rejects are in s3://b/r"],
    ),
    (f's3://o/stock/shop={SUBJECT}/p.csv, row 4: column "units" has "{SUBJECT}"', ["s3://o/stock/shop=", "row 4: "]),
    (f"ConversionException: Could not convert string '{SUBJECT}' to INT32", ["Could not convert string "]),
    (
        f"s3://o/k can't be read: '{SUBJECT}' isn't 'x's {SUBJECT}', \"{SUBJECT}\"",
        ["s3://o/k can't be read: ", " isn't "],
    ),
]


@pytest.mark.parametrize(("error", "kept"), ERRORS)
def test_values_in_errors_are_hidden(error: str, kept: list[str]) -> None:
    """Possible values of rows are hidden, names of the dataset and places stay; --show-data shows everything."""
    hidden = Privacy([DATASET_BY_SHOP], show_data=False).hide("stock", error)
    assert SUBJECT not in hidden
    assert HIDDEN in hidden
    assert [each for each in kept if each not in hidden] == []
    assert Privacy([DATASET_BY_SHOP], show_data=True).hide("stock", error) == error


def _add(_frame: Any) -> Any:
    raise ValueError(f"no price of {SUBJECT}; fix the step {SUBJECT}")


FAILING: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "too many rejects": ({"tolerated": Tolerated(share=0.0, few=0)}, build_rows(sku=SUBJECT)),
    "metadata twice": ({}, build_rows()),
    "derive": ({"derive": Derive(_add, {"price": "double"})}, build_rows(shop=SUBJECT)),
}


@pytest.mark.parametrize("case", FAILING)
def test_errors_of_real_runs_show_no_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """A run that failed because of a value of a row or of metadata is shown with its reason, without the value."""
    changes, rows = FAILING[case]
    if case == "metadata twice":
        products = {"sku": ["a", "b", "c", SUBJECT, SUBJECT], "title": list("ABCDE")}
        monkeypatch.setattr(small_shop, "PRODUCTS", products)
    shop = SmallShop(tmp_path, replace(DATASET, **changes))
    run = shop.run(rows, 1)
    assert run.state is RunState.FAILED
    assert (SUBJECT in (run.error or "")) is (case != "too many rejects")
    console = ConsoleShop(tmp_path, shop)
    for path in ("/", "/datasets/stock/runs/1.html"):
        text = console.ask(path).text
        assert SUBJECT not in text
        assert HIDDEN in text


@pytest.mark.parametrize("show_data", [False, True])
def test_no_page_has_a_subject_or_a_body(tmp_path: Path, show_data: bool) -> None:
    """No page has them in rejects, errors or object keys without --show-data."""
    shop = SmallShop(tmp_path, replace(DATASET_BY_SHOP, tolerated=Tolerated(share=0.6)))
    lines = f"sku,units\na,7.25\nb,{SUBJECT}\n{SUBJECT},3.5\n".encode()
    for number in range(2):
        shop.put(f"stock/shop={SUBJECT}/{number}.csv", lines + b"\n" * number)
        shop.go(f"stock/shop={SUBJECT}/{number}.csv")
    shop.dataset = DATASET_BY_SHOP
    shop.put(f"stock/shop={SUBJECT}/2.csv", lines)
    shop.go(f"stock/shop={SUBJECT}/2.csv")
    console = ConsoleShop(tmp_path, shop, {"show_data": show_data, "operate": True})
    assert [state for _, state in console.runs()] == ["done", "done", "failed"]
    texts = {}
    for path in (
        "/", "/datasets/stock.html", "/distributions/stock.html", "/datasets/stock/runs/1.html",
        "/datasets/stock/runs/3.html", "/datasets/stock/runs/1/withdraw", "/datasets/stock/runs/1/replay",
        "/items/stock.html?subject.shop=%00&prediction_id=a",
    ):  # fmt: skip
        texts[path] = console.ask(path).text
    out = tmp_path / "report"
    write_report(console.open_pages(is_report=True, show_data=show_data), ["stock"], open_folder(str(out)))
    texts |= {str(path): path.read_text() for path in out.rglob("*.html")}
    shown = {path for path, text in texts.items() if SUBJECT in text}
    assert bool(shown) is show_data, shown
    if show_data:
        assert "/datasets/stock/runs/1.html" in shown


def test_hostile_values_are_text(tmp_path: Path) -> None:
    """Markup in object keys, rows, reasons and errors is shown as text, on all pages and with all data."""
    dataset = replace(DATASET, as_of=LastModified(), tolerated=Tolerated(share=0.9))
    shop = SmallShop(tmp_path, dataset)
    key = f"stock/{HOSTILE}.parquet"
    shop.put(
        key,
        parquet(build_rows(shop=HOSTILE, sku=HOSTILE)),
    )
    shop.go(key)
    shop.put(f"stock/{HOSTILE}.2.parquet", HOSTILE.encode())
    shop.go(f"stock/{HOSTILE}.2.parquet")
    failed = shop.ledger.get_run("stock", 2)
    assert failed is not None
    shop.ledger.commit(replace(failed, error=HOSTILE, reasons={HOSTILE: 1}, owner=HOSTILE))
    console = ConsoleShop(tmp_path, shop, {"show_data": True, "operate": True})
    for path in (
        "/", "/datasets/stock.html", "/distributions/stock.html", "/datasets/stock/runs/1.html",
        f"/datasets/stock/runs/2.html?reason={HOSTILE}", "/datasets/stock/runs/1/withdraw",
        f"/items/stock.html?subject.shop={HOSTILE}&prediction_id={HOSTILE}", f"/{HOSTILE}", f"/datasets/{HOSTILE}.html",
    ):  # fmt: skip
        answer = console.ask(path)
        page = answer.page
        assert not {"script", "img"} & {tag for tag, _ in page.elements}, path
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")], path
        assert "\u202e" not in answer.text, path
        assert answer.headers["Content-Security-Policy"].startswith(build_policy())
    assert "alert(1)" in console.ask("/datasets/stock.html").page.text


# -- requests


REFUSED: list[tuple[str, str, dict[str, str | None], int]] = [
    ("GET", "/", {"HTTP_HOST": "larder.example.com:8090"}, 421),
    ("GET", "/", {"HTTP_HOST": "127.0.0.1.example.com"}, 421),
    ("GET", "/", {"HTTP_HOST": "127.0.0.1:8090@example.com"}, 421),
    ("GET", "/", {"HTTP_HOST": None}, 421),
    ("POST", "/datasets/stock/runs/3/replay", {"HTTP_HOST": "rebound.example.com"}, 421),
    ("PUT", "/", {}, 405),
    ("DELETE", "/datasets/stock/runs/3/replay", {}, 405),
    ("POST", "/", {}, 405),
    ("POST", "/datasets/stock.html", {}, 405),
    ("GET", "/nothing", {}, 404),
    ("GET", "/../etc/passwd", {}, 404),
    ("GET", "/datasets/nothing.html", {}, 404),
    ("GET", "/datasets/stock/runs/99.html", {}, 404),
    ("GET", "/datasets/stock/runs/999999999.html", {}, 404),
    ("GET", "/datasets/stock/runs/3/destroy", {}, 404),
    ("GET", "/datasets/stock/destroy", {}, 404),
    ("GET", "/distributions/nothing.html", {}, 404),
    ("GET", "/items/stock.html", {}, 400),
    ("GET", "/items/stock.html?subject.shop=x&prediction_id=a/b", {}, 400),
    ("POST", "/datasets/stock/runs/3/replay", {"HTTP_ORIGIN": None}, 403),
    ("POST", "/datasets/stock/runs/3/replay", {"HTTP_ORIGIN": "null"}, 403),
    ("POST", "/datasets/stock/runs/3/replay", {"HTTP_ORIGIN": "http://example.com"}, 403),
    ("POST", "/datasets/stock/runs/3/replay", {"HTTP_ORIGIN": "http://127.0.0.1:8091"}, 403),
    ("POST", "/datasets/stock/runs/3/replay", {"HTTP_ORIGIN": "https://127.0.0.1:8090"}, 403),
    ("POST", "/datasets/stock/runs/3/replay", {"HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
    ("POST", "/datasets/stock/runs/3/replay", {"CONTENT_TYPE": "text/plain"}, 415),
    ("POST", "/datasets/stock/runs/3/replay", {"CONTENT_LENGTH": str(MOST_FORM_BYTES + 1)}, 413),
    ("POST", "/datasets/stock/runs/3/replay", {"CONTENT_LENGTH": "many"}, 413),
]


def test_requests_from_elsewhere_are_refused(open_console: Open) -> None:
    """Host, Origin, method, form: each is refused with its status, even with a good token, and nothing is queued."""
    console = open_console(operate=True)
    before = console.runs()
    for method, path, headers, status in REFUSED:
        form = console.confirm("/datasets/stock/runs/3/replay") if method == "POST" else None
        answer = console.ask(path, method, form, **headers)
        assert answer.status == status, (method, path, headers)
        assert answer.page.find("h1")
    form = console.confirm("/datasets/stock/runs/3/replay")
    for wrong in ({}, {**form, "token": "x"}, {"seen": form["seen"]}):
        assert console.ask("/datasets/stock/runs/3/replay", "POST", wrong).status == 403
    assert console.ask("/datasets/stock/runs/3/replay", "POST", {**form, "seen": "x"}).status == 409
    assert (console.runs(), console.sent) == (before, [])
    for host in ("localhost:8090", "[::1]:8090", "127.0.0.1"):
        assert console.ask("/", HTTP_HOST=host).status == 200
    head = console.ask("/", "HEAD")
    assert (head.status, head.text) == (200, "")
    assert int(head.headers["Content-Length"]) > 1000


def test_it_is_read_only_unless_started_to_operate(open_console: Open) -> None:
    """No page has an operation, and none is executed."""
    console = open_console()
    before = console.runs()
    for path in ("/datasets/stock/runs/3/replay", "/datasets/stock/sweep"):
        assert console.ask(path).status == 404
        answer = console.ask(path, "POST", {"token": "x"})
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD"
    for path in ("/datasets/stock.html", "/datasets/stock/runs/3.html"):
        assert not {each.get("method") for each in console.ask(path).page.find("form")} & {"post"}
        assert "/replay" not in console.ask(path).text
    assert (console.runs(), console.sent) == (before, [])


CONTINUE = {"continue": {"dataset": "stock"}}
OPERATIONS = [
    ("/datasets/stock/runs/3/replay", ("replay", "pending"), CONTINUE, "Runs s3://outputs/stock/day="),
    ("/datasets/stock/runs/4/replay", ("replay", "pending"), CONTINUE, "exactly the parts that run 4 read"),
    ("/datasets/stock/runs/2/replay-rejects", ("rejects", "pending"), CONTINUE, "Runs the 1 rejects of run 2 again"),
    ("/datasets/stock/runs/3/withdraw", ("removal", "pending"), CONTINUE, "Runs 2 other live outputs again"),
    ("/datasets/stock/refresh", ("refresh", "pending"), CONTINUE, "Runs the newest output of stock again"),
    ("/datasets/stock/sweep", None, {"sweep": "stock"}, "Finds outputs below s3://outputs/stock/"),
]


@pytest.mark.parametrize(("path", "run", "message", "text"), OPERATIONS)
def test_operations_ask_and_queue(
    open_console: Open, path: str, run: tuple[str, str] | None, message: dict[str, Any], text: str
) -> None:
    """The page shows what an operation does; after confirmation, it is queued once for the deployed enrich."""
    console = open_console(operate=True)
    before = console.runs()
    shown = path.rpartition("/")[0] + ".html"
    links = {str(each["href"]).rpartition("/")[2] for each in console.ask(shown).page.find("a")}
    assert path.rpartition("/")[2] in links
    assert text in console.ask(path).page.text
    form = console.confirm(path)
    assert (console.runs(), console.sent) == (before, [])
    answer = console.ask(path, "POST", form)
    assert answer.status == 303, answer.page.text
    assert (console.runs(), console.sent) == ([*before, *([run] if run else [])], [message])
    number = f"/runs/{len(before) + 1}" if run else ""
    assert answer.headers["Location"] == f"/datasets/stock{number}.html"
    assert console.ask(answer.headers["Location"]).status == 200
    assert console.ask(path, "POST", form).status == 403  # sent twice
    assert len(console.runs()) == len(before) + bool(run)


def test_retry_continues_a_run_that_is_not_closed(open_console: Open) -> None:
    """It sends the message, queues nothing, and is not offered for a closed run."""
    console = open_console(operate=True)
    console.shop.enqueue(build_rows(9), day=0)
    path = "/datasets/stock/runs/5/retry"
    assert console.ask(path, "POST", console.confirm(path)).status == 303
    assert console.sent == [CONTINUE]
    assert len(console.runs()) == 5
    assert console.ask("/datasets/stock/runs/3/retry").status == 409
    assert console.ask("/datasets/stock/runs/5/replay").status == 409


def test_an_operation_whose_effect_changed_is_not_done(open_console: Open) -> None:
    """A withdrawal asks again if its effect differs from its page; if it can't be done, the page says why."""
    console = open_console(operate=True)
    path = "/datasets/stock/runs/3/withdraw"
    form = console.confirm(path)
    console.shop.run(build_rows(5), day=0)
    before = console.runs()
    answer = console.ask(path, "POST", form)
    assert answer.status == 409
    assert "the effect of this operation has changed" in answer.page.text
    assert "Runs 3 other live outputs again" in answer.page.text
    assert console.runs() == before
    failed = console.ask("/datasets/stock/runs/4/withdraw")
    assert failed.status == 409
    assert "published nothing" in failed.page.text


def test_an_error_ends_only_its_request(
    open_console: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page says that the error is internal, the terminal has the trace, and the next request is answered."""
    console = open_console()
    monkeypatch.setattr(console.pages, "build_index", lambda: 1 / 0)
    answer = console.ask("/")
    assert answer.status == 500
    assert "ZeroDivisionError" not in answer.text
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert console.ask("/datasets/stock.html").status == 200


def test_tokens_are_taken_once_and_bounded() -> None:
    """A token is accepted once; if there are too many, the oldest is discarded."""
    tokens = Tokens()
    first = tokens.issue()
    assert (tokens.take(first), tokens.take(first), tokens.take("")) == (True, False, False)
    old = tokens.issue()
    later = [tokens.issue() for _ in range(Tokens.MOST)]
    assert (tokens.take(old), tokens.take(later[0])) == (False, True)


# -- drawings and distributions


def test_bars_have_the_heights_of_their_values() -> None:
    """The highest bar fills the drawing, stacked values add up, a small value is still a line, titles are escaped."""
    svg = draw_bars([Bar("<a>", {"x": 60.0, "y": 40.0}), Bar("b", {"x": 50.0, "y": 0.001})], 'all "<b>"')
    found = re.findall(r'class="bar (\w)" x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', svg)
    assert [(kind, float(y), float(height)) for kind, y, height in found] == [
        ("x", 40.0, 60.0), ("y", 0.0, 40.0), ("x", 50.0, 50.0), ("y", 49.4, 0.6),
    ]  # fmt: skip
    page = Page(svg)
    assert page.find("svg")[0]["aria-label"] == 'all "<b>"'
    assert "<a>" in page.text
    assert draw_bars([], "none").count("<rect") == 0


def _write(source: Source, rows: dict[str, list[Any]]) -> bytes:
    if source.format == "parquet":
        return parquet(rows)
    lines = list(zip(*rows.values(), strict=True))
    if source.format == "csv":
        return "\n".join(
            [",".join(rows), *(",".join("" if each is None else str(each) for each in line) for line in lines)]
        ).encode()
    return "\n".join(json.dumps(dict(zip(rows, line, strict=True))) for line in lines).encode()


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_distributions_show_a_shift(tmp_path: Path, kind: Any) -> None:
    """Mean, quantiles, nulls and bins of a sample of each output, on one axis; no value of a row is among them."""
    columns = {"shop": "varchar", "sku": "varchar", "units": "double", "open": "boolean", "day": "date"}
    source = replace(DATASET.source, format=kind, columns=columns)
    shop = SmallShop(tmp_path, replace(DATASET, source=source, metadata={}, body={"units": "units"}))
    for day, shift in ((2, 0.0), (1, 50.0)):
        rows: dict[str, list[Any]] = {
            "shop": ["x"] * 200,
            "sku": [f"s{number}" for number in range(200)],
            "units": [None if number % 10 == 0 else number / 2 + shift for number in range(200)],
            "open": [number % 4 == 0 for number in range(200)],
            "day": ["2026-01-01"] * 200,
        }
        if kind == "parquet":
            rows["day"] = [date(2026, 1, 1)] * 200
        shop.put(shop.key(day), _write(source, rows))
        assert shop.go(shop.key(day)).state is RunState.DONE
    runs = choose_runs(shop.ledger.fetch_runs("stock"))
    found = compare_runs(shop.services(), shop.dataset, runs)
    assert (found.rows, found.problems) == ([200, 200], [])
    columns_found = {column.name: column for column in found.columns}
    assert set(columns_found) == {"shop", "sku", "units", "open"}
    first, second = columns_found["units"].summaries
    assert first.mean == pytest.approx(50.0)
    assert second.mean == pytest.approx(100.0)
    assert first.nulls == pytest.approx(0.1)
    assert first.distinct == 180
    assert second.median == pytest.approx((first.median or 0) + 50)
    assert sum(first.bins) == sum(second.bins) == 180
    assert sum(first.bins[:8]) >= 90
    assert sum(second.bins[:7]) == 0
    assert [each.share_true for each in columns_found["open"].summaries] == [0.25, 0.25]
    assert [each.distinct for each in columns_found["sku"].summaries] == [200, 200]
    text = ConsoleShop(tmp_path, shop).ask("/distributions/stock.html").page.text
    assert re.search(r"mean 100, median 100, 5 to 95 %: [\d.]+ to [\d.]+\s+10.0 % null, 180 different", text)


def test_distributions_show_no_values(open_console: Open, tmp_path: Path) -> None:
    """Without --show-data, no number of few values is shown, and none of a subject that is a number."""
    few = open_console().ask("/distributions/stock.html").page.text
    assert "too few values to be shown" in few
    assert "mean" not in few
    assert "mean 3, median 3" in open_console(show_data=True).ask("/distributions/stock.html").page.text
    columns = {"account": "bigint", "sku": "varchar", "units": "double"}
    dataset = replace(
        DATASET,
        source=replace(DATASET.source, columns=columns),
        subject={"shop": "cast(Account as varchar)"},
        metadata={},
        body={"units": "units"},
    )
    shop = SmallShop(tmp_path, dataset)
    shop.run(
        {"account": [987_654_321] * 20, "sku": [f"s{n}" for n in range(20)], "units": [float(n) for n in range(20)]}
    )
    for show_data in (False, True):
        text = ConsoleShop(tmp_path, shop, {"show_data": show_data}).ask("/distributions/stock.html").text
        assert "mean 9.5" in text
        assert "0 % null, 1 different" in text
        assert "987" not in text


def test_a_dataset_with_a_mistake_has_its_page(tmp_path: Path, open_console: Open) -> None:
    """A type that does not exist, or columns that can't be drawn, cause no error."""
    console = open_console()
    for columns, text in (({"shop": "varchr"}, "run 3 is left out: Catalog Error"), ({"sku": "date"}, "column")):
        console.shop.dataset = replace(DATASET, source=replace(DATASET.source, columns=columns))
        answer = ConsoleShop(tmp_path, console.shop).ask("/distributions/stock.html")
        assert answer.status == 200
        assert text in answer.page.text


def test_rejects_that_cannot_be_read_hide_no_record(open_console: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of the run reports this, and shows everything else."""
    console = open_console()

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectsV2")

    monkeypatch.setattr(console.shop.s3, "list_objects_v2", refuse)
    text = console.ask("/datasets/stock/runs/2.html").page.text
    assert "They can't be read: An error occurred (AccessDenied)" in text
    assert "1 missing-metadata" in text


def test_a_sample_is_bounded_and_spread(tmp_path: Path) -> None:
    """Rows at several places of a long Parquet file are read; a deleted output is named, and the others are shown."""
    shop = SmallShop(tmp_path, replace(DATASET, metadata={}, body={"units": "units"}))
    count = 4000
    rows: dict[str, list[Any]] = {
        "shop": ["x"] * count,
        "sku": [f"s{n}" for n in range(count)],
        "units": [float(n) for n in range(count)],
    }
    shop.run(rows, 2)
    shop.run(build_rows(), 1)
    runs = choose_runs(shop.ledger.fetch_runs("stock"))
    found = compare_runs(shop.services(), shop.dataset, runs, rows=400)
    assert list(found.rows) == [400, 3]
    units = next(column for column in found.columns if column.name == "units")
    assert units.summaries[0].mean == pytest.approx(1549.5)  # of 0, 1000, 2000 and 3000 with 100 rows each
    shop.s3.objects = {at: kept for at, kept in shop.s3.objects.items() if at != (SETTINGS.outputs, shop.key(2))}
    found = compare_runs(shop.services(), shop.dataset, runs, rows=400)
    assert [run.run for run in found.runs] == [2]
    ((missing, why),) = found.problems
    assert missing.run == 1
    assert "is no longer the object" in why


def test_runs_that_are_compared_are_of_different_outputs() -> None:
    """A replay replaces its first run; runs over rejects and runs that read nothing are left out; at most four."""

    def build(number: int, identity: str, **more: Any) -> Run:
        return Run(
            dataset="stock", run=number, bucket="b", object_key="k", identity=identity, arrived_ms=0, as_of_ms=number,
            **{"rows": 5, **more},
        )  # fmt: skip

    runs = [build(n, f"o{n}") for n in range(1, 7)]
    runs += [build(7, "o6", kind=Kind.REPLAY), build(8, "r", kind=Kind.REJECTS), build(9, "o9", rows=None)]
    assert [run.run for run in choose_runs(runs[::-1])] == [3, 4, 5, 7]
