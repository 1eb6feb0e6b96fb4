"""Execute one run over one output, stage by stage from its checkpoint, until it is closed or held."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from enrich.dataset.field_types import require_types
from enrich.errors import HandOver, LeaseLost, NewerFormat, Overwritten, Refused, Stopped, TableStateUnknown
from enrich.ledger.lease import Lease
from enrich.ledger.records import Run
from enrich.ledger.run_state import EngineKind, Kind, RunState, Stage
from enrich.outbox.outbox import send_outbox
from enrich.run.begin_again import follow_definition
from enrich.run.check import check_output
from enrich.run.close import close_early, close_run
from enrich.run.context import RunContext
from enrich.run.decide import decide_changes
from enrich.run.engine import choose_engine
from enrich.run.failures import FAILURES
from enrich.run.guard import OutputHeld, hold_run
from enrich.run.passes import LocalPasses
from enrich.run.pieces.passes import PiecePasses
from enrich.run.prepare import pin, set_order
from enrich.run.publish import remove_items, write_items
from enrich.services import Services

STAGES: dict[Stage, Callable[[RunContext], None]] = {
    Stage.PIN: pin,
    Stage.ORDER: set_order,
    Stage.CHECK: check_output,
    Stage.WRITE: write_items,
    Stage.REMOVE: remove_items,
    Stage.CLOSE: close_run,
}
MOST_FAILURES = 3  # SQS delivers a message this often before it moves it to the dead-letter queue
# An invocation can also be killed for reasons other than the output: a deployment, or calls to AWS that take all of its
# time. These pass. An output that kills each process is retried about once an hour, so its run is closed after a day.
MOST_DEATHS = 24
MOST_ERROR = 8_000  # characters of an error in the ledger: DynamoDB refuses a record of more than 400 KB


def execute(services: Services, lease: Lease, run: Run) -> Run:
    """Execute a run from its checkpoint and return it closed, or held for an operator to approve or reject.

    A run that can't succeed is closed too: as failed, with its error, or as overwritten. Retried are a metadata query
    that Athena refuses, an unexpected exception, and the death of the process. After `MOST_FAILURES` of one of these
    (deaths: `MOST_DEATHS`) in a row at the same checkpoint the run is closed, because the dataset's next outputs wait
    for it.

    Raises:
        Stopped: it continues later (OutOfTime: as soon as possible); the ledger has its checkpoint and the error.
        TableStateUnknown: other runs must go first; this one is pending again.
        LeaseLost: another invocation holds the dataset.
        NewerFormat: a newer release has changed the ledger; the run is as it was saved last.
        HandOver: a job must execute the run, and this process is not a job.
    """
    if run.engine is EngineKind.SPARK and services.scheduler is None:
        raise HandOver(run.dataset, run.run)
    with tempfile.TemporaryDirectory(dir=services.directory) as scratch:
        context = open_context(services, lease, run, Path(scratch))
        if run.state is RunState.RUNNING:  # its last invocation was killed
            context.run = run = _count_failure(run, "killed")
            if run.failures >= MOST_DEATHS:
                return _close_early(context, RunState.FAILED, _describe_failures(run, "the process was killed"))
        try:
            with context:
                follow_definition(context)
            with context:
                _run_stages(context)
        except Overwritten as error:
            return _close_early(context, RunState.OVERWRITTEN, str(error))
        except OutputHeld as held:
            return hold_run(context, held)
        except FAILURES as error:
            return _close_early(context, RunState.FAILED, str(error))
        except Refused as error:
            if closed := _note_failure(context, type(error).__name__, str(error)):
                return closed
            raise
        except Stopped as error:
            context.run = replace(context.run, failures=0)
            _stop(context, str(error))
            raise
        except (ClientError, BotoCoreError) as error:
            stopped = Stopped(f"a call to AWS failed: {error}")
            context.run = replace(context.run, failures=0)
            _stop(context, str(stopped))
            raise stopped from error
        except (HandOver, LeaseLost, NewerFormat, TableStateUnknown):
            raise
        except Exception as error:  # a defect, here or in a library: the ledger must show why the run stopped
            if closed := _note_failure(context, type(error).__name__, f"{type(error).__name__}: {error}"):
                return closed
            raise
        return context.run


def abandon(services: Services, lease: Lease, run: Run, state: RunState, why: str) -> Run:
    """Close a run that must not continue, in a state that says why."""
    with tempfile.TemporaryDirectory(dir=services.directory) as scratch:
        return _close_early(open_context(services, lease, run, Path(scratch)), state, why)


def open_context(services: Services, lease: Lease, run: Run, scratch: Path) -> RunContext:
    """Return the context in which a run executes; over rejects, its dataset describes the files of the rejects."""
    dataset = services.datasets[run.dataset]
    if run.kind is Kind.REJECTS:
        dataset = replace(
            dataset, source=replace(dataset.source, format="rejects", marker=None, rejects_of=dataset.source.format)
        )
    context = RunContext(services, lease, dataset, run, scratch)
    context.passes = LocalPasses(context)
    if run.engine is EngineKind.SPARK and services.scheduler is not None:
        context.passes = PiecePasses(context, services.scheduler)
    return context


def _run_stages(context: RunContext) -> None:
    context.begin()
    send_outbox(context.services, context.run.dataset)
    require_types(context.dataset)
    while context.run.state.is_open:
        if context.run.stage.needs_decision and context.decision is None:
            context.decision = decide_changes(context)
        elif context.run.stage is Stage.CHECK and context.run.engine is None:
            _choose_engine(context)
        else:
            STAGES[context.run.stage](context)


def _choose_engine(context: RunContext) -> None:
    """Commit where the run is executed from here on.

    Raises:
        HandOver: a job executes it, and this process is not a job.
    """
    services = context.services
    chosen = choose_engine(services, context.dataset, context.run, context.parts)
    if chosen is EngineKind.LOCAL:
        context.run = replace(context.run, engine=chosen)  # committed with the next checkpoint
        return
    context.save(replace(context.run, engine=chosen))
    if services.scheduler is None:
        raise HandOver(context.run.dataset, context.run.run)
    context.passes = PiecePasses(context, services.scheduler)


def _note_failure(context: RunContext, how: str, what: str) -> Run | None:
    """Count a failure and stop the run; if it has failed the same way too often, return it closed instead."""
    context.run = _count_failure(context.run, how)
    if context.run.failures >= MOST_FAILURES:
        return _close_early(context, RunState.FAILED, _describe_failures(context.run, what))
    _stop(context, what)
    return None


def _count_failure(run: Run, how: str) -> Run:
    """Return the run with one failure more; counting begins again if the failure or the checkpoint is another one."""
    failure = f"{how} at {run.stage} {run.next_row} {run.place} {run.decided_ms or 0} {run.pieces}"
    return replace(run, failure=failure, failures=run.failures + 1 if run.failure == failure else 1)


def _describe_failures(run: Run, what: str) -> str:
    return (
        f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: its run failed {run.failures} times in a row at "
        f"stage {run.stage}, row {run.next_row}: {what}. It is closed so that other outputs can run; fix the output, "
        "the dataset, what it is joined with or enrich's memory, then run "
        f"`./larder replay {run.dataset} {run.run}`"
    )


def _stop(context: RunContext, error: str) -> None:
    context.save(replace(context.run, state=RunState.STOPPED, error=_shorten(error)))


def _close_early(context: RunContext, state: RunState, error: str) -> Run:
    with context:  # its stages' resources are closed by now
        return close_early(context, state, _shorten(error))


def _shorten(error: str) -> str:
    return (
        error if len(error) <= MOST_ERROR else f"{error[:MOST_ERROR]} ... ({len(error) - MOST_ERROR} more characters)"
    )
