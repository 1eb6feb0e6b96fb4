"""The stages that publish: write the items that an output changes, remove those that it takes away."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from enrich.delta.changes import REJECTED, SUPERSEDED, UNCHANGED, WRITE
from enrich.errors import OutOfTime
from enrich.join.rejects import build_prefix, write_rejects
from enrich.ledger.records import Counts
from enrich.ledger.run_state import Stage
from enrich.run.context import RunContext
from enrich.write.item_size import count_units
from enrich.write.requests import interleave

SLICE_SECONDS = 10.0  # between two looks at the clock, at the present rate
FIRST_SLICE_UNITS = 100  # until the rate is known: 2 s of a table of 50 write units a second
LARGEST_SLICE_UNITS = 100_000
REMOVAL_ROWS = 10_000  # removals read at a time
SUPERSEDED_ROWS = "superseded/"  # folder of a run's work: rows of the output for which the table held a newer item
OUTLIVED = "outlived/"  # the same of removals


def write(context: RunContext) -> None:
    """Write the items that the output changes, keep its rejects, and save the run as ready to remove what it must.

    Raises:
        OutOfTime, WriteFailed: the last checkpoint stands, and the next invocation continues from there.
    """
    context.services.progress.stage(context.run, Stage.WRITE)
    publishing = _Publishing(context)
    for first_row, chunk in context.chunks(context.run.next_row):
        publishing.write_chunk(first_row, chunk)
    publishing.checkpoint(context.run.rows or 0, 0)
    context.save(replace(context.run, stage=Stage.REMOVE, next_row=0, place=0))


class _Publishing:
    """Writes chunk by chunk, from checkpoint to checkpoint."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._slices = _Slices(context)
        self._counts = Counts()  # of what is not saved yet, but for what is written
        self._place = context.run.place

    def write_chunk(self, first_row: int, chunk: pa.RecordBatch) -> None:
        """Write a chunk, and keep its rejects."""
        context = self._context
        outcome, counted, writes = _count_outcomes(context, first_row, chunk.num_rows)
        next_row = first_row + chunk.num_rows
        if counted.rejected or writes:  # a chunk of which nothing changed is not even rendered
            rendered = context.rendering.chunk(chunk, first_row)
            services, prefix = context.services, build_prefix(context.dataset.name, context.run.run)
            write_rejects(services.s3, services.settings.bucket, prefix, context.engine, chunk, rendered, first_row)
            for place in self._slices.put(_select(rendered, outcome, writes), self._place, context.run.expires_at or 0):
                if place < writes:
                    self._pause(first_row, place)
        self._counts += counted
        self._place = 0
        rejected = context.run.counts.rejected + self._counts.rejected
        context.services.progress.rows(context.run, next_row, rejected, context.writer.rate)
        self._pause(next_row, 0)

    def _pause(self, next_row: int, place: int) -> None:
        """Save a checkpoint when it is due, and stop when time is up."""
        context = self._context
        stop = context.step()
        if stop or context.due():
            self.checkpoint(next_row, place)
        if stop:
            run = context.run
            raise OutOfTime(f"dataset {run.dataset}, run {run.run}: wrote {next_row} of {run.rows} rows so far")

    def checkpoint(self, next_row: int, place: int) -> None:
        """Wait for what is in flight, then save how far the run is: nothing before a checkpoint is ever done again.

        `next_row` begins a chunk, so that its rejects keep their file; `place` is how many of its writes are done, in
        their interleaved order, which is the same in every invocation. A slow table may take hours for a chunk.
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


class _Slices:
    """Puts items in slices of about `SLICE_SECONDS` each, whatever the rate: after each the caller looks at the clock.

    The rate is that at which the table took the last slices, so a slice is as large as the next can be expected to be.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._units = FIRST_SLICE_UNITS

    def put(self, items: pa.Table, place: int, expires_at: int) -> Iterator[int]:
        """Put items (columns row, pk, sk, body) from a place on; give the place after each slice."""
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
        """Grow to at most the double; a slice that took too long makes the next one smaller at once."""
        if seconds > 0:
            self._units = min(2 * self._units, int(units / seconds * SLICE_SECONDS), LARGEST_SLICE_UNITS)
        else:
            self._units = min(2 * self._units, LARGEST_SLICE_UNITS)


def remove(context: RunContext) -> None:
    """Write tombstones for what this run removes.

    Raises:
        OutOfTime, WriteFailed: as `write`.
    """
    context.services.progress.stage(context.run, Stage.REMOVE)
    slices = _Slices(context)
    first = context.run.next_row
    while (removals := context.delta.removals(first, first + REMOVAL_ROWS - 1)).num_rows:
        tombstones = removals.append_column("body", pa.nulls(removals.num_rows, pa.string()))
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
    context.save(replace(context.run, stage=Stage.CLOSE, next_row=0))


def _count_outcomes(context: RunContext, first_row: int, rows: int) -> tuple[pa.ChunkedArray, Counts, int]:
    """Return how the rows of a chunk that have a key end, their counts but for what is written, and how many are."""
    outcome = context.delta.outcomes(first_row, first_row + rows - 1)["outcome"]
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
