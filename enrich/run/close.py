"""Close a run: save the dataset's new fingerprints, or record that the table's content is unknown."""

from __future__ import annotations

from dataclasses import replace

from botocore.exceptions import BotoCoreError, ClientError

from enrich.delta.fingerprints import fetch_table_id
from enrich.errors import LeaseLost, Stopped
from enrich.ledger.records import DatasetState, Run
from enrich.ledger.run_state import Kind, RunState, Stage
from enrich.ledger.store import Delete
from enrich.outbox.outbox import report
from enrich.run.context import RunContext
from enrich.run.fingerprints import build_target, delete_superseded, find_superseded, load_fingerprints, save_doubt
from enrich.run.publish import OUTLIVED, SUPERSEDED_ROWS


def close_run(context: RunContext) -> None:
    """Close a run that has completed all its stages."""
    run, delta, decision = context.run, context.delta, context.decided
    now = context.services.clock.now()
    context.services.progress.stage(run, Stage.CLOSE)
    saved = context.passes.merge(
        build_target(context, decision.table_id),
        order=run.order.text,
        expires_at=run.expires_at or 0,
        removed_until=decision.removed_until,
        now=now,
        superseded=context.superseded_rows(SUPERSEDED_ROWS),
        outlived=context.superseded_rows(OUTLIVED) if delta.removals_expire_at() else [],
        nothing_written=run.kind is Kind.REMOVAL or run.born_expired,
    )
    superseded = find_superseded(context, saved)
    state = context.lease.state  # read only now, as the run is: merging renews the lease and saves the run
    is_snapshot = context.dataset.source.output == "snapshot" and run.kind.is_over_output
    closed = replace(context.run, state=RunState.DONE, ended_ms=int(now * 1000), error=None)
    context.save(
        closed,
        Delete(context.pending),
        *report(context.services, closed),
        dataset=replace(
            state,
            open_run=None,
            fingerprints=saved.object_key,
            table_id=decision.table_id,
            snapshot=max(state.snapshot, run.order.text) if is_snapshot else state.snapshot,
        ),
    )
    delete_superseded(context, superseded)


def close_early(context: RunContext, state: RunState, error: str) -> Run:
    """Close a run that can't be completed and return it. If it began to write, its bodies may be in the table."""
    dataset, superseded = context.lease.state, set[str]()
    if context.run.decided_ms is not None:
        dataset, superseded = leave_doubt(context)
    ended_ms = int(context.services.clock.now() * 1000)
    closed = replace(context.run, state=state, error=error, ended_ms=ended_ms)
    context.save(closed, Delete(context.pending), *report(context.services, closed), dataset=dataset)
    delete_superseded(context, superseded)
    return context.run


def leave_doubt(context: RunContext) -> tuple[DatasetState, set[str]]:
    """Return the dataset's state after the close, and the fingerprints to delete after its commit."""
    services, superseded = context.services, set[str]()
    table_id = fetch_table_id(services.dynamodb, services.settings.table)
    try:
        load_fingerprints(context, context.run.base, table_id)
        saved = save_doubt(context, table_id)
        fingerprints, superseded = saved.object_key, find_superseded(context, saved)
    except (ClientError, BotoCoreError, LeaseLost, Stopped):
        raise
    except Exception:  # noqa: BLE001 - the run must close after any error
        # What the run wrote is unknown: a missing fingerprints object causes all live outputs to be written again.
        fingerprints = f"{context.work_key('noted/')}gone"
    state = replace(context.lease.state, open_run=None, fingerprints=fingerprints, table_id=table_id)
    return state, superseded
