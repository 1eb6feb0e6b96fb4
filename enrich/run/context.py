"""The state that a run's stages share within one invocation, and the run's checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, Self

import orjson
import pyarrow as pa

from enrich.dataset.definition import Dataset
from enrich.delta.buckets import count_bits
from enrich.delta.changes import Delta
from enrich.delta.store import Store
from enrich.errors import Failed, LeaseLost, OutOfTime
from enrich.guard.statistics import Statistics
from enrich.join.engine import MAX_METADATA_BYTES, Engine
from enrich.join.rendering import CheckedRenderer, RenderedCache
from enrich.ledger.lease import Lease
from enrich.ledger.records import DatasetState, Pending, Record, Run, bump
from enrich.ledger.run_state import EngineKind, Kind, RunState, Stage
from enrich.ledger.store import Delete
from enrich.outbox.outbox import report
from enrich.read.chunks import read_chunks
from enrich.read.metadata import read_metadata
from enrich.read.s3_object import Part, PartFile
from enrich.run.parts import load_parts, locate_parts
from enrich.s3 import exists, get, put
from enrich.services import Services
from enrich.write.writer import Budget, Writer

if TYPE_CHECKING:
    from enrich.run.passes import Passes
    from enrich.run.pieces.gather import Gathered
    from enrich.run.pieces.kept import Kept


class Decision(NamedTuple):
    """What the publishing stages depend on: fixed when the run began to write, and equal in all its invocations."""

    table_id: str
    removed_until: int  # epoch seconds at which the run's tombstones expire


class RowDecisions(Protocol):
    """Decisions about rows: `Delta`, or those of one piece."""

    def outcomes(self, first_row: int, last_row: int) -> pa.Table:
        """Return columns row, outcome and replaces of the rows of a range that have a key, in order."""

    def duplicates(self) -> Sequence[int]:
        """Return the rows that share their item key with another row, in order."""


@dataclass(slots=True)
class RunContext:
    """A run under way. Resources open on first use and are closed on exit.

    Attributes:
        row_decisions: decisions for one piece; None: those of `delta`.
        kept: what this process keeps between the tasks of a job; None: nothing.
        gathered: the rows that the engine gets of large metadata; None: all rows of each.
    """

    services: Services
    lease: Lease
    dataset: Dataset
    run: Run
    scratch: Path  # folder for this run only, deleted when the invocation is done with the run
    saved_at: float = 0.0
    decision: Decision | None = None
    row_decisions: RowDecisions | None = None
    kept: Kept | None = None
    gathered: Gathered | None = None
    _passes: Passes | None = None
    _opened: ExitStack = field(default_factory=ExitStack)
    _engine: Engine | None = None
    _delta: Delta | None = None
    _cache: RenderedCache | None = None
    _renderer: CheckedRenderer | None = None
    _writer: Writer | None = None
    _statistics: Statistics | None = None
    _slowest_step: float = 0.0
    _step_began: float = 0.0

    def __enter__(self) -> Self:
        self._step_began = self.services.clock.now()
        self._opened.callback(lambda: self.passes.settle())  # noqa: PLW0108 - `passes` is set after this
        return self

    def __exit__(self, *_: object) -> None:
        self._engine = self._delta = self._cache = self._renderer = self._writer = self.decision = None
        self._statistics = None
        self._opened.close()

    # -- resources that the stages share, opened on first use

    @property
    def engine(self) -> Engine:
        """The compiled dataset with this run's metadata loaded."""
        if self._engine is None:
            if self.kept is not None:
                self._engine = self.kept.engine(self)
            else:
                self._engine = self._opened.enter_context(self.compile(self.scratch))
        return self._engine

    def compile(self, directory: Path) -> Engine:
        """Compile the dataset, with this run's metadata; the caller closes the engine. `directory`: for its files."""
        gathered = self.gathered.read() if self.gathered else {}
        limit = MAX_METADATA_BYTES
        metadata = read_metadata(self.services.s3, self.run.metadata, max_bytes=limit, gathered=gathered)
        return Engine(self.dataset, metadata, directory=directory, gathered=gathered)

    @property
    def delta(self) -> Delta:
        """The keys and digests of the rows checked so far, in this invocation and earlier ones."""
        if self._delta is None:
            delta = self.open_delta()
            is_stored = self.run.engine is EngineKind.SPARK or count_bits(self.run.rows or 0)
            if not is_stored or not delta.restore():
                self._import_noted(delta)
            if self.run.rows is not None:
                delta.complete_notes(self.lease.keep)
            self._delta = delta
        return self._delta

    @delta.setter
    def delta(self, delta: Delta) -> None:
        self._delta = delta

    def open_delta(self) -> Delta:
        """Open a delta of this run without notes; it is closed with the context."""
        keep_keys = self.dataset.source.output == "snapshot" or self.run.kind is Kind.REMOVAL
        run = self.run
        again = f"{' approved' * run.approved}{f' {run.rules}' if run.rules else ''}"
        rests_on = f"{run.order.text} {sorted(run.metadata.items())}{again}"
        once = self.dataset.equal_rows == "once"
        delta = Delta(self.scratch, self.work, rests_on=rests_on, keep_keys=keep_keys, once=once)
        return self._opened.enter_context(delta)

    @property
    def passes(self) -> Passes:
        """How this process executes the passes over the output."""
        if self._passes is None:
            raise RuntimeError(f"dataset {self.run.dataset}, run {self.run.run}: open_context sets the passes")
        return self._passes

    @passes.setter
    def passes(self, passes: Passes) -> None:
        self._passes = passes

    @property
    def decided_rows(self) -> RowDecisions:
        """What was decided of the rows that this process writes."""
        return self.row_decisions or self.delta

    @property
    def is_measured(self) -> bool:
        """Whether statistics of the output are taken: the dataset has guards, and the run publishes a whole output."""
        return bool(self.dataset.guards) and self.run.kind.is_over_output

    @property
    def statistics(self) -> Statistics:
        """The statistics of the rows checked so far, in this invocation and earlier ones.

        Raises:
            Failed: those of earlier invocations are missing.
        """
        if self._statistics is None:
            statistics = self.open_statistics()
            checked = self.run.next_row if self.run.rows is None else self.run.rows
            name = _name_statistics(checked)
            there = not checked or exists(self.services.s3, self.services.settings.bucket, self.work_key(name))
            if not there or (checked and not statistics.load(self.read_work(name))):
                raise Failed(
                    f"dataset {self.run.dataset}, run {self.run.run}: the statistics of its first {checked} rows, "
                    f"s3://{self.services.settings.bucket}/{self.work_key(name)}, are missing or of other values; run "
                    f"`./larder replay {self.run.dataset} {self.run.run}`"
                )
            self._statistics = statistics
        return self._statistics

    def open_statistics(self) -> Statistics:
        """Return statistics without rows, of the values that the dataset's guards measure."""
        return Statistics(dict.fromkeys(guard.of for guard in self.dataset.guards if guard.of is not None))

    @property
    def cache(self) -> RenderedCache:
        """The chunks that the check stage rendered in this invocation, or on this machine."""
        if self._cache is None:
            self._cache = RenderedCache(self._folder("rendered"))
        return self._cache

    @cache.setter
    def cache(self, cache: RenderedCache) -> None:
        self._cache = cache

    @property
    def renderer(self) -> CheckedRenderer:
        """Renders the chunks of the checked output."""
        if self._renderer is None:
            self._renderer = CheckedRenderer(self.engine, self.cache, self.decided_rows.duplicates())
        return self._renderer

    @property
    def writer(self) -> Writer:
        """The writer of this run's items; no request is in flight after the context exits."""
        if self._writer is None:
            services = self.services
            self._writer = Writer(
                services.open_transport(self.lease.timeout),
                services.settings.table,
                clock=services.clock.now,
                random=services.random.random,
                budget=Budget(services.write_units),
                stop_at=lambda: self.lease.stop_at,
                keep_lease=self.lease.keep,
            )
            self._opened.callback(self._settle, self._writer)
        return self._writer

    def _settle(self, writer: Writer) -> None:
        writer.settle()  # S3 may have failed while writes were in flight
        if writer.unknown_at is not None:
            self.lease.note_unknown(writer.unknown_at)

    def _folder(self, name: str) -> Path:
        (self.scratch / name).mkdir(exist_ok=True)
        return self.scratch / name

    # -- the checkpoint

    def begin(self) -> None:
        """Record that this invocation executes the run."""
        services, run = self.services, self.run
        begun = replace(
            run,
            state=RunState.RUNNING,
            owner=services.owner,
            attempts=run.attempts + 1,
            started_ms=run.started_ms or int(services.clock.now() * 1000),
            error=None,
            code_version=services.settings.version,
        )
        self.save(begun, *(report(services, begun) if not run.attempts else []))

    def save(self, run: Run, *records: Record | Delete, dataset: DatasetState | None = None) -> None:
        """Commit the changed run together with other records and the dataset's changed state.

        Raises:
            LeaseLost: this invocation no longer holds the dataset's lease.
        """
        self.lease.commit(dataset or self.lease.state, run, *records)
        self.run = bump(run)
        self.saved_at = self.services.clock.now()

    def step(self) -> bool:
        """Renew the lease if needed, after a step of a stage; return whether another step could take too long."""
        now = self.services.clock.now()
        self._slowest_step = max(self._slowest_step, now - self._step_began)
        self._step_began = now
        self.lease.keep()
        return self.ends_within(1.5 * self._slowest_step + self.lease.timeout)  # the step, then the requests in flight

    def ends_within(self, seconds: float) -> bool:
        """Return whether the invocation must end its work on this run within this many seconds."""
        return not self.lease.renews and self.services.clock.now() + seconds > self.lease.stop_at

    def pause(self) -> None:
        """Renew the lease if needed, after each bucket of the key space.

        Raises:
            OutOfTime: another bucket could take too long. The files of the finished buckets are the checkpoint.
        """
        if self.step():
            raise OutOfTime(f"dataset {self.run.dataset}, run {self.run.run}: finished some buckets of the key space")

    @property
    def decided(self) -> Decision:
        """The decision, for the stages that need one."""
        if self.decision is None:
            raise RuntimeError(
                f"dataset {self.run.dataset}, run {self.run.run}: a publishing stage ran before `decide`"
            )
        return self.decision

    def due(self) -> bool:
        """Return whether it is time for a checkpoint."""
        return self.services.clock.now() - self.saved_at >= self.services.checkpoint_seconds

    @property
    def pending(self) -> Pending:
        """The record that marks this run as not closed."""
        record = self.services.ledger.get_pending(self.run.dataset, self.run.run)
        if record is None:
            raise LeaseLost(f"dataset {self.run.dataset}: another invocation closed run {self.run.run}")
        return record

    @property
    def is_late(self) -> bool:
        """Whether a newer run has begun to write: only then are writes conditional on the stored order."""
        return self.run.order.text < self.lease.state.high_water

    # -- the output, and the run's work folder

    def chunks(self, first_row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the pinned output's chunks with their first row numbers, from `first_row` on."""
        self._step_began = self.services.clock.now()
        yield from read_chunks(self.parts, self.dataset.source, open_part=self.open_part, start_row=first_row)

    def chunks_on_demand(self, first_row: int) -> Iterator[tuple[int, int, Callable[[], pa.RecordBatch]]]:
        """Yield the first row and the number of rows of each chunk, from `first_row` on, and what returns the chunk.

        Where this invocation has checked all chunks, only those are read again that are asked for.
        """
        checked = [(first, rows) for first, rows in self.cache.checked if first >= first_row]
        if not checked or checked[0][0] != first_row or sum(rows for _, rows in checked) + first_row != self.run.rows:
            for first, chunk in self.chunks(first_row):
                yield first, chunk.num_rows, provide(chunk)
            return
        self._step_began = self.services.clock.now()
        reader: Iterator[tuple[int, pa.RecordBatch]] | None = None

        def read(wanted: int) -> pa.RecordBatch:
            nonlocal reader
            reader = reader or read_chunks(self.parts, self.dataset.source, open_part=self.open_part, start_row=wanted)
            return next(chunk for first, chunk in reader if first == wanted)

        for first, rows in checked:
            yield first, rows, cache(partial(read, first))

    @property
    def parts(self) -> list[Part]:
        """The parts of the pinned output.

        Raises:
            Failed: their list was deleted, since the run waited for too long.
        """
        parts = load_parts(self.services, self.run.dataset, self.run.run)
        if parts is None:
            run, bucket = self.run, self.services.settings.bucket
            raise Failed(
                f"dataset {run.dataset}, run {run.run}: the list of its parts, s3://{bucket}/"
                f"{locate_parts(run.dataset, run.run)}, has been deleted; run `./larder replay {run.dataset} {run.run}`"
            )
        return parts

    def open_part(self, part: Part) -> BinaryIO:
        """Open a part of the pinned output."""
        return BufferedReader(PartFile(self.services.s3, part), buffer_size=1 << 16)

    def export_checked(self, first_row: int, next_row: int) -> None:
        """Save what was noted of a range of rows, and the statistics up to its end, for the next invocation."""
        if next_row > first_row:
            self.work.put(f"{self._noted}{first_row:012d}-{next_row - 1:012d}.parquet", self.delta.export_noted())
            if self.is_measured:
                self.export_statistics(next_row)

    def export_statistics(self, next_row: int) -> None:
        """Save the statistics of all rows before one, for the next invocation."""
        self.write_work(_name_statistics(next_row), self.statistics.dump())

    def _import_noted(self, delta: Delta) -> None:
        """Import the keys and digests that earlier invocations saved, up to the checkpoint, each row once.

        An invocation that died between a file and its checkpoint leaves a file that overlaps with later ones. The
        overlapping rows are equal.

        Raises:
            Failed: a file is missing.
        """
        until = self.run.next_row if self.run.stage is Stage.CHECK and self.run.rows is None else self.run.rows or 0
        next_row = 0
        for name in sorted(self.work.list(self._noted)):
            first, last = map(int, name.removeprefix(self._noted).removesuffix(".parquet").split("-"))
            if first <= next_row <= last and next_row < until:
                path = self.scratch / "import.parquet"
                self.work.get(name, path)
                delta.import_noted(path, next_row, min(last, until - 1))
                next_row = min(last, until - 1) + 1
                self.lease.keep()
        if next_row < until:
            raise Failed(
                f"dataset {self.run.dataset}, run {self.run.run}: the keys and digests of rows {next_row} and up are "
                f"missing from s3://{self.services.settings.bucket}/{self.work_key(self._noted)}; replay the run"
            )

    def superseded_rows(self, folder: str) -> list[int]:
        """Return the row numbers, of the output or of the removals, for which the table had a newer item."""
        rows: set[int] = set()
        for name in self.work.list(folder):
            rows.update(orjson.loads(self.read_work(name)))
        return sorted(rows)

    @property
    def _noted(self) -> str:
        """The folder of the keys and digests of ranges of rows."""
        return name_notes(self.run)

    @property
    def work(self) -> Store:
        """This run's work folder, for files that are too large for memory."""
        return Store(self.services.s3, self.services.settings.bucket, self.work_key(""))

    def read_work(self, name: str) -> bytes:
        """Read a file of this run's work folder."""
        return get(self.services.s3, self.services.settings.bucket, self.work_key(name))

    def write_work(self, name: str, content: bytes) -> None:
        """Write a file of this run's work folder."""
        put(self.services.s3, self.services.settings.bucket, self.work_key(name), content)

    def work_key(self, name: str) -> str:
        """Return the object key of a file in this run's work folder."""
        return f"{build_work_prefix(self.dataset.name, self.run.run)}{name}"


def provide(chunk: pa.RecordBatch) -> Callable[[], pa.RecordBatch]:
    """Return a function that returns a chunk which was read already."""
    return lambda: chunk


def name_notes(run: Run) -> str:
    """Return the folder, in a run's work folder, of the keys and digests of ranges of rows.

    A run that begins again, because it was approved or its dataset has changed, has notes of its own.
    """
    return f"{'approved/' * run.approved}noted{f'-{run.rules}' if run.rules else ''}/"


def build_work_prefix(dataset: str, run: int) -> str:
    """Return the prefix of the files that a run saves for its later invocations."""
    return f"work/{dataset}/{run:08d}/"


def _name_statistics(next_row: int) -> str:
    """Return the name, in the work folder, of the statistics of all rows before one."""
    return f"statistics/{next_row:012d}.json"
