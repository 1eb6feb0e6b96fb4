"""Records of old runs are deleted by the sweep; whatever can still be done with a run works as if none had been."""

from __future__ import annotations

import collections
import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enrich.dataset.definition import Dataset, Guard
from enrich.intake import operations, prune
from enrich.intake.backfill import find_backfill
from enrich.intake.events import Sweep
from enrich.intake.find import sweep, take_arrived
from enrich.intake.held import approve, close_expired
from enrich.intake.recovery import find_alive, heal
from enrich.intake.worker import handle_requests, run_pending
from enrich.ledger.freshness import build_freshness
from enrich.ledger.records import Counter, DatasetState, Run, RunStatistics, SeenOutput
from enrich.ledger.run_state import Kind, RunState
from infra.translate import read_template
from tests.doubles import one_duckdb
from tests.faults.world import DAY
from tests.unit.enrich.console_shop import ConsoleShop
from tests.unit.enrich.small_shop import DATASET, ROWS, SETTINGS, TTL, SmallShop

KEPT = timedelta(days=15)
NEWEST = 5
GUARDS = (Guard("rows", change=1.0), Guard("mean", "units", change=0.5))
BAD: dict[str, list[Any]] = {**ROWS, "units": [1.0, 2.0, 900.0]}
WITH_REJECT: dict[str, list[Any]] = {**ROWS, "sku": ["a", None, "a"]}
GUARDED = replace(DATASET, guards=GUARDS, metadata={}, body={"units": "units"})
DAYS = 45


def keep_shortly(patch: pytest.MonkeyPatch) -> None:
    """Keep runs for two weeks, and five of them."""
    patch.setattr(prune, "KEPT", KEPT)
    patch.setattr(prune, "NEWEST_KEPT", NEWEST)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_shortly(monkeypatch)


def count(shop: SmallShop) -> collections.Counter[str]:
    """Return the number of the ledger's records of each kind."""
    return collections.Counter(sk.partition("#")[0] for _, sk in shop.dynamo.rows)


def numbers(shop: SmallShop) -> list[int]:
    """Return the numbers of the runs in the ledger, oldest first."""
    return [run.run for run in reversed(shop.ledger.fetch_runs("stock"))]


def build(tmp_path: Path, name: str, dataset: Dataset = GUARDED) -> SmallShop:
    directory = tmp_path / name
    directory.mkdir()
    return SmallShop(directory, dataset)


# -- a long time of outputs, compared with a ledger of which nothing is deleted


def live(shop: SmallShop, *, prunes: bool) -> list[int]:
    """Let days pass, with an output and a sweep on each; return how many records the ledger had after each day."""
    sizes = []
    for day in range(DAYS):
        rows = BAD if day in {12, DAYS - 1} else WITH_REJECT if day % 9 == 5 else ROWS
        shop.run({**rows, "units": [unit + day % 3 / 10 for unit in rows["units"]]})
        if day in {14, 36}:
            operations.withdraw(shop.services(), shop.ledger.fetch_runs("stock", newest=1)[0])
            list(run_pending(shop.services(), "stock"))
        shop.world.sleep(DAY)
        if prunes:
            handle_requests(shop.services(), [Sweep("stock")])
        else:
            assert sweep(shop.services(), "stock") == ([], [])
            close_expired(shop.services(), "stock")
        sizes.append(sum(count(shop).values()))
    return sizes


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallShop, SmallShop]:
    """Return two shops with the same history; the records of the first one's old runs were deleted."""
    directory = tmp_path_factory.mktemp("lived")
    shop, whole = build(directory, "pruned"), build(directory, "whole")
    with one_duckdb.used_by_runs(), pytest.MonkeyPatch.context() as patch:
        keep_shortly(patch)
        sizes = live(shop, prunes=True)
        assert live(whole, prunes=False)[-1] > 3 * DAYS
    assert max(sizes[-15:]) <= max(sizes[15:30]) < 3 * DAYS / 2  # each withdrawal ran a week of outputs again
    return shop, whole


@pytest.fixture
def twins(lived: tuple[SmallShop, SmallShop], tmp_path: Path) -> tuple[SmallShop, SmallShop]:
    """Return copies of these shops."""
    return duplicate(lived[0], tmp_path), duplicate(lived[1], tmp_path)


def duplicate(shop: SmallShop, directory: Path) -> SmallShop:
    same = SmallShop(directory, shop.dataset, copy.deepcopy(shop.table))
    same.table.now = shop.table.now
    same.s3.objects, same.dynamo.rows = copy.deepcopy(shop.s3.objects), copy.deepcopy(shop.dynamo.rows)
    return same


def refresh(shop: SmallShop) -> Run:
    return operations.refresh(shop.services(), "stock")


def withdraw(shop: SmallShop) -> Run:
    """Withdraw the newest output that was published."""
    bad = next(run for run in shop.ledger.fetch_runs("stock") if run.state is RunState.DONE)
    described = operations.describe_withdrawal(shop.services(), bad)
    assert len(described.restored) > 3
    return operations.withdraw(shop.services(), bad)


def withdraw_oldest_alive(shop: SmallShop) -> Run:
    return operations.withdraw(shop.services(), find_alive(shop.services(), shop.ledger.fetch_runs("stock"))[0])


def replace_table(shop: SmallShop) -> None:
    shop.dynamo.table_id = "another"
    heal(shop.services(), "stock")


def replay(shop: SmallShop) -> Run:
    return operations.replay(shop.services(), shop.ledger.fetch_runs("stock")[NEWEST + 3])


def replay_rejects(shop: SmallShop) -> Run:
    rejecting = next(run for run in shop.ledger.fetch_runs("stock") if run.counts.rejected)
    return operations.replay_rejects(shop.services(), f"rejects/stock/{rejecting.run:08d}/")


def approve_held(shop: SmallShop) -> Run:
    return approve(shop.services(), "stock", shop.ledger.fetch_held("stock")[0].run)


def output(shop: SmallShop) -> Run:
    """Write an output that the guards compare with the newest run."""
    return shop.enqueue({**ROWS, "units": [1.5, 2.5, 3.5]})


@pytest.mark.parametrize(
    "do",
    [refresh, withdraw, withdraw_oldest_alive, replace_table, replay, replay_rejects, approve_held, output],
    ids=lambda do: do.__name__,
)
def test_operations_do_what_they_did(twins: tuple[SmallShop, SmallShop], do: Callable[[SmallShop], object]) -> None:
    """The same runs with the same numbers and outcomes, the same items, and the same verdicts of guards."""
    ran = []
    for shop in twins:
        do(shop)
        ran.append(list(run_pending(shop.services(), "stock")))
    assert ran[0]
    assert ran[0] == ran[1]
    shop, whole = twins
    assert len(numbers(shop)) < len(numbers(whole)) / 2
    for number in numbers(shop):
        assert shop.ledger.get_run("stock", number) == whole.ledger.get_run("stock", number)
        assert shop.ledger.get_statistics("stock", number) == whole.ledger.get_statistics("stock", number)
    assert shop.table.items == whole.table.items


def test_pages_and_freshness_are_the_same(twins: tuple[SmallShop, SmallShop], tmp_path: Path) -> None:
    """What the console shows of the newest runs; a run that was deleted is not found."""
    options = {"newest": NEWEST, "show_data": True}
    consoles = [ConsoleShop(tmp_path, shop, options) for shop in twins]
    newest = numbers(twins[0])[-1]
    for path in ("/", "/datasets/stock.html", f"/datasets/stock/runs/{newest}.html"):
        shown = [console.ask(path) for console in consoles]
        assert shown[0].status == 200, path
        assert shown[0].text == shown[1].text, path
    assert consoles[0].ask("/datasets/stock/runs/1.html").status == 404
    fresh = [build_freshness(shop.ledger.fetch_runs("stock", newest=15), shop.world.now()) for shop in twins]
    assert fresh[0] == fresh[1]


def test_nothing_is_found_again(twins: tuple[SmallShop, SmallShop]) -> None:
    """All outputs are still in the bucket. Neither the sweep nor a backfill runs one again."""
    shop, whole = twins
    assert len([at for at in shop.s3.objects if at[0] == SETTINGS.outputs]) == DAYS
    assert sweep(shop.services(), "stock") == sweep(whole.services(), "stock") == ([], [])
    now = shop.world.now()
    since, until = (datetime.fromtimestamp(at, UTC) for at in (now - 90 * DAY, now + DAY))
    found = [find_backfill(each.services(), "stock", since, until) for each in twins]
    assert [len(each.outputs) for each in found] == [DAYS, DAYS]
    assert [each.to_run for each in found] == [[], []]


def test_an_event_of_an_output_that_was_deleted_from_the_ledger_changes_nothing(
    twins: tuple[SmallShop, SmallShop],
) -> None:
    """It has a run again, with a new number, and all of its items have expired."""
    shop, _ = twins
    before, newest = dict(shop.table.items), numbers(shop)[-1]
    run = take_arrived(shop.services(), SETTINGS.outputs, shop.key(day=DAYS))
    assert run is not None
    (done,) = run_pending(shop.services(), "stock")
    assert (done.run, done.state, done.counts.expired, done.counts.written) == (newest + 1, RunState.DONE, 3, 0)
    assert shop.table.items == before


def test_a_longer_ttl_brings_nothing_back(twins: tuple[SmallShop, SmallShop]) -> None:
    """With a ttl of a year, a sweep looks at outputs whose records were deleted; a withdrawn one would be served."""
    shop, _ = twins
    shop.dataset = replace(shop.dataset, ttl=timedelta(days=365))
    assert sweep(shop.services(), "stock") == ([], [])
    shop.put(shop.key(), b"new")
    assert len(sweep(shop.services(), "stock").runs) == 1


def test_two_sweeps_at_once_find_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lists the bucket and pauses; the other deletes the records of an output. The ttl is longer by now."""
    shop = build(tmp_path, "shop")
    shop.run(ROWS)
    shop.world.sleep(100 * DAY)
    for day in range(NEWEST + 1):
        shop.run(ROWS, day=day)
    listed = shop.s3.list_objects_v2

    def pause(**request: Any) -> Any:
        found = listed(**request)
        monkeypatch.setattr(shop.s3, "list_objects_v2", listed)
        assert prune.prune(shop.services(), "stock") == 1
        return found

    late = replace(shop.services(), datasets={"stock": replace(shop.dataset, ttl=timedelta(days=365))})
    monkeypatch.setattr(shop.s3, "list_objects_v2", pause)
    assert sweep(late, "stock") == ([], [])


# -- which runs are kept


def test_a_run_is_kept_longer_than_its_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the template keeps them, and some days more: S3 deletes late."""
    monkeypatch.undo()
    rules = read_template()["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    (days,) = (rule["ExpirationInDays"] for rule in rules if rule.get("Prefix") == "rejects/")
    assert timedelta(days=days + 2) < prune.find_kept_for(DATASET)


def number_from(first: int, shop: SmallShop) -> SmallShop:
    """Leave numbers for runs that are committed here."""
    shop.ledger.commit(Counter(dataset="stock", next_run=first))
    return shop


def commit(shop: SmallShop, number: int, age_days: float, **changes: Any) -> Run:
    """Commit a run, and what the ledger has beside it, as it was `age_days` ago."""
    then = int((shop.world.now() - age_days * DAY) * 1000)
    run = Run(
        dataset="stock",
        run=number,
        bucket="outputs",
        object_key=f"stock/{number}",
        identity=f"stock/{number}@v",
        arrived_ms=then,
        queued_ms=then,
        started_ms=then,
        ended_ms=then,
        generation=1,
        as_of_ms=then,
        expires_at=then // 1000 + int(TTL.total_seconds()),
        state=RunState.DONE,
    )
    run = replace(run, **changes)
    seen = SeenOutput(
        dataset="stock", identity=run.identity, run=number, object_key=run.object_key, etag="", arrived_ms=then
    )
    beside = [seen] if run.kind is Kind.OUTPUT else []
    shop.ledger.commit(run, *beside, *([RunStatistics(dataset="stock", run=number)] if run.measured else []))
    return run


def add_newest(shop: SmallShop, first: int = 90, **changes: Any) -> None:
    """Commit as many runs as are always kept; they are old, too."""
    for number in range(first, first + NEWEST):
        commit(shop, number, 120 - number, **changes)


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return number_from(1000, build(tmp_path, "shop"))


def kept(shop: SmallShop) -> list[int]:
    """Let a sweep prune; return the numbers below those of the newest runs."""
    handle_requests(shop.services(), [Sweep("stock")])
    return [number for number in numbers(shop) if number < 90]


def test_of_old_runs_the_newest_are_kept(shop: SmallShop) -> None:
    """A dataset without outputs for a long time has its status, and something to refresh."""
    for number in range(1, 20):
        commit(shop, number, 300 - number, measured=3)
    add_newest(shop, measured=3)
    assert kept(shop) == []
    assert count(shop) == {"run": NEWEST, "output": NEWEST, "statistics": NEWEST, "state": 1, "counter": 1}
    handle_requests(shop.services(), [Sweep("stock")])
    assert count(shop)["run"] == NEWEST


def test_the_newest_published_and_the_newest_measured_run_are_kept(shop: SmallShop) -> None:
    """All newer ones failed: an operator can refresh, and an output is compared with what was published last."""
    commit(shop, 1, 100, measured=3)
    commit(shop, 2, 99, measured=3)
    commit(shop, 3, 98)
    commit(shop, 4, 97)
    commit(shop, 5, 96, state=RunState.FAILED)
    add_newest(shop, state=RunState.FAILED)
    assert kept(shop) == [2, 4]
    add_newest(shop, first=100)
    handle_requests(shop.services(), [Sweep("stock")])
    assert [number for number in numbers(shop) if number < 90] == [2]


CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "done": ({}, False),
    "failed before it had an order": ({"state": RunState.FAILED, "as_of_ms": None, "expires_at": None}, False),
    "overwritten": ({"state": RunState.OVERWRITTEN}, False),
    "rejected": ({"state": RunState.REJECTED}, False),
    "withdrawn": ({"state": RunState.WITHDRAWN}, False),
    "of an earlier release, without times": ({"queued_ms": 0, "started_ms": None, "ended_ms": None}, False),
    "its items are alive, of a ttl that was longer": ({"expires_at": 2_000_000_000}, True),
    "held": ({"state": RunState.HELD, "expires_at": 2_000_000_000}, True),
    "pending": ({"state": RunState.PENDING}, True),
    "running": ({"state": RunState.RUNNING}, True),
    "stopped": ({"state": RunState.STOPPED}, True),
    "ended a week ago, after it was held": ({"ended_ms": 1_800_000_000_000 - 7 * 86_400_000}, True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_kept_if_something_needs_it(shop: SmallShop, case: str) -> None:
    """Whether it has ended, when it did, and whether its items can be alive."""
    changes, is_kept = CASES[case]
    commit(shop, 1, 100, **changes)
    commit(shop, 2, 99)
    add_newest(shop)
    assert kept(shop) == [1] * is_kept


def test_a_run_is_kept_as_long_as_the_sweep_can_find_its_output(shop: SmallShop) -> None:
    """The ttl is longer than the period."""
    shop.dataset = replace(shop.dataset, ttl=timedelta(days=98))
    for number, age in ((1, 100), (2, 99.5), (3, 98.5), (4, 97)):
        commit(shop, number, age, state=RunState.FAILED)
    for number in range(90, 90 + NEWEST):
        commit(shop, number, 1)
    assert kept(shop) == [3, 4]


def test_a_withdrawal_is_kept_as_long_as_what_it_withdrew(shop: SmallShop) -> None:
    """A failed run over the withdrawn output is not marked: only the removal says that a backfill must not run it."""
    first = commit(shop, 1, 100, expires_at=2_000_000_000, state=RunState.FAILED)
    commit(shop, 2, 99, kind=Kind.REMOVAL, identity=first.identity, of_run=1, as_of_ms=0, expires_at=1)
    commit(shop, 3, 98, kind=Kind.REMOVAL, of_run=1, as_of_ms=0, expires_at=1)
    add_newest(shop)
    assert kept(shop) == [1, 2]


def test_a_run_is_kept_while_the_items_of_its_rejects_are_alive(shop: SmallShop) -> None:
    """A withdrawal of the output finds the run over the rejects by the run that rejected them."""
    commit(shop, 1, 100)
    commit(shop, 2, 99, kind=Kind.REJECTS, of_run=1)
    commit(shop, 3, 98, kind=Kind.REJECTS, of_run=2, expires_at=2_000_000_000)
    commit(shop, 4, 97, kind=Kind.REPLAY, of_run=1)
    add_newest(shop)
    assert kept(shop) == [1, 2, 3]


def test_nothing_is_deleted_during_a_withdrawal(shop: SmallShop) -> None:
    """It must find each run over its output, until it is closed."""
    commit(shop, 1, 100)
    add_newest(shop)
    bad = shop.run(ROWS)
    operations.withdraw(shop.services(), bad)
    assert prune.prune(shop.services(), "stock") == 0
    list(run_pending(shop.services(), "stock"))
    assert prune.prune(shop.services(), "stock") > 0


def test_a_sweep_deletes_a_bounded_number_of_runs(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of many years is pruned by many sweeps."""
    monkeypatch.setattr(prune, "MOST", 10)
    for number in range(1, 26):
        commit(shop, number, 300 - number)
    add_newest(shop)
    assert [len(kept(shop)) for _ in range(4)] == [15, 5, 0, 0]


def test_a_dataset_whose_lease_is_held_is_pruned_later(shop: SmallShop) -> None:
    """Runs, withdrawals and restores read the ledger under the lease."""
    commit(shop, 1, 100)
    add_newest(shop)
    lease = replace(shop.services(), owner="another").acquire("stock")
    assert lease is not None
    assert kept(shop) == [1]
    lease.release()
    assert kept(shop) == []


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("applied", [False, True])
def test_a_crash_in_between_leaves_whole_runs(tmp_path: Path, applied: bool) -> None:
    """Killed at each commit: a run has all of its records or none, the sweep finds no output again, and continues."""
    for last in itertools.count(1):
        shop = build(tmp_path, f"{last}{applied}")
        for number in range(1, 10):
            commit(shop, number, 300 - number, measured=3)
        add_newest(shop, measured=3)
        commits = itertools.count(1)

        def die(name: str, do: Callable[[], Any], last: int = last, commits: Any = commits) -> Any:
            if name == "TransactWriteItems" and next(commits) == last:
                if applied:
                    do()
                raise Killed
            return do()

        shop.world.call = die  # type: ignore[method-assign, assignment]
        try:
            prune.prune(shop.services(), "stock")
        except Killed:
            found = count(shop)
            assert found["run"] == found["output"] == found["statistics"] >= NEWEST
            shop.world.call = lambda _, do: do()  # type: ignore[method-assign]
            shop.world.sleep(DAY)  # its lease ends
            assert kept(shop) == []
        else:
            break
    assert last > 4


def test_an_output_whose_run_is_deleted_meanwhile_is_queued_again(shop: SmallShop) -> None:
    """An event finds the output, and the sweep deletes its run before the event's process reads it."""
    shop.run(ROWS)
    seen = [record for at, record in shop.dynamo.rows.items() if at[1].startswith("output#")]
    shop.world.sleep(100 * DAY)
    for day in range(NEWEST + 1):
        shop.run(ROWS, day=day)
    call = shop.world.call

    def delete_first(name: str, do: Callable[[], Any]) -> Any:
        found = do()
        if found.get("Item") == seen[0]:
            shop.world.call = call  # type: ignore[method-assign]
            assert prune.prune(shop.services(), "stock") == 1
        return found

    shop.world.call = delete_first  # type: ignore[method-assign, assignment]
    run = take_arrived(shop.services(), SETTINGS.outputs, str(seen[0]["object_key"]["S"]))
    assert run is not None
    assert (run.run, run.state) == (1000 + NEWEST + 2, RunState.PENDING)


def test_the_state_says_up_to_when_outputs_were_deleted(shop: SmallShop) -> None:
    """Of first runs: a replay arrived long before it was queued, and has no record for the sweep."""
    commit(shop, 1, 100)
    commit(shop, 2, 99)
    commit(shop, 3, 98, kind=Kind.REPLAY)
    add_newest(shop)
    assert kept(shop) == []
    expected = DatasetState(dataset="stock", pruned_ms=int((shop.world.now() - 99 * DAY) * 1000))
    assert shop.ledger.get_state("stock") == expected
