"""The console as an operator uses it: in a separate process, in a browser, and over the stand-in's table.

The browser needs Debian's packages chromium and chromium-driver; with LARDER_BROWSER=1 their absence is a failure.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from waitress.wasyncore import close_all

from enrich import __main__ as command_line
from enrich import aws
from enrich.commands import runs
from enrich.console.history import BadQuestion, find_history, parse_question
from enrich.console.pages import Options, Pages
from enrich.console.web import find_address, open_console
from enrich.intake.operations import withdraw
from enrich.intake.worker import run_dataset
from examples.flights.docs_page import BROWSER, DRIVER, open_browser
from tests.unit.enrich.console_shop import HOSTILE

ROOT = Path(__file__).resolve().parents[3]
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER) and not os.environ.get("LARDER_BROWSER"),
    reason="needs Debian's chromium and chromium-driver",
)


def put_history(shop: Any) -> None:
    """Run outputs: 1 writes a, b and c; 2 changes b and rejects c; 3 is a's duplicate, unchanged b; 4 can't be read."""
    for number, rows in enumerate(
        (
            {"shop": ["x"] * 3, "sku": ["a", "b", "c"], "units": [1.0, 2.0, 3.0]},
            {"shop": ["x"] * 3, "sku": ["a", "b", "c"], "units": [1.0, 2.5, float("nan")]},
            {"shop": ["x"] * 3, "sku": ["a", "a", "b"], "units": [1.0, 1.5, 2.5]},
        )
    ):
        shop.run(f"stock/day={shop.day(2 - number)}/p.parquet", rows)
    shop.run(f"stock/day={shop.day()}/q.parquet", b"no Parquet")


def ask_history(shop: Any, sku: str, subject: str = "x") -> Any:
    services = shop.services()
    dataset = services.datasets["stock"]
    pk, sk = parse_question(dataset, {"shop": subject}, sku)
    return find_history(services, dataset, pk, sk, services.ledger.fetch_runs("stock"))


def describe(history: Any) -> list[tuple[int, list[int], str, str | None]]:
    return [(each.run.run, list(each.rows), each.outcome, each.body) for each in history.namings]


def test_an_item_has_its_history(shop: Any) -> None:
    """The page names the run that wrote the item, the run that confirmed it, and the earlier runs that named it."""
    put_history(shop)
    a, b, c = (ask_history(shop, sku) for sku in "abc")
    assert (a.stored.state, a.stored.run, json.loads(a.stored.body)["units"]) == ("served", 1, 1.0)
    assert describe(a) == [
        (3, [0, 1], "rejected: duplicate", None),
        (2, [0], "confirmed its body, unchanged", "same"),
        (1, [0], "wrote the item that the table has", "first"),
    ]
    assert (b.stored.run, b.confirmed.run, b.confirmed.removed, b.confirmed.is_current) == (2, 3, False, True)
    assert describe(b) == [
        (3, [2], "confirmed its body, unchanged", "same"),
        (2, [1], "wrote the item that the table has", "changed"),
        (1, [1], "named it", "first"),
    ]
    assert [(run, outcome) for run, _, outcome, _ in describe(c)] == [
        (2, "rejected"),
        (1, "wrote the item that the table has"),
    ]
    assert c.absent == 1
    assert [(run.run, why) for run, why in c.unknown] == [(4, "it read no row")]
    for nobody in (ask_history(shop, "a", "another"), ask_history(shop, "d")):
        assert (nobody.stored.state, nobody.confirmed, nobody.namings) == ("none", None, [])

    services = shop.services()
    bad = services.ledger.get_run("stock", 3)
    withdraw(services, bad)
    run_dataset(services, "stock")
    prefix = "work/stock/00000001/noted"
    for entry in shop.aws.client("s3").list_objects_v2(Bucket=shop.settings.bucket, Prefix=prefix)["Contents"]:
        shop.aws.client("s3").delete_object(Bucket=shop.settings.bucket, Key=entry["Key"])  # as the lifecycle rule does
    later = ask_history(shop, "a")
    assert later.stored.state == "served"
    assert "what it read is no longer kept" in {why for _, why in later.unknown}
    assert {(run, outcome) for run, _, outcome, _ in describe(later)} >= {(3, "named it; the run is withdrawn")}


@pytest.mark.parametrize(
    ("subject", "prediction_id", "message"),
    [
        ("", "a", "shop: expected"),
        ("x\n", "a", "shop: expected"),
        ("x", "a/b", "prediction_id: exp"),
        ("x", "", "pred"),
    ],
)
def test_an_invalid_item_is_refused(shop: Any, subject: str, prediction_id: str, message: str) -> None:
    """The message names the field and what is expected."""
    with pytest.raises(BadQuestion, match=message):
        parse_question(shop.dataset, {"shop": subject}, prediction_id)


# -- the commands


@pytest.fixture
def larder(shop: Any, aws_env: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command over the stand-in; return its exit code and what it printed."""
    for name in ("table", "ledger", "bucket", "outputs", "queue", "workgroup"):
        monkeypatch.setenv(f"LARDER_{name.upper()}", getattr(shop.settings, name))
    monkeypatch.setattr(aws, "_clients", aws._clients.__wrapped__)
    for module in (aws, runs):
        monkeypatch.setattr(module, "load_datasets", lambda: {shop.dataset.name: shop.dataset})

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()  # the log lines of runs
        code = command_line.main(words)
        return (code, *capsys.readouterr())

    return run


@pytest.mark.long
def test_a_report_goes_to_a_folder_or_to_s3(shop: Any, larder: Any, tmp_path: Path) -> None:
    """Both have the same pages, as HTML; a place that can't be written is named."""
    shop.run(f"stock/day={shop.day()}/p.parquet", {"shop": ["x"], "sku": ["a"], "units": [1.0]})
    out = tmp_path / "report"
    code, text, _ = larder("report", "--out", str(out), "--region", "eu-west-1")
    assert (code, text) == (0, f"wrote 3 pages; open {out}/index.html\n")
    code, text, _ = larder("report", "stock", "--out", f"s3://{shop.settings.bucket}/reports/today", "--newest", "5")
    assert (code, text) == (0, f"wrote 3 pages; open s3://{shop.settings.bucket}/reports/today/index.html\n")
    s3 = shop.aws.client("s3")
    found = s3.list_objects_v2(Bucket=shop.settings.bucket, Prefix="reports/")["Contents"]
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.html")}
    assert {entry["Key"].removeprefix("reports/today/") for entry in found} == names
    first = s3.get_object(Bucket=shop.settings.bucket, Key="reports/today/index.html")
    assert first["ContentType"] == "text/html; charset=utf-8"
    assert b"on demand" not in first["Body"].read()
    (tmp_path / "file").write_text("mine")
    for place, message in (
        (str(tmp_path / "file"), "is a file"),
        ("s3://nowhere-at-all/x", "NoSuchBucket"),
        ("s3://", "bucket"),
    ):
        code, _, error = larder("report", "--out", place)
        assert code == 1
        assert message in error
    with pytest.raises(SystemExit) as raised:
        larder("report", "nothing", "--out", str(out))
    assert raised.value.code == 2


@pytest.mark.long
def test_packages_that_the_bundles_lack_are_named(larder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both commands name the packages to install, with the exit code of a usage error."""
    for name in [name for name in sys.modules if name.startswith("enrich.console")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for words in (("console", "--port", "0"), ("report", "--out", str(tmp_path))):
        code, _, error = larder(*words)
        assert (code, "needs jinja2; install it: pip install -r examples/requirements.txt" in error) == (2, True)


@contextmanager
def started(shop: Any, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start `./larder console` in a separate process; yield it and the first line that it prints."""
    settings = {f"LARDER_{name.upper()}": getattr(shop.settings, name) for name in ("table", "ledger", "bucket")}
    settings |= {f"LARDER_{name.upper()}": getattr(shop.settings, name) for name in ("outputs", "queue", "workgroup")}
    env = {**os.environ, **shop.aws.env, **settings, "AWS_REGION": shop.aws.region, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "enrich", "console", *words]
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore Ctrl-C
    with subprocess.Popen(
        command,
        env=env,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears,  # noqa: PLW1509
    ) as process:
        assert process.stderr is not None
        try:
            yield process, process.stderr.readline()
        finally:
            process.kill()


@pytest.mark.long
def test_the_console_is_started_and_stopped(shop: Any) -> None:
    """It prints its address, answers, and exits with 130 at Ctrl-C; for a port in use it names the remedy."""
    with started(shop, "--port", "0") as (process, line):
        found = re.fullmatch(r"larder console: http://127\.0\.0\.1:(\d+)/ \(read-only\); stop with Ctrl-C\n", line)
        assert found is not None, line
        port = int(found[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, b"flight-delays" in answer.read()) == (200, True)
        connection.close()
        with started(shop, "--port", str(port)) as (second, refusal):
            assert refusal == (
                f"port {port} of 127.0.0.1 is in use; choose another one with --port (0: any free port)\n"
            )
            assert second.wait(60) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    for word in ("70000", "-1", "x"):
        with pytest.raises(SystemExit) as raised:
            command_line.main(["console", "--port", word])
        assert raised.value.code == 2
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.1", port))


# -- in a browser


@contextmanager
def served(shop: Any, **options: Any) -> Iterator[str]:
    """Serve a console of the shop; yield its address."""
    server: Any = open_console(Pages(shop.services(), Options(**{"region": "eu-west-1", **options})), 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield find_address(server)
    finally:
        # In its own thread: another one would close a socket that it waits for.
        server.trigger.pull_trigger(lambda: close_all(server._map))
        thread.join(20)
        server.task_dispatcher.shutdown()
        assert not thread.is_alive()


def emulate(browser: Any, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def press(browser: Any, *keys: str) -> str:
    """Press keys; return the text of the element that has the focus afterwards."""
    ActionChains(browser).send_keys(*keys).perform()
    found: str = browser.switch_to.active_element.text
    return found


@pytest.mark.long
@needs_browser
def test_the_console_works_in_a_browser(shop: Any, tmp_path: Path) -> None:
    """At a phone's width, in dark mode, without a mouse: every page, an item's history, and an operation."""
    put_history(shop)
    failed = shop.services().ledger.get_run("stock", 4)
    shop.services().ledger.commit(replace(failed, error=HOSTILE))
    with served(shop, operate=True, show_data=True) as url, open_browser(tmp_path / "profile") as browser:
        paths = (
            "", "datasets/stock.html", "distributions/stock.html", "datasets/stock/runs/2.html",
            "datasets/stock/runs/3/withdraw", "items/stock.html?subject.shop=x&prediction_id=b", "nothing",
        )  # fmt: skip
        for width in (390, 1280):
            emulate(browser, width)
            for path in paths:
                browser.get(url + path)
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width, (path, width)
                assert browser.execute_script("return document.querySelectorAll('h1').length") == 1
        grounds = set()
        for scheme in ("light", "dark"):
            emulate(browser, 390, scheme)
            browser.get(url)
            grounds.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert grounds == {"rgb(255, 255, 255)", "rgb(15, 19, 24)"}

        browser.get(url)
        assert press(browser, Keys.TAB) == "Skip to the content"
        assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
        press(browser, Keys.ENTER)
        assert press(browser, Keys.TAB) == "run 4"
        press(browser, Keys.ENTER)
        assert "alert(1)" in browser.find_element("css selector", "pre").text
        for _ in range(20):
            if press(browser, Keys.TAB) == "Run again…":
                break
        press(browser, Keys.ENTER)
        assert "exactly the parts that run 4 read" in browser.find_element("tag name", "main").text
        for _ in range(20):
            if press(browser, Keys.TAB) == "Run again":
                break
        press(browser, Keys.ENTER)
        assert browser.current_url == f"{url}datasets/stock/runs/5.html"
        assert browser.find_element("css selector", ".badge").text == "pending"
        log = browser.get_log("browser")  # type: ignore[no-untyped-call]
        severe = [each["message"] for each in log if each["level"] == "SEVERE"]
        assert [each for each in severe if "404" not in each] == []
    assert shop.sent[-1] == {"continue": {"dataset": "stock"}}
