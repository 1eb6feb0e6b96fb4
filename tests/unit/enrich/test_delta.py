"""Only changes are written; in doubt, everything is. Real runs over services in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from enrich.delta import buckets, fingerprints
from enrich.errors import Stopped
from enrich.intake import operations
from enrich.intake.worker import run_pending
from enrich.ledger.records import Counts
from enrich.ledger.run_state import Stage
from enrich.run import lifecycle
from enrich.run.context import RunContext
from enrich.write.writer import Budget
from tests.doubles.modelled_table import refuse
from tests.unit.enrich import small_shop
from tests.unit.enrich.small_shop import ROWS, SETTINGS, TTL, SmallShop, parquet

ALL = ["x/a", "x/b", "y/a"]
DAY = 86_400


@pytest.fixture(params=[500_000, 1], ids=["one bucket", "four buckets"])
def few_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give as many buckets as the test says for three rows."""
    monkeypatch.setattr(buckets, "ROWS", request.param)


@pytest.fixture
def shop(tmp_path: Path, few_rows: None) -> SmallShop:
    """Yesterday's output was run, and its writes were checked."""
    found = SmallShop(tmp_path)
    assert found.run(ROWS, day=1).counts == Counts(written=3)
    assert found.written() == ALL
    return found


@pytest.fixture
def snapshots(tmp_path: Path, few_rows: None) -> SmallShop:
    """Each output names all live items; none was run yet."""
    found = SmallShop(tmp_path)
    source = replace(found.dataset.source, output="snapshot", snapshot_files="each")
    found.dataset = replace(found.dataset, source=source)
    return found


@pytest.mark.parametrize(
    "rows",
    [
        {name: values[::-1] for name, values in ROWS.items()},
        {name: ROWS[name] for name in ("units", "sku", "shop")},
        {"shop": ROWS["shop"], "model": ["v2", "v2", "v2"], **ROWS},
    ],
    ids=["rows shuffled", "columns moved", "a column that is not in the contract"],
)
def test_the_same_predictions_written_otherwise_change_nothing(shop: SmallShop, rows: dict[str, list[Any]]) -> None:
    """The order of rows and columns is not part of what is stored."""
    run = shop.run(rows)
    assert (run.counts, run.units, shop.written()) == (Counts(unchanged=3), 0, [])


def test_fingerprints_outlast_outputs_that_name_other_items(shop: SmallShop) -> None:
    """A partial output adds to the known items and removes none."""
    shop.run({"shop": ["z"], "sku": ["d"], "units": [4.0]})
    assert shop.written() == ["z/d"]
    shop.world.sleep(DAY)
    assert shop.run(ROWS).counts == Counts(unchanged=3)
    assert shop.written() == []


@pytest.mark.parametrize(("days", "written"), [(3, []), (4, ALL)])
def test_an_unchanged_item_is_written_again_when_half_of_its_life_is_gone(
    shop: SmallShop, days: int, written: list[str]
) -> None:
    """An unchanged item must have three and a half of seven days left."""
    shop.table.now = shop.table.now // DAY * DAY + (days - 1) * DAY  # yesterday's output is as of midnight
    assert shop.dataset.unchanged_life * TTL.total_seconds() == 3.5 * DAY
    shop.run(ROWS)
    assert shop.written() == written


def test_an_item_deleted_by_hand_comes_back_with_full(shop: SmallShop) -> None:
    """Nobody reads the table, so only `--full` detects what is missing there."""
    del shop.table.stored.rows["stock#x", "a"]
    assert shop.refresh(full=False).counts == Counts(unchanged=3)
    assert ("stock#x", "a") not in shop.table.items
    assert shop.refresh(full=True).counts == Counts(written=3)
    assert shop.written() == ALL
    assert ("stock#x", "a") in shop.table.items


def replaced_table(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.dynamo.table_id = "another"
    shop.table.items.clear()


def other_format(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "FORMAT", "0")
        patch.setattr(fingerprints, "MANIFEST_FORMAT", "-1")
        shop.run(ROWS)  # as an earlier release would have left them
    shop.written()


def no_fingerprints(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in [at for at in shop.s3.objects if at[1].startswith("fingerprints/")]:
        del shop.s3.objects[at]


def a_run_that_did_not_close(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It began to write, the table refused, and then its object was deleted: what it wrote is unknown."""
    with monkeypatch.context() as patch:
        patch.setattr("enrich.run.context.Budget", lambda *_: Budget(tries=2))
        patch.setattr(shop.table, "_fault", lambda _: refuse("ProvisionedThroughputExceededException"))
        with pytest.raises(Stopped):
            shop.run({**ROWS, "units": [7.0, 8.0, 9.0]})
    assert shop.ledger.get_state("stock").open_run == 2
    del shop.s3.objects[SETTINGS.outputs, shop.key()]
    shop.world.sleep(DAY)


@pytest.mark.parametrize("doubt", [replaced_table, other_format, no_fingerprints, a_run_that_did_not_close])
def test_in_doubt_everything_is_written(
    shop: SmallShop,
    monkeypatch: pytest.MonkeyPatch,
    doubt: Callable[[SmallShop, pytest.MonkeyPatch], None],
) -> None:
    """Whatever makes fingerprints doubtful costs writes but no item; the next run trusts what it finds again."""
    doubt(shop, monkeypatch)
    shop.world.sleep(1)
    run = shop.run(replace_model(ROWS))
    assert run.state == "done"
    assert set(shop.written()) >= set(ALL)
    assert {f"{pk[6:]}/{sk}" for pk, sk in shop.table.items} == set(ALL)
    shop.world.sleep(DAY)
    assert shop.run(ROWS).counts == Counts(unchanged=3)
    assert shop.written() == []


def replace_model(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the same predictions in a file with another identity."""
    return {**rows, "model": ["v3"] * len(rows["shop"])}


def write_and_never_close(
    shop: SmallShop, monkeypatch: pytest.MonkeyPatch, rows: dict[str, list[Any]], day: int = 0
) -> None:
    """Let a run write all of an output, and fail before it saves the fingerprints."""

    def write_and_stop(context: RunContext) -> None:
        first_row, chunk = next(context.chunks(0))
        rows = pa.arange(first_row, first_row + chunk.num_rows)
        items = context.renderer.render_checked(lambda: chunk, first_row, rows)
        items = items.select(["row", "pk", "sk", "body", "rank"])
        items = items.append_column("entries", pa.array([0] * items.num_rows))  # of the index: it has no rank
        expires_at = context.run.expires_at or 0
        context.writer.put(items, order=context.run.order, expires_at=expires_at, conditional=context.is_late)
        context.writer.flush()
        raise Stopped("the table is out of reach")

    with monkeypatch.context() as patch:
        patch.setitem(lifecycle.STAGES, Stage.WRITE, write_and_stop)
        with pytest.raises(Stopped):
            shop.run(rows, day)
    del shop.s3.objects[SETTINGS.outputs, shop.key(day)]
    (closed,) = run_pending(shop.services(), "stock")
    assert closed.state == "overwritten"


@pytest.mark.parametrize(("removed_before", "refused"), [(False, True), (True, False), (True, True)])
def test_leftovers_of_a_failed_run_are_removed_by_the_next_snapshot(
    snapshots: SmallShop, monkeypatch: pytest.MonkeyPatch, removed_before: bool, refused: bool
) -> None:
    """Also if there were tombstones before, and if an older snapshot chose to remove it and the table refused."""
    one = {name: values[:1] for name, values in ROWS.items()}
    if removed_before:
        snapshots.run(ROWS, day=3)
        snapshots.run(one, day=2)
    write_and_never_close(snapshots, monkeypatch, ROWS)
    if refused:
        snapshots.run(one, day=1)
    assert sorted(key for key, item in snapshots.table.items.items() if item.body) == [
        ("stock#x", "a"), ("stock#x", "b"), ("stock#y", "a"),
    ]  # fmt: skip
    snapshots.put(f"{snapshots.key()}.2", parquet(one))
    assert snapshots.go(f"{snapshots.key()}.2").counts.removed == 2
    assert [key for key, item in snapshots.table.items.items() if item.body] == [("stock#x", "a")]


def test_a_refused_write_is_not_assumed_to_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has a newer item, of a run that never closed; a later output with the refused body must write it."""
    shop = SmallShop(tmp_path)
    write_and_never_close(shop, monkeypatch, {**ROWS, "units": [7.0, 8.0, 9.0]})
    assert shop.run(ROWS, day=1).counts == Counts(superseded=3)
    shop.put(f"{shop.key()}.2", parquet(ROWS))
    assert shop.go(f"{shop.key()}.2").counts == Counts(written=3)


def test_a_late_run_that_never_closed_does_not_let_items_be_forgotten(
    snapshots: SmallShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own items would expire before the existing ones, which a snapshot must still find and remove."""
    snapshots.run(ROWS)
    write_and_never_close(snapshots, monkeypatch, ROWS, day=5)
    snapshots.world.sleep(3 * DAY)
    assert snapshots.run({name: values[:1] for name, values in ROWS.items()}).counts.removed == 2
    assert [key for key, item in snapshots.table.items.items() if item.body] == [("stock#x", "a")]


def test_replayed_rejects_of_a_snapshot_remove_nothing(snapshots: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """They name what the snapshot lacked, and not all live items."""
    first = snapshots.run({**ROWS, "sku": ["a", "new", "c"]})
    monkeypatch.setattr(small_shop, "PRODUCTS", {"sku": ["a", "new", "c"], "title": ["A", "New", "C"]})
    operations.replay_rejects(snapshots.services(), f"rejects/stock/{first.run:08d}/")
    (rejects,) = run_pending(snapshots.services(), "stock")
    assert rejects.counts == Counts(written=1)
    assert sorted(sk for (_, sk), item in snapshots.table.items.items() if item.body) == ["a", "c", "new"]
