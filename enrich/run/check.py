"""Pass 1: read all of an output to learn what decides, before anything is published. I/O on S3, and the engine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from enrich.dataset.definition import FromColumn
from enrich.delta.changes import Delta
from enrich.errors import Failed, OutOfTime
from enrich.join.engine import Engine
from enrich.join.rejects import add_reasons, build_prefix, count_reasons, write_rejects
from enrich.join.rendering import DUPLICATE, RenderedCache, reject_duplicates, render
from enrich.run.context import RunContext
from enrich.s3 import get, list_keys

FATAL = "missing-metadata-fatal"


def check(context: RunContext, engine: Engine, delta: Delta, cache: RenderedCache) -> None:
    """Note every row's key, digest and reject reason in `delta`, and decide whether the output may be published.

    Goes on from the run's checkpoint; what was noted before it lies in the run's work folder.

    Raises:
        Failed: more rejects than the dataset tolerates (they are on S3 by then), or metadata misses what it may not.
        OutOfTime: the checkpoint is saved.
    """
    run, services = context.run, context.services
    services.progress.stage(run, "check")
    import_noted(context, delta)
    noted_from = next_row = run.next_row
    reasons = dict(run.reasons)
    for first_row, chunk in context.chunks(next_row):
        rendered = render(engine, chunk, first_row, digest=True)
        delta.note(rendered)
        cache.keep(first_row, rendered)
        reasons = add_reasons(reasons, count_reasons(rendered))
        if FATAL in reasons and run.kind != "removal":
            _fail_fatal(context, rendered)
        _check_constant(context, engine, chunk)
        next_row = first_row + chunk.num_rows
        services.progress.rows(run, next_row, sum(reasons.values()), None)
        stop = context.step()
        if stop or context.due():
            _export_noted(context, delta, noted_from, next_row)
            noted_from = next_row
            context.save(next_row=next_row, reasons=reasons)
        if stop:
            raise OutOfTime(f"dataset {run.dataset}, run {run.run}: checked {next_row} rows so far")
    _export_noted(context, delta, noted_from, next_row)
    duplicates = delta.duplicates()
    if duplicates:
        reasons[DUPLICATE[0]] = len(duplicates)
    _check_tolerated(context, engine, duplicates, next_row, reasons)
    context.save(stage="write", rows=next_row, next_row=0, reasons=reasons)


def import_noted(context: RunContext, delta: Delta) -> None:
    """Bring back what earlier invocations of this run had noted, up to the checkpoint, each row once.

    An invocation that died between a file and its checkpoint leaves a file that overlaps with later ones. Wherever
    they overlap they agree.

    Raises:
        Failed: it is gone.
    """
    until = context.run.next_row if context.run.stage == "check" else context.run.rows or 0
    next_row = 0
    for first, last, object_key in sorted(_list_noted(context)):
        if first <= next_row <= last and next_row < until:
            content = get(context.services.s3, context.services.settings.bucket, object_key)
            path = context.scratch / "import.parquet"
            path.write_bytes(content)
            delta.import_noted(path, next_row, min(last, until - 1))
            next_row = min(last, until - 1) + 1
    if next_row < until:
        raise Failed(
            f"run {context.run.run} of {context.run.dataset}: what was noted of its rows from {next_row} on is gone "
            f"from s3://{context.services.settings.bucket}/{context.work_key('noted/')}; replay it"
        )


def _check_tolerated(
    context: RunContext, engine: Engine, duplicates: list[int], rows: int, reasons: dict[str, int]
) -> None:
    if context.run.kind == "removal":  # it publishes nothing, and removes what is rejected by now as well
        return
    tolerated, rejected = context.dataset.tolerated, sum(reasons.values())
    within_share = rejected <= tolerated.share * rows or rejected <= min(tolerated.few, rows - 1)
    if within_share and (tolerated.number is None or rejected <= tolerated.number):
        return
    prefix = build_prefix(context.dataset.name, context.run.run)
    settings = context.services.settings
    example = ""
    for first_row, chunk in context.chunks(0):
        rendered = reject_duplicates(render(engine, chunk, first_row, digest=False), first_row, duplicates)
        if (
            write_rejects(context.services.s3, settings.bucket, prefix, engine, chunk, rendered, first_row)
            and not example
        ):
            first = rendered.filter(pc.is_valid(rendered["reason"])).slice(0, 1).to_pylist()[0]
            example = f"; the first is row {first['row']}: {first['reason']}, {first['detail']}"
    context.save(rows=rows, reasons=reasons)
    raise Failed(
        f"dataset {context.dataset.name}, s3://{context.run.bucket}/{context.run.object_key}: {rejected} of {rows} "
        f"predictions can't become items ({', '.join(f'{count} {name}' for name, count in sorted(reasons.items()))}), "
        f"more than the dataset tolerates{example}. Nothing was published; the rejects are in "
        f"s3://{settings.bucket}/{prefix}"
    )


def _fail_fatal(context: RunContext, rendered: pa.Table) -> None:
    first = rendered.filter(pc.equal(rendered["reason"], FATAL)).slice(0, 1).to_pylist()[0]
    raise Failed(
        f"dataset {context.dataset.name}, s3://{context.run.bucket}/{context.run.object_key}, row {first['row']}: "
        f"{first['detail']}, and its policy is to fail. Nothing was published"
    )


def _check_constant(context: RunContext, engine: Engine, chunk: pa.RecordBatch) -> None:
    rule, run = context.dataset.as_of, context.run
    if not isinstance(rule, FromColumn) or run.kind == "rejects":
        return
    for instant in engine.read_as_of(chunk) or ():
        if int(instant.timestamp() * 1000) != run.as_of_ms:
            first = datetime.fromtimestamp((run.as_of_ms or 0) / 1000, UTC)
            raise Failed(
                f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: column {rule.column!r} says when the "
                f"output was made, and must have one value in all of it; it has {first} and {instant}"
            )


def _export_noted(context: RunContext, delta: Delta, first_row: int, next_row: int) -> None:
    if next_row > first_row:
        path: Path = delta.export_noted(first_row)
        context.write_work(f"noted/{first_row:012d}-{next_row - 1:012d}.parquet", path.read_bytes())


def _list_noted(context: RunContext) -> list[tuple[int, int, str]]:
    """Return first row, last row and object key of what was noted."""
    found = []
    for object_key in list_keys(context.services.s3, context.services.settings.bucket, context.work_key("noted/")):
        first, last = object_key.rpartition("/")[2].removesuffix(".parquet").split("-")
        found.append((int(first), int(last), object_key))
    return found
