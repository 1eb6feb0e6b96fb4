"""The passes of a run over its output: check, decide, write and remove; here in one process, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypedDict, Unpack

from enrich.delta.changes import Withdrawn
from enrich.delta.fingerprints import Fingerprints, Target
from enrich.ledger.records import Run
from enrich.run.check import check_rows, keep_rejects
from enrich.run.context import RunContext
from enrich.run.publish import remove_all, write_output


class Rules(TypedDict):
    """What decisions depend on, besides the rows: the arguments of `Delta.decide`."""

    order: str
    expires_at: int
    now: float
    enough: float
    full: bool
    snapshot: str


class Leaves(TypedDict):
    """What a run's new fingerprints depend on, besides its decisions: the arguments of `Delta.merge`."""

    order: str
    expires_at: int
    removed_until: int
    now: float
    superseded: Sequence[int]
    outlived: Sequence[int]
    nothing_written: bool


class Passes(Protocol):
    """The passes over the output of one run. If one ends early with an exception, the next call continues there.

    After `check` and `choose_removals`, the run's `delta` has the notes and the number of the removals.
    """

    def check(self) -> tuple[int, dict[str, int]]:
        """Render all rows, and note keys, digests and statistics; return rows, and rejects by reason."""

    def keep_rejects(self, run: Run, duplicates: Sequence[int]) -> str:
        """Write the rejects of an output that is not published; return an example."""

    def decide(self, **rules: Unpack[Rules]) -> dict[str, int]:
        """Decide what is written; return the number of rows to write by reason."""

    def choose_removals(self, *, order: str, now: float, withdrawn: Withdrawn | None) -> None:
        """Choose the live items that the run removes."""

    def count_named(self, now: float, withdrawn: Withdrawn) -> tuple[int, int]:
        """Count the live items that a withdrawn output confirmed last: those that it names, and the others."""

    def write(self) -> None:
        """Write the items that changed, and the rejects."""

    def remove(self) -> None:
        """Write a tombstone for each removal."""

    def merge(self, target: Target, **leaves: Unpack[Leaves]) -> Fingerprints:
        """Write the fingerprints that the run leaves."""

    def settle(self) -> None:
        """Make the lease outlast each write that can still be applied; called when the run's context exits."""


class LocalPasses(NamedTuple):
    """The passes in this process."""

    context: RunContext

    def check(self) -> tuple[int, dict[str, int]]:
        """Check all rows from the checkpoint on."""
        return check_rows(self.context)

    def keep_rejects(self, run: Run, duplicates: Sequence[int]) -> str:
        """Read all chunks again from the checkpoint on."""
        return keep_rejects(self.context, run, duplicates)

    def decide(self, **rules: Unpack[Rules]) -> dict[str, int]:
        """Decide bucket by bucket."""
        self.context.delta.decide(**rules, step=self.context.pause)
        return self.context.delta.explain()

    def choose_removals(self, *, order: str, now: float, withdrawn: Withdrawn | None) -> None:
        """Choose bucket by bucket."""
        self.context.delta.choose_removals(order=order, now=now, withdrawn=withdrawn, step=self.context.pause)

    def count_named(self, now: float, withdrawn: Withdrawn) -> tuple[int, int]:
        """Count bucket by bucket."""
        return self.context.delta.count_named(now, withdrawn, self.context.pause)

    def write(self) -> None:
        """Write all chunks from the checkpoint on."""
        write_output(self.context)

    def remove(self) -> None:
        """Write all tombstones from the checkpoint on."""
        remove_all(self.context)

    def merge(self, target: Target, **leaves: Unpack[Leaves]) -> Fingerprints:
        """Merge bucket by bucket."""
        return self.context.delta.merge(target, **leaves, step=self.context.pause)

    def settle(self) -> None:
        """Do nothing: the context settles its writer."""
