"""Queue runs in the ledger: first runs of new outputs, and repeated runs.

Producers enqueue, then try the lease; holders release, then check the queue: no run is stranded.
"""

from __future__ import annotations

from dataclasses import replace

from enrich.ledger.records import Counter, Pending, Record, Run, SeenOutput, bump
from enrich.ledger.run_state import Kind
from enrich.ledger.store import ConflictError
from enrich.read.outputs import Output
from enrich.services import Services


def enqueue_output(services: Services, output: Output) -> Run:
    """Queue a run of an output and return it; if the output has a run already, return that one."""
    while (known := services.ledger.get_seen(output.dataset, output.identity)) is None:
        run = Run(
            dataset=output.dataset,
            run=0,
            bucket=output.bucket,
            object_key=output.object_key,
            identity=output.identity,
            arrived_ms=output.arrived_ms,
            parts=len(output.parts),
            size=output.size,
        )
        queued = _enqueue(services, run, output)
        if queued:
            return queued
    run_found = services.ledger.get_run(output.dataset, known.run)
    if run_found is None:
        if services.ledger.get_seen(output.dataset, output.identity) is None:  # both were deleted in between
            return enqueue_output(services, output)
        raise LookupError(
            f"ledger, dataset {output.dataset}: output {output.identity} has run {known.run}, which has no record"
        )
    return run_found


def enqueue_again(services: Services, run: Run) -> Run:
    """Queue another run of an output that has already run: a replay, rejects, refresh, restore or removal."""
    while True:
        queued = _enqueue(services, run, None)
        if queued:
            return queued


def _enqueue(services: Services, run: Run, output: Output | None) -> Run | None:
    """Commit a run with the next number; return None if another invocation took the number or the output first."""
    numbered, counter, pending = build_queued(services, run)
    records: list[Record] = [numbered, counter, pending]
    if output is not None:
        records.append(
            SeenOutput(
                dataset=run.dataset,
                identity=run.identity,
                run=numbered.run,
                object_key=run.object_key,
                etag=output.etag,
                arrived_ms=run.arrived_ms,
                listing=output.listing,
            )
        )
    try:
        services.ledger.commit(*records)
    except ConflictError:
        return None
    return bump(numbered)


def build_queued(services: Services, run: Run) -> tuple[Run, Counter, Pending]:
    """Return the records whose commit queues a run with the next number."""
    counter = services.ledger.get_counter(run.dataset)
    numbered = replace(run, run=counter.next_run, queued_ms=int(services.clock.now() * 1000), version=0)
    pending = Pending(dataset=run.dataset, run=numbered.run, kind=run.kind, queued_ms=numbered.queued_ms)
    return numbered, replace(counter, next_run=counter.next_run + 1), pending


def repeat(run: Run, kind: Kind) -> Run:
    """Build a run over the same output or rejects as an earlier run; it is not queued yet."""
    return Run(
        dataset=run.dataset,
        run=0,
        kind=kind,
        bucket=run.bucket,
        object_key=run.object_key,
        identity=run.identity,
        arrived_ms=run.arrived_ms,
        parts=run.parts,
        size=run.size,
        of_run=run.run,
        as_of_ms=run.as_of_ms,
    )
