"""Runs over real Parquet, a real Athena API, real DuckDB and DynamoDB's API."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from enrich.dataset.definition import Dataset, Metadata, Tolerated
from enrich.intake.find import sweep, take_arrived
from enrich.intake.operations import replay_rejects, withdraw
from enrich.intake.worker import run_pending
from enrich.ledger.lease import acquire_lease
from enrich.ledger.records import Counts


def without_reuse(dataset: Dataset) -> Dataset:
    """Return the dataset with metadata that is fetched for each run."""
    metadata = {name: replace(each, max_age=timedelta(0)) for name, each in dataset.metadata.items()}
    return replace(dataset, metadata=metadata)


def test_an_output_becomes_items(shop: Any) -> None:
    """Each prediction is joined with its metadata and stored under its subject."""
    run = shop.run(f"stock/day={shop.day()}/part-0.parquet", {"shop": ["x", "y"], "sku": ["a", "b"], "units": [1.5, 2]})
    assert (run.state, run.counts, run.error) == ("done", Counts(written=2), None)
    assert shop.items() == {
        ("stock#x", "a"): {"product": {"sku": "a", "title": "A"}, "units": 1.5},
        ("stock#y", "b"): {"product": {"sku": "b", "title": "B"}, "units": 2.0},
    }


def test_metadata_without_rows_keeps_the_types_of_its_columns(shop: Any) -> None:
    """A query without rows writes no file; the types of its columns are fetched separately."""
    columns = "cast(1.25 as decimal(10, 2)) as price, array['x'] as tags, cast(row(1) as row(n integer)) as info"
    sql = f"select sku, {columns} from {shop.database}.products where sku = 'none'"
    body = {"price": "round(m.price, 1)", "first": "m.tags[1]", "n": "m.info.n", "units": "units"}
    metadata = {"m": Metadata(sql, on="sku", missing="null")}
    shop.dataset = replace(shop.dataset, metadata=metadata, body=body)
    run = shop.run(f"stock/day={shop.day()}/p.parquet", {"shop": ["x"], "sku": ["a"], "units": [1.5]})
    assert (run.state, run.error) == ("done", None)
    assert shop.items() == {("stock#x", "a"): {"price": None, "first": None, "n": None, "units": 1.5}}


def test_an_unchanged_output_writes_nothing(shop: Any) -> None:
    """A body that is stored already, with enough life left, is not written again."""
    rows = {"shop": ["x", "y"], "sku": ["a", "b"], "units": [1.5, 2]}
    shop.run(f"stock/day={shop.day(1)}/part-0.parquet", rows)
    run = shop.run(f"stock/day={shop.day()}/part-0.parquet", {**rows, "units": [1.5, 3]})
    assert run.counts == Counts(written=1, unchanged=1)
    assert shop.items()["stock#y", "b"]["units"] == 3.0


def test_a_late_output_does_not_overwrite_a_newer_one(shop: Any) -> None:
    """An item of an older output is superseded if a newer output has it, also if it was unchanged there."""
    rows = {"shop": ["x", "x"], "sku": ["a", "b"], "units": [1, 2]}
    shop.run(f"stock/day={shop.day(3)}/p.parquet", rows)
    shop.run(f"stock/day={shop.day()}/p.parquet", {**rows, "units": [1, 5]})
    late = shop.run(
        f"stock/day={shop.day(1)}/p.parquet", {"shop": ["x", "x", "x"], "sku": ["a", "b", "c"], "units": [8, 8, 8]}
    )
    assert late.counts == Counts(written=1, superseded=2)
    assert [shop.items()["stock#x", sku]["units"] for sku in "abc"] == [1.0, 5.0, 8.0]


def test_rejects_are_kept_with_their_reasons(shop: Any) -> None:
    """What can't become an item is saved on S3 with row, reason and the original; the rest is served."""
    run = shop.run(
        f"stock/day={shop.day()}/p.parquet",
        {
            "shop": ["x", None, "x", "x", "y", "y", "z", "z", "z"],
            "sku": ["a", "a", "zz", "b", "c", "c", "a", "b", "c"],
            "units": [1, 1, 1, float("nan"), 1, 2, 1, 1, 1],
        },
    )
    assert run.counts == Counts(written=4, rejected=5)
    rejects = {line["row"]: line for line in shop.rejects(run)}
    assert {row: line["reason"] for row, line in rejects.items()} == {
        1: "null-key",
        2: "missing-metadata",
        3: "not-a-number",
        4: "duplicate",
        5: "duplicate",
    }
    assert rejects[2]["prediction"] == {"shop": "x", "sku": "zz", "units": 1.0}
    assert run.reasons == {"null-key": 1, "missing-metadata": 1, "not-a-number": 1, "duplicate": 2}


@pytest.mark.parametrize(
    ("skus", "tolerated", "state"),
    [
        (["q", "r"], Tolerated(), "failed"),
        (["q", "r", "a"], Tolerated(), "done"),
        ([*(f"q{n}" for n in range(11)), "a"], Tolerated(), "failed"),
        ([*(f"q{n}" for n in range(11)), "a"], Tolerated(share=0.95), "done"),
        (["q", "r", "a"], Tolerated(number=1), "failed"),
        (["q", "r"], Tolerated(share=1.0), "done"),
    ],
    ids=["all of them", "a few", "too many", "share", "number", "all is fine"],
)
def test_too_many_rejects_publish_nothing(shop: Any, skus: list[str], tolerated: Tolerated, state: str) -> None:
    """With more rejects than the dataset tolerates, the run fails before its first write; the rejects are saved."""
    shop.dataset = replace(shop.dataset, tolerated=tolerated)
    rows = {"shop": ["x"] * len(skus), "sku": skus, "units": [1.0] * len(skus)}
    run = shop.run(f"stock/day={shop.day()}/p.parquet", rows)
    rejected = sum(sku != "a" for sku in skus)
    assert run.state == state
    assert len(shop.rejects(run)) == rejected
    assert len(shop.items()) == (len(skus) - rejected if state == "done" else 0)
    assert state == "done" or f"{rejected} of {len(skus)} predictions" in (run.error or "")


def test_a_file_that_is_not_parquet_fails_with_its_name(shop: Any) -> None:
    """A file that is not what its name says fails its run, and its message is retried until it is a dead letter."""
    run = shop.run(f"stock/day={shop.day()}/p.parquet", b"not parquet at all")
    assert run.state == "failed"
    assert f"stock/day={shop.day()}/p.parquet" in (run.error or "")


def test_the_same_event_twice_runs_once(shop: Any) -> None:
    """For a duplicate event the run is already closed, and nothing happens."""
    rows = {"shop": ["x"], "sku": ["a"], "units": [1]}
    first = shop.run(f"stock/day={shop.day()}/p.parquet", rows)
    again = shop.run(f"stock/day={shop.day()}/p.parquet")
    assert (again.run, again.ended_ms) == (first.run, first.ended_ms)


def test_rejects_are_replayed_after_a_fix(shop: Any) -> None:
    """Once the metadata is complete, the rejects become items as of the same instant."""
    rows = {"shop": ["x", "x"], "sku": ["a", "late"], "units": [1.0, 0.1]}
    first = shop.run(f"stock/day={shop.day()}/p.parquet", rows)
    assert first.counts == Counts(written=1, rejected=1)
    products = {"sku": ["a", "late"], "title": ["A", "Late"]}
    shop.put_table("products", products)
    shop.dataset = without_reuse(shop.dataset)
    services = shop.services()
    queued = replay_rejects(services, f"rejects/stock/{first.run:08d}/")
    assert [run.state for run in run_pending(services, "stock")] == ["done"]
    again = services.ledger.get_run("stock", queued.run)
    assert again is not None
    assert (again.kind, again.as_of_ms, again.counts) == ("rejects", first.as_of_ms, Counts(written=1))
    assert shop.items()["stock#x", "late"] == {"product": {"sku": "late", "title": "Late"}, "units": 0.1}


def test_a_withdrawn_output_leaves_no_trace(shop: Any) -> None:
    """Items that the bad output overwrote are restored, those that it added are removed, and later ones stay."""
    base = {"shop": ["x"] * 3, "sku": ["a", "b", "c"], "units": [1, 1, 1]}
    shop.run(f"stock/day={shop.day(3)}/p.parquet", base)
    bad = shop.run(
        f"stock/day={shop.day(2)}/p.parquet", {"shop": ["x"] * 3, "sku": ["a", "b", "d"], "units": [9, 9, 9]}
    )
    shop.run(f"stock/day={shop.day(1)}/p.parquet", {"shop": ["x"], "sku": ["b"], "units": [5]})
    services = shop.services()
    withdraw(services, bad)
    assert {run.state for run in run_pending(services, "stock")} == {"done"}
    items = shop.items()
    assert {sku: (items["stock#x", sku] or {}).get("units") for sku in "abcd"} == {
        "a": 1.0,
        "b": 5.0,
        "c": 1.0,
        "d": None,
    }
    found = services.ledger.get_run("stock", bad.run)
    assert found is not None
    assert found.state == "withdrawn"
    late = shop.run(f"stock/day={shop.day(4)}/p.parquet", {"shop": ["x"], "sku": ["d"], "units": [3]})
    assert late.counts == Counts(written=1), "an older output that is not withdrawn may still say what the item is"


def test_a_snapshot_removes_what_it_does_not_name(shop: Any) -> None:
    """A removed item is a tombstone that keeps its order; a rejected row does not change its item."""
    shop.dataset = replace(shop.dataset, source=replace(shop.dataset.source, output="snapshot"))
    shop.run(f"stock/day={shop.day(2)}/p.parquet", {"shop": ["x"] * 3, "sku": ["a", "b", "c"], "units": [1, 1, 1]})
    rows = {"shop": ["x", "x"], "sku": ["a", "b"], "units": [1, float("nan")]}
    run = shop.run(f"stock/day={shop.day()}/p.parquet", rows)
    assert run.counts == Counts(unchanged=1, rejected=1, removed=1)
    items = shop.items()
    assert items["stock#x", "c"] is None
    assert items["stock#x", "b"]["units"] == 1.0
    late = shop.run(f"stock/day={shop.day(1)}/p.parquet", {"shop": ["x"], "sku": ["c"], "units": [7]})
    assert late.counts == Counts(superseded=1)
    assert shop.items()["stock#x", "c"] is None


def test_a_marker_run_is_one_run_over_all_parts(shop: Any) -> None:
    """Parts start nothing; the marker runs them all; if the manifest names a missing part, the run fails."""
    shop.dataset = replace(shop.dataset, source=replace(shop.dataset.source, marker="_SUCCESS"))
    prefix = f"stock/day={shop.day()}/"
    for n in range(2):
        shop.put(f"{prefix}part-{n}.parquet", {"shop": ["x"], "sku": ["ab"[n]], "units": [n]})
        assert take_arrived(shop.services(), shop.settings.outputs, f"{prefix}part-{n}.parquet") is None
    run = shop.run(f"{prefix}_SUCCESS", b"")
    assert (run.parts, run.counts) == (2, Counts(written=2))
    shop.put(f"{prefix}part-1.parquet", {"shop": ["x"], "sku": ["c"], "units": [3]})
    again = shop.run(f"{prefix}_SUCCESS", b'{"filenames": ["part-0.parquet", "part-1.parquet"]}')
    assert (again.run, again.counts) == (2, Counts(written=1, unchanged=1))
    missing = shop.run(f"{prefix}_SUCCESS", b'{"filenames": ["part-0.parquet", "part-9.parquet"]}')
    assert missing.state == "failed"
    assert "part-9.parquet" in (missing.error or "")


def test_the_sweep_finds_outputs_without_events(shop: Any) -> None:
    """Outputs without a run are queued, once; those that have expired, or are older than the dataset, are not."""
    for n in (1, 2):
        shop.put(f"stock/day={shop.day(n)}/p.parquet", {"shop": ["x"], "sku": ["a"], "units": [n]})
    services = shop.services()
    assert len(sweep(services, "stock").runs) == 2
    assert sweep(services, "stock") == ([], [])
    list(run_pending(services, "stock"))
    assert shop.items()["stock#x", "a"]["units"] == 1.0
    shop.put(f"stock/day={shop.day()}/p.parquet", {"shop": ["x"], "sku": ["a"], "units": [7]})
    shop.offset = 8 * 86_400.0
    assert sweep(shop.services(), "stock") == ([], [])


def test_an_output_of_a_busy_dataset_waits_and_is_run_by_the_holder_of_the_lease(shop: Any) -> None:
    """Its message can be acknowledged at once: it is pending in the ledger, and no receive is spent on waiting."""
    services = shop.services()
    lease = acquire_lease(services.ledger, services.clock, "stock", "somebody", deadline=shop.now() + 60, timeout=5.0)
    assert lease is not None
    waiting = shop.run(f"stock/day={shop.day()}/p.parquet", {"shop": ["x"], "sku": ["a"], "units": [1]})
    assert waiting.state == "pending"
    assert [each.run for each in services.ledger.fetch_pending("stock")] == [waiting.run]
    lease.release()
    assert [run.run for run in run_pending(services, "stock")] == [waiting.run]
    assert services.ledger.fetch_pending("stock") == []
