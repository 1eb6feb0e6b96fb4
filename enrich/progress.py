"""Where a run tells how far it is: silent here, a progress bar on the command line."""

from __future__ import annotations

from enrich.ledger.records import Run


class Progress:
    """Hears of a run's progress and does nothing with it."""

    def stage(self, run: Run, stage: str) -> None:
        """Hear that a stage begins: pin, metadata, check, write, remove, close."""

    def rows(self, run: Run, done: int, rejected: int, rate: float | None) -> None:
        """Hear how many rows of the stage are done and rejected so far; `rate` is in write units a second."""
