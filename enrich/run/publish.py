"""Pass 2: write what an output changes, from checkpoint to checkpoint. I/O on DynamoDB and S3."""

from __future__ import annotations

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from enrich.delta.changes import REJECTED, SUPERSEDED, UNCHANGED, WRITE, Delta
from enrich.errors import OutOfTime
from enrich.join.rejects import build_prefix, write_rejects
from enrich.join.rendering import Rendering
from enrich.ledger.records import Counts
from enrich.run.context import RunContext
from enrich.write.requests import interleave
from enrich.write.writer import Writer, Written

PUT_ROWS = 2_000  # items between two looks at the clock
SUPERSEDED_ROWS = "superseded/"  # folder of a run's work: rows of the output for which the table held a newer item
OUTLIVED = "outlived/"  # the same of removals


def write(context: RunContext, rendering: Rendering, delta: Delta, writer: Writer) -> None:
    """Write the items that the output changes, keep its rejects, and save the run as ready to remove what it must.

    Raises:
        OutOfTime, WriteFailed: the last checkpoint stands, and the next invocation goes on from there.
    """
    run, services = context.run, context.services
    services.progress.stage(run, "write")
    order, late = context.run.order, is_late(context)
    counts, next_row, place = Counts(), run.next_row, run.place
    prefix = build_prefix(context.dataset.name, run.run)
    for first_row, chunk in context.chunks(next_row):
        outcome, counted, writes = _sort_out(context, delta, first_row, chunk.num_rows)
        if counted.rejected or writes:  # a chunk of which nothing changed is not even rendered
            rendered = rendering.chunk(chunk, first_row)
            write_rejects(services.s3, services.settings.bucket, prefix, rendering.engine, chunk, rendered, first_row)
            to_write = _select(rendered, outcome, writes)
        while place < writes:
            writer.put(to_write.slice(place, PUT_ROWS), order=order, expires_at=run.expires_at or 0, conditional=late)
            place += PUT_ROWS
            if place < writes:
                counts = _pause(context, writer, counts, first_row, place)
        counts, next_row, place = counts + counted, first_row + chunk.num_rows, 0
        services.progress.rows(context.run, next_row, context.run.counts.rejected + counts.rejected, writer.rate)
        counts = _pause(context, writer, counts, next_row, place)
    _checkpoint(context, writer, counts, next_row, 0)
    context.save(stage="remove", next_row=0)


def _pause(context: RunContext, writer: Writer, counts: Counts, next_row: int, place: int) -> Counts:
    """Save a checkpoint when it is due, and stop when time is up; return the counts that are not saved yet."""
    stop = context.step()
    if not stop and not context.due():
        return counts
    _checkpoint(context, writer, counts, next_row, place)
    if stop:
        run = context.run
        raise OutOfTime(f"dataset {run.dataset}, run {run.run}: wrote {next_row} of {run.rows} rows so far")
    return Counts()


def remove(context: RunContext, delta: Delta, writer: Writer, removed_until: int) -> None:
    """Write tombstones for what this run removes.

    Raises:
        OutOfTime, WriteFailed: as `write`.
    """
    services = context.services
    services.progress.stage(context.run, "remove")
    conditional = is_late(context)
    while (tombstones := delta.removals(context.run.next_row, context.run.next_row + PUT_ROWS - 1)).num_rows:
        tombstones = tombstones.append_column("body", pa.nulls(tombstones.num_rows, pa.string()))
        writer.put(tombstones, order=context.run.order, expires_at=removed_until, conditional=conditional)
        written = writer.flush()
        if written.superseded_rows:
            context.write_work(f"{OUTLIVED}{context.run.next_row:012d}.json", orjson.dumps(written.superseded_rows))
        done = context.run.next_row + tombstones.num_rows
        counts = context.run.counts + Counts(removed=written.written)
        context.save(next_row=done, counts=counts, units=context.run.units + written.units)
        if context.step():
            raise OutOfTime(f"dataset {context.run.dataset}, run {context.run.run}: removed {done} items so far")
    context.save(stage="close", next_row=0)


def is_late(context: RunContext) -> bool:
    """Return whether a newer run began to write before this one: only then must each write look at what is stored."""
    return context.run.order.text < context.lease.state.high_water


def _sort_out(context: RunContext, delta: Delta, first_row: int, rows: int) -> tuple[pa.ChunkedArray, Counts, int]:
    """Return how the rows of a chunk that have a key end, their counts but for what is written, and how many are."""
    outcome = delta.outcomes(first_row, first_row + rows - 1)["outcome"]
    found = {entry["values"]: entry["counts"] for entry in pc.value_counts(outcome).to_pylist()}
    good = sum(found.values()) - found.pop(REJECTED, 0)
    counts = Counts(rejected=rows - good)
    if context.run.born_expired:
        return outcome, counts + Counts(expired=good), 0
    counts += Counts(unchanged=found.get(UNCHANGED, 0), superseded=found.get(SUPERSEDED, 0))
    return outcome, counts, found.get(WRITE, 0)


def _select(rendered: pa.Table, outcome: pa.ChunkedArray, writes: int) -> pa.Table:
    """Return the rows of a chunk that are written, subjects interleaved."""
    if writes < rendered.num_rows:
        good = rendered.filter(pc.is_null(rendered["reason"]))
        rendered = good.filter(pc.equal(outcome.filter(pc.not_equal(outcome, REJECTED)), WRITE)) if writes else good[:0]
    return rendered.select(["row", "pk", "sk", "body"]).take(interleave(rendered["pk"]))


def _checkpoint(context: RunContext, writer: Writer, counts: Counts, next_row: int, place: int) -> None:
    """Wait for what is in flight, then save how far the run is: nothing before the checkpoint is ever done again.

    `next_row` begins a chunk, so that its rejects keep their file; `place` is how many of its writes are done, in their
    interleaved order, which is the same in every invocation. A slow table may take hours for a chunk.
    """
    written: Written = writer.flush()
    if written.superseded_rows:
        name = f"{SUPERSEDED_ROWS}{context.run.next_row:012d}-{context.run.place:08d}.json"
        context.write_work(name, orjson.dumps(written.superseded_rows))
    counts += Counts(written=written.written, superseded=written.superseded)
    counts += context.run.counts
    context.save(next_row=next_row, place=place, counts=counts, units=context.run.units + written.units)
