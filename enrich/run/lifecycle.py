"""One pass over one output, stage by stage, each from its checkpoint, till it is closed. An edge."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError

from enrich.dataset.expressions import DatasetMistakes
from enrich.delta.changes import Delta, Withdrawn
from enrich.delta.fingerprints import FingerprintTrust, fetch_table_id, read_fingerprints, write_fingerprints
from enrich.errors import Failed, LeaseLost, Overwritten, Stopped, TableStateUnknown
from enrich.join.derive import DeriveFailed
from enrich.join.engine import MAX_METADATA_BYTES, Engine, JoinMultiplies, MetadataTooLarge
from enrich.join.rendering import RenderedCache, Rendering
from enrich.ledger.lease import Lease
from enrich.ledger.records import OVER_NO_OUTPUT, Counts, Run
from enrich.ledger.store import Delete
from enrich.read.chunks import BadOutput
from enrich.read.metadata import read_metadata
from enrich.run.check import check, import_noted
from enrich.run.context import RunContext
from enrich.run.prepare import pin, set_order
from enrich.run.publish import OUTLIVED, SUPERSEDED_ROWS, remove, write
from enrich.services import Services
from enrich.write.writer import Budget, Writer


def execute(services: Services, lease: Lease, run: Run) -> Run:
    """Bring a run to its end, from wherever it stands, and return it closed.

    A run that can't succeed is closed too: failed, with the error that says why, or overwritten.

    Raises:
        Stopped: it goes on later (OutOfTime: as soon as possible); the ledger says where and why.
        LeaseLost: somebody else holds the dataset by now.
    """
    with tempfile.TemporaryDirectory(dir=services.directory) as scratch:
        context = _open_context(services, lease, run, Path(scratch))
        try:
            _begin(context)
            _stages(context)
        except Overwritten as error:
            return _close_early(context, "overwritten", str(error))
        except (Failed, BadOutput, DatasetMistakes, DeriveFailed, JoinMultiplies, MetadataTooLarge) as error:
            return _close_early(context, "failed", str(error))
        except Stopped as error:
            context.save(state="stopped", error=str(error))
            raise
        except (ClientError, BotoCoreError) as error:
            stopped = Stopped(f"AWS did not do what was asked: {error}")
            context.save(state="stopped", error=str(stopped))
            raise stopped from error
        except (LeaseLost, TableStateUnknown):
            raise
        except Exception as error:  # a defect, here or in a library: the ledger must show why the run does not go on
            context.save(state="stopped", error=f"{type(error).__name__}: {error}")
            raise
        return context.run


def _begin(context: RunContext) -> None:
    now_ms = int(context.services.clock.now() * 1000)
    context.save(
        state="running",
        owner=context.services.owner,
        attempts=context.run.attempts + 1,
        started_ms=context.run.started_ms or now_ms,
        error=None,
        code_version=context.services.settings.version,
    )


def _stages(context: RunContext) -> None:
    if context.run.stage == "pin":
        pin(context)
    keep_keys = context.dataset.source.output == "snapshot" or context.run.kind == "removal"
    with (
        Engine(context.dataset, _read_metadata(context), directory=context.scratch) as engine,
        Delta(context.scratch, keep_keys=keep_keys) as delta,
    ):
        if context.run.stage == "order":
            set_order(context, engine)
        cache = RenderedCache(context.scratch / "kept")
        if context.run.stage == "check":
            check(context, engine, delta, cache)
        else:
            import_noted(context, delta)
        _publish(context, engine, delta, cache)


def _read_metadata(context: RunContext) -> dict[str, pa.Table]:
    return read_metadata(context.services.s3, context.run.metadata, max_bytes=MAX_METADATA_BYTES)


def _publish(context: RunContext, engine: Engine, delta: Delta, cache: RenderedCache) -> None:
    """Write, remove and close: everything after the check."""
    duplicates = delta.duplicates()
    table_id = fetch_table_id(context.services)
    opened = context.run.decided_ms is not None
    base = context.run.base if opened else context.lease.state.fingerprints
    told = _load_fingerprints(context, delta, base, table_id)
    if opened and (told is FingerprintTrust.NOTHING or context.run.table_id != table_id):
        _reopen(context, delta, table_id)
    if not opened:
        _doubt(context, told, f"{base} {table_id}")
        _open(context, table_id, None if told is FingerprintTrust.NOTHING else base)
    decided = (context.run.decided_ms or 0) / 1000
    order = context.run.order.text
    enough = context.dataset.unchanged_life * context.dataset.ttl.total_seconds()
    delta.decide(
        order=order,
        now=decided,
        enough=enough,
        full=context.run.full or told is not FingerprintTrust.ALL,
        snapshot=context.lease.state.snapshot,
    )
    context.services.progress.decided(context.run, delta)
    removed_until = _choose_removals(context, delta, order, decided)
    writer = Writer(
        context.services.open_transport(context.lease.timeout),
        context.services.settings.table,
        clock=context.services.clock.now,
        random=context.services.random.random,
        budget=Budget(context.services.write_units),
        stop_at=lambda: context.lease.stop_at,
    )
    try:
        if context.run.stage == "write":
            write(context, Rendering(engine, cache, duplicates), delta, writer)
        if context.run.stage == "remove":
            remove(context, delta, writer, removed_until)
    finally:
        writer.settle()  # S3 may have failed while writes were in flight
        if writer.unknown_at is not None:
            context.lease.note_unknown(writer.unknown_at)
    _close(context, delta, table_id, removed_until)


def _load_fingerprints(context: RunContext, delta: Delta, base: str | None, table_id: str) -> FingerprintTrust:
    services = context.services
    return read_fingerprints(
        services.s3, services.settings.bucket, base, delta, table_id=table_id, scratch=context.scratch
    )


def _save_fingerprints(context: RunContext, delta: Delta, table_id: str) -> str:
    """Write the merged fingerprints and return their object key."""
    services, run = context.services, context.run
    object_key = f"fingerprints/{run.dataset}/{run.run:08d}-{run.attempts:02d}.parquet"
    write_fingerprints(services.s3, services.settings.bucket, object_key, delta, table_id)
    return object_key


def _doubt(context: RunContext, told: FingerprintTrust, rebuilt: str) -> None:
    """Let everything alive be written again, once, when the fingerprints tell nothing about this table."""
    if told is FingerprintTrust.ALL or context.lease.state.rebuilt == rebuilt:
        return
    context.save(state="pending")
    raise TableStateUnknown(rebuilt)


def _reopen(context: RunContext, delta: Delta, table_id: str) -> None:
    """Begin to write anew: what all decisions of this run rested on was lost under way.

    The fingerprints name no table until all that is alive is queued again: a crash before that leaves the doubt.
    """
    doubt = _write_doubt(context, delta, "")
    context.save(
        dataset_state={"open_run": None, **doubt},
        state="pending",
        stage="write",
        next_row=0,
        place=0,
        counts=Counts(),
        decided_ms=None,
        base=None,
        table_id=None,
    )
    raise TableStateUnknown(f"{doubt['fingerprints']} {table_id}")


def _write_doubt(context: RunContext, delta: Delta, table_id: str) -> dict[str, Any]:
    """Let the fingerprints tell that any body of this run may be in the table; return what of the state changes."""
    delta.merge_unknown(expires_at=context.run.expires_at or 0, now=context.services.clock.now())
    return {"fingerprints": _save_fingerprints(context, delta, table_id), "table_id": table_id}


def _open(context: RunContext, table_id: str, base: str | None) -> None:
    """Raise the high-water mark before the first write, and fix what all decisions of this run rest on."""
    state = context.lease.state
    context.save(
        dataset_state={
            "high_water": max(state.high_water, context.run.order.text),
            "open_run": context.run.run,
        },
        stage="remove" if context.run.kind == "removal" else "write",
        decided_ms=int(context.services.clock.now() * 1000),
        base=base,
        table_id=table_id,
    )


def _choose_removals(context: RunContext, delta: Delta, order: str, now: float) -> int:
    """Choose what this run removes, and return when the tombstones expire: never before what they hide."""
    run = context.run
    if run.kind == "removal":
        delta.choose_removals(order=order, now=now, withdrawn=_find_withdrawn(context))
    elif _is_snapshot(context) and not run.born_expired and order >= context.lease.state.snapshot:
        delta.choose_removals(order=order, now=now)
    return max(run.expires_at or 0, delta.removals_expire_at())


def _find_withdrawn(context: RunContext) -> Withdrawn:
    """Find what the runs over a withdrawn output, and over its rejects, may have left."""
    runs = context.services.ledger.fetch_runs(context.run.dataset)
    of_it = {each.run for each in runs if each.identity == context.run.identity}
    of_it |= {each.run for each in runs if each.kind == "rejects" and each.of_run in of_it}
    ran = [each for each in runs if each.run in of_it and each.as_of_ms and each.generation]
    return Withdrawn([each.order.text for each in ran], max((each.expires_at or 0 for each in ran), default=0))


def _is_snapshot(context: RunContext) -> bool:
    """Return whether this run names every live item: rejects that are replayed and withdrawals do not."""
    return context.dataset.source.output == "snapshot" and context.run.kind not in OVER_NO_OUTPUT


def _close(context: RunContext, delta: Delta, table_id: str, removed_until: int) -> None:
    """Close a run that did all it had to, and make what it confirmed the dataset's fingerprints."""
    now = context.services.clock.now()
    context.services.progress.stage(context.run, "close")
    delta.merge(
        order=context.run.order.text,
        expires_at=context.run.expires_at or 0,
        removed_until=removed_until,
        now=now,
        superseded=context.superseded_rows(SUPERSEDED_ROWS),
        outlived=context.superseded_rows(OUTLIVED) if delta.removals_expire_at() else [],
        nothing_written=context.run.kind == "removal" or context.run.born_expired,
    )
    fingerprints = _save_fingerprints(context, delta, table_id)
    snapshot = context.lease.state.snapshot
    if _is_snapshot(context):
        snapshot = max(snapshot, context.run.order.text)
    context.save(
        Delete(context.pending),
        dataset_state={
            "open_run": None,
            "fingerprints": fingerprints,
            "table_id": table_id,
            "snapshot": snapshot,
        },
        state="done",
        ended_ms=int(now * 1000),
        error=None,
    )


def _leave_doubt(context: RunContext) -> dict[str, Any]:
    table_id = fetch_table_id(context.services)
    with Delta(context.scratch / "early") as delta:
        try:
            import_noted(context, delta)
        except Failed:  # nobody knows what it wrote: fingerprints that are not there let all that is alive be written
            return {"fingerprints": f"{context.work_key('noted/')}gone", "table_id": table_id}
        delta.duplicates()
        _load_fingerprints(context, delta, context.run.base, table_id)
        return _write_doubt(context, delta, table_id)


def abandon(services: Services, lease: Lease, run: Run, why: str) -> Run:
    """Close a run that shall not go on as failed."""
    with tempfile.TemporaryDirectory(dir=services.directory) as scratch:
        return _close_early(_open_context(services, lease, run, Path(scratch)), "failed", why)


def _open_context(services: Services, lease: Lease, run: Run, scratch: Path) -> RunContext:
    for name in ("early", "kept"):
        (scratch / name).mkdir()
    dataset = services.datasets[run.dataset]
    if run.kind == "rejects":
        dataset = replace(dataset, source=replace(dataset.source, format="rejects", marker=None))
    return RunContext(services, lease, dataset, run, scratch)


def _close_early(context: RunContext, state: str, error: str) -> Run:
    """Close a run that can't be completed; if it began to write, its bodies may be in the table."""
    changes = {"open_run": None, **_leave_doubt(context)} if context.run.decided_ms is not None else {}
    context.save(
        Delete(context.pending),
        dataset_state=changes,
        state=state,
        error=error,
        ended_ms=int(context.services.clock.now() * 1000),
    )
    return context.run
