"""Decide what a run writes and removes, by comparing its rows with the fingerprints of the live items."""

from __future__ import annotations

from dataclasses import replace

from enrich.delta.changes import Withdrawn
from enrich.delta.fingerprints import FingerprintTrust, fetch_table_id
from enrich.errors import Failed, TableStateUnknown
from enrich.ledger.records import Counts, find_runs_over, name_rebuild
from enrich.ledger.run_state import Kind, RunState, Stage
from enrich.log import log_line
from enrich.run.context import Decision, RunContext
from enrich.run.fingerprints import load_fingerprints, save_doubt

STAY = "not named now"  # in `because` of a removal: items of the withdrawn output that are still served


def decide_changes(context: RunContext) -> Decision:
    """Decide what this run writes and removes.

    The result depends only on values that were fixed when the run began to write, so every invocation decides the same.

    Raises:
        TableStateUnknown: the fingerprints do not describe the table. The run is pending again.
    """
    services, state = context.services, context.lease.state
    table_id = fetch_table_id(services.dynamodb, services.settings.table)
    began = context.run.decided_ms is not None
    base = context.run.base if began else state.fingerprints
    trust = load_fingerprints(context, base, table_id).trust
    if began and (trust is FingerprintTrust.NOTHING or context.run.table_id != table_id):
        _restart_writing(context, table_id)
    if not began:
        if trust is not FingerprintTrust.ALL and state.rebuilt != name_rebuild(base, table_id):
            context.save(replace(context.run, state=RunState.PENDING))
            raise TableStateUnknown(base, table_id)
        if trust is FingerprintTrust.NOTHING:  # each process compares with what the ledger says, from the first one on
            base = None
            trust = load_fingerprints(context, base, table_id).trust
        _begin(context, table_id, base)
    run = context.run
    decided = (run.decided_ms or 0) / 1000
    because = context.passes.decide(
        order=run.order.text,
        expires_at=run.expires_at or 0,
        now=decided,
        enough=context.dataset.unchanged_life * context.dataset.ttl.total_seconds(),
        full=run.full or trust is not FingerprintTrust.ALL,
        snapshot=context.lease.state.snapshot,
    )
    # Committed with the next checkpoint. Deciding can have saved the run, so `run` is no longer what the ledger has.
    context.run = replace(context.run, because={} if run.born_expired else because)
    return Decision(table_id, _choose_removals(context, decided))


def _begin(context: RunContext, table_id: str, base: str | None) -> None:
    """Raise the high-water mark before the first write, and save what all decisions of this run depend on."""
    run, state = context.run, context.lease.state
    context.save(
        replace(
            run,
            stage=Stage.REMOVE if run.kind is Kind.REMOVAL else Stage.WRITE,
            decided_ms=int(context.services.clock.now() * 1000),
            base=base,
            table_id=table_id,
        ),
        dataset=replace(state, high_water=max(state.high_water, run.order.text), open_run=run.run),
    )


def _restart_writing(context: RunContext, table_id: str) -> None:
    """Reset a run that had begun to write: the fingerprints that its decisions depend on were lost.

    The saved fingerprints name no table until all live outputs are queued again, so after a crash before that, the
    table's state is still known to be unknown.

    Raises:
        TableStateUnknown: always.
    """
    fingerprints = save_doubt(context, "").object_key
    context.save(
        replace(
            context.run,
            state=RunState.PENDING,
            stage=Stage.WRITE,
            next_row=0,
            place=0,
            counts=Counts(),
            decided_ms=None,
            base=None,
            table_id=None,
        ),
        dataset=replace(context.lease.state, open_run=None, fingerprints=fingerprints, table_id=""),
    )
    raise TableStateUnknown(fingerprints, table_id)


def _choose_removals(context: RunContext, now: float) -> int:
    """Choose the items to remove; return when the tombstones expire: never before the items that they replace."""
    run, delta = context.run, context.delta
    order = run.order.text
    snapshot = context.dataset.source.output == "snapshot" and run.kind.is_over_output
    if run.kind is Kind.REMOVAL:
        withdrawn = _find_withdrawn(context)
        _check_named(context, withdrawn, now)
        context.passes.choose_removals(order=order, now=now, withdrawn=withdrawn)
    elif snapshot and not run.born_expired and order >= context.lease.state.snapshot:
        context.passes.choose_removals(order=order, now=now, withdrawn=None)
    return max(run.expires_at or 0, delta.removals_expire_at())


def _check_named(context: RunContext, withdrawn: Withdrawn, now: float) -> None:
    """Check that the rows of a withdrawn output still get the keys of its items; report items that they do not get.

    Raises:
        Failed: they get none of them.
    """
    named, unnamed = context.passes.count_named(now, withdrawn)
    if not unnamed:
        return
    run, services = context.run, context.services
    earlier = services.ledger.get_run(run.dataset, run.of_run or 0)
    version = f" version {earlier.code_version}" if earlier and earlier.code_version else " the version"
    why = (
        f"{unnamed} items of run {run.of_run} are stored under keys that its rows do not get from the present "
        "definition of the dataset and its metadata, since its subject, its prediction_id, or what they are made of "
        "was changed. They are served until they expire"
    )
    if not named:
        raise Failed(
            f"dataset {run.dataset}, withdrawal of run {run.of_run}: {why}. To remove them, deploy{version} that "
            "executed it, and withdraw the run again; then deploy the present version"
        )
    log_line(services.settings, "items not removed", level="warning", dataset=run.dataset, run=run.run, detail=why)
    context.run = replace(context.run, because={STAY: unnamed})


def _find_withdrawn(context: RunContext) -> Withdrawn:
    """Return the orders of the runs over a withdrawn output or its rejects, and the latest expiry of their items."""
    runs = context.services.ledger.fetch_runs(context.run.dataset)
    of_it = find_runs_over(runs, context.run.identity)
    ran = [each for each in runs if each.run in of_it and each.as_of_ms and each.generation]
    return Withdrawn([each.order.text for each in ran], max((each.expires_at or 0 for each in ran), default=0))
