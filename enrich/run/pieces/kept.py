"""What a worker keeps between tasks: the engine of the last run, its memory of live items, and rendered chunks on disk.

All of it only saves work: a task in another worker computes the same.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from enrich.delta.changes import Delta
from enrich.delta.memory import Memory
from enrich.join.engine import Engine
from enrich.run.context import RunContext
from enrich.run.fingerprints import load_memory
from enrich.run.lifecycle import open_context
from enrich.run.pieces.tasks import Task, execute_task
from enrich.services import Services


class Kept:
    """Belongs to one process, which executes one task at a time."""

    def __init__(self, directory: Path) -> None:
        """Begin with nothing. `directory`: on a disk of the machine; other processes of the machine can use it too."""
        self._directory = directory
        self._opened = ExitStack()
        self._of: object = None
        self._engine: Engine | None = None
        self._gathered: object = None
        self._memory: Memory | None = None

    def execute(self, services: Services, task: Task) -> dict[str, Any]:
        """Execute a task as `execute_task` does, with what the tasks before it have left."""

        def open_kept(*arguments: Any) -> RunContext:
            context = open_context(*arguments)
            context.kept = self
            return context

        try:
            return execute_task(services, task, open_kept)
        except BaseException:
            self.close()
            raise

    def engine(self, context: RunContext) -> Engine:
        """Return the compiled dataset with the run's metadata loaded."""
        self._turn_to(context)
        if self._gathered != (gathered := context.gathered and context.gathered.of):
            self._close_engine()
            self._gathered = gathered
        if self._engine is None:
            folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory(dir=context.services.directory)))
            self._engine = self._opened.enter_context(context.compile(folder))
        return self._engine

    def memory(self, context: RunContext, delta: Delta) -> Memory:
        """Return what is known of live items by their inputs."""
        self._turn_to(context)
        if self._memory is None:
            self._memory = load_memory(context, delta)
        return self._memory

    def rendered(self, context: RunContext, attempt: str) -> Path:
        """Return the folder of the chunks that an attempt of a check has rendered, if it was on this machine."""
        self._turn_to(context)
        folder = self._directory / f"{context.run.run}" / attempt.replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def has_room(self) -> bool:
        """Return whether more rendered chunks can be stored: half of the disk is left free."""
        usage = shutil.disk_usage(self._directory)
        return usage.free > usage.used

    def close(self) -> None:
        """Close the engine: after an error, it can be in a state that no task expects."""
        self._memory = self._of = None
        self._close_engine()

    def _close_engine(self) -> None:
        self._engine = None
        self._opened.close()

    def _turn_to(self, context: RunContext) -> None:
        run = context.run
        of = [run.dataset, run.run, run.kind, run.full, run.metadata, context.lease.state.fingerprints]
        if self._of != of:
            self.close()
            self._of = of
            for other in self._directory.glob("*"):  # of earlier runs
                if other.name != f"{run.run}":
                    shutil.rmtree(other, ignore_errors=True)
