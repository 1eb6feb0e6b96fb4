"""Execute the whole pipeline for each line on stdin, and print CPU, wall time and RSS.

`four` joins four metadata; `example` is the example's dataset (with weather); `unchanged` re-runs it over the same
predictions, `changed` with other predictions for every hundredth flight.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from enrich.dataset.definition import Dataset
from enrich.intake.find import take_arrived
from enrich.intake.worker import run_pending
from enrich.ledger.records import Counts
from enrich.services import Services
from examples.flights.datasets.flight_delays import flight_delays
from tests.bench.flights_year import ROWS
from tests.bench.services import FolderS3, open_services

FLIGHTS = Path(os.environ.get("BENCH_FLIGHTS", ".larder/bench/flights"))
EXPECTED = {"unchanged": Counts(unchanged=ROWS), "changed": Counts(written=ROWS // 100, unchanged=ROWS - ROWS // 100)}


def build_dataset(mode: str) -> Dataset:
    """Build the dataset of a mode, without the guards, which `tests.bench.guards` measures, and without a rank."""
    dataset = replace(flight_delays, guards=(), rank=None)
    if mode != "four":
        return dataset
    metadata = {name: each for name, each in dataset.metadata.items() if name != "weather"}
    return replace(dataset, metadata=metadata, body={n: each for n, each in dataset.body.items() if n != "weather"})


def write_changed(folder: Path) -> Path:
    """Write the flights, every hundredth with another prediction; return the file."""
    table = pq.read_table(FLIGHTS / "flights.parquet")
    delay = [value + (row % 100 == 99) for row, value in enumerate(table["predicted_delay"].to_pylist())]
    at = table.schema.get_field_index("predicted_delay")
    path = folder / "changed.parquet"
    pq.write_table(
        table.set_column(at, table.schema.field(at), pa.array(delay, pa.float32())), path, compression="zstd"
    )
    return path


def run(services: Services, s3: FolderS3, file: Path, part: int = 0) -> Counts:
    """Link a file as today's output, run it, and return the counts."""
    object_key = f"flight-delays/scored={datetime.now(UTC).date()}/part-{part}.parquet"
    s3.link(file.resolve(), services.settings.outputs, object_key)
    taken = take_arrived(services, services.settings.outputs, object_key)
    assert taken is not None
    (done,) = run_pending(services, taken.dataset)
    assert done.state == "done", done.error
    return done.counts


@contextmanager
def open_world(mode: str) -> Iterator[tuple[Services, FolderS3]]:
    """Open services in a new folder."""
    with tempfile.TemporaryDirectory() as name:
        yield open_services(Path(name), FLIGHTS, dataset=build_dataset(mode))


def main() -> None:
    """Print a line of figures for each line on stdin."""
    mode = sys.argv[1]
    file = FLIGHTS / "flights.parquet"
    with tempfile.TemporaryDirectory() as name:
        again = write_changed(Path(name)) if mode == "changed" else file
        print("ready", flush=True)
        for _ in sys.stdin:
            with open_world(mode) as (services, s3):
                if mode in EXPECTED:
                    run(services, s3, file)
                cpu, wall = time.process_time(), time.perf_counter()
                counts = run(services, s3, again, part=1)
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                assert counts == EXPECTED.get(mode, Counts(written=ROWS)), counts
            print(cpu, wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


if __name__ == "__main__":
    main()
