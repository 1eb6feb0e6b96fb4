"""What `plan` says is what `run` then does, to the item and the write unit, and planning writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from enrich.dispatch import find_output
from enrich.plan import Plan, plan
from enrich.plan_text import describe_plan, render_plan
from enrich.progress import Progress
from enrich.records import Counts

ROWS: dict[str, list[Any]] = {"shop": ["x", "x", "y"], "sku": ["a", "b", "a"], "units": [1.0, 2.0, 3.0]}


def look(shop: Any, object_key: str) -> Plan:
    """Plan an output that lies there."""
    edges = shop.edges()
    output = find_output(edges, shop.settings.outputs, object_key)
    assert output is not None
    return plan(edges, output, Progress())


def everything(shop: Any) -> Any:
    """Read all that a plan could have written: tables, and the objects of Larder's bucket but for metadata."""
    dynamodb, s3 = shop.aws.client("dynamodb"), shop.aws.client("s3")
    rows = [dynamodb.scan(TableName=table)["Items"] for table in (shop.settings.table, shop.settings.ledger)]
    listed = s3.list_objects_v2(Bucket=shop.settings.bucket).get("Contents", [])
    kept = [(entry["Key"], entry["ETag"]) for entry in listed if not entry["Key"].startswith(("metadata/", "athena/"))]
    return sorted(map(str, rows[0])), sorted(map(str, rows[1])), kept


def first(shop: Any) -> tuple[str, dict[str, Any]]:
    return f"stock/day={shop.day()}/p.parquet", ROWS


def changed(shop: Any) -> tuple[str, dict[str, Any]]:
    shop.run(f"stock/day={shop.day(1)}/p.parquet", ROWS)
    more = {"shop": [*ROWS["shop"], "z"], "sku": [*ROWS["sku"], "c"], "units": [1.0, 2.5, 3.0, 4.0]}
    return f"stock/day={shop.day()}/p.parquet", more


def expiring(shop: Any) -> tuple[str, dict[str, Any]]:
    shop.run(f"stock/day={shop.day(6)}/p.parquet", ROWS)
    return f"stock/day={shop.day()}/p.parquet", ROWS


def late(shop: Any) -> tuple[str, dict[str, Any]]:
    shop.run(f"stock/day={shop.day()}/p.parquet", {**ROWS, "sku": ["a", "c", "d"]})
    return f"stock/day={shop.day(1)}/p.parquet", ROWS


def rejects(shop: Any) -> tuple[str, dict[str, Any]]:
    rows = {"shop": ["x", None, "y", "y"], "sku": ["a", "b", "c", "c"], "units": [1.0, 2.0, 3.0, 4.0]}
    shop.dataset = replace(shop.dataset, tolerated=replace(shop.dataset.tolerated, share=0.8))
    return f"stock/day={shop.day()}/p.parquet", rows


def too_many_rejects(shop: Any) -> tuple[str, dict[str, Any]]:
    return f"stock/day={shop.day()}/p.parquet", {**ROWS, "shop": [None, None, None]}


def born_expired(shop: Any) -> tuple[str, dict[str, Any]]:
    return f"stock/day={shop.day(9)}/p.parquet", ROWS


def large(shop: Any) -> tuple[str, dict[str, Any]]:
    rows = {"shop": ["x" * 1000, "y"], "sku": ["a", "a"], "units": [1.0, 2.0]}
    return f"stock/day={shop.day()}/p.parquet", rows


def snapshot(shop: Any) -> tuple[str, dict[str, Any]]:
    shop.dataset = replace(shop.dataset, source=replace(shop.dataset.source, output="snapshot"))
    shop.run(f"stock/day={shop.day(1)}/p.parquet", ROWS)
    return f"stock/day={shop.day()}/p.parquet", {"shop": ["x"], "sku": ["a"], "units": [1.0]}


def lost_fingerprints(shop: Any) -> tuple[str, dict[str, Any]]:
    run = shop.run(f"stock/day={shop.day(1)}/p.parquet", ROWS)
    state = shop.edges().ledger.get_state(run.dataset)
    shop.aws.client("s3").delete_object(Bucket=shop.settings.bucket, Key=state.fingerprints)
    return f"stock/day={shop.day()}/p.parquet", {**ROWS, "units": [1.0, 2.0, 9.0]}


CASES: dict[Callable[[Any], tuple[str, dict[str, Any]]], tuple[Counts, dict[str, int], int]] = {
    first: (Counts(written=3), {"new": 3}, 3),
    changed: (Counts(written=2, unchanged=2), {"changed": 1, "new": 1}, 2),
    expiring: (Counts(written=3), {"expiring": 3}, 3),
    late: (Counts(written=2, superseded=1), {"new": 2}, 2),
    rejects: (Counts(written=1, rejected=3), {"new": 1}, 1),
    too_many_rejects: (Counts(), {}, 0),
    born_expired: (Counts(expired=3), {}, 0),
    large: (Counts(written=2), {"new": 2}, 3),
    snapshot: (Counts(unchanged=1, removed=2), {}, 2),
    lost_fingerprints: (Counts(written=1, unchanged=2), {"changed": 1}, 1),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_plan_and_run_agree_to_the_item(shop: Any, case: Callable[[Any], tuple[str, dict[str, Any]]]) -> None:
    """Counts, reject reasons, state and write units of the plan are those of the run; planning wrote nothing."""
    object_key, rows = case(shop)
    shop.put(object_key, rows)
    before = everything(shop)
    planned = look(shop, object_key)
    assert everything(shop) == before
    run = shop.run(object_key)
    counts, why, units = CASES[case]
    assert (planned.run.counts, dict(planned.why), planned.units) == (counts, why, units)
    for name in ("run", "state", "rows", "counts", "reasons", "units", "expires_at", "error"):
        assert getattr(planned.run, name) == getattr(run, name), name
    after = look(shop, object_key)
    assert (after.done, after.units) == (True, 0)


def test_a_plan_counts_the_runs_that_go_first(shop: Any) -> None:
    """Where fingerprints are gone, every live output is written again before; the plan names them with their units."""
    object_key, rows = lost_fingerprints(shop)
    shop.put(object_key, rows)
    planned = look(shop, object_key)
    assert [(run.kind, run.units) for run in planned.before] == [("restore", 3)]
    assert "first 1 other runs go, with 3 write units: restore" in render_plan(planned, "us-east-1")


def test_a_plan_says_what_it_costs(shop: Any) -> None:
    """Dollars follow from write units, region and how often outputs come; a region without a price says so."""
    object_key, rows = changed(shop)
    shop.put(object_key, rows)
    planned = look(shop, object_key)
    found = describe_plan(planned, "us-east-1", per_month=60)
    assert found["write_units"] == 2
    assert found["cost_usd"]["run"] == pytest.approx(2 * 0.625e-6)
    assert found["cost_usd"]["month"] == pytest.approx(60 * 2 * 0.625e-6)
    assert (found["cost_usd"]["capacity"], found["cost_usd"]["month_provisioned"]) == (1, pytest.approx(730 * 0.00065))
    text = render_plan(planned, "us-east-1")
    assert "changed" in text
    assert "2024-11-01" in text
    assert "no price for mars-1" in render_plan(planned, "mars-1")


def test_outputs_a_month_come_from_the_ledger(shop: Any) -> None:
    """A dataset that had an output every two days has fifteen a month."""
    for days in (5, 3, 1):
        shop.run(f"stock/day={shop.day(days)}/p.parquet", ROWS)
    shop.put(f"stock/day={shop.day()}/p.parquet", ROWS)
    assert look(shop, f"stock/day={shop.day()}/p.parquet").per_month == pytest.approx(15)
