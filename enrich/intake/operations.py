"""Run outputs once more: after a fix (replay), for new metadata (refresh), or to take a bad one back (withdraw)."""

from __future__ import annotations

import re
from dataclasses import replace

from enrich.errors import Failed, LeaseLost
from enrich.intake.queue import build_queued, enqueue_again, repeat
from enrich.intake.recovery import finish_withdrawals, newest_first
from enrich.ledger.lease import Lease
from enrich.ledger.records import Run, bump, find_runs_over
from enrich.ledger.run_state import Kind, Stage
from enrich.run.lifecycle import abandon
from enrich.services import Services

_REJECTS = re.compile(r"(?:s3://[^/]+/)?rejects/([^/]+)/(\d{8})/?")


def replay(services: Services, earlier: Run) -> Run:
    """Queue a further run over the very parts of an earlier one; it wins over that one, and not over newer outputs.

    Raises:
        Failed: the earlier run took an output back.
    """
    if earlier.kind is Kind.REMOVAL:
        raise Failed(f"run {earlier.run} took an output back; replay the run that it took back, {earlier.of_run}")
    return enqueue_again(services, repeat(earlier, Kind.REJECTS if earlier.kind is Kind.REJECTS else Kind.REPLAY))


def replay_rejects(services: Services, location: str) -> Run:
    """Queue a run over the rejects of an earlier one, as of the same instant.

    Raises:
        Failed: `location` is no rejects folder, or its run is not known or never got an order.
    """
    found = _REJECTS.match(location)
    earlier = services.ledger.get_run(found[1], int(found[2])) if found else None
    if earlier is None or earlier.as_of_ms is None:
        raise Failed(f"{location!r} is not the rejects folder of a run that got as far as being checked")
    prefix = f"rejects/{earlier.dataset}/{earlier.run:08d}/"
    again = replace(repeat(earlier, Kind.REJECTS), bucket=services.settings.bucket, object_key=prefix, identity=prefix)
    return enqueue_again(services, again)


def refresh(services: Services, dataset: str, *, full: bool = False) -> Run:
    """Queue a further run over the newest output, with metadata fetched anew.

    Raises:
        Failed: no output of the dataset was run to its end yet.
    """
    done = newest_first(services.ledger.fetch_runs(dataset))
    if not done:
        raise Failed(f"dataset {dataset} has no output that was run to its end, so there is nothing to refresh")
    return enqueue_again(services, replace(repeat(done[0], Kind.REFRESH), full=full))


def withdraw(services: Services, bad: Run) -> Run:
    """Take an output back: open a new generation and queue, in one commit, the removal of what only it named.

    The next holder of the dataset first marks the other runs over the output as withdrawn (`finish_withdrawals`). The
    removal then queues every output that is still alive (`restore_first`): in the new generation each is newer than
    the withdrawn one. Unchanged bodies cost nothing, as always.

    Raises:
        Failed: the dataset is busy, another run of it has begun to write and is not closed, or this one is no run over
            an output.
    """
    lease = services.acquire(bad.dataset)
    if lease is None:
        raise Failed(f"dataset {bad.dataset} is busy; withdraw run {bad.run} when its present run is closed")
    try:
        finish_withdrawals(services, lease)
        return _withdraw(services, lease, services.ledger.get_run(bad.dataset, bad.run) or bad)
    finally:
        lease.release()


def _withdraw(services: Services, lease: Lease, bad: Run) -> Run:
    if bad.state.is_closed and not bad.kind.is_over_output:
        raise Failed(f"run {bad.run} ran no output but {bad.object_key}; withdraw run {bad.of_run}, which did")
    if lease.state.open_run not in {None, bad.run}:
        raise Failed(
            f"run {lease.state.open_run} of dataset {bad.dataset} has begun to write and is not closed; let it go on "
            f"(`enrich sweep {bad.dataset}`), then withdraw run {bad.run}"
        )
    if not bad.state.is_closed:
        bad = abandon(services, lease, bad, "withdrawn before it was done")
        runs = services.ledger.fetch_runs(bad.dataset)
        over = find_runs_over(runs, bad.identity)
        if all(run.decided_ms is None for run in runs if run.run in over):
            return bad  # nothing of the output was published, so there is nothing to remove
    if not bad.kind.is_over_output:
        return bad
    removal = replace(repeat(bad, Kind.REMOVAL), as_of_ms=0, metadata=bad.metadata, stage=Stage.WITHDRAW_FIRST)
    while True:
        queued, counter, pending = build_queued(services, removal)
        try:
            state = replace(lease.state, generation=lease.state.generation + 1)
            lease.commit(state, queued, counter, pending)
        except LeaseLost:
            if services.ledger.get_state(bad.dataset).version != lease.state.version:
                raise
            continue  # it was the counter, which a new output changed meanwhile
        return bump(queued)
