"""The first stages of a run: pin what it reads, have its metadata, tell its order. I/O on S3 and Athena."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from enrich.active import Active, build_work_prefix
from enrich.dataset import BadAsOf, FromColumn, FromKey, parse_as_of
from enrich.engine import Engine
from enrich.faults import Failed, Overwritten
from enrich.metadata import digest_sql, fetch_metadata, parse_location
from enrich.outputs import Output, fetch_folder, fetch_output, is_there, parse_parts, render_parts
from enrich.part import Part

AHEAD = timedelta(minutes=5)  # how far as_of may be ahead of the output's arrival


def pin(active: Active) -> None:
    """Pin parts and metadata, and save the run as ready to be given its order.

    Raises:
        Overwritten: the output is gone or another one by now.
        Failed: a part that the manifest names is missing.
        Stopped: Athena did not answer.
    """
    active.edges.progress.stage(active.run, "pin")
    active.write_work("parts.json", render_parts(_pin_parts(active)))
    metadata, fetched = _pin_metadata(active)
    active.save(dataset_state={"metadata": fetched}, metadata=metadata, stage="order")


def set_order(active: Active, engine: Engine) -> None:
    """Tell when the output was made, and save the run as ready to be checked.

    Raises:
        Failed: as_of is missing, unreadable, or in the future.
    """
    run, as_of = active.run, _find_as_of(active, engine)
    if as_of.timestamp() * 1000 > run.arrived_ms + AHEAD / timedelta(milliseconds=1):
        arrived = datetime.fromtimestamp(run.arrived_ms / 1000, UTC)
        raise Failed(
            f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: its as_of {as_of.isoformat()} is later than "
            f"its arrival {arrived.isoformat()}; one wrong clock would shut out every later output, so it is refused: "
            "write it again with the right as_of"
        )
    if as_of.timestamp() < 0:
        raise Failed(f"dataset {run.dataset}, s3://{run.bucket}/{run.object_key}: its as_of {as_of} is before 1970")
    active.save(
        generation=active.lease.state.generation,
        as_of_ms=int(as_of.timestamp() * 1000),
        expires_at=math.ceil((as_of + active.dataset.ttl).timestamp()),
        stage="check",
        next_row=0,
    )


def _pin_parts(active: Active) -> list[Part]:
    run, edges = active.run, active.edges
    if run.kind == "rejects":
        return fetch_folder(edges.s3, run.bucket, run.object_key)
    earlier = f"{build_work_prefix(run.dataset, run.of_run or run.run)}parts.json"
    # What a run pinned is not kept for ever, and one that never came so far pinned nothing.
    if run.kind != "output" and is_there(edges.s3, edges.settings.bucket, earlier):
        return parse_parts(edges.s3.get_object(Bucket=edges.settings.bucket, Key=earlier)["Body"].read())
    # The run has its number by now: an output that takes this one's place after this look gets a higher one.
    output = fetch_output(edges.s3, active.dataset, run.bucket, run.object_key)
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


def _is_kept(active: Active, location: str) -> bool:
    """Return whether fetched metadata is still there: the bucket's rules delete it after a month."""
    return is_there(active.edges.s3, *parse_location(location))


def _find_as_of(active: Active, engine: Engine) -> datetime:
    run, rule = active.run, active.dataset.as_of
    if run.as_of_ms is not None:  # a replay is of the same instant as what it repeats
        return datetime.fromtimestamp(run.as_of_ms / 1000, UTC)
    if isinstance(rule, FromKey):
        try:
            return parse_as_of(rule, run.object_key)
        except BadAsOf as error:
            raise Failed(f"dataset {run.dataset}: {error}") from error
    if isinstance(rule, FromColumn):
        for _, chunk in active.chunks(0):
            if found := engine.read_as_of(chunk):
                return found[0]
    return datetime.fromtimestamp(run.arrived_ms / 1000, UTC)


def _pin_metadata(active: Active) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Choose rows for each metadata: those of an earlier fetch while they are young enough, else fetch them."""
    pinned = active.run.metadata
    if pinned and all(_is_kept(active, location) for location in pinned.values()):
        return pinned, active.lease.state.metadata  # a removal renders what the withdrawn run rendered
    edges, now_ms = active.edges, int(active.edges.clock.now() * 1000)
    fetched = dict(active.lease.state.metadata)
    for name, metadata in active.dataset.metadata.items():
        digest = digest_sql(metadata.sql)
        earlier = fetched.get(name)
        if earlier and earlier["sql_digest"] == digest and active.run.kind != "refresh":
            oldest_ms = now_ms - metadata.max_age / timedelta(milliseconds=1)
            if earlier["fetched_ms"] > oldest_ms and _is_kept(active, earlier["location"]):
                continue
        active.edges.progress.stage(active.run, f"metadata {name}")
        # a fresh prefix for each attempt: UNLOAD refuses one that holds anything
        location = (
            f"s3://{edges.settings.bucket}/metadata/{active.dataset.name}/{name}/"
            f"{active.run.run:08d}-{active.run.attempts:02d}-{now_ms}/"
        )
        fetch_metadata(edges.athena, edges.s3, name, metadata.sql, location)
        fetched[name] = {"location": location, "sql_digest": digest, "fetched_ms": now_ms}
    return {name: fetched[name]["location"] for name in active.dataset.metadata}, fetched
