"""The first stages of a run: pin its parts, fetch its metadata, set its order. I/O on S3 and Athena."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from enrich.dataset.as_of import BadAsOf, FromColumn, FromKey, get_ahead, parse_as_of
from enrich.errors import Failed, Overwritten
from enrich.ledger.run_state import Kind, Stage
from enrich.read.outputs import Output, fetch_folder, fetch_output, find_beside
from enrich.read.s3_object import Part
from enrich.run.check import read_instants
from enrich.run.context import RunContext
from enrich.run.metadata import pin_metadata
from enrich.run.parts import load_parts, save_parts

AHEAD = timedelta(minutes=5)  # how much later as_of can be than the output's arrival, because clocks differ


def pin(context: RunContext) -> None:
    """Pin parts and metadata; the next stage is `order`.

    Raises:
        Overwritten: the output was deleted or replaced.
        Failed: the parts are not those that the manifest names.
        Stopped: a metadata query failed; OutOfTime, its subclass: queries are still running.
    """
    context.services.progress.stage(context.run, Stage.PIN)
    save_parts(context.services, context.run.dataset, context.run.run, pin_parts(context))
    metadata = pin_metadata(context)
    context.save(replace(context.run, metadata=metadata, stage=Stage.ORDER))


def set_order(context: RunContext) -> None:
    """Determine the output's as_of, and with it the run's order; the next stage is `check`.

    Raises:
        Failed: as_of is missing, unreadable, or in the future; or a snapshot has several files and no marker.
    """
    run, as_of = context.run, _find_as_of(context)
    ahead = AHEAD + get_ahead(context.dataset.as_of)
    if as_of.timestamp() * 1000 > run.arrived_ms + ahead / timedelta(milliseconds=1):
        arrived = datetime.fromtimestamp(run.arrived_ms / 1000, UTC)
        raise Failed(
            f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: its as_of {as_of.isoformat()} is later than "
            f"its arrival {arrived.isoformat()} by more than {ahead}; one wrong clock would block every later output, "
            "so it is refused: write it again with the right as_of. If the date is the day that the predictions are "
            "for, set `ahead` in the dataset's as_of; if it is a local date, set `zone`"
        )
    if as_of.timestamp() < 0:
        raise Failed(
            f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: its as_of {as_of.isoformat()} is before 1970; "
            "write it again with the right as_of"
        )
    _check_only_file(context, as_of)
    context.save(
        replace(
            run,
            generation=context.lease.state.generation,
            as_of_ms=int(as_of.timestamp() * 1000),
            expires_at=math.ceil((as_of + context.dataset.ttl).timestamp()),
            stage=Stage.CHECK,
            next_row=0,
        )
    )


def pin_parts(context: RunContext) -> list[Part]:
    """Return the parts that the run reads: those of the run that it repeats, else those of the output as it is now.

    Raises:
        Overwritten: the output is gone or another one by now.
        Failed: the parts are not those that the manifest names.
    """
    run, services = context.run, context.services
    if run.kind is Kind.REJECTS:
        return fetch_folder(services.s3, run.bucket, run.object_key)
    # The list of a run's parts is deleted after some time, and a run that ended before this stage pinned nothing.
    # One that begins again has read its output, which can be gone or replaced by now.
    repeats = run.kind is not Kind.OUTPUT or run.as_of_ms is not None
    if repeats and (parts := load_parts(services, run.dataset, run.of_run or run.run)) is not None:
        return parts
    # The run already has its number, so an output that replaces this one after this request gets a higher number.
    output = fetch_output(services.s3, context.dataset, run.bucket, run.object_key, step=context.lease.keep)
    if output is None or output.identity != run.identity:
        place = f"s3://{run.bucket}/{run.object_key}"
        raise Overwritten(f"{place} is no longer {run.identity}; `./larder run {place}` runs the present object")
    return _check_parts(output)


def _check_parts(output: Output) -> list[Part]:
    if output.problems:
        raise Failed(f"s3://{output.bucket}/{output.object_key} {output.problems[0]}")
    return list(output.parts)


def _check_only_file(context: RunContext, as_of: datetime) -> None:
    """Refuse a snapshot that is one of several files with the same as_of: each would remove the items of the others."""
    run, source = context.run, context.dataset.source
    is_alone = source.output != "snapshot" or source.marker or source.snapshot_files == "each"
    if is_alone or run.as_of_ms is not None:  # a run that repeats another one: that one has passed this check
        return
    beside = find_beside(context.services.s3, context.dataset, run.bucket, run.object_key, as_of, run.arrived_ms)
    if beside:
        raise Failed(
            f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: {len(beside)} more files have the same as_of "
            f"{as_of.isoformat()}, first {beside[0]}, and each would remove items that only the others name; write "
            'one file, or a marker after them that source.marker names, or set snapshot_files="each" if each is '
            "complete. If one was published, withdraw its run"
        )


def _find_as_of(context: RunContext) -> datetime:
    run, rule = context.run, context.dataset.as_of
    if run.as_of_ms is not None:  # a repeated run has the as_of of the run that it repeats
        return datetime.fromtimestamp(run.as_of_ms / 1000, UTC)
    if isinstance(rule, FromKey):
        try:
            return parse_as_of(rule, run.object_key)
        except BadAsOf as error:
            raise Failed(f"dataset {run.dataset}: {error}") from error
    if isinstance(rule, FromColumn):
        for first_row, chunk in context.chunks(0):
            if found := read_instants(context, chunk, first_row):
                return found[0]
    return datetime.fromtimestamp(run.arrived_ms / 1000, UTC)
