"""Runs whose as_of is not simply when the output was made: dates of the predicted time, local dates."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.dataset.as_of import AsOf, FromColumn, FromKey, LastModified, get_ahead, set_zone
from enrich.dataset.definition import Tolerated
from enrich.intake.find import sweep
from enrich.ledger.run_state import RunState
from tests.unit.enrich.small_shop import ROWS, TTL, SmallShop, parquet
from tests.unit.enrich.test_pieces import PiecesShop, _small_chunks

__all__ = ["_small_chunks"]  # a fixture: chunks of 7 rows


def open_shop(directory: Path, as_of: AsOf, kind: type[SmallShop] = SmallShop) -> SmallShop:
    shop = kind(directory)
    source = replace(shop.dataset.source, columns={**shop.dataset.source.columns, "day": "date"})
    shop.dataset = replace(
        shop.dataset, as_of=as_of, source=source if isinstance(as_of, FromColumn) else shop.dataset.source
    )
    return shop


def today(shop: SmallShop) -> date:
    return datetime.fromtimestamp(shop.world.time, UTC).date()


@pytest.mark.parametrize(
    ("as_of", "day", "is_taken"),
    [
        (FromKey("day={}"), 1, False),
        (FromKey("day={}", ahead=timedelta(days=1)), 1, True),
        (FromKey("day={}", ahead=timedelta(days=1)), 2, False),
        (FromKey("day={}", zone="Pacific/Auckland"), 0, True),
        (FromColumn("day"), 1, False),
        (FromColumn("day", ahead=timedelta(days=1)), 1, True),
    ],
)
def test_a_date_ahead_is_accepted_if_the_dataset_declares_it(
    tmp_path: Path, as_of: AsOf, day: int, *, is_taken: bool
) -> None:
    """One wrong clock must not make all later outputs look old, so the horizon is declared; the message says where."""
    shop = open_shop(tmp_path, as_of)
    rows = {**ROWS, "day": [today(shop) + timedelta(days=day)] * 3}
    run = shop.run(rows, day=-day)
    assert run.state is (RunState.DONE if is_taken else RunState.FAILED)
    assert is_taken or "set `ahead` in the dataset's as_of" in str(run.error)


@pytest.mark.parametrize("is_in_pieces", [False, True], ids=["local", "in pieces"])
@pytest.mark.parametrize(("dated", "empty"), [([], 0), ([0, 2], 1), (range(20), 20)], ids=["all", "one", "late"])
def test_a_row_without_as_of_fails_the_output(
    tmp_path: Path, dated: Iterable[int], empty: int, *, is_in_pieces: bool
) -> None:
    """A model that forgets the column must not be newer than one that writes it: the message names row and column."""
    shop = open_shop(tmp_path, FromColumn("day"), PiecesShop if is_in_pieces else SmallShop)
    shop.dataset = replace(shop.dataset, metadata={}, body={"units": "units"})
    number, dated = max(3, empty + 2), set(dated)
    days = [today(shop) if n in dated else None for n in range(number)]
    made: dict[str, list[Any]] = {"shop": ["x"] * number, "sku": [f"s{n}" for n in range(number)]}
    made |= {"units": [1.0] * number}
    content = io.BytesIO()
    pq.write_table(pa.table({**made, "day": pa.array(days, pa.date32())}), content, row_group_size=5)
    run = shop.run(content.getvalue())
    assert (run.state, shop.table.items) == (RunState.FAILED, {})
    assert re.search(
        rf"p\.parquet, row {empty}( of this part)?: column 'day' is null; it is the output's", str(run.error)
    )
    assert shop.run({name: [] for name in (*made, "day")}, day=1).state is RunState.DONE, "there is no row without it"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_rejected_row_needs_no_as_of(tmp_path: Path, kind: Literal["csv", "jsonl"]) -> None:
    """A malformed line and a date that can't be read are rejects; only a good row without a date fails the output."""
    shop = SmallShop(tmp_path)
    source = replace(shop.dataset.source, format=kind, columns={**shop.dataset.source.columns, "made": "date"})
    shop.dataset = replace(shop.dataset, as_of=FromColumn("made"), source=source, tolerated=Tolerated(share=0.7))
    if kind == "csv":
        good = f"shop,sku,units,made\nx,a,1.0,{today(shop)}\n"
        bad, null = 'y,"a"b,3.0,2\ny,b,3.0,no\n', "y,c,3.0,\n"
    else:
        good = f'{{"shop":"x","sku":"a","units":1,"made":"{today(shop)}"}}\n'
        bad, null = '{"shop":\n{"shop":"y","sku":"b","units":1,"made":"no"}\n', '{"shop":"y","sku":"c","units":1}\n'
    run = shop.run((good + bad).encode())
    assert (run.state, run.counts.written, run.counts.rejected) == (RunState.DONE, 1, 2)
    run = shop.run((good + bad + null).encode(), day=1)
    assert (run.state, "row 3: column 'made' is null" in str(run.error)) == (RunState.FAILED, True)


def test_the_later_date_is_the_newer_output_and_lives_from_that_date_on(tmp_path: Path) -> None:
    """Also if the output for the earlier date is written again later."""
    shop = open_shop(tmp_path, FromKey("day={}", ahead=timedelta(days=2)))
    after, tomorrow = shop.run(ROWS, day=-2), shop.run({**ROWS, "units": [7.0, 8.0, 9.0]}, day=-1)
    assert (after.counts.written, tomorrow.counts.superseded) == (3, 3)
    midnight = datetime.combine(today(shop) + timedelta(days=2), datetime.min.time(), UTC)
    assert after.expires_at == (midnight + TTL).timestamp()


def test_a_sweep_finds_what_is_still_alive_though_it_arrived_long_ago(tmp_path: Path) -> None:
    """An output for a day ahead lives that much longer than its arrival and the ttl."""
    shop = open_shop(tmp_path, FromKey("day={}", ahead=timedelta(days=2)))
    shop.put(shop.key(-2), parquet(ROWS))
    shop.world.sleep((TTL + timedelta(days=1)).total_seconds())
    assert [run.run for run in sweep(shop.services(), "stock").runs] == [1]


@pytest.mark.parametrize(("zone", "hour"), [("UTC", 0), ("Europe/Berlin", -1), ("America/New_York", 5)])
def test_a_date_in_a_column_is_local_to_its_zone(tmp_path: Path, zone: str, hour: int) -> None:
    """Every row must have the same date, in every chunk."""
    shop = open_shop(tmp_path, FromColumn("day", zone=zone))
    yesterday = today(shop) - timedelta(days=1)
    run = shop.run({**ROWS, "day": [yesterday] * 3})
    assert run.state is RunState.DONE
    assert (
        run.as_of_ms
        == (datetime.combine(yesterday, datetime.min.time(), UTC) + timedelta(hours=hour)).timestamp() * 1000
    )


@pytest.mark.parametrize(("zone", "hour"), [("UTC", 12), ("Zulu", 12), ("W-SU", 9), ("Asia/Tokyo", 3)])
def test_an_instant_without_an_offset_is_local(zone: str, hour: int) -> None:
    """Whatever the zone's name; an instant with an offset is not."""
    found = set_zone(datetime(2026, 1, 2, 12), zone)
    assert (found, found.utcoffset()) == (datetime(2026, 1, 2, hour, tzinfo=UTC), timedelta(0))
    assert set_zone(datetime(2026, 1, 2, 12, tzinfo=UTC), zone) == datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_the_default_rule_is_strict() -> None:
    """UTC, and no date ahead of the output's arrival."""
    rules: tuple[AsOf, ...] = (FromKey("{}"), FromColumn("day"), LastModified())
    assert [get_ahead(rule) for rule in rules] == [timedelta(0)] * 3
    assert (FromKey("{}").zone, FromColumn("day").zone) == ("UTC", "UTC")
    assert get_ahead(FromColumn("day", ahead=timedelta(days=2))) == timedelta(days=2)
