"""What can happen to a held run: an operator approves or rejects it, or it expires."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from enrich.errors import Failed
from enrich.ledger.records import Pending, Record, Run, bump, newest_first, restart
from enrich.ledger.run_state import Kind, RunState
from enrich.ledger.store import ConflictError, Delete
from enrich.outbox.outbox import report, send_outbox
from enrich.read.outputs import fetch_output
from enrich.services import Services


def approve(services: Services, dataset: str, number: int) -> Run:
    """Queue a held run again although a guard failed, and return it; it keeps its number and its as_of.

    It is checked again: the notes of the first check are deleted after a time, and the dataset may have changed.

    Raises:
        Failed: the run is not held; or it must not be published, because its output was replaced, its items have
        expired, or a newer output is served.
    """
    while True:
        run = _get_held(services, dataset, number, "approved")
        if problem := _find_obstacle(services, run):
            raise Failed(
                f"run {number} of {dataset} can't be approved: {problem}. `./larder reject {dataset} {number}` "
                "closes it"
            )
        now_ms = int(services.clock.now() * 1000)
        queued = replace(restart(run), state=RunState.PENDING, approved=True, held_ms=None, error=None)
        pending = Pending(dataset=dataset, run=number, kind=run.kind, queued_ms=now_ms)
        if _commit(services, queued, pending, *report(services, queued, "approved")):
            return bump(queued)


def reject(services: Services, dataset: str, number: int) -> Run:
    """Close a held run and return it. Nothing of it was written, so there is nothing to restore.

    Raises:
        Failed: the run is not held.
    """
    while True:
        run = _get_held(services, dataset, number, "rejected")
        if closed := _close(services, run, "rejected by an operator"):
            return closed


def close_expired(services: Services, dataset: str) -> list[Run]:
    """Close the held runs whose items would have expired by now, and return them."""
    closed = []
    for held in services.ledger.fetch_held(dataset):
        run = services.ledger.get_run(dataset, held.run)
        if run is not None and run.state is RunState.HELD and (run.expires_at or 0) <= services.clock.now():
            closed.append(_close(services, run, "not approved before its items would have expired"))
    return [run for run in closed if run is not None]


def _close(services: Services, run: Run, why: str) -> Run | None:
    """Close a held run; return None if it was changed meanwhile."""
    now_ms = int(services.clock.now() * 1000)
    error = f"{why}; it was held: {'; '.join(run.shifts)}"
    closed = replace(run, state=RunState.REJECTED, ended_ms=now_ms, error=error)
    return bump(closed) if _commit(services, closed, *report(services, closed)) else None


def _commit(services: Services, run: Run, *records: Record) -> bool:
    held = services.ledger.get_held(run.dataset, run.run)
    if held is None:
        return False
    try:
        services.ledger.commit(run, Delete(held), *records)
    except ConflictError:
        return False
    send_outbox(services, run.dataset)
    return True


def _get_held(services: Services, dataset: str, number: int, verb: str) -> Run:
    run = services.ledger.get_run(dataset, number)
    if run is None or run.state is not RunState.HELD:
        state = f"is {run.state}" if run else "does not exist"
        held = ", ".join(str(each.run) for each in services.ledger.fetch_held(dataset)) or "none"
        raise Failed(
            f"run {number} of {dataset} {state}; only a held run can be {verb}. Held runs: {held}; "
            f"`./larder status {dataset}` lists the runs"
        )
    return run


def _find_obstacle(services: Services, run: Run) -> str | None:
    """Return why a held run can no longer be published; None if it can."""
    if (run.expires_at or 0) <= services.clock.now():
        return f"its items would have expired at {_render((run.expires_at or 0) * 1000)}"
    if run.kind is Kind.OUTPUT:  # other kinds read the parts that an earlier run pinned
        output = fetch_output(services.s3, services.datasets[run.dataset], run.bucket, run.object_key)
        if output is None or output.identity != run.identity:
            now = "was deleted" if output is None else "was written again, and the new output has its own run"
            return f"s3://{run.bucket}/{run.object_key} {now}"
    newer = next((each for each in _find_served(services, run.dataset) if _is_newer(services, each, run)), None)
    if newer is None:
        return None
    return (
        f"its as_of is {_render(run.as_of_ms)}, and run {newer.run} over s3://{newer.bucket}/{newer.object_key} with "
        f"as_of {_render(newer.as_of_ms)} is already served"
    )


def _find_served(services: Services, dataset: str) -> list[Run]:
    """Return the runs whose items are served, including runs that are still being written."""
    runs = services.ledger.fetch_runs(dataset)
    writing = [run for run in runs if run.state.is_open and run.decided_ms is not None and run.kind.is_over_output]
    return [*writing, *newest_first(runs)]


def _is_newer(services: Services, served: Run, held: Run) -> bool:
    """Return whether a served run is newer than a held one. Objects with the same as_of can be parts of one output."""
    if served.as_of_ms != held.as_of_ms:
        return (served.as_of_ms or 0) > (held.as_of_ms or 0)
    takes_its_place = served.object_key == held.object_key
    takes_its_place |= services.datasets[held.dataset].source.output == "snapshot"
    return served.run > held.run and takes_its_place


def _render(epoch_ms: int | None) -> str:
    return datetime.fromtimestamp((epoch_ms or 0) / 1000, UTC).isoformat()
