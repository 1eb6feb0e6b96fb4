"""`./larder` as an operator uses it: what it prints, as text and as JSON, and its exit codes."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from enrich import __main__ as command_line
from enrich import aws
from enrich.commands import local, runs
from enrich.dataset.definition import Guard
from enrich.intake.find import take_arrived
from enrich.ledger.lease import acquire_lease

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/command-line.schema.json").read_text())
BUSY, DONE, FAILED = command_line.BUSY, command_line.DONE, command_line.FAILED


@pytest.fixture
def others() -> list[Any]:
    """The datasets beside the shop's."""
    return []


@pytest.fixture
def enrich(
    shop: Any, others: list[Any], aws_env: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Run a command over the stand-in; return its exit code and what it printed, parsed if it is JSON."""
    for name in ("table", "ledger", "bucket", "outputs", "queue", "workgroup"):
        monkeypatch.setenv(f"LARDER_{name.upper()}", getattr(shop.settings, name))
    monkeypatch.setenv("AWS_ENDPOINT_URL_ATHENA", shop.athena_url)
    monkeypatch.setattr(aws, "_clients", aws._clients.__wrapped__)
    for module in (aws, local, runs):
        monkeypatch.setattr(module, "load_datasets", lambda: {each.name: each for each in (shop.dataset, *others)})

    def run(*words: str) -> tuple[int, Any, str]:
        code = command_line.main(words)
        out, err = capsys.readouterr()
        if "--json" not in words:
            return code, out, err
        found = json.loads(out)
        Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{words[0]}"}).validate(found)
        return code, found, err

    return run


def url(shop: Any, name: str = "p.parquet") -> str:
    return f"s3://{shop.settings.outputs}/stock/day={shop.day()}/{name}"


def put(shop: Any, rows: Any, name: str = "p.parquet") -> str:
    shop.put(f"stock/day={shop.day()}/{name}", rows)
    return url(shop, name)


def test_run_then_status(shop: Any, enrich: Any) -> None:
    """A run shows its counts; status lists runs, and shows one in full."""
    code, runs, _ = enrich("run", put(shop, {"shop": ["x", "x"], "sku": ["a", "q"], "units": [1.0, 1.0]}), "--json")
    assert code == DONE
    (run,) = runs
    assert (run["state"], run["counts"]["written"], run["counts"]["rejected"], run["counts"]["read"]) == (
        "done",
        1,
        1,
        2,
    )
    code, table, _ = enrich("status", "stock")
    assert code == DONE
    assert "p.parquet" in table
    assert "done" in table
    code, whole, _ = enrich("status", "stock", "1", "--json")
    assert code == DONE
    assert whole["reasons"] == {"missing-metadata": 1}
    assert whole["order"].startswith("0001.")


def test_an_output_that_fails_says_why(shop: Any, enrich: Any) -> None:
    """The exit code is 1, and the message names the object."""
    code, _, error = enrich("run", put(shop, b"no"))
    assert code == FAILED
    assert f"stock/day={shop.day()}/p.parquet" in error


def test_an_output_that_fails_a_guard_is_held_approved_and_rejected(shop: Any, enrich: Any) -> None:
    """`plan` shows it, `run` exits with 1, `status` lists it with its statistics; then an operator decides."""
    shop.dataset = replace(shop.dataset, guards=[Guard("mean", "units", change=0.5), Guard("rows", least=1)])
    enrich("run", put(shop, {"shop": ["x"], "sku": ["a"], "units": [1.0]}))
    says = "mean of units is 50, and 1 in run 1 (+4900.0%); allowed is 50 % up or down"
    for number, (name, state) in enumerate({"approve": "done", "reject": "rejected"}.items(), 2):
        output = put(
            shop, {"shop": ["x"], "sku": ["b"], "units": [50.0 if number == 2 else 5000.0]}, f"{number}.parquet"
        )
        code, planned, _ = enrich("plan", output, "--json")
        assert (code, planned["run"]["state"]) == (FAILED, "held")
        assert [each["passed"] for each in planned["guards"]] == [False, True]
        assert "the run would be held" in enrich("plan", output)[1]
        code, (run,), error = enrich("run", output, "--json")
        assert (code, run["state"], run["counts"]["read"]) == (FAILED, "held", 0)
        assert f"`./larder approve stock {number}`" in error
        assert enrich("run", output)[0] == FAILED
        code, found, _ = enrich("status", "--json")
        assert [each["run"] for each in found["stock"]["held"]] == [number]
        assert "held run" in enrich("status")[1]
        code, whole, _ = enrich("status", "stock", f"{number}", "--json")
        assert whole["statistics"]["reference"] == number - 1
        assert whole["statistics"]["values"]["units"]["groups"][0][1] == 1
        text = enrich("status", "stock", f"{number}")[1]
        assert says in text or number == 3
        assert "Statistics of 1 predictions, compared with run" in text
        code, (run,), _ = enrich(name, "stock", f"{number}", "--json")
        assert (code, run["state"]) == (DONE, state)
        code, _, error = enrich(name, "stock", f"{number}")
        assert code == FAILED
        assert "only a held run can be" in error
    assert enrich("status", "--json")[1]["stock"]["held"] == []


def test_what_is_no_output_is_refused(shop: Any, enrich: Any) -> None:
    """An object that does not exist, or is under no prefix, is refused with the known prefixes."""
    code, _, error = enrich("run", url(shop, "nothing.parquet"))
    assert code == FAILED
    assert "stock/" in error


def test_a_busy_dataset_queues_the_run(shop: Any, enrich: Any) -> None:
    """The exit code 3 says that the run is queued, and status shows it as pending."""
    services = shop.services()
    assert acquire_lease(services.ledger, services.clock, "stock", "somebody", deadline=shop.now() + 60, timeout=5.0)
    code, _, error = enrich("run", put(shop, {"shop": ["x"], "sku": ["a"], "units": [1.0]}))
    assert code == BUSY
    assert "queued" in error
    code, found, _ = enrich("status", "--json")
    assert [each["run"] for each in found["stock"]["pending"]] == [1]


def test_spark_needs_a_job(shop: Any, enrich: Any) -> None:
    """`--engine spark` is refused where no job is deployed, before anything is queued; a plan compares both engines."""
    output = put(shop, ROWS)
    code, _, error = enrich("run", output, "--engine", "spark")
    assert code == FAILED
    assert "this stack has no job" in error
    assert enrich("status", "--json")[1]["stock"]["pending"] == []
    assert "or in one Lambda: about " in enrich("plan", output, "--engine", "spark")[1]
    assert enrich("plan", output, "--json", "--engine", "spark")[1]["run"]["engine"] == "spark"
    assert enrich("run", output, "--engine", "local", "--json")[1][0]["engine"] == "local"


def test_another_output_that_fails_is_reported(shop: Any, enrich: Any, aws_env: Any) -> None:
    """Its message can be gone, acknowledged while an operator held the dataset; a new one reaches the alarm."""
    enrich("run", put(shop, {"shop": ["x"], "sku": ["a"], "units": [1.0]}))
    put(shop, b"no", "bad.parquet")
    bad = f"stock/day={shop.day()}/bad.parquet"
    take_arrived(shop.services(), shop.settings.outputs, bad)
    code, runs, error = enrich("refresh", "stock", "--json")
    assert code == FAILED
    assert [(run["kind"], run["state"]) for run in runs] == [("output", "failed"), ("refresh", "done")]
    assert bad in error
    (message,) = aws_env.client("sqs").receive_message(QueueUrl=shop.settings.queue)["Messages"]
    assert json.loads(message["Body"]) == {"bucket": shop.settings.outputs, "object_key": bad}


def test_replay_withdraw_refresh_and_sweep(shop: Any, enrich: Any) -> None:
    """Each queues what it names, and runs it."""
    enrich("run", put(shop, {"shop": ["x"], "sku": ["a"], "units": [1.0]}))
    for words, kind in ((["replay", "stock", "1"], "replay"), (["refresh", "stock", "--full"], "refresh")):
        code, (run,), _ = enrich(*words, "--json")
        assert (code, run["kind"], run["state"]) == (DONE, kind, "done")
    assert run["counts"]["written"] == 1
    put(shop, {"shop": ["x"], "sku": ["b"], "units": [2.0]}, "late.parquet")
    code, (swept,), _ = enrich("sweep", "stock", "--json")
    assert (code, swept["state"]) == (DONE, "done")
    code, queued, _ = enrich("withdraw", "stock", str(swept["run"]), "--json")
    assert code == DONE
    assert [run["kind"] for run in queued] == ["restore", "removal"]
    assert {key[1]: body is not None for key, body in shop.items().items()} == {"a": True, "b": False}


def test_the_rejects_of_a_run_are_replayed(shop: Any, enrich: Any) -> None:
    """What is still wrong is rejected again and counted."""
    enrich("run", put(shop, {"shop": ["x", "x"], "sku": ["a", "q"], "units": [1.0, 1.0]}))
    code, _, error = enrich("replay", "stock", f"s3://{shop.settings.bucket}/rejects/stock/00000001/")
    assert code == FAILED
    assert "1 of 1 predictions" in error


class Terminal(io.StringIO):
    """Standard input of an operator at a terminal."""

    def isatty(self) -> bool:
        """Return that it is a terminal."""
        return True


def test_withdraw_explains_itself_and_asks(shop: Any, enrich: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """--dry-run writes nothing; on a terminal only a plain yes withdraws, and --yes does not ask."""
    enrich("run", put(shop, {"shop": ["x"], "sku": ["a"], "units": [1.0]}))
    bad = put(shop, {"shop": ["x"], "sku": ["b"], "units": [2.0]}, "bad.parquet")
    enrich("run", bad)
    before = shop.items(), enrich("status", "--json")[1]["stock"]["runs"]

    code, planned, error = enrich("withdraw", "stock", "2", "--dry-run", "--json")
    assert code == DONE
    assert sorted(run["kind"] for run in planned) == ["removal", "restore"]
    assert re.search(r"a withdrawal would execute these runs, with \d+ write units; nothing was written\n$", error)
    for answer in ("n\n", "\n", "yesterday\n", ""):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        code, out, error = enrich("withdraw", "stock", "2")
        assert (code, out) == (FAILED, "")
        assert f"stock: withdraws {bad} with its runs 2, runs 1 other live outputs again (oldest first" in error
        assert error.endswith("Withdraw it? [y/N] nothing was withdrawn\n")
    assert (shop.items(), enrich("status", "--json")[1]["stock"]["runs"]) == before

    monkeypatch.setattr("sys.stdin", Terminal("Y\n"))
    code, queued, error = enrich("withdraw", "stock", "2", "--json")
    assert (code, {run["state"] for run in queued}) == (DONE, {"done"})
    assert "Withdraw it?" in error
    assert {key[1]: body is not None for key, body in shop.items().items()} == {"a": True, "b": False}
    code, _, error = enrich("withdraw", "stock", "2")
    assert code == FAILED
    assert re.search("run 2 of stock is already withdrawn, by run [0-9]+; `./larder status stock`", error)
    assert "[y/N]" not in error

    enrich("replay", "stock", "2")
    newest = str(max(run["run"] for run in enrich("status", "--json")[1]["stock"]["runs"]))
    monkeypatch.setattr("sys.stdin", Terminal(""))
    code, _, error = enrich("withdraw", "stock", newest, "--yes")
    assert code == DONE
    assert "[y/N]" not in error
    assert {key[1]: body is not None for key, body in shop.items().items()} == {"a": True, "b": False}


def test_texts_about_closed_pending_and_unknown_runs(shop: Any, enrich: Any) -> None:
    """`run` of a closed output says how it ended; `sweep` without work is one line; `status` of a run is text."""
    output = put(shop, {"shop": ["x", "x"], "sku": ["a", "q"], "units": [1.0, 1.0]})
    enrich("run", output)
    code, table, error = enrich("run", output)
    assert code == DONE
    assert "1" in table
    again = "`./larder replay stock 1` runs it again"
    assert error == f"run 1 of this output has already ended as done, and nothing was run now; {again}\n"
    assert enrich("sweep", "stock")[1] == "stock: nothing to do: every output has a run, and no run is pending\n"
    whole = enrich("status", "stock", "1")[1]
    assert not re.search(r"None|True|False|[{}\[\]']|1970", whole), whole
    assert re.search(r"^ *counts +1 written, 1 rejected, 2 read$", whole, re.MULTILINE), whole
    code, plan, _ = enrich("plan", output)
    assert code == DONE
    assert plan.startswith(f"{output}, dataset stock: its run 1 is already closed (done); running it again does noth")

    bad = put(shop, b"no", "bad.parquet")
    code, plan, _ = enrich("plan", bad)
    assert code == FAILED
    assert f"{bad}, dataset stock: the run would end as failed: " in plan
    first = enrich("run", bad)[2]
    code, _, error = enrich("run", bad)
    assert code == FAILED
    assert error.startswith(
        f"run 2 of this output has already ended as failed, and nothing was run now: {first.strip()}"
    )
    assert error.endswith("After a fix `./larder replay stock 2` runs it again.\n")


def test_wrong_arguments_end_with_2(enrich: Any) -> None:
    """The parser's own exit code for usage errors."""
    with pytest.raises(SystemExit) as ended:
        enrich("frobnicate")
    assert ended.value.code == 2


def test_settings_that_are_missing_are_named(enrich: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its variables a command names them, and says how to set them."""
    monkeypatch.delenv("LARDER_LEDGER")
    code, _, error = enrich("status")
    assert code == FAILED
    assert "LARDER_LEDGER" in error


ROWS = {"shop": ["x", "x", "x"], "sku": ["a", "b", "q"], "units": [1.0, 1.0, 1.0]}


def test_a_run_is_shown_in_sections(shop: Any, enrich: Any) -> None:
    """Status has the first line of an error below its run; one run in full has sections, and the whole error."""
    enrich("run", put(shop, b"no", "bad.parquet"))
    enrich("run", put(shop, ROWS))
    _, table, _ = enrich("status")
    assert "the newest output is" in table.splitlines()[0]
    lines = [line.split() for line in table.splitlines()]
    failed = next(number for number, line in enumerate(lines) if line[2:3] == ["failed"])
    assert "bad.parquet" in table.splitlines()[failed + 1]
    _, one, _ = enrich("status", "stock", "2")
    titles = [line for line in one.splitlines() if line and not line.startswith(" ")]
    assert titles == ["stock run 2: done", "Output", "Predictions", "Time", "Metadata", "Internal"]
    assert "2 written, 1 rejected, 3 read" in one
    _, found, _ = enrich("status", "stock", "--newest", "1", "--json")
    assert [run["run"] for run in found["stock"]["runs"]] == [2]


def test_rejects_are_shown_with_their_reasons(shop: Any, enrich: Any) -> None:
    """Rows, reasons and original rows; control characters are escaped; the command to replay them."""
    rows = {**ROWS, "sku": ["a", "b", "q\x1b[31m"]}
    enrich("run", put(shop, rows))
    _, text, _ = enrich("rejects", "stock", "1")
    assert "1 of 3 predictions rejected: 1 missing-metadata" in text
    assert "\x1b" not in text
    assert f"replay stock s3://{shop.settings.bucket}/rejects/stock/00000001/" in text
    _, found, _ = enrich("rejects", "stock", "1", "--json")
    assert [(each["row"], each["prediction"]["sku"]) for each in found["rejects"]] == [(2, "q\x1b[31m")]
    assert enrich("rejects", "stock", "1", "--json", "--reason", "duplicate")[1]["rejects"] == []
    assert enrich("rejects", "stock", "9")[0] == FAILED


def test_a_plan_shows_samples_and_ends_with_a_summary(shop: Any, enrich: Any) -> None:
    """New items, changed ones with both values, removed ones, and rejects; nothing is written."""
    shop.dataset = replace(shop.dataset, source=replace(shop.dataset.source, output="snapshot", snapshot_files="each"))
    enrich("run", put(shop, ROWS))
    before = shop.items()
    output = put(shop, {"shop": ["x", "x", "x"], "sku": ["b", "c", "q"], "units": [2.0, 1.0, 1.0]}, "q.parquet")
    code, text, _ = enrich("plan", output, "--show", "2", "--region", "us-east-1")
    assert code == DONE
    assert text.splitlines()[-1] == "Plan: 2 to write, 1 to remove, 1 rejected, $0.0000"
    assert "units: 1.0 -> 2.0" in text
    _, found, _ = enrich("plan", output, "--show", "2", "--json")
    samples = found["samples"]
    named = {kind: [each["prediction_id"] for each in samples[kind]] for kind in ("new", "changed", "removed")}
    assert named == {"new": ["c"], "changed": ["b"], "removed": ["a"]}
    assert samples["changed"][0]["before"]["units"] == 1.0
    assert [each["row"] for each in samples["rejected"]] == [2]
    assert shop.items() == before
    assert enrich("plan", output, "--json")[1]["samples"] is None
    assert enrich("plan", output, "--region", "mars-1")[1].splitlines()[-1].endswith("3 write units")
    enrich("run", output)
    assert "nothing to do" in enrich("plan", output)[1].splitlines()[-1]


def test_an_export_then_a_run_that_compares(shop: Any, enrich: Any) -> None:
    """The export changes neither table nor ledger; with --compare, a run writes what the table does not have."""
    output, location = put(shop, ROWS), f"s3://{shop.settings.bucket}/import/"
    code, found, _ = enrich("export", output, "--to", f"{location}1/", "--json")
    assert (code, found["items"], found["location"], shop.items()) == (DONE, 2, f"{location}1/", {})
    code, text, _ = enrich("export", output, "--to", f"{location}2/")
    assert (code, f"`./larder run {output} --compare`" in text) == (DONE, True)
    assert "has objects" in enrich("export", output, "--to", location)[2]
    assert enrich("export", f"{output}x", "--to", f"{location}3/")[0] == FAILED
    code, runs, _ = enrich("run", output, "--compare", "--json")
    assert (code, runs[0]["counts"]["written"], len(shop.items())) == (DONE, 2, 2)


def test_a_plan_that_fails_ends_with_a_summary(shop: Any, enrich: Any) -> None:
    """The summary says that nothing would be written; the samples show the rejects that are the reason."""
    code, text, _ = enrich("plan", put(shop, {**ROWS, "sku": ["q", "q2", "q3"]}), "--show", "1")
    assert code == FAILED
    assert text.splitlines()[-1] == "Plan: the run would end as failed, nothing would be written"
    assert "missing-metadata" in text


def test_a_sweep_of_all_datasets_is_one_document(shop: Any, enrich: Any, others: list[Any]) -> None:
    """With --json a sweep prints one list, even for several datasets."""
    other = replace(shop.dataset, served=shop.dataset.served._replace(name="other"))
    other = replace(other, source=replace(other.source, prefix="other/"))
    others.append(other)
    for prefix in ("stock", "other"):
        shop.put(f"{prefix}/day={shop.day()}/p.parquet", ROWS)
    code, runs, _ = enrich("sweep", "--json")
    assert (code, sorted(run["dataset"] for run in runs)) == (DONE, ["other", "stock"])


def test_a_diff_is_text_json_and_a_page(shop: Any, enrich: Any, tmp_path: Path) -> None:
    """Data is hidden without --show-data; --exit-code distinguishes different, equal and failed."""
    enrich("run", put(shop, {"shop": ["x", "x"], "sku": ["a", "b"], "units": [1.0, 2.0]}))
    other = put(shop, {"shop": ["x", "secret"], "sku": ["a", "c"], "units": [7.5, 1.0]}, "other.parquet")
    page = tmp_path / "diff.html"
    code, text, _ = enrich("diff", "stock/1", other, "--html", str(page))
    assert (code, text.splitlines()[-1]) == (
        DONE,
        "Diff: 0 same, 1 changed, 1 only in A, 1 only in B, 0 and 0 rejected",
    )
    assert "secret" not in text + page.read_text()
    code, found, _ = enrich("diff", "1", other, "--json", "--exit-code", "--show-data", "--member", "units")
    assert (code, found["counts"]["changed"], [each["member"] for each in found["members"]]) == (2, 1, ["units"])
    assert found["samples"]["only_in_b"][0]["pk"] == "stock#secret"
    assert found["members"][0]["largest_changes"][0]["after"] == 7.5
    assert enrich("diff", "1", url(shop), "--exit-code")[0] == DONE
    code, _, error = enrich("diff", "1", "9", "--exit-code")
    assert (code, "the ledger has no run 9 of stock" in error) == (FAILED, True)
    code, _, error = enrich("diff", "1", other, "--html", str(tmp_path / "none" / "diff.html"))
    assert (code, "expected a file in a folder that exists" in error) == (FAILED, True)


def test_a_backfill_shows_its_price_asks_and_continues(
    shop: Any, enrich: Any, monkeypatch: pytest.MonkeyPatch, aws_env: Any
) -> None:
    """--dry-run writes nothing; on a terminal it runs only after `y`; a failure stops it, but not with --keep-going."""
    for day, units in ((3, 1.0), (1, 3.0)):
        shop.put(f"stock/day={shop.day(day)}/p.parquet", {"shop": ["x"], "sku": ["a"], "units": [units]})
    shop.put(f"stock/day={shop.day(2)}/p.parquet", b"no")
    words = ["backfill", "stock", "--since", shop.day(3), "--until", shop.day(0)]
    code, planned, error = enrich(*words, "--dry-run", "--json")
    assert (code, [run["state"] for run in planned["runs"]]) == (FAILED, ["done", "failed", "done"])
    assert (planned["write_units"], planned["left"], shop.items()) == (2, 0, {})
    assert "its run would end as failed" in error
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, out, error = enrich(*words)
    assert (code, out, shop.items()) == (FAILED, "", {})
    assert "stock: 3 of 3 outputs to run, in this order" in error
    assert re.search(r"at most \d+ write units, \$0\.0000 on demand", error)
    assert error.endswith("Run them? [y/N] nothing was run\n")
    code, out, error = enrich(*words, "--yes")
    assert (code, out) == (FAILED, "Backfill: 1 of 3 done, 1 failed or held, 1 not begun, 1 written, 1 write units\n")
    assert "stopped at the first failure, run 2; after a fix start the same backfill again" in error
    code, found, _ = enrich(*words, "--yes", "--keep-going", "--json")
    assert (code, [(run["run"], run["state"]) for run in found["runs"]]) == (FAILED, [(3, "failed"), (4, "done")])
    assert [each["status"] for each in found["outputs"]] == ["done", "failed", "new"]
    shop.put(f"stock/day={shop.day(2)}/p.parquet", {"shop": ["x"], "sku": ["b"], "units": [2.0]})
    code, out, _ = enrich(*words, "--yes")
    assert (code, out) == (DONE, "Backfill: 1 of 1 done, 1 written, 1 write units\n")
    assert {key[1]: body["units"] for key, body in shop.items().items()} == {"a": 3.0, "b": 2.0}
    code, out, _ = enrich(*words)
    assert (code, "3 left alone: their runs are done" in out) == (DONE, True)
    said = enrich("backfill", "stock", "--since", "2001-01-01", "--until", "2001-01-02")[1]
    assert re.search("no output under .* was made from 2001-01-01T00:00:00.* to 2001-01-03T00:00:00", said)
    assert "was made since 2100-01-01T00:00:00+00:00\n" in enrich("backfill", "stock", "--since", "2100-01-01")[1]
    with pytest.raises(SystemExit):
        enrich("backfill", "stock", "--since", "soon")
