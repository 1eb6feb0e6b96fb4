"""Duplicate rows, and snapshots that would remove items by mistake."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enrich.dataset.as_of import FromKey, LastModified
from enrich.delta import buckets
from enrich.intake import operations
from enrich.intake.worker import run_pending
from enrich.join.rejects import build_prefix
from enrich.ledger.records import Counts
from enrich.ledger.run_state import RunState
from tests.unit.enrich.small_shop import ROWS, SETTINGS, SmallShop, parquet

TWICE: dict[str, list[Any]] = {"shop": ["x", "x", "y", "x"], "sku": ["a", "b", "a", "a"], "units": [1.0, 2.0, 3.0, 1.0]}
NONE: dict[str, Any] = (parquet(ROWS)[:0] and {}) or {name: values[:0] for name, values in ROWS.items()}


def change(shop: SmallShop, *, equal_rows: Any = "reject", as_of: Any = None, **source: Any) -> SmallShop:
    changed = replace(shop.dataset, source=replace(shop.dataset.source, **source), equal_rows=equal_rows)
    shop.dataset = replace(changed, as_of=as_of or changed.as_of)
    return shop


def live(shop: SmallShop) -> dict[str, Any]:
    return {f"{pk.partition('#')[2]}/{sk}": item.body for (pk, sk), item in shop.table.items.items() if item.body}


@pytest.fixture(params=[10_000, 1], ids=["one bucket", "many"])
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> SmallShop:
    monkeypatch.setattr(buckets, "ROWS", request.param)
    return SmallShop(tmp_path)


def test_equal_rows_count_once_if_the_dataset_allows_it(shop: SmallShop) -> None:
    """The first is written, the others are unchanged; a row of the same key with another body is still a duplicate."""
    assert shop.run(TWICE, day=3).counts == Counts(written=2, rejected=2)
    change(shop, equal_rows="once")
    assert shop.run(TWICE, day=2).counts == Counts(written=1, unchanged=3)
    assert set(live(shop)) == {"x/a", "x/b", "y/a"}
    shop.written()
    other = {name: [*values, values[0]] for name, values in TWICE.items()}
    assert shop.run(other, day=1).counts == Counts(unchanged=5)
    differs = {**other, "units": [1.0, 2.0, 3.0, 1.0, 7.0]}
    assert shop.run(differs, day=0).counts == Counts(unchanged=2, rejected=3)
    assert shop.written() == []
    assert shop.refresh(full=True).counts == Counts(written=2, rejected=3)


def test_rejects_are_in_a_file_named_by_its_rows(shop: SmallShop) -> None:
    """The first and the last row of the chunk, so that a restarted run overwrites it; a line names its own row."""
    assert shop.run(TWICE).counts.rejected == 2
    (found,) = [key for _, key in shop.s3.objects if key.startswith("rejects/")]
    assert found == "rejects/stock/00000001/000000000000-000000000003.jsonl"
    lines = [json.loads(line) for line in shop.s3.objects[SETTINGS.bucket, found][-1].body.splitlines()]
    assert [(line["row"], line["reason"], line["prediction"]["units"]) for line in lines] == [
        (0, "duplicate", 1.0),
        (3, "duplicate", 1.0),
    ]
    assert [list(line) for line in lines] == [["row", "reason", "detail", "prediction"]] * 2


def test_an_older_output_with_equal_rows_is_superseded(shop: SmallShop) -> None:
    """Each of its rows is, and the fingerprints name each item once, so later counts are right."""
    change(shop, equal_rows="once", output="snapshot")
    assert shop.run(TWICE).counts == Counts(written=3, unchanged=1)
    assert shop.run(TWICE, day=1).counts == Counts(superseded=4)
    one = {name: values[:1] for name, values in ROWS.items()}
    shop.world.sleep(86_400)
    assert shop.run(one).counts == Counts(unchanged=1, removed=2)
    assert set(live(shop)) == {"x/a"}


def test_the_detail_of_a_duplicate_names_the_remedy(shop: SmallShop) -> None:
    """A retried task's part is the most common cause."""
    run = shop.run(TWICE)
    prefix = build_prefix("stock", run.run)
    (rejects,) = [versions[-1].body for (_, key), versions in shop.s3.objects.items() if key.startswith(prefix)]
    assert rb"equal_rows=\"once\"" in rejects


@pytest.mark.parametrize(("setting", "state", "left"), [("refuse", "failed", 3), ("remove-all", "done", 0)])
def test_a_snapshot_without_rows_removes_all_only_if_the_dataset_allows_it(
    shop: SmallShop, setting: Any, state: str, left: int
) -> None:
    """A model that failed writes such a file more often than one that has no predictions."""
    change(shop, output="snapshot", empty_snapshot=setting)
    shop.run(ROWS, day=1)
    run = shop.run(NONE)
    assert (run.state, len(live(shop))) == (state, left)
    assert run.error is None or 'empty_snapshot="remove-all"' in run.error
    assert shop.run(ROWS).state is RunState.DONE  # and nothing is blocked by it


def test_an_output_without_rows_removes_nothing_where_outputs_are_partial(shop: SmallShop) -> None:
    """A partial output without rows removes nothing."""
    shop.run(ROWS, day=1)
    assert shop.run(NONE).state is RunState.DONE
    assert len(live(shop)) == 3


DAY = "stock/day=2027-01-14"
PARTS: list[tuple[Any, list[str], float, bool]] = [
    (FromKey("day={}"), [f"{DAY}/part-0", f"{DAY}/part-1"], 0, True),
    (FromKey("day={}"), [f"{DAY}/region=eu/0", f"{DAY}/region=us/0"], 3600, True),
    (
        FromKey("day={}"),
        [f"{DAY}/0", "stock/day=2027-01-13/1", f"{DAY}_$folder$", f"{DAY}/_X"],
        0,
        False,
    ),
    (FromKey("s-{}*.pq"), ["stock/s-2027-01-14-eu.pq", "stock/s-2027-01-14-us.pq"], 0, True),
    (FromKey("s-{}.pq"), ["stock/s-2027-01-14.pq", "stock/s-2027-01-13.pq"], 0, False),
    (LastModified(), ["stock/a/0", "stock/a/1"], 20, True),
    (LastModified(), ["stock/a/0", "stock/a/1"], 3600, False),
    (LastModified(), ["stock/a/0", "stock/b/0"], 0, False),
]


@pytest.mark.parametrize(("as_of", "keys", "apart", "are_parts"), PARTS)
def test_a_snapshot_of_several_files_without_a_marker_is_refused(
    tmp_path: Path, as_of: Any, keys: list[str], apart: float, *, are_parts: bool
) -> None:
    """Each file would remove the items of the others, unless the dataset declares that each is complete."""
    shop = change(SmallShop(tmp_path), as_of=as_of, output="snapshot")
    for number, key in enumerate(keys):
        shop.put(key, parquet({name: values[number : number + 1] for name, values in ROWS.items()}))
        shop.world.sleep(apart)
    first = shop.go(keys[0])
    assert (first.state is RunState.FAILED) == are_parts, first.error
    if are_parts:
        assert f"first {keys[1]}" in str(first.error)
        assert 'snapshot_files="each"' in str(first.error)
        assert live(shop) == {}
        change(shop, as_of=as_of, snapshot_files="each")
        operations.replay(shop.services(), first)
        (again,) = run_pending(shop.services(), "stock")
        assert again.state is RunState.DONE
