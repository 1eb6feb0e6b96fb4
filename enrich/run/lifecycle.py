"""Execute one run over one output, stage by stage from its checkpoint, until it is closed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from enrich.dataset.expressions import DatasetMistakes
from enrich.dataset.field_types import require_types
from enrich.errors import Failed, LeaseLost, Overwritten, Stopped, TableStateUnknown
from enrich.join.derive import DeriveFailed
from enrich.join.engine import JoinMultiplies, MetadataTooLarge, RenderFailed
from enrich.ledger.lease import Lease
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind, RunState, Stage
from enrich.read.chunks import BadOutput
from enrich.run.check import check_output
from enrich.run.close import close_early, close_run
from enrich.run.context import RunContext
from enrich.run.decide import decide_changes
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
# Errors that a retry can't fix: the run is closed as failed, and the next one can begin.
_FAILURES = (Failed, BadOutput, DatasetMistakes, DeriveFailed, JoinMultiplies, MetadataTooLarge, RenderFailed)


def execute(services: Services, lease: Lease, run: Run) -> Run:
    """Execute a run from its checkpoint and return it closed.

    A run that can't succeed is closed too: as failed, with its error, or as overwritten.

    Raises:
        Stopped: it continues later (OutOfTime: as soon as possible); the ledger has its checkpoint and the error.
        TableStateUnknown: other runs must go first; this one is pending again.
        LeaseLost: another invocation holds the dataset.
    """
    with tempfile.TemporaryDirectory(dir=services.directory) as scratch:
        context = _open(services, lease, run, Path(scratch))
        try:
            with context:
                _run_stages(context)
        except Overwritten as error:
            return _close_early(context, RunState.OVERWRITTEN, str(error))
        except _FAILURES as error:
            return _close_early(context, RunState.FAILED, str(error))
        except Stopped as error:
            _stop(context, str(error))
            raise
        except (ClientError, BotoCoreError) as error:
            stopped = Stopped(f"a call to AWS failed: {error}")
            _stop(context, str(stopped))
            raise stopped from error
        except (LeaseLost, TableStateUnknown):
            raise
        except Exception as error:  # a defect, here or in a library: the ledger must show why the run stopped
            _stop(context, f"{type(error).__name__}: {error}")
            raise
        return context.run


def abandon(services: Services, lease: Lease, run: Run, state: RunState, why: str) -> Run:
    """Close a run that must not continue, in a state that says why."""
    with tempfile.TemporaryDirectory(dir=services.directory) as scratch:
        return _close_early(_open(services, lease, run, Path(scratch)), state, why)


def _open(services: Services, lease: Lease, run: Run, scratch: Path) -> RunContext:
    dataset = services.datasets[run.dataset]
    if run.kind is Kind.REJECTS:
        dataset = replace(dataset, source=replace(dataset.source, format="rejects", marker=None))
    return RunContext(services, lease, dataset, run, scratch)


def _run_stages(context: RunContext) -> None:
    context.begin()
    require_types(context.dataset)
    while not context.run.state.is_closed:
        if context.run.stage.needs_decision and context.decision is None:
            context.decision = decide_changes(context)
        else:
            STAGES[context.run.stage](context)


def _stop(context: RunContext, error: str) -> None:
    context.save(replace(context.run, state=RunState.STOPPED, error=error))


def _close_early(context: RunContext, state: RunState, error: str) -> Run:
    with context:  # its stages' resources are closed by now
        return close_early(context, state, error)
