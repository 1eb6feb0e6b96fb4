"""Take outputs in and run them, one at a time per dataset, oldest first. I/O on the ledger and S3.

Who knows of an output first records it as pending and then tries to take hold of its dataset; who gives a dataset back
looks for pending runs afterwards. So one of the two always sees the other, and a busy dataset loses nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from enrich.delta.fingerprints import fetch_table_id
from enrich.errors import Failed, TableStateUnknown
from enrich.ledger.lease import Lease, acquire
from enrich.ledger.records import OVER_NO_OUTPUT, RESTORE_FIRST, Counter, Known, Pending, Record, Run, bump
from enrich.ledger.store import ConflictError
from enrich.read.outputs import Output, fetch_listed, fetch_output, find_dataset, is_there
from enrich.run.lifecycle import execute
from enrich.services import Services


def take_arrived(services: Services, bucket: str, object_key: str) -> Run | None:
    """Record the output that an object is or closes, and return its run; None when the object is no output of ours."""
    output = find_output(services, bucket, object_key)
    return enqueue_output(services, output) if output else None


def find_output(services: Services, bucket: str, object_key: str) -> Output | None:
    """Fetch the output that an object is or closes; None when it is no output of ours."""
    dataset = find_dataset(services.datasets, object_key) if bucket == services.settings.outputs else None
    return fetch_output(services.s3, dataset, bucket, object_key) if dataset else None


class Swept(NamedTuple):
    """What a sweep found: the runs of outputs that had none yet, and why others can't be looked at."""

    runs: list[Run]
    unreadable: list[str]


def sweep(services: Services, dataset_name: str) -> Swept:
    """Record every output under a dataset's prefix that has no run yet and would not be born expired."""
    dataset = services.datasets[dataset_name]
    oldest = datetime.fromtimestamp(services.clock.now(), UTC) - dataset.ttl
    if dataset.start is not None:
        oldest = max(oldest, dataset.start)
    known = {(each.object_key, each.etag, each.arrived_ms) for each in services.ledger.fetch_known(dataset_name)}
    swept = Swept([], [])
    for listed in fetch_listed(services.s3, dataset, services.settings.outputs):
        seen = (listed.object_key, listed.etag, listed.arrived_ms) in known
        # The marker of a job that ran again may look as before; only its parts tell.
        if listed.arrived_ms < oldest.timestamp() * 1000 or (seen and not dataset.source.marker):
            continue
        try:
            output = fetch_output(services.s3, dataset, services.settings.outputs, listed.object_key)
        except Failed as error:
            swept.unreadable.append(str(error))
            continue
        if output and not services.ledger.get_known(dataset_name, output.identity):
            swept.runs.append(enqueue_output(services, output))
    return swept


def heal(services: Services, dataset: str) -> None:
    """Queue every live output again when the table was replaced, or the fingerprints are gone, since the last run."""
    state = services.ledger.get_state(dataset)
    table_id = fetch_table_id(services)
    if state.fingerprints is None or (
        state.table_id == table_id and is_there(services.s3, services.settings.bucket, state.fingerprints)
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


def enqueue_output(services: Services, output: Output) -> Run:
    """Record an output as pending and return its run; the run that it has already, if it was known."""
    known = services.ledger.get_known(output.dataset, output.identity)
    while known is None:
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
        queued = _enqueue(services, run, output.etag)
        if queued:
            return queued
        known = services.ledger.get_known(output.dataset, output.identity)
    run_found = services.ledger.get_run(output.dataset, known.run)
    if run_found is None:
        raise LookupError(f"ledger: output {output.identity} names run {known.run}, which is not there")
    return run_found


def enqueue_again(services: Services, run: Run) -> Run:
    """Record a further run, of kind replay, rejects, refresh, restore or removal, of an output that was run before."""
    while True:
        queued = _enqueue(services, run, None)
        if queued:
            return queued


def _enqueue(services: Services, run: Run, etag: str | None) -> Run | None:
    """Commit a run with the next number; None when the number, or the output, was taken meanwhile."""
    numbered, counter, pending = build_queued(services, run)
    records: list[Record] = [numbered, counter, pending]
    if etag is not None:
        records.append(
            Known(
                dataset=run.dataset,
                identity=run.identity,
                run=numbered.run,
                object_key=run.object_key,
                etag=etag,
                arrived_ms=run.arrived_ms,
            )
        )
    try:
        services.ledger.commit(*records)
    except ConflictError:
        return None
    return bump(numbered)


def build_queued(services: Services, run: Run) -> tuple[Run, Counter, Pending]:
    """Return what to commit so that a run is queued with the next number."""
    counter = services.ledger.get_counter(run.dataset)
    numbered = replace(run, run=counter.next_run, queued_ms=int(services.clock.now() * 1000), version=0)
    pending = Pending(dataset=run.dataset, run=numbered.run, kind=run.kind, queued_ms=numbered.queued_ms)
    return numbered, replace(counter, next_run=counter.next_run + 1), pending


def drain(services: Services, dataset: str) -> Generator[Run, None, None]:
    """Run what is pending for a dataset, oldest first, until nothing is or somebody else holds the dataset.

    Yields each run as soon as it is closed, and holds the dataset until it is exhausted or closed itself.

    Raises:
        Stopped: a run has to go on later; OutOfTime, its subclass, when only time was lacking.
        LeaseLost: somebody else holds the dataset by now.
    """
    while services.ledger.fetch_pending(dataset):
        timeout = request_timeout(services)
        lease = acquire(
            services.ledger, services.clock, dataset, services.owner, deadline=services.deadline, timeout=timeout
        )
        if lease is None:
            return
        try:
            while chosen := _choose(services.ledger.fetch_pending(dataset), lease.state.open_run):
                run = services.ledger.get_run(dataset, chosen.run)
                if run is None:
                    raise LookupError(f"ledger: {dataset} run {chosen.run} is pending and not there")
                if run.stage == RESTORE_FIRST:
                    queue_restores(services, lease, full=False)
                    lease.commit(replace(run, stage="pin"))
                    continue
                lease.wait_for_quiet()
                try:
                    yield execute(services, lease, run)
                except TableStateUnknown as doubt:
                    if lease.state.rebuilt != doubt.fingerprints:
                        queue_restores(services, lease, full=True)
                        lease.commit(rebuilt=doubt.fingerprints)
        finally:
            lease.release()


def request_timeout(services: Services) -> float:
    """Return the seconds one request may take: five, or less in an invocation that has not many."""
    if services.deadline is None:
        return 5.0
    return min(5.0, max(0.2, (services.deadline - services.clock.now()) / 5))


def _choose(pending: Sequence[Pending], open_run: int | None) -> Pending | None:
    """Choose the oldest, with two exceptions.

    A run that began to write goes on before any other: until it closes, nobody knows what the table holds. And what
    puts a table right again goes before what comes new: restores, then a removal, which queues restores first of all.
    """
    began = [each for each in pending if each.run == open_run]
    # newest first: what the newest outputs name is then never served from an older one in between
    restores = [each for each in reversed(pending) if each.kind == "restore"]
    removals = [each for each in pending if each.kind == "removal"]
    return next(iter(began or restores or removals or pending), None)


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


def repeat(run: Run, kind: str) -> Run:
    """Build a run, yet to be queued, over what an earlier one ran over."""
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
