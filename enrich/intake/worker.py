"""Handle work requests: queue outputs, execute pending runs, and send a message for what must continue later."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import closing

from enrich.errors import Failed, HandOver, OutOfTime, Stopped, TableStateUnknown
from enrich.intake.events import Arrived, Continue, JobEnded, Sweep, WorkRequest
from enrich.intake.find import sweep, take_arrived
from enrich.intake.held import close_expired
from enrich.intake.prune import prune
from enrich.intake.recovery import finish_withdrawals, heal, rebuild, restore_first
from enrich.ledger.lease import QUIET_PERIOD_OWNER, Lease
from enrich.ledger.records import Pending, Run, name_rebuild
from enrich.ledger.run_state import EngineKind, Kind, RunState, Stage
from enrich.log import log_line, log_pending, log_run, log_swept, log_unsent
from enrich.outbox.outbox import send_outbox
from enrich.run.lifecycle import execute
from enrich.services import Services


def handle_requests(services: Services, requests: Iterable[WorkRequest]) -> None:
    """Handle work requests one after the other.

    Raises:
        Failed: the run of a requested output failed; the ledger has the same error.
        Stopped: a run can't continue for now, for a reason other than time.
        NewerFormat: a newer release has written the dataset's records.
        LeaseLost: the ledger has changed since it was read. Either another invocation holds the lease, or a commit of
            this one was applied but reported as failed. In the second case the redelivered message continues the run.
    """
    for request in requests:
        match request:
            case Arrived(bucket, object_key):
                run = take_arrived(services, bucket, object_key)
                if run is None:
                    log_line(services.settings, "ignored", bucket=bucket, object_key=object_key)
                    continue
                run_dataset(services, run.dataset, own={run.run})
                _raise_failed(services, run)
            case Sweep(None):
                for name in services.datasets:  # one message each, so that they run in parallel
                    services.send({"sweep": name})
            case Sweep(str(dataset)):
                _sweep(services, dataset)
                run_dataset(services, dataset)
            case Continue(dataset):
                run_dataset(services, dataset)
            case JobEnded(ended_ms):
                _restart_jobs(services, ended_ms)


def _sweep(services: Services, dataset: str) -> None:
    swept = sweep(services, dataset)
    log_swept(services.settings, dataset, len(swept.runs), swept.unreadable)
    heal(services, dataset)
    for run in close_expired(services, dataset):
        log_run(services.settings, run)
    send_outbox(services, dataset)
    if pruned := prune(services, dataset):
        log_line(services.settings, "pruned", dataset=dataset, runs=pruned)
    pending, runs = services.ledger.fetch_pending(dataset), services.ledger.fetch_runs(dataset, newest=100)
    log_pending(services.settings, dataset, pending, services.ledger.fetch_held(dataset), runs, services.clock.now())
    if services.settings.bus:
        log_unsent(services.settings, dataset, services.ledger.fetch_outbox(dataset), services.clock.now())


def run_dataset(services: Services, dataset: str, own: Collection[int] = ()) -> None:
    """Execute a dataset's pending runs; when time is up, send a message to enrich's queue that continues them."""
    try:
        with closing(run_pending(services, dataset, own)) as closed:
            for run in closed:
                log_run(services.settings, run)
    except OutOfTime as error:
        log_line(services.settings, "continues", dataset=dataset, detail=str(error))
        services.send({"continue": {"dataset": dataset}})


def run_pending(services: Services, dataset: str, own: Collection[int] = ()) -> Generator[Run, None, None]:
    """Execute a dataset's pending runs, oldest first, until none is left or another invocation holds the dataset.

    Yields each run as soon as it is closed or held. The generator holds the lease until it is exhausted or closed.

    Args:
        services: the services of this invocation.
        dataset: its name.
        own: numbers of the runs whose failure the caller reports. For any other output that fails, a message is sent:
            the original one may have been acknowledged while the dataset was busy, so this one reaches the dead-letter
            queue instead.

    Raises:
        Stopped: a run continues later; OutOfTime, its subclass, when only time was lacking.
        LeaseLost: another invocation holds the dataset.
    """
    while services.ledger.fetch_pending(dataset):
        lease = services.acquire(dataset)
        if lease is None:
            return
        handed_over: HandOver | None = None
        try:
            finish_withdrawals(services, lease)
            while chosen := _choose(services.ledger.fetch_pending(dataset), lease.state.open_run):
                run = _run_one(services, lease, chosen)
                if run is None:
                    continue
                send_outbox(services, dataset)
                yield run
                if run.state is RunState.FAILED and run.kind is Kind.OUTPUT and run.run not in own:
                    services.send({"bucket": run.bucket, "object_key": run.object_key})
        except HandOver as error:
            handed_over = error
        finally:
            lease.release()
        if handed_over is not None:
            return _start_job(services, dataset, handed_over)


def _start_job(services: Services, dataset: str, handed_over: HandOver) -> None:
    """Start a job, which executes all pending runs of a dataset. If there is one already, the new one ends at once.

    Raises:
        Stopped: none is deployed.
    """
    if services.is_plan:
        return
    if services.start_job is None:
        raise Stopped(
            f"{handed_over}, and none is deployed here: set LARDER_JOB to the name of the job, or start it "
            f"(docs/runbook.md) with --dataset {dataset}"
        )
    services.start_job(dataset)
    log_line(services.settings, "job started", dataset=dataset, detail=str(handed_over))


def _restart_jobs(services: Services, ended_ms: int) -> None:
    """Start a job again for each dataset whose job has died while it held the lease, and so had begun.

    Any other job ended before it began (its files are missing, say) or stopped (executors can't reach a service, say),
    and would end so again at once: the sweep starts it again.
    """
    for name in services.datasets:
        state = services.ledger.get_state(name)
        if state.lease_owner in {None, QUIET_PERIOD_OWNER} or state.lease_until_ms <= ended_ms:
            continue
        runs = (services.ledger.get_run(name, each.run) for each in services.ledger.fetch_pending(name))
        if run := next((each for each in runs if each is not None and each.engine is EngineKind.SPARK), None):
            _start_job(services, name, HandOver(name, run.run))


def _run_one(services: Services, lease: Lease, chosen: Pending) -> Run | None:
    """Execute one run and return it closed or held; None when other runs, now queued, must go first."""
    run = services.ledger.get_run(chosen.dataset, chosen.run)
    if run is None:
        raise LookupError(f"ledger, dataset {chosen.dataset}: run {chosen.run} is pending, but has no record")
    if run.stage is Stage.RESTORE_FIRST:
        restore_first(services, lease, run)
        return None
    lease.wait_for_quiet()
    try:
        return execute(services, lease, run)
    except TableStateUnknown as unknown:
        rebuild(services, lease, name_rebuild(unknown.fingerprints, unknown.table_id))
        return None


def _choose(pending: Sequence[Pending], open_run: int | None) -> Pending | None:
    """Choose the oldest pending run, with two exceptions.

    A run that has begun to write goes before any other: until it closes, the content of the table is unknown. Runs that
    restore the table go before new outputs: restores, then a removal, which itself queues restores first.
    """
    began = [each for each in pending if each.run == open_run]
    # newest first: an item that the newest output names is then never served from an older output in between
    restores = [each for each in reversed(pending) if each.kind is Kind.RESTORE]
    removals = [each for each in pending if each.kind is Kind.REMOVAL]
    return next(iter(began or restores or removals or pending), None)


def _raise_failed(services: Services, run: Run) -> None:
    now = services.ledger.get_run(run.dataset, run.run)
    if now is not None and now.state is RunState.FAILED:
        raise Failed(now.error or "the run failed")
