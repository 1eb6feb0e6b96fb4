"""Runs of a dataset with a rank: items whose place changed are written, and index entries are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve.item import RANK, build_rank_tag
from tests.unit.enrich.small_shop import DATASET, SmallShop

RANKED = replace(DATASET, rank="units desc", body={"title": "products.title"})  # so the rank changes without the body
ROWS: dict[str, list[Any]] = {"shop": ["x", "x", "y"], "sku": ["a", "b", "a"], "units": [1.0, 2.0, 3.0]}


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path, RANKED)


def ranked(shop: SmallShop, pk: str = "stock#x") -> list[str]:
    """Return a subject's prediction_ids in the index, with the dataset's rank, in its order."""
    tag = f"{shop.dataset.rank_tag}:"
    rows = [row for (owner, _), row in shop.table.stored.rows.items() if owner == pk and RANK in row]
    places = sorted((row[RANK]["S"], row["sk"]["S"]) for row in rows)
    return [sk for place, sk in places if place.startswith(tag)]


def test_only_the_rank_that_changed_is_written(shop: SmallShop) -> None:
    """Its body, and the ranks of the other items, did not change; the list has the new order."""
    first = shop.run(ROWS, day=2)
    assert (first.counts.written, first.units, ranked(shop)) == (3, 6, ["b", "a"])
    shop.written()
    second = shop.run({**ROWS, "units": [9.0, 2.0, 3.0]}, day=1)
    assert (second.counts.written, second.counts.unchanged, second.because) == (1, 2, {"changed": 1})
    assert (shop.written(), second.units, ranked(shop)) == (["x/a"], 3, ["a", "b"])
    assert shop.table.units == first.units + second.units, "as a table with an index charges"


def test_ties_are_in_order_of_prediction_id(shop: SmallShop) -> None:
    """Also if a later run causes the tie; positive and negative zero are equal."""
    shop.run({"shop": ["x"] * 4, "sku": ["d", "b", "c", "a"], "units": [0.0, -0.0, 1.0, None]}, day=2)
    assert ranked(shop) == ["c", "b", "d", "a"]
    shop.run({"shop": ["x"], "sku": ["c"], "units": [0.0]}, day=1)
    assert ranked(shop) == ["b", "c", "d", "a"]


def test_a_dataset_that_gains_a_rank_is_written_by_its_next_run(tmp_path: Path) -> None:
    """Bodies did not change; each item is written once, and again if the rank is changed or removed."""
    shop = SmallShop(tmp_path, replace(RANKED, rank=None))
    assert shop.run(ROWS, day=3).units == 3
    assert ranked(shop) == []
    for day, rank, order, units in ((2, "units desc", ["b", "a"], 9), (1, "units", ["a", "b"], 9), (0, None, [], 3)):
        shop.dataset = replace(RANKED, rank=rank)
        shop.written()
        planned = shop.plan_rows(ROWS, day)
        run = shop.go(shop.key(day))
        assert shop.written() == ["x/a", "x/b", "y/a"]
        assert (run.counts.written, run.because, ranked(shop)) == (3, {"changed": 3}, order)
        assert run.units == planned == units
    assert not any(RANK in row for row in shop.table.stored.rows.values())


def test_items_of_a_former_rank_are_in_no_list(shop: SmallShop) -> None:
    """Partial outputs: items that no output names again keep their place of the former rank, which has another tag."""
    shop.run(ROWS, day=3)
    shop.dataset = replace(RANKED, rank="units")
    shop.run({"shop": ["x"], "sku": ["a"], "units": [1.0]}, day=2)
    assert ranked(shop) == ["a"]
    assert shop.refresh(full=True).counts.written == 1
    shop.run(ROWS, day=1)
    assert ranked(shop) == ["a", "b"]


def test_a_removed_item_has_no_place(tmp_path: Path) -> None:
    """A tombstone removes the entry of the index, which costs units; so does a withdrawal."""
    snapshots = replace(RANKED, source=replace(RANKED.source, output="snapshot"))
    shop = SmallShop(tmp_path, snapshots)
    first = shop.run(ROWS, day=2)
    second = shop.run({"shop": ["x", "y"], "sku": ["b", "a"], "units": [2.0, 3.0]}, day=1)
    assert (second.counts.removed, second.units, ranked(shop)) == (1, 2, ["b"])
    assert RANK not in shop.table.stored.rows["stock#x", "a"]
    assert shop.table.units == first.units + second.units


def test_late_outputs_leave_newer_places(shop: SmallShop) -> None:
    """An older output that arrives later is written with a condition: the newer rank stays."""
    shop.run({"shop": ["x"], "sku": ["a"], "units": [1.0]}, day=1)
    late = shop.run({"shop": ["x", "x"], "sku": ["a", "b"], "units": [9.0, 2.0]}, day=2)
    assert (late.counts.written, late.counts.superseded, ranked(shop)) == (1, 1, ["b", "a"])


def test_rows_that_differ_only_in_rank_are_duplicates(tmp_path: Path) -> None:
    """The output does not say which of the two places is right; equal rows count once."""
    shop = SmallShop(tmp_path, replace(RANKED, equal_rows="once"))
    run = shop.run({"shop": ["x"] * 4, "sku": ["a", "a", "b", "b"], "units": [1.0, 2.0, 3.0, 3.0]}, day=1)
    assert (run.counts.written, run.reasons) == (1, {"duplicate": 2})


def test_an_item_stores_the_tag_of_its_rank(shop: SmallShop) -> None:
    """The stored attribute: the tag, digits, and the prediction_id; a change of it is a change of format."""
    shop.run(ROWS, day=1)
    stored = shop.table.stored.rows["stock#x", "a"][RANK]["S"]
    assert stored == f"{build_rank_tag('units desc')}:1400FFFFFFFFFFFFF:a"
    assert build_rank_tag("units desc") == "3ed026c9"
