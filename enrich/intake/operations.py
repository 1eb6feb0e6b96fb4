"""Operations on outputs that have run: replay them after a fix, refresh the metadata, or withdraw a bad output."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from enrich.errors import Failed, LeaseLost
from enrich.intake.queue import build_queued, enqueue_again, repeat
from enrich.intake.recovery import find_alive, finish_withdrawals
from enrich.ledger.lease import Lease
from enrich.ledger.records import Run, bump, find_runs_over, find_withdrawn, newest_first
from enrich.ledger.run_state import Kind, RunState, Stage
from enrich.run.lifecycle import abandon
from enrich.services import Services

_REJECTS = re.compile(r"(?:s3://[^/]+/)?rejects/([^/]+)/(\d{8})/?")


def replay(services: Services, earlier: Run) -> Run:
    """Queue a run over exactly the parts of an earlier run. It is newer than that run, but not than newer outputs.

    Raises:
        Failed: the earlier run is a withdrawal, or is held.
    """
    if earlier.kind is Kind.REMOVAL:
        raise Failed(f"run {earlier.run} is a withdrawal; replay the run that it withdrew, {earlier.of_run}")
    _require_not_held(earlier)
    return enqueue_again(services, repeat(earlier, Kind.REJECTS if earlier.kind is Kind.REJECTS else Kind.REPLAY))


def replay_rejects(services: Services, location: str) -> Run:
    """Queue a run over the rejects of an earlier run, with the same as_of.

    Raises:
        Failed: `location` is not a rejects folder, or its run is unknown, has no as_of, or is held.
    """
    found = _REJECTS.match(location)
    earlier = services.ledger.get_run(found[1], int(found[2])) if found else None
    if earlier is None or earlier.as_of_ms is None:
        raise Failed(
            f"{location!r} is not the rejects folder of a run; expected s3://{services.settings.bucket}/rejects/DATASET/"
            "RUN/ with the run's eight digits, of a run that `./larder status DATASET` shows with an as_of"
        )
    _require_not_held(earlier)
    prefix = f"rejects/{earlier.dataset}/{earlier.run:08d}/"
    again = replace(repeat(earlier, Kind.REJECTS), bucket=services.settings.bucket, object_key=prefix, identity=prefix)
    return enqueue_again(services, again)


def _require_not_held(run: Run) -> None:
    """Refuse another run over the output of a held run: if that is approved, the output would be published twice.

    Raises:
        Failed: the run is held.
    """
    if run.state is RunState.HELD:
        raise Failed(
            f"run {run.run} of {run.dataset} is held; `./larder approve {run.dataset} {run.run}` publishes it as it "
            f"is; after a fix, `./larder reject {run.dataset} {run.run}`, then replay it"
        )


def refresh(services: Services, dataset: str, *, full: bool = False) -> Run:
    """Queue another run over the newest output, with metadata fetched again.

    Raises:
        Failed: no output of the dataset has been published yet.
    """
    done = newest_first(services.ledger.fetch_runs(dataset))
    if not done:
        raise Failed(
            f"dataset {dataset} has no published output, so there is nothing to refresh; run one first: "
            f"`./larder sweep {dataset}`"
        )
    return enqueue_again(services, replace(repeat(done[0], Kind.REFRESH), full=full))


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What a withdrawal does: the numbers of the runs that it withdraws, and the outputs that it runs again first."""

    runs: Sequence[int]
    restored: Sequence[Run]


def describe_withdrawal(services: Services, bad: Run) -> Withdrawal:
    """Describe the withdrawal of a run, from the ledger alone.

    Raises:
        Failed: there is nothing to withdraw; the message says why.
    """
    runs = services.ledger.fetch_runs(bad.dataset)
    _require_published(bad, runs)
    over = find_runs_over(runs, bad.identity) if bad.kind.is_over_output else {bad.run}
    rest = [run for run in runs if run.run not in over]
    restored = find_alive(services, rest) if _may_have_published(over, runs) and bad.kind.is_over_output else []
    return Withdrawal(sorted(over), restored)


def withdraw(services: Services, bad: Run) -> Run:
    """Withdraw an output: in one commit, open a new generation and queue the removal of the items that only it names.

    The next holder of the lease first marks the other runs over the output as withdrawn (`finish_withdrawals`). The
    removal then queues every output that is still alive (`restore_first`): in the new generation each is newer than
    the withdrawn one. Unchanged bodies are not written, as in any run. A run that is not closed and has published
    nothing is only closed, as withdrawn.

    Raises:
        Failed: the dataset is busy, another run of it has begun to write and is not closed, this run is not over an
            output, or there is nothing to withdraw: the run is already withdrawn, or published nothing.
    """
    lease = services.acquire(bad.dataset)
    if lease is None:
        raise Failed(f"dataset {bad.dataset} is busy; withdraw run {bad.run} when its current run is closed")
    try:
        try:
            finish_withdrawals(services, lease)
            return _withdraw(services, lease, services.ledger.get_run(bad.dataset, bad.run) or bad)
        finally:
            lease.release()
    except Failed:
        # An output that came meanwhile has found the dataset busy, and waits for this holder of the lease to run it.
        if services.ledger.fetch_pending(bad.dataset):
            services.send({"continue": {"dataset": bad.dataset}})
        raise


def _withdraw(services: Services, lease: Lease, bad: Run) -> Run:
    runs = services.ledger.fetch_runs(bad.dataset)
    _require_published(bad, runs)
    if lease.state.open_run not in {None, bad.run}:
        raise Failed(
            f"run {lease.state.open_run} of dataset {bad.dataset} has begun to write and is not closed; let it "
            f"continue (`./larder sweep {bad.dataset}`), then withdraw run {bad.run}"
        )
    published = bad.kind.is_over_output and _may_have_published(find_runs_over(runs, bad.identity), runs)
    if bad.state.is_open:
        state = RunState.FAILED if published or not bad.kind.is_over_output else RunState.WITHDRAWN
        bad = abandon(services, lease, bad, state, "withdrawn before it was done")
    if not published:
        return bad
    # Where the removal is executed, its metadata is used again if that is what the dataset joins there.
    rules = bad.rules or "of a release without this"
    removal = repeat(bad, Kind.REMOVAL)
    removal = replace(removal, as_of_ms=0, metadata=bad.metadata, rules=rules, stage=Stage.WITHDRAW_FIRST)
    while True:
        queued, counter, pending = build_queued(services, removal)
        try:
            opened = replace(lease.state, generation=lease.state.generation + 1)
            lease.commit(opened, queued, counter, pending)
        except LeaseLost:
            if services.ledger.get_state(bad.dataset).version != lease.state.version:
                raise
            continue  # only the counter has changed, because a new output was queued
        return bump(queued)


def _require_published(bad: Run, runs: Sequence[Run]) -> None:
    """Refuse a withdrawal that would change nothing, but would run every live output again.

    Raises:
        Failed: the run is a withdrawal or over rejects, is already withdrawn, or published nothing.
    """
    if bad.state.is_open:
        return
    if bad.state is RunState.HELD and not _may_have_published(find_runs_over(runs, bad.identity), runs):
        raise Failed(
            f"run {bad.run} of {bad.dataset} is held and has published nothing; `./larder reject {bad.dataset} "
            f"{bad.run}` closes it"
        )
    status = f"`./larder status {bad.dataset}` lists the runs"
    if not bad.kind.is_over_output:
        raise Failed(f"run {bad.run} is not over an output, but over {bad.object_key}; withdraw run {bad.of_run}")
    removals = [run for run in runs if run.kind is Kind.REMOVAL and run.identity == bad.identity and run.run > bad.run]
    lasting = [run for run in removals if run.state is RunState.DONE or not run.state.is_closed]
    if bad.run in find_withdrawn(runs) and lasting:
        raise Failed(f"run {bad.run} of {bad.dataset} is already withdrawn, by run {lasting[0].run}; {status}")
    if not removals and not _may_have_published(find_runs_over(runs, bad.identity), runs):
        raise Failed(
            f"run {bad.run} of {bad.dataset} ({bad.state}) published nothing, nor did another run of "
            f"s3://{bad.bucket}/{bad.object_key}, so there is nothing to withdraw; {status}"
        )


def _may_have_published(numbers: Collection[int], runs: Sequence[Run]) -> bool:
    """Return whether one of some runs changed an item or confirmed one, as far as the ledger shows."""
    began = [run for run in runs if run.run in numbers and run.decided_ms is not None and run.kind is not Kind.REMOVAL]
    return any(
        run.state is not RunState.DONE or run.counts.written or run.counts.unchanged or run.counts.removed
        for run in began
    )
