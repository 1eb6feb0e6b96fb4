"""The state, stage and kind of a run. The values are persisted in the ledger."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """The state of a run."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"  # continues later from its checkpoint
    DONE = "done"
    FAILED = "failed"
    OVERWRITTEN = "overwritten"  # its output was replaced before it was pinned
    WITHDRAWN = "withdrawn"
    HELD = "held"  # its output fails a guard: an operator approves or rejects it
    REJECTED = "rejected"  # by an operator, or because it was not approved before its items would have expired

    @property
    def is_open(self) -> bool:
        """Whether an invocation continues the run by itself; each such run has a pending record."""
        return self in {RunState.PENDING, RunState.RUNNING, RunState.STOPPED}

    @property
    def is_closed(self) -> bool:
        """Whether the run has ended; a closed run never continues. A held run is neither open nor closed."""
        return not self.is_open and self is not RunState.HELD


class Stage(StrEnum):
    """The stage that a run executes next."""

    WITHDRAW_FIRST = "withdraw-first"  # of a removal: the other runs over its output are not all marked as withdrawn
    RESTORE_FIRST = "restore-first"  # of a removal: its restores are not queued yet
    PIN = "pin"
    ORDER = "order"
    CHECK = "check"
    WRITE = "write"
    REMOVE = "remove"
    CLOSE = "close"

    @property
    def needs_decision(self) -> bool:
        """Whether the stage needs the run's decision."""
        return self in {Stage.WRITE, Stage.REMOVE, Stage.CLOSE}


class EngineKind(StrEnum):
    """Where the stages from `check` on are executed."""

    LOCAL = "local"  # in one process, which reads the whole output
    SPARK = "spark"  # in pieces, by a job on many machines; no other process executes the run


class Kind(StrEnum):
    """What a run processes, and why."""

    OUTPUT = "output"  # an output, for the first time
    REPLAY = "replay"  # an output again, requested by an operator
    REFRESH = "refresh"  # the newest output again, with metadata fetched again
    RESTORE = "restore"  # an output again, to restore the table
    REJECTS = "rejects"  # the rejects of an earlier run
    REMOVAL = "removal"  # a withdrawn output, to remove its items

    @property
    def is_over_output(self) -> bool:
        """Whether it publishes a whole output: in a dataset of snapshots, such a run names every live item."""
        return self not in {Kind.REJECTS, Kind.REMOVAL}

    @property
    def is_guarded(self) -> bool:
        """Whether the dataset's guards can hold it: not if it restores an output, which was published before."""
        return self in {Kind.OUTPUT, Kind.REPLAY, Kind.REFRESH}
