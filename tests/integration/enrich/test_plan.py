"""What `plan` predicts is what `run` then does, to the item and the write unit; planning writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from enrich.intake.find import find_output
from enrich.ledger.records import Counts
from enrich.plan.plan import Plan, plan

ROWS: dict[str, list[Any]] = {"shop": ["x", "x", "y"], "sku": ["a", "b", "a"], "units": [1.0, 2.0, 3.0]}


def look(shop: Any, object_key: str) -> Plan:
    """Plan an output that is in the bucket."""
    services = shop.services()
    output = find_output(services, shop.settings.outputs, object_key)
    assert output is not None
    return plan(services, output)


def everything(shop: Any) -> Any:
    """Read all that a plan could have written: tables, and the objects of Larder's bucket except metadata."""
    dynamodb, s3 = shop.aws.client("dynamodb"), shop.aws.client("s3")
    rows = [dynamodb.scan(TableName=table)["Items"] for table in (shop.settings.table, shop.settings.ledger)]
    listed = s3.list_objects_v2(Bucket=shop.settings.bucket).get("Contents", [])
    kept = [(entry["Key"], entry["ETag"]) for entry in listed if not entry["Key"].startswith(("metadata/", "athena/"))]
    return sorted(map(str, rows[0])), sorted(map(str, rows[1])), kept


def changed(shop: Any) -> tuple[str, dict[str, Any]]:
    shop.run(f"stock/day={shop.day(1)}/p.parquet", ROWS)
    more = {"shop": [*ROWS["shop"], "z"], "sku": [*ROWS["sku"], "c"], "units": [1.0, 2.5, 3.0, 4.0]}
    return f"stock/day={shop.day()}/p.parquet", more


def lost_fingerprints(shop: Any) -> tuple[str, dict[str, Any]]:
    run = shop.run(f"stock/day={shop.day(1)}/p.parquet", ROWS)
    state = shop.services().ledger.get_state(run.dataset)
    shop.aws.client("s3").delete_object(Bucket=shop.settings.bucket, Key=state.fingerprints)
    return f"stock/day={shop.day()}/p.parquet", {**ROWS, "units": [1.0, 2.0, 9.0]}


CASES: dict[Callable[[Any], tuple[str, dict[str, Any]]], tuple[Counts, dict[str, int], int]] = {
    changed: (Counts(written=2, unchanged=2), {"changed": 1, "new": 1}, 2),
    lost_fingerprints: (Counts(written=1, unchanged=2), {"changed": 1}, 1),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_plan_and_run_agree_to_the_item(shop: Any, case: Callable[[Any], tuple[str, dict[str, Any]]]) -> None:
    """The same with the stand-in as in memory, where there are more cases (tests/unit/enrich/test_plan.py)."""
    object_key, rows = case(shop)
    shop.put(object_key, rows)
    before = everything(shop)
    planned = look(shop, object_key)
    assert everything(shop) == before
    run = shop.run(object_key)
    counts, why, units = CASES[case]
    assert (planned.run.counts, planned.run.because, planned.units) == (counts, why, units)
    for name in ("run", "state", "rows", "counts", "reasons", "units", "expires_at", "error"):
        assert getattr(planned.run, name) == getattr(run, name), name
    after = look(shop, object_key)
    assert (after.done, after.units) == (True, 0)
