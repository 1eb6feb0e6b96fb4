"""One run over a generated output in a process of its own: `FILE FORMAT`; stages, CPU and peak RSS go out as JSON."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from enrich.dataset import Dataset, FromKey, Metadata, Source
from enrich.dispatch import drain, take_arrived
from enrich.progress import Progress
from enrich.records import Run
from serve.datasets import Served
from tests.bench.edges import open_edges

COLUMNS = {"shop": "varchar", "sku": "bigint", "product": "integer", "units": "double", "note": "varchar"}


def build_dataset(file_format: str) -> Dataset:
    """Build a dataset of narrow items, so that rows are many."""
    return Dataset(
        served=Served(name="stock", subject=("shop",), scope="stock:read"),
        source=Source(prefix="stock/", format="parquet" if file_format == "parquet" else "csv", columns=COLUMNS),
        as_of=FromKey("day={}"),
        ttl=timedelta(days=7),
        metadata={"products": Metadata("select product, title from products", on="product", missing="reject")},
        subject=["shop"],
        prediction_id="sku",
        body={"sku": "sku", "title": "products.title", "units": "round(units, 3)", "note": "note"},
    )


class Peaks(Progress):
    """Notes the highest memory of each stage."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._stage = ""

    def stage(self, run: Run, stage: str) -> None:
        """Begin a stage."""
        self.note()
        self._stage = stage

    def rows(self, run: Run, done: int, rejected: int, rate: float | None) -> None:
        """Look once a chunk."""
        self.note()

    def note(self) -> None:
        """Keep what the process has had at most, in MB."""
        status = Path("/proc/self/status").read_text()  # getrusage would tell of the process that forked us, too
        self.peaks[self._stage] = int(status.partition("VmHWM:")[2].split()[0]) >> 10


def main() -> None:
    """Run once."""
    file, file_format, metadata = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    peaks = Peaks()
    with tempfile.TemporaryDirectory(dir=file.parent) as name:
        edges, s3 = open_edges(Path(name), metadata, dataset=build_dataset(file_format))
        edges = replace(edges, progress=peaks)
        suffix = ".parquet" if file_format == "parquet" else ".csv.gz"
        counts = []
        cpu, wall = time.process_time(), time.perf_counter()
        for part in range(int(os.environ.get("BENCH_RUNS", "1"))):
            object_key = f"stock/day={datetime.now(UTC).date()}/part-{part}{suffix}"
            s3.link(file.resolve(), edges.settings.outputs, object_key)
            taken = take_arrived(edges, edges.settings.outputs, object_key)
            assert taken is not None
            (done,) = drain(edges, taken.dataset)
            assert done.state == "done", done.error
            counts.append(done.counts)
        peaks.note()
    figures = {
        "rows": counts[0].read,
        "written": [each.written for each in counts],
        "rejected": [each.rejected for each in counts],
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "peak_mb": peaks.peaks,
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
