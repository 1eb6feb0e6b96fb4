"""Execute one run over a generated output in a separate process: `FILE FORMAT METADATA [SHAPE]`.

Prints stages, CPU and peak RSS as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from enrich.dataset.definition import Dataset, FromKey, Metadata, Source
from enrich.intake.find import take_arrived
from enrich.intake.worker import run_pending
from enrich.ledger.records import Run
from enrich.progress import Progress
from serve.datasets import Served
from tests.bench.services import open_services

COLUMNS = {"shop": "varchar", "sku": "bigint", "product": "integer", "units": "double", "note": "varchar"}


def build_dataset(file_format: str) -> Dataset:
    """Build a dataset of small items, for many rows."""
    return Dataset(
        served=Served(name="stock", subject=("shop",), scope="stock:read"),
        source=Source(prefix="stock/", format="parquet" if file_format == "parquet" else "csv", columns=COLUMNS),
        as_of=FromKey("day={}"),
        ttl=timedelta(days=7),
        metadata={"products": Metadata("select product, title from products", on="product", missing="reject")},
        subject={"shop": "shop"},
        prediction_id="sku",
        body={"sku": "sku", "title": "products.title", "units": "round(units, 3)", "note": "note"},
    )


@dataclass(frozen=True)
class Shape:
    """A number of rows, and each column's type and SQL over the row number `i`."""

    rows: int
    columns: Mapping[str, tuple[str, str]]
    formats: tuple[str, ...] = ("parquet", "csv.gz")


_NESTED = "{'a': {'b': {'c': {'d': {'e': {'f': [{'g': i, 'h': [i, i + 1]}, {'g': -i, 'h': []}]}}}}}}"
_NESTED_TYPE = "struct(a struct(b struct(c struct(d struct(e struct(f struct(g bigint, h bigint[])[]))))))"
# 200 KB that gzip compresses to 100 KB: text without repetition
_TEXT = "array_to_string(list_transform(range(6250), lambda n: md5((i * 6250 + n)::varchar)), '')"
SHAPES = {
    "columns": Shape(200_000, {f"c{n}": ("bigint", f"i * {n + 1}") for n in range(50)}),
    "text": Shape(2_000, {"text": ("varchar", _TEXT)}),
    "nested": Shape(200_000, {"deep": (_NESTED_TYPE, _NESTED)}, ("parquet",)),
    "narrow": Shape(2_000_000, {"n": ("integer", "i % 100000")}),
}


def build_shape(name: str, file_format: str) -> Dataset:
    """Build the dataset of a shape: each column is a member of the body."""
    columns = {"id": "bigint", **{column: kind for column, (kind, _) in SHAPES[name].columns.items()}}
    return Dataset(
        served=Served(name="shapes", subject=("half",), scope="shapes:read"),
        source=Source(prefix="shapes/", format="parquet" if file_format == "parquet" else "csv", columns=columns),
        as_of=FromKey("day={}"),
        ttl=timedelta(days=7),
        subject={"half": "id % 2"},
        prediction_id="id",
        body={column: column for column in SHAPES[name].columns},
    )


class Peaks(Progress):
    """Records the peak memory of each stage, and the peak use of scratch disk."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self.scratch_bytes = 0
        self._stage = ""

    def watch(self, scratch: Path) -> None:
        """Check the size of a folder twice a second, for as long as the process lives."""
        while True:
            self.scratch_bytes = max(self.scratch_bytes, _measure(scratch))
            time.sleep(0.5)

    def stage(self, run: Run, stage: str) -> None:
        """Begin a stage."""
        self.note()
        self._stage = f"{run.run} {stage}"
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak

    def rows(self, run: Run, done: int, rejected: int, rate: float | None) -> None:
        """Record the peak after each chunk."""
        self.note()

    def note(self) -> None:
        """Record the peak RSS of the process so far, in MB."""
        status = Path("/proc/self/status").read_text()  # getrusage would include the parent process
        self.peaks[self._stage] = int(status.partition("VmHWM:")[2].split()[0]) >> 10


def _measure(folder: Path) -> int:
    """Return the bytes of disk that a folder's files use; files can be deleted during the walk."""
    found = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found += os.stat(f"{directory}/{name}").st_blocks * 512
    return found


def main() -> None:
    """Execute `BENCH_RUNS` runs over the same output, and print the figures."""
    file, file_format, metadata = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    peaks = Peaks()
    with tempfile.TemporaryDirectory(dir=file.parent) as name:
        shape = sys.argv[4:]
        dataset = build_shape(shape[0], file_format) if shape else build_dataset(file_format)
        services, s3 = open_services(Path(name), metadata, dataset=dataset)
        services = replace(services, progress=peaks)
        threading.Thread(target=peaks.watch, args=[services.directory], daemon=True).start()
        suffix = ".parquet" if file_format == "parquet" else ".csv.gz"
        counts, seconds, scratch = [], list[tuple[float, float]](), list[float]()
        cpu, wall = time.process_time(), time.perf_counter()
        for part in range(int(os.environ.get("BENCH_RUNS", "1"))):
            object_key = f"{dataset.source.prefix}day={datetime.now(UTC).date()}/part-{part}{suffix}"
            s3.link(file.resolve(), services.settings.outputs, object_key)
            taken = take_arrived(services, services.settings.outputs, object_key)
            assert taken is not None
            (done,) = run_pending(services, taken.dataset)
            assert done.state == "done", done.error
            counts.append(done.counts)
            seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
            scratch.append(peaks.scratch_bytes / 1e9)
            peaks.scratch_bytes = 0
            cpu, wall = time.process_time(), time.perf_counter()
        peaks.note()
    figures = {
        "rows": counts[0].read,
        "written": [each.written for each in counts],
        "rejected": [each.rejected for each in counts],
        "unchanged": [each.unchanged for each in counts],
        "wall_s": [each[0] for each in seconds],
        "cpu_s": [each[1] for each in seconds],
        "scratch_gb": scratch,
        "peak_mb": peaks.peaks,
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
