"""Execute tasks in a Python worker of an executor. Services, datasets and the last engine are kept between tasks."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from enrich.aws import open_services
from enrich.run.lifecycle import open_context
from enrich.run.pieces.tasks import Task, execute_task
from enrich.services import Services
from enrich.spark.code import unpack


def perform(env: Mapping[str, str], task: Task) -> tuple[str, Any]:
    """Execute one task; return its name and its result."""
    return task.name, execute_task(_open(tuple(sorted(env.items()))), task, open_context)


def _open(env: tuple[tuple[str, str], ...]) -> Services:
    return replace(_services(env), owner=f"attempt-{uuid.uuid4().hex[:12]}")


@cache
def _services(env: tuple[tuple[str, str], ...]) -> Services:
    os.environ.update(env)
    unpack()
    return open_services(os.environ, owner="")
