"""What a job does that has executors: wait for the lease of a dead holder, then execute a dataset's pending runs."""

from __future__ import annotations

from enrich.errors import LeaseLost, Stopped
from enrich.intake.worker import run_pending
from enrich.ledger.run_state import RunState
from enrich.log import log_line, log_run
from enrich.services import Services


def run_job(services: Services, dataset: str) -> bool:
    """Execute a dataset's pending runs; return False if a run failed or stopped."""
    if dataset not in services.datasets:
        log_line(services.settings, "job failed", level="error", detail=f"there is no dataset {dataset!r} in datasets/")
        return False
    _wait_for_lease(services, dataset)
    good = True
    try:
        for run in run_pending(services, dataset):
            log_run(services.settings, run)
            good = good and run.state is not RunState.FAILED
    except (Stopped, LeaseLost) as error:
        log_line(services.settings, "job stopped", level="error", dataset=dataset, detail=str(error))
        return False
    return good


def _wait_for_lease(services: Services, dataset: str) -> None:
    """Wait for the lease of a holder that has died, e.g. the job before this one; a living holder renews it."""
    state = services.ledger.get_state(dataset)
    left = state.lease_until_ms / 1000 - services.clock.now()
    if state.lease_owner is not None and left > 0:
        services.clock.sleep(left + 1)
