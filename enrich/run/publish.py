"""The publishing stages: write the items that an output changes, and tombstones for those that it removes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from enrich.delta.changes import REJECTED, SUPERSEDED, UNCHANGED, WRITE
from enrich.errors import Failed, OutOfTime
from enrich.join.rejects import build_prefix, write_rejects
from enrich.ledger.records import Counts
from enrich.ledger.run_state import Stage
from enrich.run.context import RunContext
from enrich.write.item_size import count_units
from enrich.write.requests import interleave

SLICE_SECONDS = 10.0  # between two checks of the clock, at the current rate
FIRST_SLICE_UNITS = 100  # until the rate is known: 2 s for a table with 50 write units per second
LARGEST_SLICE_UNITS = 100_000
REMOVAL_ROWS = 10_000  # removals read at a time
SUPERSEDED_ROWS = "superseded/"  # folder in a run's work folder: rows for which the table had a newer item
OUTLIVED = "outlived/"  # the same, for removals


def write_items(context: RunContext) -> None:
    """Write the items that the output changes, and its rejects; the next stage is `remove`.

    Raises:
        OutOfTime, WriteFailed: the next invocation continues from the last checkpoint.
    """
    context.services.progress.stage(context.run, Stage.WRITE)
    context.passes.write()
    context.save(replace(context.run, stage=Stage.REMOVE, next_row=0, place=0))


def write_output(context: RunContext) -> None:
    """Write the items of all chunks from the checkpoint on, and save checkpoints."""
    writer = OutputWriter(context)
    for first_row, rows, read in context.chunks_on_demand(context.run.next_row):
        writer.write_chunk(first_row, rows, read)
    writer.checkpoint(context.run.rows or 0, 0)


class OutputWriter:
    """Writes an output chunk by chunk, and saves checkpoints."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._slices = SliceWriter(context)
        self._counts = Counts()  # since the last checkpoint, without `written`
        self._place = context.run.place

    def write_chunk(self, first_row: int, rows: int, read: Callable[[], pa.RecordBatch]) -> None:
        """Write the changed items and the rejects of a chunk; `read` returns it."""
        context = self._context
        decided, counted, writes = _count_outcomes(context, first_row, rows)
        next_row = first_row + rows
        if counted.rejected or writes:  # an unchanged chunk is not rendered
            needed = _find_needed(decided, first_row, rows, written=writes > 0)
            rendered = context.renderer.render_checked(read, first_row, needed)
            if counted.rejected:
                services, prefix = context.services, build_prefix(context.dataset.name, context.run.run)
                bucket = services.settings.bucket
                write_rejects(services.s3, bucket, prefix, context.engine, read(), rendered, first_row)
            for place in self._slices.put(_select(rendered, decided, writes), self._place, context.run.expires_at or 0):
                if place < writes:
                    self._pause(first_row, place)
        self._counts += counted
        self._place = 0
        rejected = context.run.counts.rejected + self._counts.rejected
        context.services.progress.rows(context.run, next_row, rejected, context.writer.rate)
        self._pause(next_row, 0)

    def _pause(self, next_row: int, place: int) -> None:
        """Save a checkpoint when one is due, and stop when time is up."""
        context = self._context
        stop = context.step()
        if stop or context.due():
            self.checkpoint(next_row, place)
        if stop:
            run = context.run
            raise OutOfTime(f"dataset {run.dataset}, run {run.run}: wrote {next_row} of {run.rows} rows so far")

    def checkpoint(self, next_row: int, place: int) -> None:
        """Wait for the requests in flight, then save the position: work before a checkpoint is never repeated.

        Args:
            next_row: first row of a chunk, since the rejects of a chunk are one file.
            place: number of the chunk's completed writes, in their interleaved order, which is the same in every
                invocation. A slow table can take hours for one chunk.
        """
        context, run = self._context, self._context.run
        written = context.writer.flush()
        if written.superseded_rows:
            name = f"{SUPERSEDED_ROWS}{run.next_row:012d}-{run.place:08d}.json"
            context.write_work(name, orjson.dumps(written.superseded_rows))
        counts = run.counts + self._counts + Counts(written=written.written, superseded=written.superseded)
        units = run.units + written.units
        context.save(replace(run, next_row=next_row, place=place, counts=counts, units=units))
        self._counts = Counts()


class SliceWriter:
    """Writes items in slices of about `SLICE_SECONDS` each, so that the caller can check the clock in between.

    The size of a slice depends on the rate at which the table accepted the previous slice.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._units = FIRST_SLICE_UNITS

    def put(self, items: pa.Table, place: int, expires_at: int) -> Iterator[int]:
        """Write items from `place` on; yield the place reached after each slice.

        Args:
            items: columns row, pk, sk, body, rank, entries.
            place: number of items that are written already.
            expires_at: epoch seconds.
        """
        context = self._context
        ends = pc.cumulative_sum(count_units(items)).to_pylist()
        while place < len(ends):
            began = context.services.clock.now()
            done = ends[place - 1] if place else 0
            end = bisect_right(ends, done + self._units, lo=place + 1)
            context.writer.put(
                items.slice(place, end - place),
                order=context.run.order,
                expires_at=expires_at,
                conditional=context.is_late,
            )
            self._adapt(ends[end - 1] - done, context.services.clock.now() - began)
            place = end
            yield place

    def _adapt(self, units: int, seconds: float) -> None:
        """Set the size of the next slice from the rate of the last one: at most doubled, and at least 1."""
        at_rate = units / seconds * SLICE_SECONDS if seconds > 0 else LARGEST_SLICE_UNITS
        self._units = max(1, int(min(2 * self._units, at_rate, LARGEST_SLICE_UNITS)))


def remove_items(context: RunContext) -> None:
    """Write tombstones for the items that this run removes.

    Raises:
        OutOfTime, WriteFailed: as in `write_items`.
    """
    context.services.progress.stage(context.run, Stage.REMOVE)
    context.passes.remove()
    context.save(replace(context.run, stage=Stage.CLOSE, next_row=0))


def remove_all(context: RunContext) -> None:
    """Write all tombstones from the checkpoint on, and save checkpoints."""
    slices = SliceWriter(context)
    first = context.run.next_row
    while (removals := context.delta.removals(first, first + REMOVAL_ROWS - 1)).num_rows:
        tombstones = build_tombstones(context, removals)
        for place in slices.put(tombstones, 0, context.decided.removed_until):
            written = context.writer.flush()
            run = context.run
            if written.superseded_rows:
                context.write_work(f"{OUTLIVED}{run.next_row:012d}.json", orjson.dumps(written.superseded_rows))
            counts, units = run.counts + Counts(removed=written.written), run.units + written.units
            context.save(replace(run, next_row=first + place, counts=counts, units=units))
            if context.step():
                raise OutOfTime(f"dataset {run.dataset}, run {run.run}: removed {first + place} items so far")
        first += removals.num_rows


def build_tombstones(context: RunContext, removals: pa.Table) -> pa.Table:
    """Return removals, with columns row, pk and sk, as `SliceWriter.put` takes them."""
    nulls = pa.nulls(removals.num_rows, pa.string())
    entries = pa.repeat(pa.scalar(int(bool(context.dataset.rank_tag)), pa.int64()), removals.num_rows)
    return removals.append_column("body", nulls).append_column("rank", nulls).append_column("entries", entries)


def _count_outcomes(context: RunContext, first_row: int, rows: int) -> tuple[pa.Table, Counts, int]:
    """Return what was decided of a chunk's rows that have a key, the counts without `written`, and the writes."""
    decided = context.decided_rows.outcomes(first_row, first_row + rows - 1)
    found = {entry["values"]: entry["counts"] for entry in pc.value_counts(decided["outcome"]).to_pylist()}
    good = sum(found.values()) - found.pop(REJECTED, 0)
    counts = Counts(rejected=rows - good)
    if context.run.born_expired:
        return decided, counts + Counts(expired=good), 0
    counts += Counts(unchanged=found.get(UNCHANGED, 0), superseded=found.get(SUPERSEDED, 0))
    return decided, counts, found.get(WRITE, 0)


def _find_needed(decided: pa.Table, first_row: int, rows: int, *, written: bool) -> pa.Array:
    """Return the numbers of the rows of a chunk that are written or rejected; those without a key are not decided."""
    idle = [UNCHANGED, SUPERSEDED] if written else [UNCHANGED, SUPERSEDED, WRITE]
    is_idle = pc.is_in(decided["outcome"], pa.array(idle, decided["outcome"].type))
    numbers = pa.arange(first_row, first_row + rows)
    return numbers.filter(pc.invert(pc.is_in(numbers, decided["row"].filter(is_idle).combine_chunks())))


def _select(rendered: pa.Table, decided: pa.Table, writes: int) -> pa.Table:
    """Return the rows of a chunk to write, with subjects interleaved: columns row, pk, sk, body, rank, entries."""
    if writes < decided.num_rows:
        decided = decided.filter(pc.equal(decided["outcome"], WRITE)) if writes else decided[:0]
    if writes < rendered.num_rows:
        rendered = rendered.filter(pc.is_in(rendered["row"], decided["row"].combine_chunks()))
    # of the index: the entry is written, and one of another rank is removed
    entries = pc.if_else(pc.is_null(rendered["rank"]), 0, pc.if_else(decided["replaces"], 2, 1))
    items = rendered.select(["row", "pk", "sk", "body", "rank"]).append_column("entries", entries.cast(pa.int64()))
    if writes and items["body"].null_count:  # an item without a body is a tombstone
        row = rendered["row"].filter(pc.is_null(rendered["body"]))[0]
        raise Failed(
            f"row {row} was good when it was checked, and is rejected now that it is rendered again: the dataset's "
            "`derive` step does not return the same for the same rows; mend it, then replay the run"
        )
    return items.take(interleave(items["pk"]))
