"""A world that processes of Spark share: buckets are folders, and each write is a file with its request."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from enrich.dataset.definition import Dataset
from enrich.plan.dry_run import DiscardTransport
from enrich.run.pieces.tasks import Task
from enrich.services import Services
from enrich.spark.worker import execute
from tests.bench.scale_task import HeldLedger
from tests.bench.services import FolderS3, open_services


def open_world(folder: Path, dataset: Dataset, metadata: Mapping[str, pa.Table]) -> tuple[Services, FolderS3]:
    """Open services whose buckets, metadata and writes are in a folder."""
    (folder / "metadata").mkdir(parents=True)
    for name, table in metadata.items():
        pq.write_table(table, folder / "metadata" / f"{name}.parquet")
    services, s3 = open_services(folder, folder / "metadata", dataset=dataset)
    return replace(services, open_transport=lambda _timeout: _record(folder)), s3


def perform(folder: Path, dataset: Dataset, env: Mapping[str, str], task: Task) -> tuple[str, Any]:
    """Execute a task in a process of its own, over the same folder."""
    del env
    with tempfile.TemporaryDirectory() as own:
        services, _ = open_services(Path(own), folder / "metadata", dataset=dataset)
        s3 = FolderS3(folder)
        services = replace(
            services,
            s3=cast(Any, s3),
            ledger=cast(Any, HeldLedger(task, s3)),
            open_transport=lambda _timeout: _record(folder),
            owner=f"attempt-{uuid.uuid4().hex[:12]}",
        )
        return task.name, execute(services, task)


def _record(folder: Path) -> Any:
    writes = folder / "writes"
    writes.mkdir(exist_ok=True)
    return DiscardTransport(lambda payload: cast(None, (writes / uuid.uuid4().hex).write_bytes(payload)))


def take_writes(folder: Path) -> dict[tuple[str, str], Any]:
    """Return the items written since the last call, by item key."""
    found: dict[tuple[str, str], Any] = {}
    for path in (folder / "writes").glob("*"):
        (puts,) = json.loads(path.read_text())["RequestItems"].values()
        for each in puts:
            item = each["PutRequest"]["Item"]
            assert (item["pk"]["S"], item["sk"]["S"]) not in found, "written twice"
            found[item["pk"]["S"], item["sk"]["S"]] = item
        path.unlink()
    return found


def read_rejects(folder: Path) -> list[Any]:
    """Return the lines of all rejects, in the order of their rows."""
    paths = (path for path in (folder / "larder" / "rejects").rglob("*") if path.is_file())
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["row"])
