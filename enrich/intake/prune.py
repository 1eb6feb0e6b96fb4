"""Delete the ledger's records of runs that nothing needs any more, so that it does not grow for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from enrich.dataset.as_of import get_ahead
from enrich.dataset.definition import Dataset
from enrich.errors import Stopped
from enrich.ledger.lease import Lease
from enrich.ledger.records import Run, find_runs_over, newest_first
from enrich.ledger.run_state import Kind
from enrich.ledger.store import Delete
from enrich.services import Services

# Rejects can be replayed as long as the bucket's rule keeps them, 365 days, and S3 deletes them some days later.
KEPT = timedelta(days=370)
MARGIN = timedelta(days=1)  # beyond what the sweep can find; clocks differ, and an as_of can be later than its arrival
NEWEST_KEPT = 100  # runs of a dataset, however old: for status, freshness, the console and the sweep's metrics
MOST = 400  # runs that one sweep deletes
RUNS_AT_ONCE = 4  # in one commit, each with up to three records: below DynamoDB's 100 actions and 4 MB


def prune(services: Services, dataset: str) -> int:
    """Delete the records of a dataset's oldest runs that nothing needs; return the number of runs.

    The holder of the lease does it: no run, restore or withdrawal reads the ledger meanwhile. Each commit deletes all
    records of its runs. So whatever happens between two commits, the next sweep continues.

    Raises:
        LeaseLost: another invocation holds the dataset.
    """
    if not find_prunable(services, dataset):
        return 0
    try:
        lease = services.acquire(dataset)
    except Stopped:  # the lease is in its quiet period, or a clock is wrong, which the next run reports
        return 0
    if lease is None:
        return 0
    try:
        return _delete(services, lease, find_prunable(services, dataset))
    finally:
        lease.release()


def find_kept_for(dataset: Dataset) -> timedelta:
    """Return for how long each run is kept: as long as its rejects, and as long as the sweep can find its output."""
    return max(KEPT, dataset.ttl + get_ahead(dataset.as_of) + MARGIN)


def find_prunable(services: Services, dataset: str) -> list[Run]:
    """Return the oldest runs that nothing needs, oldest first, `MOST` at most.

    Only old runs are read, and the newest ones if some of the old ones have ended long ago.
    """
    now, kept_for = services.clock.now(), find_kept_for(services.datasets[dataset])
    until_ms = int((now - kept_for.total_seconds()) * 1000)
    old, over = list[Run](), set[int]()
    for run in services.ledger.walk_runs(dataset):
        if (run.queued_ms or run.arrived_ms) > until_ms or len(over) == MOST:
            break
        old.append(run)
        if _is_over(run, until_ms, now):
            over.add(run.run)
    if not over or any(each.kind is Kind.REMOVAL for each in services.ledger.fetch_pending(dataset)):
        return []  # a withdrawal that is not finished looks for all runs over its output
    newest = services.ledger.fetch_runs(dataset, newest=NEWEST_KEPT)
    needed = _find_needed(old, newest, over)
    return [run for run in old if run.run not in needed]


def _is_over(run: Run, until_ms: int, now: float) -> bool:
    """Return whether a run ended long ago, and none of its items can be alive."""
    touched_ms = max(run.queued_ms, run.started_ms or 0, run.held_ms or 0, run.ended_ms or 0)
    return run.state.is_closed and touched_ms <= until_ms and (run.expires_at or 0) <= now


def _find_needed(old: Sequence[Run], newest: Sequence[Run], over: set[int]) -> set[int]:
    """Return the numbers of the runs that others need: of some of `old`, and all others.

    Args:
        old: all runs up to some number, oldest first.
        newest: the newest runs, newest first.
        over: numbers of the runs that ended long ago, and have no items.
    """
    known = [*old, *reversed(newest)]
    needed = {run.run for run in old if run.run not in over} | {run.run for run in newest}
    published = newest_first(known)  # the first one can be refreshed, and statistics are compared with the measured one
    needed |= {run.run for run in [*published[:1], *[run for run in published if run.measured][:1]]}
    for run in reversed(known):  # a withdrawal finds a run over rejects by the run that rejected them
        if run.run in needed and run.kind is Kind.REJECTS and run.of_run is not None:
            needed.add(run.of_run)
    for run in [run for run in old if run.kind is Kind.REMOVAL]:  # it says which runs of lower numbers are withdrawn
        kept = [each for each in old if each.run in needed and each.run < run.run]
        if find_runs_over(kept, run.identity):
            needed.add(run.run)
    return needed


def _delete(services: Services, lease: Lease, runs: Sequence[Run]) -> int:
    """Delete runs with their statistics and what the sweep knows of their outputs; return how many."""
    for first in range(0, len(runs), RUNS_AT_ONCE):
        if services.clock.now() >= lease.stop_at and not lease.renews:
            return first
        lease.keep()
        some = runs[first : first + RUNS_AT_ONCE]
        arrived = [run.arrived_ms for run in some if run.kind is Kind.OUTPUT]
        changes = [change for run in some for change in _find_records(services, run)]
        lease.commit(replace(lease.state, pruned_ms=max(lease.state.pruned_ms, *arrived, 0)), *changes)
    return len(runs)


def _find_records(services: Services, run: Run) -> list[Delete]:
    seen = services.ledger.get_seen(run.dataset, run.identity)
    statistics = services.ledger.get_statistics(run.dataset, run.run)
    mine = [run, statistics, seen if seen is not None and seen.run == run.run else None]
    return [Delete(record) for record in mine if record is not None]
