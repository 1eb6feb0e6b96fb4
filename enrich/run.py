"""One pass over one output, stage by stage, each from its checkpoint, till it is closed. An edge."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError

from enrich.active import Active
from enrich.delta import Delta, Withdrawn
from enrich.derive import DeriveFailed
from enrich.edges import Edges
from enrich.engine import MAX_METADATA_BYTES, Engine, JoinMultiplies, MetadataTooLarge
from enrich.expressions import DatasetMistakes
from enrich.faults import Doubtful, Failed, LeaseLost, Overwritten, Stopped
from enrich.fingerprints import Told, fetch_table_id, read_fingerprints, write_fingerprints
from enrich.kept import Kept
from enrich.lease import Lease
from enrich.ledger import Delete
from enrich.metadata import read_metadata
from enrich.pass_one import check, import_noted
from enrich.pass_two import OUTLIVED, SUPERSEDED_ROWS, Rendering, remove, write
from enrich.pin import pin, set_order
from enrich.read import BadOutput
from enrich.records import OVER_NO_OUTPUT, Counts, Run
from enrich.write import Budget, Writer


def execute(edges: Edges, lease: Lease, run: Run) -> Run:
    """Bring a run to its end, from wherever it stands, and return it closed.

    A run that can't succeed is closed too: failed, with the error that says why, or overwritten.

    Raises:
        Stopped: it goes on later (OutOfTime: as soon as possible); the ledger says where and why.
        LeaseLost: somebody else holds the dataset by now.
    """
    with tempfile.TemporaryDirectory(dir=edges.directory) as scratch:
        active = _activate(edges, lease, run, Path(scratch))
        try:
            _begin(active)
            _stages(active)
        except Overwritten as error:
            return _close_early(active, "overwritten", str(error))
        except (Failed, BadOutput, DatasetMistakes, DeriveFailed, JoinMultiplies, MetadataTooLarge) as error:
            return _close_early(active, "failed", str(error))
        except Stopped as error:
            active.save(state="stopped", error=str(error))
            raise
        except (ClientError, BotoCoreError) as error:
            stopped = Stopped(f"AWS did not do what was asked: {error}")
            active.save(state="stopped", error=str(stopped))
            raise stopped from error
        except (LeaseLost, Doubtful):
            raise
        except Exception as error:  # a defect, here or in a library: the ledger must show why the run does not go on
            active.save(state="stopped", error=f"{type(error).__name__}: {error}")
            raise
        return active.run


def _begin(active: Active) -> None:
    now_ms = int(active.edges.clock.now() * 1000)
    active.save(
        state="running",
        owner=active.edges.owner,
        attempts=active.run.attempts + 1,
        started_ms=active.run.started_ms or now_ms,
        error=None,
        code_version=active.edges.settings.version,
    )


def _stages(active: Active) -> None:
    if active.run.stage == "pin":
        pin(active)
    keep_keys = active.dataset.source.output == "snapshot" or active.run.kind == "removal"
    with (
        Engine(active.dataset, _read_metadata(active), directory=active.scratch) as engine,
        Delta(active.scratch, keep_keys=keep_keys) as delta,
    ):
        if active.run.stage == "order":
            set_order(active, engine)
        kept = Kept(active.scratch / "kept")
        if active.run.stage == "check":
            check(active, engine, delta, kept)
        else:
            import_noted(active, delta)
        _publish(active, engine, delta, kept)


def _read_metadata(active: Active) -> dict[str, pa.Table]:
    return read_metadata(active.edges.s3, active.run.metadata, max_bytes=MAX_METADATA_BYTES)


def _publish(active: Active, engine: Engine, delta: Delta, kept: Kept) -> None:
    """Write, remove and close: everything after the check."""
    duplicates = delta.duplicates()
    table_id = fetch_table_id(active.edges)
    opened = active.run.decided_ms is not None
    base = active.run.base if opened else active.lease.state.fingerprints
    told = read_fingerprints(active, delta, base, table_id)
    if opened and (told is Told.NOTHING or active.run.table_id != table_id):
        _reopen(active, delta, table_id)
    if not opened:
        _doubt(active, told, f"{base} {table_id}")
        _open(active, table_id, None if told is Told.NOTHING else base)
    decided = (active.run.decided_ms or 0) / 1000
    order = active.run.order.text
    enough = active.dataset.unchanged_life * active.dataset.ttl.total_seconds()
    delta.decide(
        order=order,
        now=decided,
        enough=enough,
        full=active.run.full or told is not Told.ALL,
        snapshot=active.lease.state.snapshot,
    )
    active.edges.progress.decided(active.run, delta)
    removed_until = _choose_removals(active, delta, order, decided)
    writer = Writer(
        active.edges.open_transport(active.lease.timeout),
        active.edges.settings.table,
        clock=active.edges.clock.now,
        random=active.edges.random.random,
        budget=Budget(active.edges.write_units),
        stop_at=lambda: active.lease.stop_at,
    )
    try:
        if active.run.stage == "write":
            write(active, Rendering(engine, kept, duplicates), delta, writer)
        if active.run.stage == "remove":
            remove(active, delta, writer, removed_until)
    finally:
        writer.settle()  # S3 may have failed while writes were in flight
        if writer.unknown_at is not None:
            active.lease.note_unknown(writer.unknown_at)
    _close(active, delta, table_id, removed_until)


def _doubt(active: Active, told: Told, rebuilt: str) -> None:
    """Let everything alive be written again, once, when the fingerprints tell nothing about this table."""
    if told is Told.ALL or active.lease.state.rebuilt == rebuilt:
        return
    active.save(state="pending")
    raise Doubtful(rebuilt)


def _reopen(active: Active, delta: Delta, table_id: str) -> None:
    """Begin to write anew: what all decisions of this run rested on was lost under way.

    The fingerprints name no table until all that is alive is queued again: a crash before that leaves the doubt.
    """
    doubt = _write_doubt(active, delta, "")
    active.save(
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
    raise Doubtful(f"{doubt['fingerprints']} {table_id}")


def _write_doubt(active: Active, delta: Delta, table_id: str) -> dict[str, Any]:
    """Let the fingerprints tell that any body of this run may be in the table; return what of the state changes."""
    delta.merge_unknown(expires_at=active.run.expires_at or 0, now=active.edges.clock.now())
    return {"fingerprints": write_fingerprints(active, delta, table_id), "table_id": table_id}


def _open(active: Active, table_id: str, base: str | None) -> None:
    """Raise the high-water mark before the first write, and fix what all decisions of this run rest on."""
    state = active.lease.state
    active.save(
        dataset_state={
            "high_water": max(state.high_water, active.run.order.text),
            "open_run": active.run.run,
        },
        stage="remove" if active.run.kind == "removal" else "write",
        decided_ms=int(active.edges.clock.now() * 1000),
        base=base,
        table_id=table_id,
    )


def _choose_removals(active: Active, delta: Delta, order: str, now: float) -> int:
    """Choose what this run removes, and return when the tombstones expire: never before what they hide."""
    run = active.run
    if run.kind == "removal":
        delta.choose_removals(order=order, now=now, withdrawn=_find_withdrawn(active))
    elif _is_snapshot(active) and not run.born_expired and order >= active.lease.state.snapshot:
        delta.choose_removals(order=order, now=now)
    return max(run.expires_at or 0, delta.removals_expire_at())


def _find_withdrawn(active: Active) -> Withdrawn:
    """Find what the runs over a withdrawn output, and over its rejects, may have left."""
    runs = active.edges.ledger.fetch_runs(active.run.dataset)
    of_it = {each.run for each in runs if each.identity == active.run.identity}
    of_it |= {each.run for each in runs if each.kind == "rejects" and each.of_run in of_it}
    ran = [each for each in runs if each.run in of_it and each.as_of_ms and each.generation]
    return Withdrawn([each.order.text for each in ran], max((each.expires_at or 0 for each in ran), default=0))


def _is_snapshot(active: Active) -> bool:
    """Return whether this run names every live item: rejects that are replayed and withdrawals do not."""
    return active.dataset.source.output == "snapshot" and active.run.kind not in OVER_NO_OUTPUT


def _close(active: Active, delta: Delta, table_id: str, removed_until: int) -> None:
    """Close a run that did all it had to, and make what it confirmed the dataset's fingerprints."""
    now = active.edges.clock.now()
    active.edges.progress.stage(active.run, "close")
    delta.merge(
        order=active.run.order.text,
        expires_at=active.run.expires_at or 0,
        removed_until=removed_until,
        now=now,
        superseded=active.superseded_rows(SUPERSEDED_ROWS),
        outlived=active.superseded_rows(OUTLIVED) if delta.removals_expire_at() else [],
        nothing_written=active.run.kind == "removal" or active.run.born_expired,
    )
    fingerprints = write_fingerprints(active, delta, table_id)
    snapshot = active.lease.state.snapshot
    if _is_snapshot(active):
        snapshot = max(snapshot, active.run.order.text)
    active.save(
        Delete(active.pending),
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


def _leave_doubt(active: Active) -> dict[str, Any]:
    table_id = fetch_table_id(active.edges)
    with Delta(active.scratch / "early") as delta:
        try:
            import_noted(active, delta)
        except Failed:  # nobody knows what it wrote: fingerprints that are not there let all that is alive be written
            return {"fingerprints": f"{active.work_key('noted/')}gone", "table_id": table_id}
        delta.duplicates()
        read_fingerprints(active, delta, active.run.base, table_id)
        return _write_doubt(active, delta, table_id)


def abandon(edges: Edges, lease: Lease, run: Run, why: str) -> Run:
    """Close a run that shall not go on as failed."""
    with tempfile.TemporaryDirectory(dir=edges.directory) as scratch:
        return _close_early(_activate(edges, lease, run, Path(scratch)), "failed", why)


def _activate(edges: Edges, lease: Lease, run: Run, scratch: Path) -> Active:
    for name in ("early", "kept"):
        (scratch / name).mkdir()
    dataset = edges.datasets[run.dataset]
    if run.kind == "rejects":
        dataset = replace(dataset, source=replace(dataset.source, format="rejects", marker=None))
    return Active(edges, lease, dataset, run, scratch)


def _close_early(active: Active, state: str, error: str) -> Run:
    """Close a run that can't be completed; if it began to write, its bodies may be in the table."""
    changes = {"open_run": None, **_leave_doubt(active)} if active.run.decided_ms is not None else {}
    active.save(
        Delete(active.pending),
        dataset_state=changes,
        state=state,
        error=error,
        ended_ms=int(active.edges.clock.now() * 1000),
    )
    return active.run
