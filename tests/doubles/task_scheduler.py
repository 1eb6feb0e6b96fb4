"""A scheduler of pieces in this process: it executes tasks one after the other, pickled as for an executor."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from enrich.run.lifecycle import open_context
from enrich.run.pieces.tasks import Task, execute_task
from enrich.services import Services


@dataclass
class TaskScheduler:
    """Executes each task `attempts` times, and returns what the last attempt has returned."""

    services: Services
    slots: int = 4
    piece_bytes: int = 1000
    attempts: int = 1
    ran: list[Task] = field(default_factory=list)

    def run(self, tasks: Sequence[Any], keep: Callable[[int], None]) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for n, each in enumerate(tasks):
            for _ in range(self.attempts):
                task: Task = pickle.loads(pickle.dumps(each))
                self.ran.append(task)
                mine = replace(self.services, owner=f"attempt-{len(self.ran)}")
                found[task.name] = pickle.loads(pickle.dumps(execute_task(mine, task, open_context)))
            keep(n + 1)
        return found
