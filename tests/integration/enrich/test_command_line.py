"""`python -m enrich` as an operator uses it: what it prints, in words and in JSON, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enrich import __main__ as command_line
from enrich import aws
from enrich.intake.find import take_arrived
from enrich.ledger.lease import acquire_lease

BUSY, DONE, FAILED = command_line.BUSY, command_line.DONE, command_line.FAILED


@pytest.fixture
def enrich(shop: Any, aws_env: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command over the stand-in; return its exit code and what it printed, parsed if it is JSON."""
    for name in ("table", "ledger", "bucket", "outputs", "queue", "workgroup"):
        monkeypatch.setenv(f"LARDER_{name.upper()}", getattr(shop.settings, name))
    monkeypatch.setenv("AWS_ENDPOINT_URL_ATHENA", shop.athena_url)
    monkeypatch.setattr(aws, "_clients", aws._clients.__wrapped__)
    for module in (aws, command_line):
        monkeypatch.setattr(module, "load_datasets", lambda: {shop.dataset.name: shop.dataset})

    def run(*words: str) -> tuple[int, Any, str]:
        code = command_line.main(words)
        out, err = capsys.readouterr()
        return code, json.loads(out) if "--json" in words else out, err

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


def test_what_is_no_output_is_refused(shop: Any, enrich: Any) -> None:
    """An object that is not there, or under no prefix, is refused with the prefixes that there are."""
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


def test_another_output_that_fails_is_shown_and_told_of(shop: Any, enrich: Any, aws_env: Any) -> None:
    """Its message may be gone, acknowledged while an operator held the dataset; a new one brings it to the alarm."""
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
    """Each queues what it says and runs it."""
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
    """What is still wrong is rejected again, with its count."""
    enrich("run", put(shop, {"shop": ["x", "x"], "sku": ["a", "q"], "units": [1.0, 1.0]}))
    code, _, error = enrich("replay", "stock", f"s3://{shop.settings.bucket}/rejects/stock/00000001/")
    assert code == FAILED
    assert "1 of 1 predictions" in error


def test_words_that_are_off_end_with_2(enrich: Any) -> None:
    """The parser's own exit code for what it does not understand."""
    with pytest.raises(SystemExit) as ended:
        enrich("frobnicate")
    assert ended.value.code == 2


def test_settings_that_are_missing_are_named(enrich: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its variables a command says which, and who sets them."""
    monkeypatch.delenv("LARDER_LEDGER")
    code, _, error = enrich("status")
    assert code == FAILED
    assert "LARDER_LEDGER" in error
