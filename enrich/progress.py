"""The interface through which a run reports its progress; it does nothing by default."""

from __future__ import annotations

from enrich.ledger.records import Run


class Progress:
    """Receives a run's progress and ignores it.

    Attributes:
        title: the work that the runs belong to, such as `backfill 3 of 12`.
    """

    title = ""

    def stage(self, run: Run, stage: str) -> None:
        """Report that a stage begins: pin, metadata, check, write, remove, close."""

    def rows(self, run: Run, done: int, rejected: int, rate: float | None) -> None:
        """Report the rows of the stage that are done and rejected so far; `rate`: write units per second."""

    def end(self) -> None:
        """Report that the next output on the terminal is not progress."""
