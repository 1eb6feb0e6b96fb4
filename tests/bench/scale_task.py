"""Execute tasks in Spark's workers over S3 in a folder; writes are discarded, and the lease is always held."""

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

    def get_state(self, dataset: str) -> DatasetState:
        """Return the state of a dataset."""
        until = int((time.time() + 3600) * 1000)
        found = self._s3.list_objects_v2("larder", f"fingerprints/{dataset}/")["Contents"]
        closed = [each["Key"] for each in found if each["Key"].count("/") == 2]  # and not the files of buckets
        return DatasetState(
            dataset=dataset,
            lease_owner=self._task.owner,
            lease_until_ms=until,
            open_run=self._task.run.run,
            fingerprints=max(closed, default=None),
        )


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


@cache
def _open(shared: str) -> Services:
    own = Path(tempfile.mkdtemp(prefix="larder-bench-"))
    services, _ = open_services(
        own, FLIGHTS, dataset=build_dataset("four"), transport=lambda _timeout: cast(Any, DiscardTransport())
    )
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


def measure_tree() -> tuple[float, float]:
    """Return CPU seconds of this process and all its descendants, and the largest peak RSS of a Python worker in MB."""
    parents, cpu = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(path.parent.name)] = int(rest[1])
        cpu[int(path.parent.name)] = sum(map(int, rest[11:15])) / os.sysconf("SC_CLK_TCK")
    found, peak = {os.getpid()}, 0.0
    for _ in range(5):  # driver, JVM, daemon, worker
        found |= {each for each, parent in parents.items() if parent in found}
    for each in found - {os.getpid()}:
        try:
            text = Path(f"/proc/{each}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text.startswith("Name:\tpython") and "VmHWM:" in text:
            peak = max(peak, int(text.partition("VmHWM:")[2].split()[0]) / 1024)
    return sum(cpu[each] for each in found), peak
