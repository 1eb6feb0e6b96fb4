"""The end of the check stage: compare the output's statistics with the guards, and hold a run that fails one."""

from __future__ import annotations

from dataclasses import replace

import orjson

from enrich.delta.fingerprints import fetch_table_id
from enrich.guard.evaluate import Reference, evaluate
from enrich.guard.statistics import Summary
from enrich.ledger.records import Held, Run, RunStatistics, newest_first
from enrich.ledger.run_state import RunState
from enrich.ledger.store import Delete
from enrich.outbox.outbox import report
from enrich.run.context import RunContext
from enrich.run.fingerprints import load_fingerprints

RECENT_RUNS = 1000


class OutputHeld(Exception):
    """Operator action: the output fails a guard, so an operator must approve or reject it.

    Attributes:
        run: the run, as checked.
        statistics: the statistics to save with the run.
    """

    def __init__(self, run: Run, statistics: RunStatistics) -> None:
        super().__init__("; ".join(run.shifts))
        self.run = run
        self.statistics = statistics


def judge_output(context: RunContext, checked: Run, duplicates: int) -> tuple[Run, RunStatistics]:
    """Return the checked run with the guards that it failed, and its statistics, to save together.

    Args:
        context: the run's context.
        checked: the run, as it is after the check.
        duplicates: number of rows rejected as duplicates.

    Raises:
        OutputHeld: a guard fails, no operator has approved the run, and its kind is guarded. An output whose items have
        expired is not held, since nothing of it is published.
    """
    services, guards = context.services, context.dataset.guards if checked.kind.is_guarded else ()
    reference = _find_reference(context) if guards else None
    changed = _measure_changed(context) if any(guard.measure == "changed" for guard in guards) else None
    summary = context.statistics.summarize(duplicates=duplicates, changed=changed)
    verdicts = evaluate(guards, summary, reference)
    earlier = services.ledger.get_statistics(checked.dataset, checked.run)  # of the check before the approval
    statistics = replace(
        earlier or RunStatistics(dataset=checked.dataset, run=checked.run),
        summary=summary.dump(),
        verdicts=orjson.dumps([verdict.describe() for verdict in verdicts]).decode(),
        reference=reference.run if reference else None,
    )
    shifts = [verdict.says for verdict in verdicts if verdict.passed is False]
    checked = replace(checked, measured=summary.rows, shifts=shifts)
    is_born_expired = (checked.expires_at or 0) <= services.clock.now()
    if shifts and not checked.approved and not is_born_expired:
        raise OutputHeld(checked, statistics)
    return checked, statistics


def hold_run(context: RunContext, held: OutputHeld) -> Run:
    """Hold a run and return it: the only place where a run becomes held.

    It is no longer pending, so other runs do not wait for it. Nothing of it was written.
    """
    run, now_ms = held.run, int(context.services.clock.now() * 1000)
    error = (
        f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: the output fails the dataset's "
        f"guards, so it is held and nothing of it is published: {'; '.join(run.shifts)}. `./larder approve "
        f"{run.dataset} {run.run}` publishes it, `./larder reject {run.dataset} {run.run}` closes it"
    )
    waiting = replace(run, version=context.run.version, state=RunState.HELD, held_ms=now_ms, error=error)
    context.save(
        waiting,
        Delete(context.pending),
        *report(context.services, waiting),
        Held(dataset=run.dataset, run=run.run, held_ms=now_ms),
        held.statistics,
    )
    return context.run


def _find_reference(context: RunContext) -> Reference | None:
    """Return the statistics of the newest closed run that had items."""
    ledger, dataset = context.services.ledger, context.run.dataset
    for newest in (RECENT_RUNS, None):  # of the ledger's many runs, the reference is nearly always a recent one
        for run in newest_first(ledger.fetch_runs(dataset, newest=newest)):
            if run.measured and (found := ledger.get_statistics(dataset, run.run)):
                return Reference(f"run {run.run}", Summary.load(found.summary), run.run)
    return None


def _measure_changed(context: RunContext) -> float | None:
    """Return the share of changed bodies among the live items that the output names; None if it names none."""
    services = context.services
    table_id = fetch_table_id(services.dynamodb, services.settings.table)
    load_fingerprints(context, context.lease.state.fingerprints, table_id)
    changed, live = context.delta.count_changed(services.clock.now())
    return changed / live if live else None
