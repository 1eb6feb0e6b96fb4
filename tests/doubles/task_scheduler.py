"""A scheduler of pieces in this process: it executes tasks one after the other, pickled as for an executor."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from enrich.run.lifecycle import open_context
from enrich.run.pieces.kept import Kept
from enrich.run.pieces.tasks import Task, execute_task
from enrich.services import Services


@dataclass
class TaskScheduler:
    """Executes each task `attempts` times, and returns what the last attempt has returned.

    `kept` is what all tasks keep, as in one worker of a job; None: each task begins in a new process.
    """

    services: Services
    slots: int = 4
    piece_bytes: int = 1000
    attempts: int = 1
    ran: list[Task] = field(default_factory=list)
    kept: Kept | None = None

    def run(self, tasks: Sequence[Any], keep: Callable[[int], None]) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for n, each in enumerate(tasks):
            for _ in range(self.attempts):
                task: Task = pickle.loads(pickle.dumps(each))
                self.ran.append(task)
                mine = replace(self.services, owner=f"attempt-{len(self.ran)}")
                result = self.kept.execute(mine, task) if self.kept else execute_task(mine, task, open_context)
                found[task.name] = pickle.loads(pickle.dumps(result))
            keep(n + 1)
        return found
