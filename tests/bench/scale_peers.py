"""`python -m tests.bench.scale_peers [--rounds N --bulk-executor FOLDER --json FILE]`: Larder and peers on one Spark.

All flights of 2013 become items at the null endpoint, with one slot and one core each, in the same version of Spark:

- Larder joins and renders in Python workers, on Spark and in one process. First load: all items are written.
- Feast's Spark engine materializes a query with the same joins and the same body, into its DynamoDB online store.
- bulk_executor (awslabs/amazon-dynamodb-tools, a clone in FOLDER; without it this peer is left out) loads items that
  are ready: its input is what Larder has rendered. It joins nothing.

Rounds are interleaved. CPU is that of all processes, Java included; its start is not, nor is the endpoint's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, cast

import orjson

from enrich.ledger.run_state import EngineKind
from enrich.plan.dry_run import DiscardTransport
from enrich.plan.samples import parse_items
from tests.bench.flights_year import ROWS, write_flights
from tests.bench.pipeline_worker import FLIGHTS, build_dataset, run
from tests.bench.scale import execute
from tests.bench.scale_worker import write_copies
from tests.bench.services import open_services
from tests.bench.write_setup import HERE, NullEndpoint, build_env, installed, interpreter, null_endpoint

FILE_ITEMS = 50_000  # of an export, per file


def write_items(folder: Path, output: Path) -> Path:
    """Write the items of an output as gzipped files of DynamoDB's JSON, as an export has them; return their folder."""
    items, lines = folder / "items", list[bytes]()
    items.mkdir()

    def save(most: int) -> None:
        while len(lines) > most:
            path = items / f"{len(list(items.iterdir())):05d}.json.gz"
            path.write_bytes(gzip.compress(b"".join(lines[:FILE_ITEMS]), 1))
            del lines[:FILE_ITEMS]

    def take(payload: bytes) -> None:
        lines.extend(orjson.dumps({"Item": each}) + b"\n" for each in parse_items(orjson.loads(payload)))
        save(FILE_ITEMS)

    services, s3 = open_services(
        folder / "local",
        FLIGHTS,
        dataset=build_dataset("four"),
        transport=lambda _timeout: cast(Any, DiscardTransport(take)),
    )
    run(services, s3, output)
    save(0)
    return items


def measure_peer(peer: str, env: dict[str, str], **more: str) -> dict[str, Any]:
    """Execute a peer's program in its own environment; return its figures."""
    python = interpreter(peer)
    program = HERE / "peers" / f"{peer}.py"
    env = {**env, "PYSPARK_PYTHON": str(python), "BENCH_FLIGHTS": str(FLIGHTS.resolve()), **more}
    done = subprocess.run([python, program], env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def build_runs(folder: Path, endpoint: NullEndpoint, bulk_executor: Path | None) -> dict[str, Callable[[], Any]]:
    """Return for each contestant a function that executes it and returns its figures."""
    output = folder / "flights.parquet"
    write_copies(output, 1)
    env = build_env(endpoint, folder, output)
    if java := os.environ.get("JAVA_HOME"):
        env["JAVA_HOME"] = java
    runs: dict[str, Callable[[], Any]] = {
        "larder, one process": lambda: execute(EngineKind.LOCAL, 1, 1, endpoint=endpoint.url)[0],
        "larder on Spark": lambda: execute(EngineKind.SPARK, 1, 1, endpoint=endpoint.url)[0],
        "spark_feast": lambda: measure_peer("spark_feast", env, BENCH_OUTPUT=str(output)),
    }
    if bulk_executor:
        items = write_items(folder, output)
        source = bulk_executor.resolve() / "tools/bulk_executor/server/src"
        more = {"BENCH_OUTPUT": str(items), "PYTHONPATH": f"{env['PYTHONPATH']}:{source}"}
        runs["spark_bulk"] = lambda: measure_peer("spark_bulk", env, **more)
    return runs


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="tests.bench.scale_peers", description="Larder and its peers on one Spark.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default 3)")
    parser.add_argument("--bulk-executor", type=Path, metavar="FOLDER", help="a clone of awslabs/amazon-dynamodb-tools")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    write_flights(FLIGHTS)
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "bench")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "bench")
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name, null_endpoint(Path(name), tls=False) as endpoint:
        runs = build_runs(Path(name), endpoint, options.bulk_executor)
        for _ in range(options.rounds):
            for contestant, measure in runs.items():
                before, load = endpoint.cpu(), os.getloadavg()[0]
                figures = measure()
                assert figures["rows"] == ROWS, figures
                found.setdefault(contestant, []).append(
                    {**figures, "load": load, "endpoint_cpu_s": endpoint.cpu() - before}
                )
    print("| | rows per CPU-second | low - high | of larder on Spark | seconds | largest worker, MB |\n|" + "---|" * 6)
    rates = {name: sorted(one["rows"] / one["cpu_s"] for one in rounds) for name, rounds in found.items()}
    for contestant, rounds in found.items():
        rate = median(rates[contestant])
        print(
            f"| {contestant} | {rate:,.0f} | {rates[contestant][0]:,.0f} - {rates[contestant][-1]:,.0f} "
            f"| {rate / median(rates['larder on Spark']):.2f} | {median(one['seconds'] for one in rounds):.0f} "
            f"| {max(one['worker_mb'] for one in rounds):.0f} |"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        packages = {name: installed(name)["packages"] for name in found if name.startswith("spark_")}
        options.json.write_text(json.dumps({"scale_peers": found, "packages": packages}, indent=1))


if __name__ == "__main__":
    main()
