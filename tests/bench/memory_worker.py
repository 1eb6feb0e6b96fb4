"""One run over a generated output in a process of its own: `FILE FORMAT METADATA [SHAPE]`.

Stages, CPU and peak RSS go out as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
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
    """Build a dataset of narrow items, so that rows are many."""
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
    """Rows, and of each column its type and the SQL that makes it of a row number `i`."""

    rows: int
    columns: Mapping[str, tuple[str, str]]
    formats: tuple[str, ...] = ("parquet", "csv.gz")


_NESTED = "{'a': {'b': {'c': {'d': {'e': {'f': [{'g': i, 'h': [i, i + 1]}, {'g': -i, 'h': []}]}}}}}}"
_NESTED_TYPE = "struct(a struct(b struct(c struct(d struct(e struct(f struct(g bigint, h bigint[])[]))))))"
# 200 KB of which gzip makes 100, as of no text that repeats itself
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
        shape = sys.argv[4:]
        dataset = build_shape(shape[0], file_format) if shape else build_dataset(file_format)
        services, s3 = open_services(Path(name), metadata, dataset=dataset)
        services = replace(services, progress=peaks)
        suffix = ".parquet" if file_format == "parquet" else ".csv.gz"
        counts = []
        cpu, wall = time.process_time(), time.perf_counter()
        for part in range(int(os.environ.get("BENCH_RUNS", "1"))):
            object_key = f"{dataset.source.prefix}day={datetime.now(UTC).date()}/part-{part}{suffix}"
            s3.link(file.resolve(), services.settings.outputs, object_key)
            taken = take_arrived(services, services.settings.outputs, object_key)
            assert taken is not None
            (done,) = run_pending(services, taken.dataset)
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
