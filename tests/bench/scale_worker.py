"""Execute a first load and the same output again, in one process or on Spark; print a JSON line for each."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enrich.ledger.run_state import EngineKind
from enrich.plan.dry_run import DiscardTransport
from enrich.services import Services
from tests.bench.pipeline_worker import FLIGHTS, build_dataset, run
from tests.bench.scale_task import SHARED, measure_tree, perform, take_cpu
from tests.bench.services import FolderS3, open_services

PIECES = 16


def write_copies(path: Path, copies: int) -> None:
    """Write all flights `copies` times, each time with other numbers of flights."""
    table = pq.read_table(FLIGHTS / "flights.parquet")
    at = table.schema.get_field_index("flight")
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for copy in range(copies):
            numbers = pc.add(table["flight"], pa.scalar(10_000 * copy, pa.int32()))
            writer.write_table(table.set_column(at, table.schema.field(at), numbers), row_group_size=50_000)


@contextmanager
def open_engine(engine: str, cores: int, services: Services, size: int) -> Iterator[Services]:
    """Return services with a scheduler, if the engine is Spark."""
    if engine == EngineKind.LOCAL:
        yield services
        return
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
        scheduler = module.SparkScheduler(spark.sparkContext, os.environ, piece_bytes=-(-size // PIECES))
        yield replace(services, scheduler=scheduler, engine=EngineKind.SPARK)
    finally:
        spark.stop()


def main() -> None:
    """Print a line for each run."""
    engine, cores, copies = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[SHARED] = name
        file = folder / "flights.parquet"
        write_copies(file, copies)
        opened, s3 = open_services(
            folder, FLIGHTS, dataset=build_dataset("four"), transport=lambda _timeout: cast(Any, DiscardTransport())
        )
        with open_engine(engine, cores, opened, file.stat().st_size) as services:
            for number, kind in enumerate(("first_load", "unchanged")):
                measure(services, s3, file, number, {"engine": engine, "cores": cores, "kind": kind})


def measure(services: Services, s3: FolderS3, file: Path, part: int, named: dict[str, Any]) -> None:
    """Run an output, and print its figures."""
    (before, _), began = measure_tree(), time.perf_counter()
    counts = run(services, s3, file, part)
    after, peak = measure_tree()
    figures = {"rows": counts.read, "written": counts.written, "cpu_s": after - before, "worker_mb": peak}
    of_tasks = take_cpu(Path(os.environ[SHARED]))
    print(json.dumps({**named, **figures, "seconds": time.perf_counter() - began, "tasks_cpu_s": of_tasks}), flush=True)


if __name__ == "__main__":
    main()
