"""Runs over real Parquet, a real Athena API, real DuckDB and DynamoDB's API: what ends where."""

from __future__ import annotations

from typing import Any

from enrich.records import Counts


def test_an_output_becomes_items(shop: Any) -> None:
    """Each prediction is joined with its metadata and stored under its subject."""
    run = shop.run(f"stock/day={shop.day()}/part-0.parquet", {"shop": ["x", "y"], "sku": ["a", "b"], "units": [1.5, 2]})
    assert (run.state, run.counts, run.error) == ("done", Counts(written=2), None)
    assert shop.items() == {
        ("stock#x", "a"): {"product": {"sku": "a", "title": "A"}, "units": 1.5},
        ("stock#y", "b"): {"product": {"sku": "b", "title": "B"}, "units": 2.0},
    }


def test_an_unchanged_output_writes_nothing(shop: Any) -> None:
    """A body that is stored already, with enough life left, is not written again."""
    rows = {"shop": ["x", "y"], "sku": ["a", "b"], "units": [1.5, 2]}
    shop.run(f"stock/day={shop.day(1)}/part-0.parquet", rows)
    run = shop.run(f"stock/day={shop.day()}/part-0.parquet", {**rows, "units": [1.5, 3]})
    assert run.counts == Counts(written=1, unchanged=1)
    assert shop.items()["stock#y", "b"]["units"] == 3.0


def test_a_late_output_does_not_overwrite_a_newer_one(shop: Any) -> None:
    """An older output that comes later is superseded where the newer one has the item, also where it was unchanged."""
    rows = {"shop": ["x", "x"], "sku": ["a", "b"], "units": [1, 2]}
    shop.run(f"stock/day={shop.day(3)}/p.parquet", rows)
    shop.run(f"stock/day={shop.day()}/p.parquet", {**rows, "units": [1, 5]})
    late = shop.run(
        f"stock/day={shop.day(1)}/p.parquet", {"shop": ["x", "x", "x"], "sku": ["a", "b", "c"], "units": [8, 8, 8]}
    )
    assert late.counts == Counts(written=1, superseded=2)
    assert [shop.items()["stock#x", sku]["units"] for sku in "abc"] == [1.0, 5.0, 8.0]


def test_rejects_are_kept_with_their_reasons(shop: Any) -> None:
    """What can't become an item lies on S3 with row, reason and the original; the rest is served."""
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


def test_too_many_rejects_publish_nothing(shop: Any) -> None:
    """Past what the dataset tolerates the run fails before its first write, and the rejects are still kept."""
    run = shop.run(f"stock/day={shop.day()}/p.parquet", {"shop": ["x", "x"], "sku": ["q", "q2"], "units": [1, 1]})
    assert run.state == "failed"
    assert "2 of 2 predictions" in (run.error or "")
    assert shop.items() == {}
    assert len(shop.rejects(run)) == 2


def test_a_file_that_is_not_parquet_fails_with_its_name(shop: Any) -> None:
    """A file that is not what its name says fails its run, and the message comes again for the dead-letter queue."""
    run = shop.run(f"stock/day={shop.day()}/p.parquet", b"not parquet at all")
    assert run.state == "failed"
    assert f"stock/day={shop.day()}/p.parquet" in (run.error or "")


def test_the_same_event_twice_runs_once(shop: Any) -> None:
    """A duplicate event finds its run closed and does nothing."""
    rows = {"shop": ["x"], "sku": ["a"], "units": [1]}
    first = shop.run(f"stock/day={shop.day()}/p.parquet", rows)
    again = shop.run(f"stock/day={shop.day()}/p.parquet")
    assert (again.run, again.ended_ms) == (first.run, first.ended_ms)
