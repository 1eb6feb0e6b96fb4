"""Execute tasks in Spark's workers over S3 in a folder; the lease is always held.

Writes are sent to AWS_ENDPOINT_URL, and are discarded without it.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from enrich.ledger.records import DatasetState
from enrich.plan.dry_run import DiscardTransport
from enrich.run.pieces.tasks import Task
from enrich.services import Services
from enrich.spark.worker import execute
from tests.bench.pipeline_worker import FLIGHTS, build_dataset
from tests.bench.services import FolderS3, open_services

SHARED = "LARDER_BENCH_FOLDER"  # variable with the folder of the buckets; the scheduler sends LARDER_* to workers


class HeldLedger:
    """A ledger in which the driver of a task holds the lease; `s3` has the dataset's fingerprints."""

    def __init__(self, task: Task, s3: FolderS3) -> None:
        self._task = task
        self._s3 = s3

    def read_state(self, dataset: str) -> tuple[DatasetState, None]:
        """Return the state of a dataset, and no time."""
        until = int((time.time() + 3600) * 1000)
        found = self._s3.list_objects_v2("larder", f"fingerprints/{dataset}/")["Contents"]
        closed = [each["Key"] for each in found if each["Key"].count("/") == 2]  # and not the files of buckets
        state = DatasetState(
            dataset=dataset,
            lease_owner=self._task.owner,
            lease_until_ms=until,
            open_run=self._task.run.run,
            fingerprints=max(closed, default=None),
        )
        return state, None


def perform(env: Mapping[str, str], task: Task) -> tuple[str, Any]:
    """Execute one task; return its name and its result."""
    began = time.process_time()
    services = _open(env[SHARED])
    mine = replace(
        services, owner=f"attempt-{uuid.uuid4().hex[:12]}", ledger=cast(Any, HeldLedger(task, cast(Any, services.s3)))
    )
    result = execute(mine, task)
    with (Path(env[SHARED]) / "cpu").open("a") as file:
        print(task.kind, time.process_time() - began, file=file)
    return task.name, result


def open_bench(folder: Path) -> tuple[Services, FolderS3]:
    """Open services over a folder."""
    discard = None if "AWS_ENDPOINT_URL" in os.environ else lambda _timeout: cast(Any, DiscardTransport())
    return open_services(folder, FLIGHTS, dataset=build_dataset("four"), transport=discard)


@cache
def _open(shared: str) -> Services:
    own = Path(tempfile.mkdtemp(prefix="larder-bench-"))
    services, _ = open_bench(own)
    return replace(services, s3=cast(Any, FolderS3(Path(shared))))


def take_cpu(shared: Path) -> dict[str, float]:
    """Return the CPU seconds of all tasks since the last call, by their kind."""
    found: dict[str, float] = {}
    path = shared / "cpu"
    if path.exists():
        for line in path.read_text().splitlines():
            kind, seconds = line.split()
            found[kind] = found.get(kind, 0.0) + float(seconds)
        path.unlink()
    return found
