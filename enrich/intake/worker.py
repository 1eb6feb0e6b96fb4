"""Do what a request asks: take outputs in, run what is pending, and see that what can't be done here is done later."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace

from enrich.errors import Failed, OutOfTime, TableStateUnknown
from enrich.intake.events import Arrived, Continue, Request, Sweep
from enrich.intake.find import sweep, take_arrived
from enrich.intake.queue import request_timeout
from enrich.intake.recovery import heal, queue_restores
from enrich.ledger.lease import acquire
from enrich.ledger.records import RESTORE_FIRST, Pending, Run
from enrich.log import log_line, log_pending, log_run
from enrich.run.lifecycle import execute
from enrich.services import Services


def handle_requests(services: Services, requests: Iterable[Request]) -> None:
    """Do what requests ask for, one after the other.

    Raises:
        Failed: the output that a request names can't become items; the ledger has the same words.
        Stopped: a run can't go on for now, and not for lack of time.
        LeaseLost: the ledger is no longer as it was read. Somebody else holds the dataset, or a commit of our own was
            applied and reported as failed; since it may be the latter, the message must come again.
    """
    for request in requests:
        match request:
            case Arrived(bucket, object_key):
                run = take_arrived(services, bucket, object_key)
                if run is None:
                    log_line(services.settings, "ignored", bucket=bucket, object_key=object_key)
                    continue
                work(services, run.dataset, own={run.run})
                _raise_failed(services, run)
            case Sweep(None):
                for name in services.datasets:  # a message each, so that they run side by side
                    services.send({"sweep": name})
            case Sweep(str(dataset)):
                swept = sweep(services, dataset)
                heal(services, dataset)
                level = "error" if swept.unreadable else "info"
                log_line(
                    services.settings,
                    "swept",
                    level=level,
                    dataset=dataset,
                    outputs=len(swept.runs),
                    unreadable=swept.unreadable[:10],
                )
                ledger = services.ledger
                pending, runs = ledger.fetch_pending(dataset), ledger.fetch_runs(dataset, newest=100)
                log_pending(services.settings, dataset, pending, runs, services.clock.now())
                work(services, dataset)
            case Continue(dataset):
                work(services, dataset)


def work(services: Services, dataset: str, own: Collection[int] = ()) -> None:
    """Run what is pending for a dataset; what time does not allow goes on through a message to ourselves."""
    try:
        with closing(run_pending(services, dataset, own)) as closed:
            for run in closed:
                log_run(services.settings, run)
    except OutOfTime as error:
        log_line(services.settings, "continues", dataset=dataset, detail=str(error))
        services.send({"continue": {"dataset": dataset}})


def run_pending(services: Services, dataset: str, own: Collection[int]) -> Generator[Run, None, None]:
    """Run what is pending for a dataset, as `drain` does, and yield each run as soon as it is closed.

    `own` are the runs that the caller answers for. Of another output that fails a message tells: its own may be gone,
    acknowledged while the dataset was busy, and this one ends in the dead-letter queue in its place.
    """
    with closing(drain(services, dataset)) as closed:
        for run in closed:
            yield run
            if run.state == "failed" and run.kind == "output" and run.run not in own:
                services.send({"bucket": run.bucket, "object_key": run.object_key})


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


def _raise_failed(services: Services, run: Run) -> None:
    now = services.ledger.get_run(run.dataset, run.run)
    if now is not None and now.state == "failed":
        raise Failed(now.error or "the run failed")
