"""However slow Athena is, metadata arrives: queries run in parallel, each is saved when it ends, none runs twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from enrich.dataset.definition import Metadata
from enrich.errors import OutOfTime, Stopped
from enrich.intake.find import take_arrived
from enrich.intake.operations import refresh
from enrich.intake.worker import run_pending
from enrich.ledger.run_state import RunState, Stage
from enrich.read.metadata import QueryFailed, build_columns_sql
from enrich.run.lifecycle import MOST_FAILURES
from tests.unit.enrich.small_shop import DATASET, PRODUCTS, ROWS, SETTINGS, SmallShop, parquet

NAMES = ["first", "second", "third", "fourth", "fifth"]
SQL = "select sku, title from"


@dataclass
class SlowAthena:
    """Runs each query for the `seconds` of its metadata's name.

    `fails` names those that end badly, `empty` those that find no rows.
    """

    shop: SmallShop
    seconds: Mapping[str, float]
    fails: set[str] = field(default_factory=set)
    is_transient: bool = True
    empty: set[str] = field(default_factory=set)
    started: list[str] = field(default_factory=list)  # the names of the queries that were started, in order
    cancelled: list[str] = field(default_factory=list)
    _queries: list[tuple[str, str, float, Mapping[str, list[Any]]]] = field(default_factory=list)

    def start(self, sql: str, location: str) -> str:
        name = location.split("/")[5]
        self.started.append(name)
        rows = {column: [None] for column in PRODUCTS} if sql == build_columns_sql(f"{SQL} {name}") else PRODUCTS
        if name in self.empty and rows is PRODUCTS:
            rows = {}
        self._queries.append((name, location, self.shop.world.now() + self.seconds[name], rows))
        return str(len(self._queries) - 1)

    def is_done(self, query_id: str) -> bool:
        name, location, ends_at, rows = self._queries[int(query_id)]
        if self.shop.world.now() < ends_at:
            return False
        if name in self.fails:
            raise QueryFailed("Query exhausted resources at this scale factor", is_transient=self.is_transient)
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        if rows:
            self.shop.s3.put(bucket, f"{prefix}0.parquet", parquet(rows))
        return True

    def cancel(self, query_id: str) -> None:
        self.cancelled.append(self._queries[int(query_id)][0])


def build_shop(tmp_path: Path, max_age: timedelta = timedelta(0)) -> SmallShop:
    metadata = {name: Metadata(f"{SQL} {name}", on="sku", missing="null", max_age=max_age) for name in NAMES}
    dataset = replace(DATASET, metadata=metadata, body={"title": "first.title", "units": "units"})
    shop = SmallShop(tmp_path, dataset)
    shop.put(shop.key(), parquet(ROWS))
    return shop


def invoke(shop: SmallShop, athena: Any, lasts: float) -> bool:
    """Invoke enrich once; return whether it ended for lack of time, and check that it ended in time."""
    deadline = shop.world.now() + lasts
    services = replace(shop.services(), athena=cast(Any, athena), deadline=deadline, owner=f"until {deadline}")
    try:
        list(run_pending(services, "stock"))
    except OutOfTime:
        assert shop.world.now() < deadline - 5
        return True
    return False


@pytest.mark.parametrize(("lasts", "invocations"), [(900.0, 1), (300.0, 1), (150.0, 2), (60.0, 5)])
def test_five_slow_queries_are_each_run_once(tmp_path: Path, lasts: float, invocations: int) -> None:
    """Five queries of 200 s take 200 s, in as many invocations as that needs."""
    shop = build_shop(tmp_path)
    athena = SlowAthena(shop, dict.fromkeys(NAMES, 200.0))
    take_arrived(shop.services(), SETTINGS.outputs, shop.key())
    began, count = shop.world.now(), 1
    while invoke(shop, athena, lasts):
        count += 1
    (run,) = shop.ledger.fetch_runs("stock")
    assert run.state is RunState.DONE
    assert sorted(athena.started) == sorted(NAMES)
    assert shop.world.now() - began < 220
    assert count == invocations


def test_a_query_that_has_ended_is_saved_before_the_others_end(tmp_path: Path) -> None:
    """An invocation that dies while others run loses nothing, even if rows can't be shared between runs."""
    shop = build_shop(tmp_path)
    athena = SlowAthena(shop, {name: 10.0 + 200.0 * (name == "fifth") for name in NAMES})
    take_arrived(shop.services(), SETTINGS.outputs, shop.key())
    assert invoke(shop, athena, 60.0)
    assert sorted(shop.ledger.get_state("stock").metadata) == sorted(set(NAMES) - {"fifth"})
    (run,) = shop.ledger.fetch_runs("stock")
    assert (run.state, run.stage) == (RunState.STOPPED, Stage.PIN)
    while invoke(shop, athena, 60.0):
        pass
    assert sorted(athena.started) == sorted(NAMES)


@pytest.mark.parametrize(("lasts", "invocations"), [(900.0, 1), (60.0, 9)])
def test_columns_of_queries_without_rows_arrive_too(tmp_path: Path, lasts: float, invocations: int) -> None:
    """They are fetched by queries like the others, in parallel: started once, saved, and waited for in time."""
    shop = build_shop(tmp_path)
    athena = SlowAthena(shop, dict.fromkeys(NAMES, 200.0), empty={"first", "third"})
    take_arrived(shop.services(), SETTINGS.outputs, shop.key())
    count = 1
    while invoke(shop, athena, lasts):
        count += 1
    (run,) = shop.ledger.fetch_runs("stock")
    assert (run.state, run.counts.written) == (RunState.DONE, 3)
    assert sorted(athena.started) == sorted([*NAMES, "first", "third"])
    assert count == invocations


def test_a_query_that_fails_cancels_the_others(tmp_path: Path) -> None:
    """The error names the metadata and Athena's reason; the next attempt keeps the ended ones and starts the rest."""
    shop = build_shop(tmp_path)
    athena = SlowAthena(shop, {"first": 5, "second": 20, "third": 100, "fourth": 100, "fifth": 100}, {"second"})
    take_arrived(shop.services(), SETTINGS.outputs, shop.key())
    with pytest.raises(Stopped, match="metadata 'second': Athena failed to run the query: Query exhausted resources"):
        invoke(shop, athena, 900.0)
    assert sorted(athena.cancelled) == ["fifth", "fourth", "third"]
    athena.fails.clear()
    assert not invoke(shop, athena, 900.0)
    assert sorted(athena.started) == sorted([*NAMES, "second", "third", "fourth", "fifth"])


@pytest.mark.parametrize("is_transient", [True, False])
def test_a_query_that_athena_refuses_does_not_block_its_dataset(tmp_path: Path, *, is_transient: bool) -> None:
    """Its run is closed after three attempts, and the next output is published; Athena's own faults are retried."""
    shop = build_shop(tmp_path)
    athena = SlowAthena(shop, dict.fromkeys(NAMES, 5.0), {"second"}, is_transient=is_transient)
    take_arrived(shop.services(), SETTINGS.outputs, shop.key())
    attempts = 2 * MOST_FAILURES if is_transient else MOST_FAILURES - 1
    for _ in range(attempts):
        with pytest.raises(Stopped, match="metadata 'second': Athena "):
            invoke(shop, athena, 900.0)
        shop.world.sleep(900)
    if is_transient:
        athena.fails.clear()
    assert not invoke(shop, athena, 900.0)
    (run,) = shop.ledger.fetch_runs("stock")
    assert run.state is (RunState.DONE if is_transient else RunState.FAILED)
    if not is_transient:
        remedy = rf"metadata 'second': Athena refuses the query: .* fix its SQL.* replay stock {run.run}"
        assert re.search(remedy, run.error or "")
        athena.fails.clear()
        shop.put(shop.key(1), parquet(ROWS))
        take_arrived(shop.services(), SETTINGS.outputs, shop.key(1))
        assert not invoke(shop, athena, 900.0)
        assert [each.state for each in shop.ledger.fetch_runs("stock")] == [RunState.DONE, RunState.FAILED]


def test_a_query_of_an_earlier_day_is_run_again(tmp_path: Path) -> None:
    """Its rows can have been deleted since, and must not count as no rows."""
    shop = build_shop(tmp_path)
    athena = SlowAthena(shop, dict.fromkeys(NAMES, 200.0))
    take_arrived(shop.services(), SETTINGS.outputs, shop.key())
    assert invoke(shop, athena, 60.0)
    shop.world.sleep(25 * 3600)
    while invoke(shop, athena, 60.0):
        pass
    assert sorted(athena.started) == sorted(NAMES * 2)


def test_a_refresh_fetches_again_once(tmp_path: Path) -> None:
    """It does not use rows that are recent enough for other runs; when it continues, it uses its own."""
    shop = build_shop(tmp_path, max_age=timedelta(days=1))
    athena = SlowAthena(shop, dict.fromkeys(NAMES, 100.0))
    take_arrived(shop.services(), SETTINGS.outputs, shop.key())
    while invoke(shop, athena, 60.0):
        pass
    refresh(shop.services(), "stock")
    while invoke(shop, athena, 60.0):
        pass
    assert sorted(athena.started) == sorted(NAMES * 2)
    assert {run.state for run in shop.ledger.fetch_runs("stock")} == {RunState.DONE}
