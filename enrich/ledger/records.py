"""The ledger's records: one per run, per output seen and per run that is not closed, and each dataset's state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from enrich.ledger.run_state import EngineKind, Kind, RunState, Stage
from enrich.release import RELEASE
from serve.item import Order

R = TypeVar("R", bound="Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Predictions by outcome; the first five add up to what was read."""

    written: int = 0
    unchanged: int = 0
    superseded: int = 0
    expired: int = 0
    rejected: int = 0
    removed: int = 0  # tombstones of a snapshot or a withdrawal: items, not predictions

    @property
    def read(self) -> int:
        """The number of predictions that have an outcome."""
        return self.written + self.unchanged + self.superseded + self.expired + self.rejected

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The members of every record: its dataset, and the version and release of the record itself."""

    dataset: str
    version: int = field(default=0, compare=False)  # the version that was read; 0: not in the ledger yet
    release: str | None = field(default=None, compare=False)  # release of Larder that wrote it; None: before 0.1.0

    @property
    def sk(self) -> str:
        """The sort key."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetState(Record):
    """The state that a dataset keeps between runs."""

    generation: int = 1
    high_water: str = ""  # text of the highest order that began to write
    lease_owner: str | None = None
    lease_until_ms: int = 0
    open_run: int | None = None  # run that has begun to write and is not closed: the fingerprints are incomplete
    snapshot: str = ""  # text of the highest order of a closed snapshot: older runs add no items
    fingerprints: str | None = None  # object key of the newest fingerprints
    table_id: str | None = None  # id of the table that they describe
    rebuilt: str | None = None  # `name_rebuild` of the fingerprints for which every live output was queued again
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> {location, sql_digest, fetched_ms}
    pruned_ms: int = 0  # latest arrival of an output whose records were deleted: the sweep ignores objects up to then

    @property
    def sk(self) -> str:
        """The sort key."""
        return "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter(Record):
    """The next run number of a dataset; not part of its state, which only the holder of the lease can change."""

    next_run: int = 1

    @property
    def sk(self) -> str:
        """The sort key."""
        return "counter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Record):
    """One pass over one output, from when it is queued.

    `stage`, `next_row` and `place` are the checkpoint.
    """

    run: int
    kind: Kind = Kind.OUTPUT
    bucket: str
    object_key: str
    identity: str
    arrived_ms: int
    parts: int = 1
    size: int = 0
    of_run: int | None = None  # number of the run that this one repeats or takes back
    full: bool = False  # write every item, regardless of the fingerprints
    generation: int | None = None
    as_of_ms: int | None = None
    expires_at: int | None = None
    state: RunState = RunState.PENDING
    stage: Stage = Stage.PIN
    next_row: int = 0
    # Number of completed writes of the chunk that begins at next_row. While a check writes rejects: the next row.
    place: int = 0
    rows: int | None = None  # known after the check stage
    decided_ms: int | None = None  # when it began to write: the time at which unchanged and expired are decided
    base: str | None = None  # object key of the fingerprints that its rows are compared with
    table_id: str | None = None  # id of the table that it began to write to
    counts: Counts = field(default_factory=Counts)
    units: int = 0  # write units, computed from the sizes of its items
    reasons: dict[str, int] = field(default_factory=dict)  # reject reason -> predictions
    because: dict[str, int] = field(default_factory=dict)  # why items are written (new, changed, ...) -> predictions
    metadata: dict[str, str] = field(default_factory=dict)  # name -> location of the rows to join
    owner: str | None = None
    attempts: int = 0
    failure: str | None = None  # how and where its last invocations ended, if they made no progress
    failures: int = 0  # number of consecutive invocations that ended so
    queued_ms: int = 0
    started_ms: int | None = None
    ended_ms: int | None = None
    measured: int | None = None  # predictions that its statistics describe; None: it has no statistics
    shifts: list[str] = field(default_factory=list)  # the guards that it failed, a sentence each
    held_ms: int | None = None  # when it was held
    approved: bool = False  # an operator approved it: it is published although a guard failed
    error: str | None = None
    code_version: str | None = None
    engine: EngineKind | None = None  # None: not chosen yet, or written by a release without this choice
    pieces: int = 0  # by a job: how many it has processed, in all stages
    # Of a piece, as the run's first driver cut its output: all others cut it so, since results and files of rejects are
    # named by pieces.
    piece_bytes: int | None = None
    # Identifies the definition of the dataset that it was begun with; None: not begun, or by a release without this.
    rules: str | None = None
    begun_again: int = 0  # how often, because its dataset was changed

    @property
    def sk(self) -> str:
        """The sort key."""
        return f"run#{self.run:08d}"

    @property
    def order(self) -> Order:
        """The order.

        Raises:
            ValueError: the run has none before its stage `order`.
        """
        if self.generation is None or self.as_of_ms is None:
            raise ValueError(f"dataset {self.dataset}, run {self.run}: it has no order yet")
        return Order(self.generation, self.as_of_ms, self.run)

    @property
    def born_expired(self) -> bool:
        """Whether its items had expired when it began to write; fixed then, so that all its invocations agree."""
        return (self.expires_at or 0) * 1000 <= (self.decided_ms or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenOutput(Record):
    """The run of an output, by the output's identity; a repeated event finds the existing run here."""

    identity: str
    run: int
    object_key: str
    etag: str
    arrived_ms: int
    listing: str = ""  # of an output with a marker: digest of its parts as a listing shows them

    @property
    def sk(self) -> str:
        """The sort key."""
        return f"output#{self.identity}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending(Record):
    """A run that is not closed."""

    run: int
    kind: Kind = Kind.OUTPUT
    queued_ms: int

    @property
    def sk(self) -> str:
        """The sort key."""
        return f"pending#{self.run:08d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held(Record):
    """A run that is held: it waits for an operator, and other runs do not wait for it."""

    run: int
    held_ms: int

    @property
    def sk(self) -> str:
        """The sort key."""
        return f"held#{self.run:08d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics(Record):
    """Statistics of the output of a run, and the verdicts of the guards, as JSON texts."""

    run: int
    summary: str = ""  # an `enrich.guard.statistics.Summary`
    verdicts: str = "[]"  # a list of `enrich.guard.evaluate.Verdict`
    reference: int | None = None  # the number of the run that it was compared with

    @property
    def sk(self) -> str:
        """The sort key."""
        return f"statistics#{self.run:08d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry(Record):
    """Events about a change of a run's state, kept from the commit of the change until the bus has accepted them."""

    run: int
    number: int  # the run's version after the commit, so it grows with each change
    at_ms: int
    events: list[dict[str, str]]  # kind and detail of each

    @property
    def sk(self) -> str:
        """The sort key."""
        return f"outbox#{self.run:08d}#{self.number:08d}"


def name_rebuild(fingerprints: str | None, table_id: str) -> str:
    """Return the name of the rebuild of a table that fingerprints do not describe; each name is rebuilt once."""
    return f"{fingerprints} {table_id}"


def find_runs_over(runs: Iterable[Run], identity: str) -> set[int]:
    """Return the numbers of the runs over an output, over their rejects, over the rejects of those, and so on."""
    found: set[int] = set()
    for run in sorted(runs, key=lambda run: run.run):  # the rejects of a run are run after it
        if run.identity == identity or (run.kind is Kind.REJECTS and run.of_run in found):
            found.add(run.run)
    return found


def find_withdrawn(runs: Sequence[Run]) -> set[int]:
    """Return the numbers of the runs that a withdrawal took back, whether they are marked yet or not."""
    removals = [run for run in runs if run.kind is Kind.REMOVAL]
    return {number for each in removals for number in find_runs_over(runs, each.identity) if number < each.run}


def newest_first(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that published an output and are not withdrawn, newest first, given all runs of a dataset.

    By as_of, not by their order: a withdrawal brings only the outputs that it restores into its generation, of
    snapshots the newest one. A late output of that generation is still older than those that stayed in theirs.
    """
    withdrawn = find_withdrawn(runs)
    published = [run for run in runs if run.state is RunState.DONE and run.kind.is_over_output]
    done = [run for run in published if run.run not in withdrawn]
    return sorted(done, key=lambda run: (run.order.as_of_ms, run.run), reverse=True)


def restart(run: Run) -> Run:
    """Return a run that starts again with its pinned output, and with an order of the current generation."""
    return replace(
        run,
        stage=Stage.PIN,
        generation=None,
        next_row=0,
        place=0,
        rows=None,
        reasons={},
        counts=Counts(),
        measured=None,
    )


def bump(record: R) -> R:
    """Return a record as it is in the ledger after its commit."""
    return replace(record, version=record.version + 1, release=RELEASE)
