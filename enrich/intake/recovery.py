"""Restore what the table should hold: queue outputs again after a withdrawal, a restored table or lost fingerprints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from enrich.delta.fingerprints import fetch_table_id
from enrich.intake.queue import enqueue_again, repeat
from enrich.ledger.lease import Lease
from enrich.ledger.records import Run, name_rebuild
from enrich.ledger.run_state import Kind, RunState, Stage
from enrich.s3 import exists
from enrich.services import Services


def heal(services: Services, dataset: str) -> None:
    """Queue every live output again when the table was replaced, or the fingerprints are gone, since the last run."""
    state, settings = services.ledger.get_state(dataset), services.settings
    table_id = fetch_table_id(services.dynamodb, settings.table)
    if state.fingerprints is None or (
        state.table_id == table_id and exists(services.s3, settings.bucket, state.fingerprints)
    ):
        return
    lease = services.acquire(dataset)
    if lease is None:  # the run under way will notice, or the next sweep
        return
    try:
        if lease.state.fingerprints == state.fingerprints:
            rebuild(services, lease, name_rebuild(state.fingerprints, table_id))
    finally:
        lease.release()


def rebuild(services: Services, lease: Lease, name: str) -> None:
    """Queue every live output, to be written in full, unless that was done before under this name."""
    if lease.state.rebuilt != name:
        _queue_restores(services, lease, full=True)
        lease.commit(replace(lease.state, rebuilt=name))


def restore_first(services: Services, lease: Lease, removal: Run) -> None:
    """Queue every live output before a removal, which goes last."""
    _queue_restores(services, lease, full=False)
    lease.commit(lease.state, replace(removal, stage=Stage.PIN))


def _queue_restores(services: Services, lease: Lease, *, full: bool) -> None:
    """Queue every output whose items may be alive; `full`: to be written whatever the fingerprints say."""
    runs = services.ledger.fetch_runs(lease.state.dataset)
    for run in find_alive(services, runs):
        enqueue_again(services, replace(repeat(run, Kind.RESTORE), full=full))


def find_alive(services: Services, runs: Iterable[Run]) -> list[Run]:
    """Return the newest run of each output whose items may be alive, oldest first: so they keep their order."""
    now = services.clock.now()
    newest: dict[str, Run] = {}
    for run in newest_first(runs):
        if (run.expires_at or 0) > now:
            newest.setdefault(run.identity, run)
    alive = list(reversed(newest.values()))
    snapshot = services.datasets[alive[0].dataset].source.output == "snapshot" if alive else False
    return alive[-1:] if snapshot else alive


def newest_first(runs: Iterable[Run]) -> list[Run]:
    """Return the runs that published an output, by their order."""
    done = [run for run in runs if run.state is RunState.DONE and run.kind.is_over_output]
    return sorted(done, key=lambda run: run.order, reverse=True)
