"""`scale_worker local|spark CORES COPIES`: a first load and the same output again; print a JSON line for each.

The process and its descendants are bound to as many processors as it has cores to use, so that Java and the driver take
their part of them, as they would on a machine of that size.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enrich.ledger.run_state import EngineKind
from enrich.read.pieces import PIECE_BYTES
from enrich.run.pieces.tasks import Task
from enrich.services import Services
from tests.bench.pipeline_worker import FLIGHTS, run
from tests.bench.processes import measure_idle, measure_tree
from tests.bench.scale_task import SHARED, open_bench, perform, take_cpu
from tests.bench.services import FolderS3

STAGES: dict[str, float] = {}  # seconds of the stages of a run; the rest of it is the driver's alone
PIECES = 16  # at least; no piece is larger than those of a job


def write_copies(path: Path, copies: int) -> None:
    """Write all flights `copies` times, each time with other numbers of flights."""
    table = pq.read_table(FLIGHTS / "flights.parquet")
    at = table.schema.get_field_index("flight")
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for copy in range(copies):
            numbers = pc.add(table["flight"], pa.scalar(10_000 * copy, pa.int32()))
            writer.write_table(table.set_column(at, table.schema.field(at), numbers), row_group_size=50_000)


def time_stages(execute: Callable[..., Any]) -> Callable[..., Any]:
    """Return a scheduler's `run` that adds the seconds of each kind of task to `STAGES`."""

    def run_timed(tasks: Sequence[Task], keep: Any) -> Any:
        began = time.perf_counter()
        try:
            return execute(tasks, keep)
        finally:
            STAGES[tasks[0].kind] = STAGES.get(tasks[0].kind, 0.0) + time.perf_counter() - began

    return run_timed


@contextmanager
def open_engine(engine: str, cores: int, services: Services, size: int) -> Iterator[Services]:
    """Return services with a scheduler, if the engine is Spark."""
    if engine == EngineKind.LOCAL:
        yield services
        return
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    from pyspark.sql import SparkSession

    import enrich.spark.scheduler as module

    cast(Any, module).perform = perform
    spark = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "1g")
        .getOrCreate()
    )
    try:
        scheduler = module.SparkScheduler(
            spark.sparkContext, os.environ, piece_bytes=min(PIECE_BYTES, -(-size // PIECES))
        )
        cast(Any, scheduler).run = time_stages(scheduler.run)
        yield replace(services, scheduler=scheduler, engine=EngineKind.SPARK)
    finally:
        spark.stop()


def main() -> None:
    """Print a line for each run."""
    engine, cores, copies = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[SHARED] = name
        file = folder / "flights.parquet"
        write_copies(file, copies)
        opened, s3 = open_bench(folder)
        with open_engine(engine, cores, opened, file.stat().st_size) as services:
            for number, kind in enumerate(("first_load", "unchanged")):
                measure(services, s3, file, number, {"engine": engine, "cores": cores, "kind": kind})


def measure(services: Services, s3: FolderS3, file: Path, part: int, named: dict[str, Any]) -> None:
    """Run an output, and print its figures."""
    (before, _), idle, began = measure_tree(), measure_idle(), time.perf_counter()
    counts = run(services, s3, file, part)
    seconds, idle, (after, peak) = time.perf_counter() - began, measure_idle() - idle, measure_tree()
    figures = {"rows": counts.read, "written": counts.written, "cpu_s": after - before, "worker_mb": peak}
    figures |= {"seconds": seconds, "idle_s": idle}
    of_tasks = {"stages_s": dict(STAGES), "tasks_cpu_s": take_cpu(Path(os.environ[SHARED]))}
    STAGES.clear()
    print(json.dumps({**named, **figures, **of_tasks}), flush=True)


if __name__ == "__main__":
    main()
