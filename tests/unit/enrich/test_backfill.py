"""A backfill runs each output of a time range once and in order, even if it is stopped; newer items stay."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enrich.cli.exit_codes import UsageError
from enrich.commands.backfill import _parse_range
from enrich.dataset.as_of import FromColumn, FromKey, LastModified
from enrich.dataset.guards import Guard
from enrich.errors import Stopped
from enrich.intake.backfill import PATIENCE, Backfill, Status, Step, find_backfill, find_failed, run_backfill
from enrich.intake.events import parse_event
from enrich.intake.held import reject
from enrich.intake.operations import withdraw
from enrich.intake.worker import handle_requests, run_dataset
from enrich.ledger.run_state import RunState
from enrich.plan.backfill import estimate, plan_backfill, render_backfill, render_end, render_step
from enrich.services import Services
from serve.item import body_text
from tests.unit.enrich.small_shop import DATASET, ROWS, SETTINGS, SmallShop, parquet

LONG_AGO, FAR_AHEAD = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path)


def rows_of(day: int) -> dict[str, list[Any]]:
    """Return an output that changes an item of the previous one, and has a new item."""
    return {"shop": ["x", "y", f"only-{day}"], "sku": ["a", "b", "c"], "units": [10.0 - day, 20.0 - day, 1.0]}


def put_days(shop: SmallShop, days: Any) -> None:
    for day in days:
        shop.put(shop.key(day), parquet(rows_of(day)))


def find(shop: SmallShop, since: datetime = LONG_AGO, until: datetime = FAR_AHEAD) -> Backfill:
    return find_backfill(shop.services(), "stock", since, until)


def fill(shop: SmallShop, services: Services | None = None, **options: Any) -> list[Step]:
    return list(run_backfill(services or shop.services(), find(shop), **options))


def served(shop: SmallShop) -> dict[str, Any]:
    items = [item for item in shop.table.items.values() if item.body is not None]
    return {f"{item.pk.partition('#')[2]}/{item.sk}": json.loads(body_text(item.body or ""))["units"] for item in items}


def test_outputs_are_run_oldest_first_and_once(shop: SmallShop) -> None:
    """In any order of arrival; a second backfill has nothing to do, and a part of the range runs only that part."""
    put_days(shop, [1, 3, 2])
    shop.put(shop.key(0).replace("stock/", "stock/a/"), parquet(rows_of(0)))  # the newest is the first to be listed
    days = [datetime.fromtimestamp(shop.world.time, UTC).date() - timedelta(days=day) for day in (3, 2, 1, 0)]
    midnight = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days]
    part = find(shop, midnight[1], midnight[2])
    assert [each.as_of for each in part.to_run] == [midnight[1]]
    steps = fill(shop)
    assert [step.output.as_of for step in steps] == midnight
    assert [step.run.run for step in steps if step.run] == [1, 2, 3, 4]
    assert served(shop) == {"x/a": 10.0, "y/b": 20.0, **{f"only-{day}/c": 1.0 for day in range(4)}}
    assert not any(output.is_late for output in find(shop).outputs[3:])
    found = find(shop)
    assert ({each.status for each in found.outputs}, found.to_run) == ({Status.DONE}, [])
    assert len(shop.ledger.fetch_runs("stock")) == 4


def test_an_older_output_never_overwrites_a_newer_item(shop: SmallShop) -> None:
    """It is late: only the items that no newer output names come from it; the plan shows this first."""
    shop.run(rows_of(0))
    put_days(shop, [2, 1])
    found = find(shop)
    assert [each.is_late for each in found.to_run] == [True, True]
    assert "2 are older than an output that is already served (late): they overwrite no item" in render_backfill(
        found, None, "x"
    )
    fill(shop)
    assert served(shop) == {"x/a": 10.0, "y/b": 20.0, **{f"only-{day}/c": 1.0 for day in range(3)}}


def test_an_older_snapshot_adds_nothing(shop: SmallShop) -> None:
    """A newer snapshot names every live item; the estimate is 0."""
    shop.dataset = replace(shop.dataset, source=replace(shop.dataset.source, output="snapshot", snapshot_files="each"))
    shop.run(rows_of(0))
    put_days(shop, [2, 1])
    found = find(shop)
    assert "add no item, since a newer snapshot names them all" in render_backfill(found, None, "x")
    assert estimate(shop.services(), found).units == 0
    steps = fill(shop)
    assert served(shop) == {"x/a": 10.0, "y/b": 20.0, "only-0/c": 1.0}
    assert [step.run.counts.written for step in steps if step.run] == [0, 0]


class Killed(BaseException):
    """Simulates the end of the process."""


class Killing:
    """Counts the calls that change something, and kills at one of them, before or after it was made."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after = at, after

    def wrap(self, function: Any) -> Any:
        def call(*words: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            found = function(*words, **more)
            if self.left == 0:
                raise Killed
            return found

        return call


def test_killed_at_any_call_and_started_again_it_continues(tmp_path: Path) -> None:
    """Killed before or after each commit and each write: the result is the same, and no output is run twice."""
    whole = SmallShop(tmp_path / "whole")
    whole.directory.mkdir()
    put_days(whole, [1, 0])
    fill(whole)
    expected, runs = served(whole), {run.object_key for run in whole.ledger.fetch_runs("stock")}
    killed = 0
    for at in (4, 8, 11):
        folder = tmp_path / str(at)
        folder.mkdir()
        shop = SmallShop(folder)
        put_days(shop, [1, 0])
        killing = Killing(at, after=at % 2 == 0)
        services, dynamo = shop.services(), shop.dynamo
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dynamo, "transact_write_items", killing.wrap(dynamo.transact_write_items), raising=False)
            patch.setattr(shop.table, "send", killing.wrap(shop.table.send), raising=False)
            try:
                fill(shop, services)
            except Killed:
                killed += 1
        done = [run.run for run in shop.ledger.fetch_runs("stock") if run.state is RunState.DONE]
        steps = fill(shop, replace(shop.services(), owner="the next process"))
        assert served(shop) == expected, at
        closed = shop.ledger.fetch_runs("stock")
        assert [run.state for run in closed] == [RunState.DONE] * 2, at
        assert {run.object_key for run in closed} == runs
        assert len(steps) == 2 - len(done)
        assert not {step.run.run for step in steps if step.run} & set(done)
    assert killed == 3, killed


def test_it_stops_at_the_first_failure_and_runs_it_again_after_a_fix(shop: SmallShop) -> None:
    """Later outputs are not even queued; after a fix the same backfill replays the failed one, and continues."""
    put_days(shop, [3, 1])
    shop.put(shop.key(2), parquet({**ROWS, "sku": ["q", "q", "q"]}))
    steps: Any = run_backfill(shop.services(), find(shop))
    assert [step.run and step.run.state for step in (next(steps), next(steps))] == [RunState.DONE, RunState.FAILED]
    steps.close()
    assert [run.run for run in shop.ledger.fetch_runs("stock")] == [2, 1]
    assert not shop.ledger.fetch_pending("stock")
    found = find(shop)
    assert [each.status for each in found.outputs] == [Status.DONE, Status.FAILED, Status.NEW]
    shop.dataset = replace(shop.dataset, metadata={}, body={"units": "units"})
    again = fill(shop)
    assert [(step.run.kind, step.run.state) for step in again if step.run] == [("replay", "done"), ("output", "done")]
    assert find(shop).to_run == []


def test_continuing_after_a_failure_runs_the_others(shop: SmallShop) -> None:
    """A caller that continues gets every output, and the last line counts the failed ones."""
    put_days(shop, [3, 1])
    shop.put(shop.key(2), b"no")
    found = find(shop)
    steps = list(run_backfill(shop.services(), found))
    assert [step.run.state for step in steps if step.run] == ["done", "failed", "done"]
    assert render_end(found, steps).startswith("Backfill: 2 of 3 done, 1 failed or held, ")
    assert "run 2 failed" in render_step(2, 3, steps[1])


def test_withdrawn_expired_gone_and_overwritten_outputs(shop: SmallShop) -> None:
    """The first two are skipped and counted; a deleted output is reported at its turn; a replaced one is run."""
    put_days(shop, [9, 3, 2, 1, 0])
    first = shop.go(shop.key(3))
    withdraw(shop.services(), first)
    run_dataset(shop.services(), "stock")
    found = find(shop)
    assert [each.status for each in found.outputs] == ["expired", "withdrawn", "new", "new", "new"]
    text = render_backfill(found, None, "x")
    assert "1 left alone: an operator withdrew them" in text
    assert "1 left alone: they are older than the ttl" in text
    shop.s3.delete(SETTINGS.outputs, shop.key(2))
    shop.put(shop.key(1), parquet({**ROWS, "units": [5.0, 5.0, 5.0]}))
    steps = list(run_backfill(shop.services(), found))
    assert [step.run and step.run.counts.written for step in steps] == [None, 3, 3]
    assert "it is gone; nothing was run" in render_step(1, 3, steps[0])


@pytest.mark.parametrize(
    "rule", [FromKey("day={}"), FromColumn("made"), LastModified()], ids=lambda rule: type(rule).__name__
)
def test_the_range_applies_to_as_of_in_key_or_column(tmp_path: Path, rule: Any) -> None:
    """For a column, the first rows are read before anything is queued; a file without rows has no as_of."""
    columns = {**DATASET.source.columns, "made": "date"}
    dataset = replace(DATASET, as_of=rule, source=replace(DATASET.source, columns=columns))
    shop = SmallShop(tmp_path, dataset)
    now = shop.world.time
    for day in (2, 1, 0):
        shop.table.now = now - day * 86_400
        made = date.fromtimestamp(shop.table.now)
        shop.put(f"stock/day={made}/p.parquet", parquet({**rows_of(0), "made": [made] * 3}))
    shop.put("stock/day=soon/bad.parquet", b"no")
    middle = datetime.fromtimestamp(now - 86_400, UTC).replace(hour=0, minute=0, second=0)
    found = find(shop, middle, middle + timedelta(days=1))
    assert [each.object_key for each in found.to_run] == [f"stock/day={middle.date()}/p.parquet"]
    assert len(found.unreadable) == (0 if isinstance(rule, LastModified) else 1)
    if found.unreadable:
        assert "stock/day=soon/bad.parquet" in found.unreadable[0]
    assert shop.ledger.fetch_runs("stock") == []
    assert [step.run.state for step in run_backfill(shop.services(), found) if step.run] == ["done"]


def test_marker_runs_are_outputs_with_the_size_of_their_parts(shop: SmallShop) -> None:
    """A marker run is listed by its marker; one that is done is recognized by its parts."""
    shop.dataset = replace(shop.dataset, source=replace(shop.dataset.source, marker="_DONE"))
    content = parquet(rows_of(0))
    for day in (1, 0):
        folder = shop.key(day).rpartition("/")[0]
        for name in ("0.parquet", "1.parquet"):
            shop.put(f"{folder}/{name}", content if name == "0.parquet" else parquet({**ROWS, "shop": ["p", "q", "r"]}))
        shop.put(f"{folder}/_DONE", b"")
    found = find(shop)
    assert [each.size > 1.5 * len(content) for each in found.to_run] == [True, True]
    assert [step.run.state for step in fill(shop) if step.run] == ["done", "done"]
    assert find(shop).to_run == []


def test_a_plan_is_exact_and_an_estimate_bounds_it(shop: SmallShop) -> None:
    """Planned over a view: the runs have exactly the units of the backfill, and nothing is written."""
    put_days(shop, [3, 2, 1])
    found = find(shop)
    first = estimate(shop.services(), found)
    assert "from a plan of the first output" in render_backfill(found, first, "us-east-1")
    planned = plan_backfill(shop.services(), found)
    assert (shop.ledger.fetch_runs("stock"), shop.table.items) == ([], {})
    steps = fill(shop)
    assert [step.run and (step.run.counts, step.run.units) for step in planned] == [
        step.run and (step.run.counts, step.run.units) for step in steps
    ]
    put_days(shop, [0])
    second = estimate(shop.services(), find(shop))
    (last,) = fill(shop)
    assert last.run is not None
    assert (first.units or 0) >= sum(step.run.units for step in steps if step.run)
    assert (second.units or 0) >= last.run.units
    assert second.why.startswith("from the 3 newest runs")


def test_an_estimate_that_can_not_be_made_says_why(shop: SmallShop) -> None:
    """The first output would fail: this is reported before anything runs."""
    shop.put(shop.key(1), parquet({**ROWS, "sku": ["q", "q", "q"]}))
    found = find(shop)
    text = render_backfill(found, estimate(shop.services(), found), "us-east-1")
    assert "no price: a run of the first output would end as failed: dataset stock, s3://outputs/stock/day=" in text


class Function:
    """The deployed function and its queue: a message is handled while the caller sleeps."""

    def __init__(self, shop: SmallShop, *, works: bool = True) -> None:
        self.shop, self.works, self.messages = shop, works, list[dict[str, Any]]()

    def services(self) -> Services:
        return replace(self.shop.services(), send=self.messages.append, clock=self)

    def now(self) -> float:
        return self.shop.world.now()

    def sleep(self, seconds: float) -> None:
        self.shop.world.sleep(seconds)
        while self.works and self.messages:
            handle_requests(replace(self.shop.services(), owner="function"), parse_event(self.messages.pop(0)))


def test_sent_runs_are_executed_by_the_function_one_at_a_time(shop: SmallShop) -> None:
    """With `send` this process writes nothing: it queues, sends a message, and waits until the run is closed."""
    put_days(shop, [2, 1, 0])
    function = Function(shop)
    steps = list(run_backfill(function.services(), find(shop), send=True))
    assert [(step.run.state, step.run.owner) for step in steps if step.run] == [("done", "function")] * 3
    assert served(shop) == {"x/a": 10.0, "y/b": 20.0, **{f"only-{day}/c": 1.0 for day in range(3)}}


def test_a_function_that_does_not_answer_is_named(shop: SmallShop) -> None:
    """After a time without changes the backfill ends; started again, it continues with the same run."""
    put_days(shop, [1, 0])
    with pytest.raises(Stopped, match=r"run 1 of s3://outputs/stock/.*dead-letter queue.*it continues here"):
        list(run_backfill(Function(shop, works=False).services(), find(shop), send=True))
    assert [each.status for each in find(shop).outputs] == [Status.OPEN, Status.NEW]
    assert [step.run.run for step in run_backfill(Function(shop).services(), find(shop), send=True) if step.run] == [
        1,
        2,
    ]


def test_a_run_of_another_invocation_is_waited_for(shop: SmallShop) -> None:
    """The lease of an invocation that died expires; then the run is executed here."""
    put_days(shop, [1, 0])
    assert replace(shop.services(), owner="dead").acquire("stock") is not None
    began = shop.world.time
    assert [step.run.state for step in fill(shop) if step.run] == ["done", "done"]
    assert 100 < shop.world.time - began < PATIENCE


BERLIN = FromKey("day={}", zone="Europe/Berlin")
RANGES: list[tuple[Any, str, str | None, str, str]] = [
    (FromKey("day={}"), "2026-11-01", "2026-11-02", "2026-11-01T00:00:00", "2026-11-03T00:00:00"),
    (BERLIN, "2026-07-01", "2026-07-01", "2026-06-30T22:00:00", "2026-07-01T22:00:00"),
    (
        LastModified(),
        "2026-11-01T06:00:00Z",
        "2026-11-01T07:00:00+01:00",
        "2026-11-01T06:00:00",
        "2026-11-01T06:00:00.001",
    ),
    (FromKey("day={}"), "20261101", None, "2026-11-01T00:00:00", "2126-"),
]


@pytest.mark.parametrize(("rule", "since", "until", "first", "after"), RANGES)
def test_a_date_is_a_whole_day_in_the_zone_of_as_of(
    rule: Any, since: str, until: str | None, first: str, after: str
) -> None:
    """Both ends belong to the range."""
    found = _parse_range(argparse.Namespace(since=since, until=until), rule, 1_796_000_000.0)
    assert [instant.isoformat().startswith(text) for instant, text in zip(found, (first, after), strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("since", "until", "message"),
    [
        ("soon", None, "--since 'soon' is neither a date such as"),
        ("2026-02-30", None, "neither a date"),
        ("2026-11-02", "2026-11-01", "--since 2026-11-02 is later than --until 2026-11-01"),
        ("9999-12-31", "9999-12-31", "neither a date"),
    ],
)
def test_an_invalid_range_is_refused(since: str, until: str | None, message: str) -> None:
    """The message names the option and shows examples."""
    with pytest.raises(UsageError, match=message):
        _parse_range(argparse.Namespace(since=since, until=until), LastModified(), 0.0)


def test_another_output_arrives_meanwhile(shop: SmallShop) -> None:
    """If an event queues an output of the range before its turn, it is run once."""
    put_days(shop, [2, 1, 0])
    found = find(shop)
    steps: Iterator[Step] = run_backfill(shop.services(), found)
    next(steps)
    shop.go(shop.key(0))
    rest = list(steps)
    assert [step.run.run for step in rest if step.run] == [3, 2]
    assert len(shop.ledger.fetch_runs("stock")) == 3
    assert served(shop)["x/a"] == 10.0


def test_an_output_that_guards_hold_stops_it_and_is_left_to_an_operator(shop: SmallShop) -> None:
    """The next backfill skips it, also after it was rejected, and continues after it."""
    shop.dataset = replace(shop.dataset, guards=[Guard("rows", least=3)])
    put_days(shop, [2, 0])
    shop.put(shop.key(1), parquet({name: values[:1] for name, values in ROWS.items()}))
    steps: Any = run_backfill(shop.services(), find(shop))
    found = [next(steps), next(steps)]
    steps.close()
    assert [step.run.state for step in found if step.run] == ["done", "held"]
    assert len(find_failed(found)) == 1
    assert [each.status for each in find(shop).outputs] == ["done", "held", "new"]
    reject(shop.services(), "stock", 2)
    again = find(shop)
    assert [each.status for each in again.outputs] == ["done", "rejected", "new"]
    assert "1 left alone: an operator rejected them" in render_backfill(again, None, "x")
    assert [step.run.state for step in run_backfill(shop.services(), again) if step.run] == ["done"]
