"""`python -m tests.bench.large_metadata [--rows N --metadata M --limit MB]`: metadata that fits into no memory.

Each prediction meets one row of the metadata, anywhere in it. The largest peak of a Python worker must not depend on
the metadata's size. Two slots on Spark; S3 is a folder, and writes are discarded, but items of some requests are
compared with what they must be. `--limit` is of each worker's data (RLIMIT_DATA): it counts what is allocated and was
never used, so Arrow allocates by the system's pool then, since its own pool reserves 1 GB at start. `--local` executes
the run in one process, with the limit of 192 MB lifted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import enrich.join.engine as engine_module
import enrich.run.context as context_module
from enrich.dataset.definition import Dataset, FromKey, Metadata, Source
from enrich.ledger.run_state import EngineKind
from enrich.plan.dry_run import DiscardTransport
from enrich.plan.samples import parse_items
from enrich.run.pieces.tasks import Task
from enrich.services import Services
from serve.datasets import Served
from serve.item import BODY, SK
from tests.bench.pipeline_worker import run
from tests.bench.processes import measure_tree
from tests.bench.scale_task import SHARED, HeldLedger
from tests.bench.services import FolderAthena, FolderS3, open_services

FILE_ROWS = 1_000_000  # of the metadata
LIMIT = "LARDER_BENCH_LIMIT_MB"  # variable with the limit of a worker's data; the scheduler sends LARDER_* to workers
COMPARED = 50  # of so many requests, the items of one are compared
TEXT = "with some words that repeat"
DATASET = Dataset(
    served=Served(name="flight-delays", subject=("shop",), scope="shop:read"),
    source=Source(
        prefix="flight-delays/", format="parquet", columns={"shop": "varchar", "sku": "bigint", "units": "double"}
    ),
    as_of=FromKey("scored={}"),
    ttl=timedelta(days=7),
    metadata={"products": Metadata("select * from products", on="sku")},
    subject={"shop": "shop"},
    prediction_id="cast(sku as varchar)",
    body={"units": "units", "product": {"title": "products.title", "text": "products.text"}},
)


class FilesAthena(FolderAthena):
    """Returns all files of a metadata's folder."""

    def start(self, _sql: str, location: str) -> str:
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        for path in sorted((self._folder / prefix.split("/")[2]).iterdir()):
            self._s3.link(path.resolve(), bucket, f"{prefix}{path.name}")
        return location


def write_files(folder: Path, rows: int, metadata: int) -> Path:
    """Write the metadata, and the predictions, whose rows are spread over all of it; return their file."""
    (folder / "products").mkdir(parents=True)
    for first in range(0, metadata, FILE_ROWS):
        sku = pa.arange(first, min(first + FILE_ROWS, metadata))
        text = sku.cast(pa.string())
        table = pa.table(
            {
                "sku": sku,
                "title": pc.binary_join_element_wise("Title of the product ", text, ""),
                "text": pc.binary_join_element_wise("A longer text about", text, TEXT, " "),
            }
        )
        pq.write_table(table, folder / "products" / f"{first:012d}.parquet", compression="snappy")
    path = folder / "predictions.parquet"
    with pq.ParquetWriter(
        path, pa.schema([("shop", pa.string()), ("sku", pa.int64()), ("units", pa.float64())])
    ) as file:
        for first in range(0, rows, 100_000):
            number = pa.arange(first, min(first + 100_000, rows))
            sku = [n * 7_919 % metadata for n in number.to_pylist()]  # a prime number, so none occurs twice
            shop = [f"shop-{n % 997}" for n in number.to_pylist()]
            file.write_table(pa.table({"shop": shop, "sku": sku, "units": number.cast(pa.float64())}))
    return path


class Comparison:
    """Compares the items of some requests with what they must be, and counts them in a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "compared"
        self._requests = 0

    def take(self, payload: bytes) -> None:
        """Compare the items of a request."""
        self._requests += 1
        if self._requests % COMPARED == 1:
            items = parse_items(json.loads(payload))
            for each in items:
                sku, body = each[SK]["S"], json.loads(each[BODY]["S"])
                wanted = {"title": f"Title of the product {sku}", "text": f"A longer text about {sku} {TEXT}"}
                assert body["product"] == wanted, each
            with self._path.open("a") as file:
                print(len(items), file=file)

    def count(self) -> int:
        """Return the number of items that all processes have compared."""
        return sum(map(int, self._path.read_text().split()))


def open_world(folder: Path, own: Path) -> tuple[Services, FolderS3]:
    """Open services over a folder that all processes share, with an own one."""
    discard = DiscardTransport(Comparison(folder).take)
    services, _ = open_services(own, folder, dataset=DATASET, transport=lambda _timeout: cast(Any, discard))
    s3 = FolderS3(folder)
    return replace(services, s3=cast(Any, s3), athena=cast(Any, FilesAthena(s3, folder))), s3


def perform(env: Mapping[str, str], task: Task) -> tuple[str, Any]:
    """Execute one task; return its name and its result."""
    from enrich.spark.worker import execute

    services = _open(env[SHARED])
    ledger = HeldLedger(task, cast(Any, services.s3))
    mine = replace(services, owner=f"attempt-{uuid.uuid4().hex[:12]}", ledger=cast(Any, ledger))
    return task.name, execute(mine, task)


@cache
def _open(shared: str) -> Services:
    if limit := int(os.environ.get(LIMIT, "0")) << 20:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return open_world(Path(shared), Path(tempfile.mkdtemp(prefix="larder-bench-")))[0]


def main() -> None:
    """Print the figures of a run as JSON."""
    parser = argparse.ArgumentParser(prog="tests.bench.large_metadata")
    parser.add_argument("--rows", type=int, default=500_000, metavar="N", help="predictions (default 500,000)")
    parser.add_argument("--metadata", type=int, default=2_000_000, metavar="M", help="rows (default 2 million)")
    parser.add_argument("--local", action="store_true", help="in one process, without a limit")
    parser.add_argument("--limit", type=int, default=0, metavar="MB", help="of a worker's data (default: none)")
    options = parser.parse_args()
    if options.limit:
        os.environ |= {LIMIT: str(options.limit), "ARROW_DEFAULT_MEMORY_POOL": "system"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[SHARED] = name
        file = write_files(folder, options.rows, options.metadata)
        services, s3 = open_world(folder, folder / "own")
        engine: Any = nullcontext(services)
        if options.local:
            for module in (engine_module, context_module):
                cast(Any, module).MAX_METADATA_BYTES = 1 << 40
            cast(Any, engine_module).MEMORY_MB = 1 << 15
        else:
            import enrich.spark.scheduler as scheduler
            from tests.bench.large_metadata import perform as of_module  # workers can't import `__main__`
            from tests.bench.scale_worker import open_engine

            engine = open_engine(EngineKind.SPARK, 2, services, file.stat().st_size)
        with engine as opened:
            if not options.local:
                cast(Any, scheduler).perform = of_module
            (before, _), began = measure_tree(), time.perf_counter()
            counts = run(opened, s3, file)
            after, peak = measure_tree()
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = sum(path.stat().st_size for path in (folder / "products").iterdir()) >> 20
        assert counts.written == counts.read == options.rows, counts
        figures = {"rows": counts.read, "metadata": options.metadata, "metadata_mb_parquet": size}
        figures |= {"compared": Comparison(folder).count(), "limit_mb": options.limit}
        figures |= {"cpu_s": after - before, "worker_mb": peak, "driver_mb": own}
        print(json.dumps({**figures, "seconds": time.perf_counter() - began, "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
