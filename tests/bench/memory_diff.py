"""`python -m tests.bench.memory_diff [--rows N...]`: memory, scratch disk and time of `diff` over two outputs.

A tenth of B's rows has other units, a hundredth is new, and a hundredth of A's rows is missing in B. Each item has a
text of its own, and four guards watch the units.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from enrich.dataset.definition import Guard
from enrich.diff.diff import diff
from enrich.diff.page import render_page
from enrich.diff.report import render_diff
from tests.bench.memory import FOLDER, LINEAR, write_output
from tests.bench.memory_worker import Peaks, build_dataset
from tests.bench.services import open_services

LIMIT_MB = 1024
GUARDS = (
    Guard("rows", change=0.5),
    Guard("changed", most=0.5),
    Guard("mean", "units", change=0.1),
    Guard("psi", "units", most=0.2),
)


def main() -> None:
    """Compare outputs of each size in a separate process, print a table, and exit with an error above a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(f"{'rows a side':>12}{'seconds':>9}{'CPU s':>8}{'µs/row':>8}{'disk GB':>9}{'peak MB':>9}")
    cpu: list[float] = []
    for rows in arguments.rows:
        command = [sys.executable, "-m", "tests.bench.memory_diff", "--measure", str(rows)]
        write_other(rows)
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        peak = max(found["peak_mb"].values())
        cpu.append(found["cpu_s"] / rows)
        print(
            f"{rows:12,}{found['wall_s']:9.0f}{found['cpu_s']:8.0f}{cpu[-1] * 1e6:8.1f}{found['scratch_gb']:9.2f}"
            f"{peak:9}  {found['peak_mb']}",
            flush=True,
        )
        if peak > LIMIT_MB:
            raise SystemExit(f"{peak} MB is more than {LIMIT_MB}")
    if cpu[-1] > LINEAR * cpu[0]:
        raise SystemExit("CPU per row grows with the number of rows")


def write_other(rows: int) -> Path:
    """Generate output B from output A once."""
    path = FOLDER / f"{rows}-other.parquet"
    if not path.exists():
        first = write_output(rows, "parquet")
        units = "case when hash(sku) % 10 = 0 then units * 1.1 else units end as units"
        with duckdb.connect(config={"memory_limit": "1GB", "threads": 1}) as con:
            con.execute(
                f"""copy (select * replace ({units}, sku + case when sku % 100 = 0 then {rows} else 0 end as sku)
                from '{first}') to '{path}.new' (format parquet, compression snappy)"""
            )
        Path(f"{path}.new").rename(path)
    return path


def measure(rows: int) -> dict[str, Any]:
    """Compare the outputs, and return the figures of this process."""
    peaks = Peaks()
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        dataset = replace(build_dataset("parquet"), guards=GUARDS)
        services, _ = open_services(Path(name), FOLDER, dataset=dataset)
        services = replace(services, progress=peaks)
        threading.Thread(target=peaks.watch, args=[services.directory], daemon=True).start()
        begin = time.perf_counter()
        found = diff(services, str(write_output(rows, "parquet")), str(write_other(rows)), dataset="stock", show=20)
        render_diff(found), render_page(found)
        figures = {
            "wall_s": time.perf_counter() - begin,
            "cpu_s": time.process_time(),
            "scratch_gb": peaks.scratch_bytes / 1e9,
        }
        peaks.note()
    counts = found.counts
    assert (counts.only_in_a, counts.only_in_b) == (rows // 100, rows // 100), counts
    return {**figures, "peak_mb": peaks.peaks}


if __name__ == "__main__":
    main()
