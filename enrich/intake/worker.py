"""Do what a request asks: take outputs in, run what is pending, and see that what can't be done here is done later."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from contextlib import closing

from enrich.errors import Failed, OutOfTime
from enrich.intake.events import Arrived, Continue, Request, Sweep
from enrich.intake.queue import drain, heal, sweep, take_arrived
from enrich.ledger.records import Run
from enrich.log import log_line, log_pending, log_run
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


def _raise_failed(services: Services, run: Run) -> None:
    now = services.ledger.get_run(run.dataset, run.run)
    if now is not None and now.state == "failed":
        raise Failed(now.error or "the run failed")
