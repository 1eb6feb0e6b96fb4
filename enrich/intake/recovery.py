"""Restore what the table should hold: queue outputs again after a withdrawal, a restored table or lost fingerprints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from enrich.delta.fingerprints import fetch_table_id
from enrich.intake.queue import enqueue_again, repeat, request_timeout
from enrich.ledger.lease import Lease, acquire
from enrich.ledger.records import OVER_NO_OUTPUT, Run
from enrich.s3 import exists
from enrich.services import Services


def heal(services: Services, dataset: str) -> None:
    """Queue every live output again when the table was replaced, or the fingerprints are gone, since the last run."""
    state = services.ledger.get_state(dataset)
    table_id = fetch_table_id(services)
    if state.fingerprints is None or (
        state.table_id == table_id and exists(services.s3, services.settings.bucket, state.fingerprints)
    ):
        return
    rebuilt = f"{state.fingerprints} {table_id}"
    lease = acquire(
        services.ledger,
        services.clock,
        dataset,
        services.owner,
        deadline=services.deadline,
        timeout=request_timeout(services),
    )
    if lease is None:  # the run under way will notice, or the next sweep
        return
    try:
        if lease.state.fingerprints == state.fingerprints and lease.state.rebuilt != rebuilt:
            queue_restores(services, lease, full=True)
            lease.commit(rebuilt=rebuilt)
    finally:
        lease.release()


def queue_restores(services: Services, lease: Lease, *, full: bool) -> None:
    """Queue every output whose items may be alive; `full`: to be written whatever the fingerprints say."""
    runs = services.ledger.fetch_runs(lease.state.dataset)
    for run in find_alive(services, runs):
        enqueue_again(services, replace(repeat(run, "restore"), full=full))


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
    done = [run for run in runs if run.state == "done" and run.kind not in OVER_NO_OUTPUT]
    return sorted(done, key=lambda run: run.order, reverse=True)
