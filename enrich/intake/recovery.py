"""Queue outputs again when the table must be restored: after a withdrawal, a replaced table or lost fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from enrich.delta.fingerprints import fetch_table_id
from enrich.intake.queue import enqueue_again, repeat
from enrich.ledger.lease import Lease
from enrich.ledger.records import Record, Run, find_runs_over, name_rebuild, newest_first, restart
from enrich.ledger.run_state import Kind, RunState, Stage
from enrich.ledger.store import Delete
from enrich.outbox.outbox import report
from enrich.s3 import exists
from enrich.services import Services

# Runs in one commit of a withdrawal. Each has a record of at most 400 KB, and possibly a pending record: with the
# dataset's state they stay below DynamoDB's limits for one transaction, 100 actions and 4 MB.
RUNS_AT_ONCE = 8


def finish_withdrawals(services: Services, lease: Lease) -> None:
    """Mark every run that a withdrawal covers. Call this right after acquiring the dataset's lease.

    The commit that queued the removal and opened a generation is the complete decision. Its effect on the other runs
    follows from the ledger alone, even if some of them are already marked. So the next holder of the lease can finish
    an interrupted withdrawal. It must do so: a run that is not marked would run as before.

    Raises:
        LeaseLost: another invocation holds the dataset.
    """
    dataset = lease.state.dataset
    for pending in services.ledger.fetch_pending(dataset):
        removal = services.ledger.get_run(dataset, pending.run) if pending.kind is Kind.REMOVAL else None
        if removal is None or removal.stage is not Stage.WITHDRAW_FIRST:
            continue
        marks = list(_mark_runs(services, removal, lease.state.generation))
        for first in range(0, len(marks), RUNS_AT_ONCE):
            lease.commit(lease.state, *(change for mark in marks[first : first + RUNS_AT_ONCE] for change in mark))
        lease.commit(lease.state, replace(removal, stage=Stage.RESTORE_FIRST))


def _mark_runs(services: Services, removal: Run, generation: int) -> Iterator[list[Record | Delete]]:
    """Yield the changes of each run: those over the withdrawn output are withdrawn, others get a new order."""
    runs = services.ledger.fetch_runs(removal.dataset)
    taken_back = {number for number in find_runs_over(runs, removal.identity) if number < removal.run}
    for run in runs:
        withdrawn = replace(run, state=RunState.WITHDRAWN)
        of_it, is_bad = run.run in taken_back, run.run == removal.of_run
        if of_it and (run.state is RunState.DONE or (is_bad and run.state is not RunState.WITHDRAWN)):
            yield [withdrawn, *report(services, withdrawn, ended_before=run.state.is_closed)]
        elif of_it and run.kind is not Kind.REMOVAL and not run.state.is_closed:
            waits = services.ledger.get_pending(run.dataset, run.run) or services.ledger.get_held(run.dataset, run.run)
            yield [withdrawn, *([Delete(waits)] if waits else []), *report(services, withdrawn)]
        elif run.state.is_open and run.generation is not None and run.generation < generation:
            yield [restart(run)]


def heal(services: Services, dataset: str) -> None:
    """Queue every live output again if the table was replaced or the fingerprints are missing since the last run."""
    state, settings = services.ledger.get_state(dataset), services.settings
    table_id = fetch_table_id(services.dynamodb, settings.table)
    if state.fingerprints is None or (
        state.table_id == table_id and exists(services.s3, settings.bucket, state.fingerprints)
    ):
        return
    lease = services.acquire(dataset)
    if lease is None:  # the current holder finds out when its run decides; otherwise the next sweep does
        return
    try:
        if lease.state.fingerprints == state.fingerprints:
            rebuild(services, lease, name_rebuild(state.fingerprints, table_id))
    finally:
        lease.release()


def rebuild(services: Services, lease: Lease, name: str) -> None:
    """Queue every live output, to be written in full, once for each name."""
    if lease.state.rebuilt != name:
        _queue_restores(services, lease, full=True)
        lease.commit(replace(lease.state, rebuilt=name))


def restore_first(services: Services, lease: Lease, removal: Run) -> None:
    """Queue every live output; the removal runs after them."""
    _queue_restores(services, lease, full=False)
    lease.commit(lease.state, replace(removal, stage=Stage.PIN))


def _queue_restores(services: Services, lease: Lease, *, full: bool) -> None:
    """Queue every output whose items may be alive. `full`: write all items, regardless of the fingerprints."""
    runs = services.ledger.fetch_runs(lease.state.dataset)
    for run in find_alive(services, runs):
        enqueue_again(services, replace(repeat(run, Kind.RESTORE), full=full))


def find_alive(services: Services, runs: Sequence[Run]) -> list[Run]:
    """Return the newest run of each output whose items may be alive, oldest first, to keep their order."""
    now = services.clock.now()
    newest: dict[str, Run] = {}
    for run in newest_first(runs):
        if (run.expires_at or 0) > now:
            newest.setdefault(run.identity, run)
    alive = list(reversed(newest.values()))
    snapshot = services.datasets[alive[0].dataset].source.output == "snapshot" if alive else False
    return alive[-1:] if snapshot else alive
