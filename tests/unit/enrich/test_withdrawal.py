"""Withdrawals of any size: more runs of an output than one transaction takes, and operators that die half-way."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from enrich.errors import Failed, Stopped
from enrich.intake import operations
from enrich.intake.queue import enqueue_again, repeat
from enrich.intake.worker import run_pending
from enrich.ledger.records import Counts, Run
from enrich.ledger.run_state import Kind, Stage
from enrich.ledger.store import Delete
from enrich.plan.plan import plan_withdrawal
from enrich.run import lifecycle
from tests.unit.enrich import small_shop
from tests.unit.enrich.small_shop import DATASET, ROWS, SmallShop

BAD: dict[str, list[Any]] = {"shop": ["x", "z"], "sku": ["a", "a"], "units": [9.0, 9.0]}
GOOD = {"x/a": '{"title":"A","units":1.0}', "x/b": '{"title":"B","units":2.0}', "y/a": '{"title":"A","units":3.0}'}


class Killed(BaseException):
    """The operator's process is gone."""


def bodies(shop: SmallShop) -> dict[str, Any]:
    """Return what is served, by `shop/sku`."""
    return {f"{pk.partition('#')[2]}/{sk}": item.body for (pk, sk), item in shop.table.items.items() if item.body}


def replay_often(shop: SmallShop, bad: Run, times: int, **changes: Any) -> None:
    """Queue replays of a run, and close every second one in the same way as its first run."""
    for n in range(times):
        queued = operations.replay(shop.services(), bad)
        if n % 2:
            pending = shop.ledger.get_pending(bad.dataset, queued.run)
            assert pending is not None
            closed = replace(bad, run=queued.run, kind=Kind.REPLAY, of_run=bad.run, version=queued.version, **changes)
            shop.ledger.commit(closed, Delete(pending))


def withdraw_and_run(shop: SmallShop, bad: Run) -> None:
    """Do what `./larder withdraw` does."""
    operations.withdraw(shop.services(), bad)
    list(run_pending(shop.services(), "stock"))


def check_withdrawn(shop: SmallShop, bad: Run, *kinds: str) -> None:
    """Check that nothing of the output is left, in the table or pending, and that each of its runs says so."""
    assert bodies(shop) == GOOD
    assert shop.ledger.fetch_pending("stock") == []
    over_it = [run for run in shop.ledger.fetch_runs("stock") if run.identity == bad.identity]
    assert {(run.kind, run.state) for run in over_it} == {
        *((kind, "withdrawn") for kind in kinds),
        ("removal", "done"),
    }


@pytest.mark.parametrize("error", ["", "x" * 40_000])
def test_an_output_of_250_runs_is_withdrawn(tmp_path: Path, error: str) -> None:
    """Neither their number nor the size of their records is limited by one transaction."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    bad = shop.run(BAD)
    replay_often(shop, bad, 249, error=error)
    operations.withdraw(shop.services(), bad)
    assert [(run.kind, run.state) for run in run_pending(shop.services(), "stock")] == [
        ("restore", "done"),
        ("removal", "done"),
    ]
    check_withdrawn(shop, bad, "output", "replay")


def test_a_withdrawal_that_dies_between_two_commits_is_finished_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever commit is its last: either nothing happened, or the next holder of the dataset finishes it first.

    Among what waits are a restore of the bad output, which would go before the removal, and a run that has an order of
    the old generation.
    """
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    bad = shop.run(BAD)
    with monkeypatch.context() as patch:  # it stops when it has its order
        patch.setitem(lifecycle.STAGES, Stage.CHECK, lambda *_: (_ for _ in ()).throw(Stopped("for now")))
        with pytest.raises(Stopped):
            shop.run({**ROWS, "units": [0.0, 2.0, 3.0]}, day=2)
    replay_often(shop, bad, 20)
    enqueue_again(shop.services(), repeat(bad, Kind.RESTORE))
    before = copy.deepcopy((shop.dynamo.rows, shop.s3.objects, shop.table.stored.rows))
    commit, killed = shop.dynamo.transact_write_items, 0
    while killed < 20:
        shop.dynamo.rows, shop.s3.objects, shop.table.stored.rows = copy.deepcopy(before)
        left = killed

        def transact(TransactItems: Any) -> None:  # noqa: N803
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            commit(TransactItems)

        with monkeypatch.context() as patch:
            patch.setattr(shop.dynamo, "transact_write_items", transact)
            with pytest.raises(Killed):
                withdraw_and_run(shop, bad)
        killed += 1
        state = shop.ledger.get_state("stock")
        removals = [run for run in shop.ledger.fetch_runs("stock") if run.kind == "removal"]
        assert (state.generation, len(removals)) in {(1, 0), (2, 1)}
        if not removals:
            continue
        if removals[0].stage is not Stage.WITHDRAW_FIRST:
            break
        assert operations.refresh(shop.services(), "stock").identity != bad.identity
        shop.world.sleep(200)  # until the dead operator's lease has expired
        done = list(run_pending(replace(shop.services(), owner="another"), "stock"))
        assert [run for run in done if run.identity == bad.identity and run.kind != "removal"] == []
        assert {run.generation for run in done} == {2}
        assert done[0].kind == "restore"
        check_withdrawn(shop, bad, "output", "replay", "restore")
    assert killed > 6


def test_a_removal_that_is_given_up_still_withdraws(tmp_path: Path) -> None:
    """If an operator ends the removal itself, the output's other runs still stay withdrawn."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    bad = shop.run(BAD)
    replay_often(shop, bad, 20)
    removal = operations.withdraw(shop.services(), bad)
    given_up = operations.withdraw(shop.services(), removal)
    assert (given_up.run, given_up.state) == (removal.run, "failed")
    assert list(run_pending(shop.services(), "stock")) == []
    over_it = [run for run in shop.ledger.fetch_runs("stock") if run.identity == bad.identity]
    assert {run.state for run in over_it if run.kind != "removal"} == {"withdrawn"}


def test_a_replay_that_was_queued_after_a_withdrawal_brings_the_output_back(tmp_path: Path) -> None:
    """Also before the withdrawal is finished: the replay was requested later."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    bad = shop.run(BAD)
    operations.withdraw(shop.services(), bad)
    again = operations.replay(shop.services(), bad)
    closed = {run.run: run.state for run in run_pending(shop.services(), "stock")}
    assert closed[again.run] == "done"
    assert bodies(shop) == {**GOOD, "x/a": '{"title":"A","units":9.0}', "z/a": '{"title":"A","units":9.0}'}
    assert operations.refresh(shop.services(), "stock").of_run == again.run


def test_rejects_of_rejects_are_withdrawn_with_their_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rejects that were replayed, and their rejects again: all are predictions of the withdrawn output."""
    shop = SmallShop(tmp_path)
    first = shop.run({"shop": ["x", "x", "x"], "sku": ["a", "new", "newer"], "units": [1.0, 2.0, 3.0]})
    assert first.counts == Counts(written=1, rejected=2)
    for sku in ("new", "newer"):
        known = [*small_shop.PRODUCTS["sku"], sku]
        monkeypatch.setattr(small_shop, "PRODUCTS", {"sku": known, "title": known})
        latest = shop.ledger.fetch_runs("stock", newest=1)[0]
        operations.replay_rejects(shop.services(), f"rejects/stock/{latest.run:08d}/")
        assert [run.counts.written for run in run_pending(shop.services(), "stock")] == [1]
    assert set(bodies(shop)) == {"x/a", "x/new", "x/newer"}
    operations.withdraw(shop.services(), first)
    list(run_pending(shop.services(), "stock"))
    assert bodies(shop) == {}
    with pytest.raises(Failed, match="nothing to refresh"):
        operations.refresh(shop.services(), "stock")


def lives(shop: SmallShop) -> set[int]:
    """Return when the served items expire."""
    return {item.expires_at for item in shop.table.items.values() if item.body}


def test_a_withdrawn_output_does_not_prolong_an_items_life(tmp_path: Path) -> None:
    """It only prolonged the life of an unchanged item: its withdrawal undoes that."""
    shop = SmallShop(tmp_path)
    good = shop.run(ROWS, day=4)
    bad = shop.run(ROWS)
    assert bad.because == {"expiring": 3}
    withdraw_and_run(shop, bad)
    check_withdrawn(shop, bad, "output")
    assert lives(shop) == {good.expires_at}


def test_a_withdrawal_keeps_the_life_that_a_newer_output_gave(tmp_path: Path) -> None:
    """The newest output is restored first: no older one writes what a newer one would have to write again."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=4)
    bad = shop.run(BAD, day=1)
    good = shop.run(ROWS)
    shop.written()
    withdraw_and_run(shop, bad)
    check_withdrawn(shop, bad, "output")
    assert lives(shop) == {good.expires_at}
    assert shop.written() == ["z/a"]


@pytest.mark.parametrize("last", ["withdraw", "refresh"])
def test_a_late_snapshot_after_a_withdrawal_stays_the_older_one(tmp_path: Path, last: str) -> None:
    """It has the new generation, and an earlier output that no withdrawal had to restore has not."""
    shop = SmallShop(tmp_path, replace(DATASET, source=replace(DATASET.source, output="snapshot")))
    shop.run(ROWS, day=3)
    wrong = shop.run(BAD, day=2)
    withdraw_and_run(shop, shop.run({**ROWS, "units": [7.0, 7.0, 7.0]}, day=1))  # restores the wrong one only
    late = shop.run({**ROWS, "units": [8.0, 8.0, 8.0]}, day=4)
    assert late.counts.superseded == 3
    withdraw_and_run(shop, wrong)
    if last == "refresh":
        shop.refresh(full=True)
    assert bodies(shop) == GOOD


def test_an_unchanged_item_lives_no_longer_than_a_shorter_ttl_says(tmp_path: Path) -> None:
    """The newer output says for how long its items can be served, also if their bodies are the same."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    shop.dataset = replace(shop.dataset, ttl=timedelta(days=2))
    shorter = shop.run(ROWS)
    assert (shorter.because, lives(shop)) == ({"rewritten": 3}, {shorter.expires_at})
    assert shop.run(ROWS).counts == Counts(unchanged=3)


def test_a_withdrawal_that_would_change_nothing_is_refused(tmp_path: Path) -> None:
    """If a run published nothing, or is withdrawn already, every live output would be run again for nothing."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=2)
    failed = shop.run(b"no Parquet", day=1)
    superseded = shop.run({"shop": ["x"], "sku": ["a"], "units": [0.0]}, day=4)
    assert (failed.state, superseded.counts) == ("failed", Counts(superseded=1))
    bad = shop.run(BAD)
    replayed = operations.replay(shop.services(), failed)
    list(run_pending(shop.services(), "stock"))
    withdraw_and_run(shop, bad)
    before = shop.ledger.fetch_runs("stock")
    for run, why in (
        (failed, r"run 2 of stock \(failed\) published nothing, nor did another run of s3://outputs/stock/"),
        (replayed, r"run 5 of stock \(failed\) published nothing"),
        (superseded, r"run 3 of stock \(done\) published nothing"),
        (bad, "run 4 of stock is already withdrawn, by run 6"),
    ):
        now = shop.ledger.get_run("stock", run.run)
        assert now is not None
        for attempt in (operations.withdraw, operations.describe_withdrawal):
            with pytest.raises(Failed, match=why):
                attempt(shop.services(), now)
    assert shop.ledger.fetch_runs("stock") == before
    assert bodies(shop) == GOOD


def test_a_waiting_run_that_published_nothing_is_only_closed(tmp_path: Path) -> None:
    """No generation is opened and no output is run again."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    waiting = shop.enqueue(BAD)
    assert operations.describe_withdrawal(shop.services(), waiting) == operations.Withdrawal([waiting.run], [])
    closed = operations.withdraw(shop.services(), waiting)
    assert (closed.run, closed.state) == (waiting.run, "withdrawn")
    assert shop.ledger.fetch_pending("stock") == []
    assert shop.ledger.get_state("stock").generation == 1
    assert bodies(shop) == GOOD


def test_a_withdrawal_whose_removal_was_given_up_can_be_repeated(tmp_path: Path) -> None:
    """Otherwise the items of the output would stay for ever."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    bad = shop.run(BAD)
    operations.withdraw(shop.services(), operations.withdraw(shop.services(), bad))
    assert bodies(shop) != GOOD
    withdraw_and_run(shop, bad)
    assert bodies(shop) == GOOD


def test_a_withdrawal_is_described_and_planned_before_it_is_done(tmp_path: Path) -> None:
    """The plan executes the same runs, and nothing is written."""
    shop = SmallShop(tmp_path)
    good = shop.run(ROWS, day=1)
    bad = shop.run(BAD)
    before = copy.deepcopy((shop.dynamo.rows, shop.table.stored.rows))
    found = operations.describe_withdrawal(shop.services(), bad)
    assert (found.runs, [run.run for run in found.restored]) == ([bad.run], [good.run])
    planned = plan_withdrawal(shop.services(), bad)
    assert before == (shop.dynamo.rows, shop.table.stored.rows)
    withdraw_and_run(shop, bad)
    done = [run for run in shop.ledger.fetch_runs("stock") if run.run > bad.run]  # the restore has the higher number
    assert [(run.run, run.kind, run.counts) for run in planned] == [(run.run, run.kind, run.counts) for run in done]
    assert planned[-1].counts.removed == 1
