"""The first stages of a run: pin what it reads, have its metadata, tell its order. I/O on S3 and Athena."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from enrich.dataset.definition import BadAsOf, FromColumn, FromKey, parse_as_of
from enrich.errors import Failed, Overwritten
from enrich.ledger.run_state import Kind, Stage
from enrich.read.metadata import digest_sql, fetch_metadata
from enrich.read.outputs import Output, fetch_folder, fetch_output, parse_parts, render_parts
from enrich.read.s3_object import Part
from enrich.run.context import RunContext, build_work_prefix
from enrich.s3 import exists, get, split_location

AHEAD = timedelta(minutes=5)  # how far as_of may be ahead of the output's arrival


def pin(context: RunContext) -> None:
    """Pin parts and metadata, and save the run as ready to be given its order.

    Raises:
        Overwritten: the output is gone or another one by now.
        Failed: a part that the manifest names is missing.
        Stopped: Athena did not answer.
    """
    context.services.progress.stage(context.run, Stage.PIN)
    context.write_work("parts.json", render_parts(_pin_parts(context)))
    metadata, fetched = _pin_metadata(context)
    state = context.lease.state
    context.save(replace(context.run, metadata=metadata, stage=Stage.ORDER), dataset=replace(state, metadata=fetched))


def set_order(context: RunContext) -> None:
    """Tell when the output was made, and save the run as ready to be checked.

    Raises:
        Failed: as_of is missing, unreadable, or in the future.
    """
    run, as_of = context.run, _find_as_of(context)
    if as_of.timestamp() * 1000 > run.arrived_ms + AHEAD / timedelta(milliseconds=1):
        arrived = datetime.fromtimestamp(run.arrived_ms / 1000, UTC)
        raise Failed(
            f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: its as_of {as_of.isoformat()} is later than "
            f"its arrival {arrived.isoformat()}; one wrong clock would shut out every later output, so it is refused: "
            "write it again with the right as_of"
        )
    if as_of.timestamp() < 0:
        raise Failed(f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: its as_of {as_of} is before 1970")
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


def _pin_parts(context: RunContext) -> list[Part]:
    run, services = context.run, context.services
    if run.kind is Kind.REJECTS:
        return fetch_folder(services.s3, run.bucket, run.object_key)
    earlier = f"{build_work_prefix(run.dataset, run.of_run or run.run)}parts.json"
    # What a run pinned is not kept for ever, and one that never came so far pinned nothing.
    if run.kind is not Kind.OUTPUT and exists(services.s3, services.settings.bucket, earlier):
        return parse_parts(get(services.s3, services.settings.bucket, earlier))
    # The run has its number by now: an output that takes this one's place after this look gets a higher one.
    output = fetch_output(services.s3, context.dataset, run.bucket, run.object_key)
    if output is None or output.identity != run.identity:
        raise Overwritten(
            f"s3://{run.bucket}/{run.object_key} is no longer {run.identity}; `enrich run` takes what it is"
        )
    return _check_parts(output)


def _check_parts(output: Output) -> list[Part]:
    if output.missing:
        raise Failed(
            f"s3://{output.bucket}/{output.object_key} names {len(output.missing)} parts that are not there, first "
            f"{output.missing[0]}; write them, then the marker again"
        )
    return list(output.parts)


def _is_kept(context: RunContext, location: str) -> bool:
    """Return whether fetched metadata is still there: the bucket's rules delete it after a month."""
    return exists(context.services.s3, *split_location(location))


def _find_as_of(context: RunContext) -> datetime:
    run, rule = context.run, context.dataset.as_of
    if run.as_of_ms is not None:  # a replay is of the same instant as what it repeats
        return datetime.fromtimestamp(run.as_of_ms / 1000, UTC)
    if isinstance(rule, FromKey):
        try:
            return parse_as_of(rule, run.object_key)
        except BadAsOf as error:
            raise Failed(f"dataset {run.dataset}: {error}") from error
    if isinstance(rule, FromColumn):
        for _, chunk in context.chunks(0):
            if found := context.engine.read_as_of(chunk):
                return found[0]
    return datetime.fromtimestamp(run.arrived_ms / 1000, UTC)


def _pin_metadata(context: RunContext) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Choose rows for each metadata: those of an earlier fetch while they are young enough, else fetch them."""
    pinned = context.run.metadata
    if pinned and all(_is_kept(context, location) for location in pinned.values()):
        return pinned, context.lease.state.metadata  # a removal renders what the withdrawn run rendered
    services, now_ms = context.services, int(context.services.clock.now() * 1000)
    fetched = dict(context.lease.state.metadata)
    for name, metadata in context.dataset.metadata.items():
        digest = digest_sql(metadata.sql)
        earlier = fetched.get(name)
        if earlier and earlier["sql_digest"] == digest and context.run.kind is not Kind.REFRESH:
            oldest_ms = now_ms - metadata.max_age / timedelta(milliseconds=1)
            if earlier["fetched_ms"] > oldest_ms and _is_kept(context, earlier["location"]):
                continue
        context.services.progress.stage(context.run, f"metadata {name}")
        # a fresh prefix for each attempt: UNLOAD refuses one that holds anything
        location = (
            f"s3://{services.settings.bucket}/metadata/{context.dataset.name}/{name}/"
            f"{context.run.run:08d}-{context.run.attempts:02d}-{now_ms}/"
        )
        fetch_metadata(services.athena, services.s3, name, metadata.sql, location)
        fetched[name] = {"location": location, "sql_digest": digest, "fetched_ms": now_ms}
    return {name: fetched[name]["location"] for name in context.dataset.metadata}, fetched
