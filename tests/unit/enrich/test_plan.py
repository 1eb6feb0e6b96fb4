"""What `plan` predicts is what `run` then does, to the item and the write unit; planning writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enrich.ledger.records import Counts
from enrich.plan.cost import read_prices
from enrich.plan.plan import Plan
from enrich.plan.report import describe_plan, render_plan
from tests.faults.history import modelled
from tests.unit.enrich.small_shop import ROWS, SmallShop, parquet

DAY = 86_400


def everything(shop: SmallShop) -> Any:
    """Read all that a plan could have written: items, the ledger, and objects except metadata."""
    objects = [at for at in shop.s3.objects if not at[1].startswith("metadata/")]
    return dict(shop.table.items), dict(shop.table.puts), dict(shop.dynamo.rows), objects


def plan_and_run(shop: SmallShop, object_key: str) -> Plan:
    """Plan an output, check that nothing was written, run it, and check that the plan was right to the item."""
    before = everything(shop)
    planned = shop.plan(object_key)
    assert everything(shop) == before
    units = shop.table.units
    run = shop.go(object_key)
    for name in ("run", "state", "rows", "counts", "reasons", "units", "expires_at"):
        assert getattr(planned.run, name) == getattr(run, name), name
    of_plan = (planned.run.error or "").replace("A run would write the rejects to", "The rejects are in")
    assert of_plan == (run.error or "")
    assert shop.table.units - units == planned.units + sum(each.units for each in planned.before)
    after = shop.plan(object_key)
    assert (after.done, after.units) == (True, 0)
    return planned


def first(shop: SmallShop) -> dict[str, Any]:
    return ROWS


def changed(shop: SmallShop) -> dict[str, Any]:
    shop.run(ROWS, day=1)
    return {"shop": [*ROWS["shop"], "z"], "sku": [*ROWS["sku"], "c"], "units": [1.0, 2.5, 3.0, 4.0]}


def expiring(shop: SmallShop) -> dict[str, Any]:
    shop.run(ROWS, day=6)
    return ROWS


def late(shop: SmallShop) -> dict[str, Any]:
    shop.run({**ROWS, "sku": ["a", "c", "d"]})
    return ROWS


def rejects(shop: SmallShop) -> dict[str, Any]:
    shop.dataset = replace(shop.dataset, tolerated=replace(shop.dataset.tolerated, share=0.8))
    return {"shop": ["x", None, "y", "y"], "sku": ["a", "b", "c", "c"], "units": [1.0, 2.0, 3.0, 4.0]}


def too_many_rejects(shop: SmallShop) -> dict[str, Any]:
    return {**ROWS, "shop": [None, None, None]}


def born_expired(shop: SmallShop) -> dict[str, Any]:
    return ROWS


def large(shop: SmallShop) -> dict[str, Any]:
    return {"shop": ["漢" * 111, "y"], "sku": ["a", "a"], "units": [1.0, 2.0]}


def snapshot(shop: SmallShop) -> dict[str, Any]:
    shop.dataset = replace(shop.dataset, source=replace(shop.dataset.source, output="snapshot"))
    shop.run(ROWS, day=1)
    return {"shop": ["x"], "sku": ["a"], "units": [1.0]}


def lost_fingerprints(shop: SmallShop) -> dict[str, Any]:
    shop.run(ROWS, day=1)
    for at in [at for at in shop.s3.objects if at[1].startswith("fingerprints/")]:
        del shop.s3.objects[at]
    return {**ROWS, "units": [1.0, 2.0, 9.0]}


CASES: dict[Callable[[SmallShop], dict[str, Any]], tuple[Counts, dict[str, int], int]] = {
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


DAYS: dict[Any, int] = {late: 1, born_expired: 9}  # how many days ago the output was made; the others were made today


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_plan_and_run_agree_to_the_item(shop: SmallShop, case: Callable[[SmallShop], dict[str, Any]]) -> None:
    """Counts, reject reasons, state and write units of the plan are those of the run; planning wrote nothing."""
    object_key = shop.key(DAYS.get(case, 0))
    shop.put(object_key, parquet(case(shop)))
    planned = plan_and_run(shop, object_key)
    assert (planned.run.counts, planned.run.because, planned.units) == CASES[case]


def test_a_plan_counts_the_runs_that_go_first(shop: SmallShop) -> None:
    """If fingerprints are missing, every live output is written again first; the plan lists them with their units."""
    shop.put(shop.key(), parquet(lost_fingerprints(shop)))
    planned = shop.plan(shop.key())
    assert [(run.kind, run.units) for run in planned.before] == [("restore", 3)]
    assert "1 other runs run first, with 3 write units: restore" in render_plan(planned, "us-east-1")


def test_a_plan_says_what_it_costs(shop: SmallShop) -> None:
    """Dollars follow from write units, region and the number of outputs; for an unknown region a message says so."""
    shop.put(shop.key(), parquet(changed(shop)))
    planned = shop.plan(shop.key())
    found = describe_plan(planned, "us-east-1", per_month=60)
    assert found["write_units"] == 2
    assert found["cost_usd"]["run"] == pytest.approx(2 * 0.625e-6)
    assert found["cost_usd"]["month"] == pytest.approx(60 * 2 * 0.625e-6)
    assert (found["cost_usd"]["capacity"], found["cost_usd"]["month_provisioned"]) == (1, pytest.approx(730 * 0.00065))
    text = render_plan(planned, "us-east-1")
    assert "changed" in text
    assert f"prices as of {read_prices()['as_of']}, " in text
    assert "no price for mars-1" in render_plan(planned, "mars-1")


def test_outputs_a_month_come_from_the_ledger(shop: SmallShop) -> None:
    """A dataset that had an output every two days has fifteen a month."""
    for days in (5, 3, 1):
        shop.run(ROWS, day=days)
    shop.put(shop.key(), parquet(ROWS))
    assert shop.plan(shop.key()).per_month == pytest.approx(15)


ANY_ROWS = st.lists(
    st.tuples(
        st.sampled_from("xy"), st.sampled_from(["a", "b", "c", None]), st.sampled_from(["1", "2", "n" * 2000, None])
    ),
    max_size=8,
)
ANY_OUTPUTS = st.lists(st.tuples(st.integers(0, 9), ANY_ROWS), min_size=1, max_size=4)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(outputs=ANY_OUTPUTS, kind=st.sampled_from(["partial", "snapshot"]), share=st.sampled_from([0.3, 1.0]))
def test_plan_and_run_agree_on_any_outputs(
    tmp_path: Path, outputs: list[tuple[int, list[Any]]], kind: Any, share: float
) -> None:
    """Late, expired, rejected, duplicate, unchanged, expiring, removed, large: whatever comes, in whatever order.

    Reading and rendering are the fault simulation's: plan and run could differ elsewhere only.
    """
    shop = SmallShop(tmp_path)
    shop.dataset = replace(
        shop.dataset,
        metadata={},
        source=replace(shop.dataset.source, output=kind, snapshot_files="each", empty_snapshot="remove-all"),
        tolerated=replace(shop.dataset.tolerated, share=share),
    )
    with modelled():
        for number, (day, rows) in enumerate(outputs):
            object_key = f"{shop.key(day)}.{number}"
            shop.put(object_key, json.dumps(rows).encode())
            plan_and_run(shop, object_key)
            shop.world.sleep(3600)
