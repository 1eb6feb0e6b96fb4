"""Execute tasks in a Python worker of an executor. It keeps services, datasets and what `Kept` has between tasks."""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from zipimport import zipimporter

import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError
from pyspark import SparkFiles

from enrich.aws import open_services
from enrich.errors import LeaseLost, Stopped
from enrich.run.pieces.kept import Kept
from enrich.run.pieces.tasks import Task
from enrich.services import Services
from enrich.spark.code import unpack
from wire.errors import WireError

_PASSING = (Stopped, LeaseLost, BotoCoreError, ClientError, WireError)  # the run continues when the cause has passed
_M_ARENA_MAX = -8  # malloc.h


def perform(env: Mapping[str, str], task: Task) -> tuple[str, Any]:
    """Execute one task; return its name and its result.

    Raises:
        Stopped: a service that the task needs does not answer, or another driver holds the lease. Of an exception, the
            driver gets only a text, with all that led to it; so its class is decided here.
    """
    try:
        return task.name, execute(_open(tuple(sorted(env.items()))), task)
    except _PASSING as error:
        raise Stopped(f"{type(error).__name__} on {socket.gethostname()}: {error}") from None


def execute(services: Services, task: Task) -> dict[str, Any]:
    """Execute one task with what the tasks before it have left in this process."""
    try:
        return _keep().execute(services, task)
    finally:
        _forget_archives()
        _give_memory_back()


def _forget_archives() -> None:
    """Forget the importers of archives, e.g. of `pyspark.zip`; the next import opens them again.

    PySpark invalidates the caches of all importers before each task, and that of an archive then reads its directory
    again. Measured: 0.1 CPU seconds per task.
    """
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimporter):
            del sys.path_importer_cache[path]


@cache
def _keep() -> Kept:
    """Return what this process keeps; files are in a folder that Spark deletes when the job ends."""
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    # PySpark searches for garbage after each task: 35 ms, unless what was imported until now is left out.
    gc.freeze()
    return Kept(Path(SparkFiles.getRootDirectory()) / "rendered")


def _give_memory_back() -> None:
    """Let the system have what a task has freed; otherwise a worker grows with its tasks, to 528 MB at 10M rows.

    Arrow's pool and the arenas of the C library, one for each thread unless they are limited, keep the most that any
    task has used. Giving each large buffer back at once would cost a tenth of a first load's CPU.
    """
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _open(env: tuple[tuple[str, str], ...]) -> Services:
    return replace(_services(env), owner=f"attempt-{uuid.uuid4().hex[:12]}")


@cache
def _services(env: tuple[tuple[str, str], ...]) -> Services:
    os.environ.update(env)
    unpack()
    return open_services(os.environ, owner="")
