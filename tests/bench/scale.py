"""`tox -e scale [-- --copies N --json FILE]`: runs in one process against runs on Spark with one and two cores.

The output has all flights of 2013 N times (336,776 rows each), joined with four metadata; S3 is a folder, and writes
are discarded. CPU is that of all processes: driver, JVM, Python workers. Compare figures within one run only; the gain
of the second core means something on an idle machine only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.flights_year import write_flights
from tests.bench.pipeline_worker import FLIGHTS

RUNS = (("local", 1), ("spark", 1), ("spark", 2))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="tests.bench.scale", description="Runs in one process against runs on Spark.")
    parser.add_argument("--copies", type=int, default=2, metavar="N", help="of the flights of 2013 (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    write_flights(FLIGHTS)
    found: list[dict[str, Any]] = []
    print(f"load of the machine at the beginning: {os.getloadavg()[0]:.1f}")
    for engine, cores in RUNS:
        command = [sys.executable, "-m", "tests.bench.scale_worker", engine, str(cores), str(options.copies)]
        env = {**os.environ, "PYSPARK_PYTHON": sys.executable}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        found += map(json.loads, done.stdout.splitlines())
    print("| engine | cores | | rows per CPU-second | of local | seconds | largest worker, MB |\n|" + "---|" * 7)
    for each in found:
        local = next(one for one in found if one["engine"] == "local" and one["kind"] == each["kind"])
        share = local["cpu_s"] / each["cpu_s"]
        print(
            f"| {each['engine']} | {each['cores']} | {each['kind']} | {each['rows'] / each['cpu_s']:,.0f} "
            f"| {share:.2f} | {each['seconds']:.1f} | {each['worker_mb']:.0f} |"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"scale": found}, indent=1))


if __name__ == "__main__":
    main()
