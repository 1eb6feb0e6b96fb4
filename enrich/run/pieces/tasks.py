"""Execute one task in an executor: over one piece of an output, or over one bucket of the key space.

A task can be executed any number of times, also at the same time: all attempts read the same pinned parts, metadata and
decisions, and write the same bytes. An attempt writes files with its own name, and in the end what it returns to
`Task.folder`, for a driver that continues the run.
"""

from __future__ import annotations

import shutil
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from enrich.delta.buckets import Bucket
from enrich.delta.changes import Delta, Withdrawn, unpack
from enrich.delta.fingerprints import Target, read_fingerprints
from enrich.delta.notes import SCHEMA as NOTES
from enrich.delta.store import Store
from enrich.errors import Overwritten, Stopped
from enrich.join.rejects import add_reasons, build_prefix, count_reasons, write_rejects
from enrich.join.rendering import RenderedCache, reject_duplicates, render_chunk
from enrich.ledger.records import Counts, Run
from enrich.ledger.run_state import Kind
from enrich.read.pieces import Range, read_piece
from enrich.read.s3_object import Part
from enrich.release import RELEASE
from enrich.run.check import FATAL, check_constant, describe_reject, fail_fatal
from enrich.run.checker import Checker
from enrich.run.context import RunContext, provide
from enrich.run.failures import FAILURES
from enrich.run.pieces.exchange import Section, get_section, put_sections
from enrich.run.pieces.gather import Gathered, gather, hash_metadata, hash_predictions
from enrich.run.pieces.watched_lease import WatchedLease
from enrich.run.publish import OUTLIVED, REMOVAL_ROWS, SUPERSEDED_ROWS, OutputWriter, SliceWriter, build_tombstones
from enrich.services import Services

ATTEMPTS = "pieces/attempts/"  # folder of the attempts of tasks that write items: when they began and ended
_NO_KEY = 255  # no decision is packed so


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        kind: name of a function of `KINDS`.
        name: the name of the piece or the bucket, unique within its folder.
        folder: the place of its results, in the run's work folder.
        run: the run, as the driver has committed it.
        owner: the driver's name in the lease.
        release: release and version of the driver.
        units: write units per second for this task; None: found from throttling.
        data: the function's arguments.
        parts: those that its ranges are of, by number. An executor does not read the list of all: there can be 100,000.
    """

    kind: str
    name: str
    folder: str
    run: Run
    owner: str
    release: str
    units: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[int, Part] = field(default_factory=dict)


def name_release(services: Services) -> str:
    """Return the release and version of the code, which must be the same in all processes of a run."""
    return f"{RELEASE} {services.settings.version}"


def execute_task(services: Services, task: Task, open_context: Callable[..., RunContext]) -> dict[str, Any]:
    """Execute a task, and return its result: JSON values. An error that another attempt can't fix is a result too.

    Args:
        services: the services of this process; `owner` is the unique name of this attempt.
        task: the task.
        open_context: `enrich.run.lifecycle.open_context`, or one that keeps engines between tasks.

    Raises:
        Stopped, LeaseLost, or any other error: another attempt can succeed.
    """
    if task.release != name_release(services):
        raise Stopped(
            f"dataset {task.run.dataset}, run {task.run.run}: the driver is Larder {task.release}, and an executor is "
            f"Larder {name_release(services)}; start the job again with the same files on all machines"
        )
    services = replace(services, write_units=task.units)
    lease = WatchedLease(services.ledger, services.clock, task.run, task.owner, services.request_timeout)
    with tempfile.TemporaryDirectory(dir=services.directory) as scratch:
        context = open_context(services, lease, task.run, Path(scratch))
        if task.data.get("metadata"):
            context.gathered = Gathered(context.work, task.data["metadata"])
        try:
            with _recorded(context, task, lease), context:
                result = KINDS[task.kind](context, task)
        except Overwritten as error:
            result = {"error": "Overwritten", "message": str(error)}
        except FAILURES as error:
            result = {"error": "Failed", "message": str(error)}
        else:
            context.write_work(f"{task.folder}{task.name}.json", orjson.dumps(result))
    return result


@contextmanager
def _recorded(context: RunContext, task: Task, lease: WatchedLease) -> Iterator[None]:
    """Record that an attempt that writes items began, and that no request of it is in flight any more."""
    if task.kind not in WRITING:
        yield
        return
    name = f"{name_attempts(task.owner)}{task.kind}-{task.name}-{context.services.owner}"
    context.write_work(f"{name}.began", b"{}")
    # The driver lists the attempts after it has closed the run. One that it does not find reads that here: what it has
    # read of the lease until now can be older.
    lease.confirm()
    try:
        yield
    finally:
        # Not reached if the process is killed: then the driver waits until no write of it can be applied.
        context.write_work(f"{name}.ended", orjson.dumps({"quiet_at": lease.quiet_at}))


@contextmanager
def _within_budget(context: RunContext) -> Iterator[None]:
    """Stay until what was sent is within this task's share of the budget: the slot's next task has a share of its own.

    Without this, each of many small tasks could send a request at once.
    """
    try:
        yield
    finally:
        context.writer.rest()


def name_attempts(owner: str) -> str:
    """Return the folder of the attempts under one driver."""
    return f"{ATTEMPTS}{owner.replace('/', '-')}/"


# -- tasks over a piece


def read_ranges(context: RunContext, task: Task) -> Iterator[tuple[Range, int, pa.RecordBatch]]:
    """Read the chunks of a task's piece, as `read_piece` does."""
    piece = [Range(*each) for each in task.data["ranges"]]
    yield from read_piece(task.parts, context.dataset.source, piece, open_part=context.open_part)


def _read(context: RunContext, task: Task) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield a piece's chunks with their first row in the piece."""
    row = 0
    for _, _, chunk in read_ranges(context, task):
        yield row, chunk
        row += chunk.num_rows


def check(context: RunContext, task: Task) -> dict[str, Any]:
    """Render a piece; write its notes with a section per bucket, and one of the rows that have no item key.

    Rows are numbered within the piece: its first row is known only when all pieces are checked.
    """
    delta, statistics = context.open_delta(), context.open_statistics()
    rows, reasons, counts = 0, dict[str, int](), dict[int, int]()
    keyless = list[pa.ChunkedArray]()
    places = dict[int, tuple[Range, int]]()  # of chunks, by their first row

    def keep(first_row: int, chunk_rows: int, rendered: pa.Table) -> None:
        nonlocal reasons
        if checker.is_worth_keeping and context.kept is not None and context.kept.has_room():
            context.cache.keep(first_row, chunk_rows, rendered)
        is_keyless = pc.or_(pc.is_null(rendered["pk"]), pc.is_null(rendered["sk"]))
        keyless.append(rendered["row"].filter(is_keyless))
        reasons = add_reasons(reasons, count_reasons(rendered))
        if FATAL in reasons and context.run.kind is not Kind.REMOVAL:
            at, first_in_part = places[first_row]
            fail_fatal(context, rendered, task.parts[at.part].name, first_in_part - first_row, " of this part")

    checker = Checker(context, delta, statistics if context.is_measured else None, keep)
    name = f"pieces/notes/{task.name}-{context.services.owner}"
    _open_cache(context, name)
    for at, first_in_part, chunk in read_ranges(context, task):
        places[rows] = at, first_in_part
        checker.check(chunk, rows)
        check_constant(context, chunk, first_in_part, task.parts[at.part].name, " of this part")
        rows += chunk.num_rows
        counts[at.part] = counts.get(at.part, 0) + chunk.num_rows
        context.step()
    checker.flush()
    path = context.scratch / "sections"
    found = pa.chunked_array([chunk for each in keyless for chunk in each.chunks], pa.int64())
    offsets = put_sections(
        context.work, name, [*delta.distribute(task.data["bits"], context.lease.keep), pa.table({"row": found})], path
    )
    return {
        "rows": rows,
        "counts": {str(part): count for part, count in counts.items()},
        "reasons": reasons,
        "file": name,
        "offsets": offsets,
        "statistics": statistics.dump().decode() if context.is_measured else None,
    }


def _open_cache(context: RunContext, checked: str, shift: int = 0) -> Path | None:
    """Use the chunks that an attempt of a check has rendered, if it was on this machine; return their folder.

    `checked` is the attempt's file of notes; `shift` is added to their rows.
    """
    if context.kept is None:
        return None
    folder = context.kept.rendered(context, checked)
    context.cache = RenderedCache(folder, shift=shift)
    return folder


class PieceDecisions:
    """The decisions about the rows of one piece: a default for most rows, and exceptions from the buckets."""

    def __init__(self, context: RunContext, data: Mapping[str, Any]) -> None:
        """Read the exceptions.

        Args:
            context: the run's context.
            data: a task's data: first_row, default (an outcome), keyless, exceptions (sections), duplicates (rows).
        """
        self._default = data["default"]
        self._duplicates: Sequence[int] = data["duplicates"]
        packed: dict[int, int] = {}
        for section in data["exceptions"]:
            table = get_section(context.work, Section(*section))
            if table is not None:
                packed.update(zip(table["row"].to_pylist(), table["packed"].to_pylist(), strict=True))
        keyless = get_section(context.work, Section(*data["keyless"]))
        if keyless is not None:
            packed.update((data["first_row"] + row, _NO_KEY) for row in keyless["row"].to_pylist())
        self._rows = array("q", sorted(packed))
        self._packed = bytes(packed[row] for row in self._rows)

    def outcomes(self, first_row: int, last_row: int) -> pa.Table:
        """Return columns row, outcome and replaces of the rows of a range that have a key, in order."""
        packed = bytearray([self._default]) * (last_row - first_row + 1)
        for n in range(bisect_left(self._rows, first_row), bisect_left(self._rows, last_row + 1)):
            packed[self._rows[n] - first_row] = self._packed[n]
        table = pa.table(
            {
                "row": pa.arange(first_row, last_row + 1),
                "packed": pa.Array.from_buffers(pa.uint8(), len(packed), [None, pa.py_buffer(bytes(packed))]),
            }
        ).filter(pc.field("packed") != _NO_KEY)
        return unpack(table["row"], table["packed"])

    def duplicates(self) -> Sequence[int]:
        """Return the rows of the piece that share their item key with another row, in order."""
        return self._duplicates


class _PieceWriter(OutputWriter):
    """Writes a piece, whose only checkpoint is its end."""

    def _pause(self, next_row: int, place: int) -> None:
        del next_row, place
        self._context.step()

    def finish(self) -> dict[str, Any]:
        """Wait until all is written; return the counts."""
        written = self._context.writer.flush()
        counts = self._counts + Counts(written=written.written, superseded=written.superseded)
        return {"counts": asdict(counts), "units": written.units, "superseded": written.superseded_rows}


def write(context: RunContext, task: Task) -> dict[str, Any]:
    """Write the items of a piece that changed, and its rejects."""
    context.row_decisions = PieceDecisions(context, task.data)
    first_row = task.data["first_row"]
    checked, *_ = task.data["keyless"]
    rendered = _open_cache(context, checked, first_row)
    writer = _PieceWriter(context)
    with _within_budget(context):
        for row, chunk in _read(context, task):
            writer.write_chunk(first_row + row, chunk.num_rows, provide(chunk))
        written = writer.finish()
    if rendered is not None:
        shutil.rmtree(rendered, ignore_errors=True)
    return written


def keep_rejects(context: RunContext, task: Task) -> dict[str, Any]:
    """Write the rejects of a piece of an output that is not published; return one as an example."""
    services, example = context.services, ""
    prefix = build_prefix(context.run.dataset, context.run.run)
    for row, chunk in _read(context, task):
        first_row = task.data["first_row"] + row
        rendered = render_chunk(context.engine, chunk, first_row, digest=False)
        rendered = reject_duplicates(rendered, first_row, task.data["duplicates"])
        bucket = services.settings.bucket
        kept = write_rejects(services.s3, bucket, prefix, context.engine, chunk, rendered, first_row)
        example = example or (describe_reject(rendered) if kept else "")
        context.step()
    return {"example": example}


# -- tasks over a bucket


def _open_share(context: RunContext, task: Task) -> tuple[Delta, Bucket]:
    bucket, delta = Bucket(*task.data["bucket"]), context.open_delta()
    delta.take_share(task.data["bits"], bucket)
    return delta, bucket


def store_notes(context: RunContext, task: Task) -> dict[str, Any]:
    """Collect the notes of a bucket from all pieces, and find the duplicates among them."""
    delta, _ = _open_share(context, task)
    tables = [NOTES.empty_table()]
    for *section, first_row in task.data["sources"]:
        table = get_section(context.work, Section(*section))
        if table is not None and table.num_rows:
            tables.append(table.set_column(0, "row", pc.add(table["row"], first_row)).cast(NOTES))
        context.step()
    return {"duplicates": delta.store_notes(pa.concat_tables(tables))}


def _open_compared(context: RunContext, task: Task) -> tuple[Delta, Bucket]:
    """Open a share with the fingerprints that the run is compared with.

    Raises:
        Stopped: they differ from those that the driver has read.
    """
    delta, bucket = _open_share(context, task)
    store = Store(context.services.s3, context.services.settings.bucket)
    run = context.run
    delta.load_known(read_fingerprints(store, run.base, table_id=run.table_id or "", scratch=context.scratch))
    delta.adopt_decisions({}, **task.data["rules"])
    if delta.decided_id != task.data["decided_id"]:
        raise Stopped(f"dataset {run.dataset}, run {run.run}: the fingerprints {run.base} have changed since it began")
    return delta, bucket


def decide(context: RunContext, task: Task) -> dict[str, Any]:
    """Decide the rows of a bucket; write those that differ from the default, with a section per piece."""
    delta, bucket = _open_compared(context, task)
    delta.decide(**task.data["rules"])
    exceptions = delta.decided(bucket).filter(pc.field("packed") != task.data["default"]).combine_chunks()
    name, offsets = f"pieces/outcomes/{task.name}-{context.services.owner}", list[int]()
    if exceptions.num_rows:
        rows = array("q", exceptions["row"].to_pylist())
        cuts = [bisect_left(rows, first) for first in task.data["cuts"]]
        sections = (exceptions.slice(first, end - first) for first, end in pairwise(cuts))
        offsets = put_sections(context.work, name, sections, context.scratch / "sections")
    return {"why": delta.explain(), "file": name, "offsets": offsets}


def _withdrawn(data: Mapping[str, Any]) -> Withdrawn | None:
    return Withdrawn(*data["withdrawn"]) if data["withdrawn"] else None


def count_named(context: RunContext, task: Task) -> dict[str, Any]:
    """Count the live items of a bucket that a withdrawn output confirmed last: those that it names, and the others."""
    delta, _ = _open_compared(context, task)
    named, unnamed = delta.count_named(task.data["now"], Withdrawn(*task.data["withdrawn"]))
    return {"named": named, "unnamed": unnamed}


def choose_removals(context: RunContext, task: Task) -> dict[str, Any]:
    """Choose the live items of a bucket that the run removes."""
    delta, _ = _open_compared(context, task)
    data = task.data
    rows = delta.choose_removals(order=data["order"], now=data["now"], withdrawn=_withdrawn(data))
    return {"rows": rows, "expire_at": delta.removals_expire_at()}


def _adopt_removals(delta: Delta, data: Mapping[str, Any]) -> dict[Bucket, int]:
    rows = {Bucket(*bucket): count for *bucket, count in data["rows"]}
    delta.adopt_removals(rows, data["expire_at"], order=data["order"], now=data["now"], withdrawn=_withdrawn(data))
    return rows


def remove(context: RunContext, task: Task) -> dict[str, Any]:
    """Write the tombstones of a bucket."""
    delta, bucket = _open_compared(context, task)
    rows = _adopt_removals(delta, task.data)
    first = sum(count for each, count in rows.items() if each < bucket)
    end, slices = first + rows[bucket], SliceWriter(context)
    with _within_budget(context):
        while first < end:
            removals = delta.removals(first, min(end, first + REMOVAL_ROWS) - 1)
            for _ in slices.put(build_tombstones(context, removals), 0, task.data["removed_until"]):
                context.step()
            first += removals.num_rows
        written = context.writer.flush()
    return {"removed": written.written, "units": written.units, "outlived": written.superseded_rows}


def merge(context: RunContext, task: Task) -> dict[str, Any]:
    """Write the fingerprints of a bucket, which the driver then finds by their name."""
    delta, _ = _open_compared(context, task)
    data = task.data
    if data["rows"]:
        _adopt_removals(delta, data)
    store = Store(context.services.s3, context.services.settings.bucket)
    delta.merge(
        Target(store, *data["target"]),
        **data["leaves"],
        superseded=context.superseded_rows(SUPERSEDED_ROWS),
        outlived=context.superseded_rows(OUTLIVED) if delta.removals_expire_at() else [],
    )
    return {}


KINDS: dict[str, Callable[[RunContext, Task], dict[str, Any]]] = {
    each.__name__: each
    for each in (
        hash_predictions,
        hash_metadata,
        gather,
        check,
        store_notes,
        keep_rejects,
        decide,
        count_named,
        choose_removals,
        write,
        remove,
        merge,
    )
}
WRITING = {write.__name__, remove.__name__}
