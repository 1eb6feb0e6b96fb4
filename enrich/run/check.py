"""The check stage: read the whole output and decide whether it is published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from enrich.dataset.definition import FromColumn, Tolerated
from enrich.errors import Failed, OutOfTime
from enrich.join.engine import NullInstant
from enrich.join.rejects import add_reasons, build_prefix, count_reasons, write_rejects
from enrich.join.rendering import DUPLICATE, reject_duplicates, render_chunk
from enrich.ledger.records import Run, RunStatistics
from enrich.ledger.run_state import Kind, Stage
from enrich.run.checker import Checker
from enrich.run.context import RunContext
from enrich.run.guard import judge_output

FATAL = "missing-metadata-fatal"


def check_output(context: RunContext) -> None:
    """Record every row's key, digest and reject reason, and decide whether the output can be published.

    Raises:
        Failed: more rejects than the dataset tolerates (they have been written to S3), a row without a match in
            metadata with `missing="fail"`, or a snapshot without rows.
        OutputHeld: a guard of the dataset fails.
        OutOfTime: the invocation must end; the checkpoint is saved.
    """
    context.services.progress.stage(context.run, Stage.CHECK)
    if context.run.rows is None:
        rows, reasons = context.passes.check()
    else:
        rows, reasons = context.run.rows, context.run.reasons

    def pause() -> None:  # dividing the notes has no checkpoint: stop only if this invocation has checked rows
        if context.step() and context.run.rows is None:
            context.save(replace(context.run, rows=rows, reasons=reasons))
            raise OutOfTime(
                f"dataset {context.dataset.name}, run {context.run.run}: searched some buckets for duplicates"
            )

    duplicates = context.delta.duplicates(pause)
    if duplicates:
        reasons = {**reasons, DUPLICATE[0]: len(duplicates)}
    checked = replace(context.run, rows=rows, next_row=0, reasons=reasons)
    _check_not_empty(context, rows)
    if not _is_tolerated(context, rows, sum(reasons.values())):
        raise Failed(_refuse(context, checked, duplicates))
    statistics = list[RunStatistics]()
    if context.is_measured:
        checked, measured = judge_output(context, checked, len(duplicates))
        statistics.append(measured)
    context.save(replace(checked, stage=Stage.WRITE, place=0), *statistics)


def check_rows(context: RunContext) -> tuple[int, dict[str, int]]:
    """Check the rows that no earlier invocation has checked; return the number of rows and of rejects by reason."""
    noted_from = next_row = context.run.next_row
    reasons = context.run.reasons

    def keep(first_row: int, rows: int, rendered: pa.Table) -> None:
        nonlocal reasons
        context.cache.keep(first_row, rows, rendered if checker.is_worth_keeping else rendered.slice(0, 0))
        reasons = add_reasons(reasons, count_reasons(rendered))
        if FATAL in reasons and context.run.kind is not Kind.REMOVAL:
            fail_fatal(context, rendered, f"s3://{context.run.bucket}/{context.run.object_key}")

    checker = Checker(context, context.delta, context.statistics if context.is_measured else None, keep)
    for first_row, chunk in context.chunks(next_row):
        checker.check(chunk, first_row)
        check_constant(context, chunk, first_row)
        next_row = first_row + chunk.num_rows
        context.services.progress.rows(context.run, next_row, sum(reasons.values()), None)
        stop = context.step()
        if stop or context.due():
            checker.flush()
            context.export_checked(noted_from, next_row)
            noted_from = next_row
            context.save(replace(context.run, next_row=next_row, reasons=reasons))
        if stop:
            raise OutOfTime(f"dataset {context.dataset.name}, run {context.run.run}: checked {next_row} rows so far")
    checker.flush()
    context.export_checked(noted_from, next_row)
    return next_row, reasons


def _check_not_empty(context: RunContext, rows: int) -> None:
    """Refuse a snapshot without rows: usually it means that the model has failed."""
    run, source = context.run, context.dataset.source
    if rows or source.output != "snapshot" or source.empty_snapshot != "refuse":
        return
    if run.kind.is_over_output and run.kind is not Kind.RESTORE:  # what is restored was published before
        raise Failed(
            f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: a snapshot without rows would remove every "
            'item of the dataset; write it again with rows, or set empty_snapshot="remove-all" if none '
            "is alive. Nothing was published"
        )


def _is_tolerated(context: RunContext, rows: int, rejected: int) -> bool:
    # a removal publishes nothing, and removes rejected rows too
    return context.run.kind is Kind.REMOVAL or is_tolerated(context.dataset.tolerated, rows, rejected)


def is_tolerated(tolerated: Tolerated, rows: int, rejected: int) -> bool:
    """Return whether an output of so many rows can be published with so many rejects."""
    within_share = rejected <= tolerated.share * rows or rejected <= min(tolerated.few, rows - 1)
    return within_share and (tolerated.number is None or rejected <= tolerated.number)


def keep_rejects(context: RunContext, run: Run, duplicates: Sequence[int]) -> str:
    """Write the rejects of an output that is not published, and return one as an example, in words.

    Raises:
        OutOfTime: the invocation must end; the next row is saved as the checkpoint.
    """
    services, rows, example = context.services, run.rows or 0, ""
    bucket, prefix = services.settings.bucket, build_prefix(run.dataset, run.run)
    for first_row, chunk in context.chunks(run.place):
        rendered = render_chunk(context.engine, chunk, first_row, digest=False)
        rendered = reject_duplicates(rendered, first_row, duplicates)
        if write_rejects(services.s3, bucket, prefix, context.engine, chunk, rendered, first_row) and not example:
            example = describe_reject(rendered)
        next_row = first_row + chunk.num_rows
        if context.step() and next_row < rows:
            context.save(replace(run, place=next_row))
            raise OutOfTime(f"dataset {run.dataset}, run {run.run}: wrote the rejects of {next_row} rows so far")
    return example


def describe_reject(rendered: pa.Table) -> str:
    """Describe the first reject of a rendered chunk."""
    first = rendered.filter(pc.is_valid(rendered["reason"])).slice(0, 1).to_pylist()[0]
    return f"row {first['row']}: {first['reason']}, {first['detail']}"


def _refuse(context: RunContext, run: Run, duplicates: Sequence[int]) -> str:
    """Write the rejects of an output that is not published; return the error message that closes its run."""
    services, rows, reasons = context.services, run.rows or 0, run.reasons
    bucket, prefix = services.settings.bucket, build_prefix(run.dataset, run.run)
    found = context.passes.keep_rejects(run, duplicates)
    example = f", for example {found}" if found else ""
    context.run = replace(run, version=context.run.version)  # for the commit that closes it
    kept = "A run would write the rejects to" if services.is_plan else "The rejects are in"
    cause = context.engine.constant_id if duplicates else None
    return (
        f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: {sum(reasons.values())} of {rows} predictions "
        f"can't become items ({', '.join(f'{count} {each}' for each, count in sorted(reasons.items()))}), "
        f"more than the dataset tolerates{example}. Nothing was published. {kept} s3://{bucket}/{prefix}"
        + (f". {cause}" if cause else "")
    )


def fail_fatal(context: RunContext, rendered: pa.Table, place: str, shift: int = 0, of: str = "") -> None:
    """Fail with the first row of a rendered chunk whose metadata are missing and must not be.

    `shift` is added to its number; `of` says what it then counts from, if that is not the output.

    Raises:
        Failed: always.
    """
    first = rendered.filter(pc.equal(rendered["reason"], FATAL)).slice(0, 1).to_pylist()[0]
    raise Failed(
        f"dataset {context.dataset.name}, {place}, row {first['row'] + shift}{of}: "
        f'{first["detail"]}, and the dataset has missing="fail". Nothing was published'
    )


def check_constant(
    context: RunContext, chunk: pa.RecordBatch, first_row: int, place: str | None = None, of: str = ""
) -> None:
    """Check that the as_of column has the run's as_of in all rows of a chunk; arguments as in `read_instants`.

    Raises:
        Failed: it also has another value, or none.
    """
    rule, run = context.dataset.as_of, context.run
    if not isinstance(rule, FromColumn) or run.kind is Kind.REJECTS:
        return
    for instant in read_instants(context, chunk, first_row, place, of) or ():
        if int(instant.timestamp() * 1000) != run.as_of_ms:
            first = datetime.fromtimestamp((run.as_of_ms or 0) / 1000, UTC)
            raise Failed(
                f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: column {rule.column!r} has {first} and "
                f"{instant}; it is the output's as_of, so every row must have the same value"
            )


def read_instants(
    context: RunContext, chunk: pa.RecordBatch, first_row: int, place: str | None = None, of: str = ""
) -> tuple[datetime, datetime] | None:
    """Return the lowest and the highest instant in a chunk's as_of column; None if no row is good.

    Args:
        context: the run's.
        chunk: of the output.
        first_row: the number of its first row.
        place: the file, if rows are not counted from the start of the output.
        of: what they then are counted from.

    Raises:
        Failed: a row has no value. Not if the output was published before: then it is restored, or its items removed.
    """
    run, was_published = context.run, context.run.kind in {Kind.RESTORE, Kind.REMOVAL}
    try:
        return context.engine.read_as_of(chunk, complete=not was_published)
    except NullInstant as error:
        rule = context.dataset.as_of
        assert isinstance(rule, FromColumn)  # noqa: S101 - only such a dataset has the column
        place = place or f"s3://{run.bucket}/{run.object_key}"
        raise Failed(
            f"dataset {run.dataset}, {place}, row {first_row + error.row}{of}: column {rule.column!r} is null; "
            "it is the output's as_of, so write the same value in every row. Nothing was published"
        ) from error
