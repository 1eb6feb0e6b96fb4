"""`tox -e scale [-- --copies N --rounds N --json FILE]`: runs in one process, and on Spark with one and two cores.

The output has all flights of 2013 N times (336,776 rows each), joined with four metadata; S3 is a folder, and writes
are discarded. Rounds are interleaved. CPU is that of all processes: driver, JVM, Python workers. Each run is bound to
its cores.

The gain of the second core is t1 / (2 t2), of the seconds with one and with two. Other processes spoil it, so there are
two figures: `as measured`, and `without others`, whose seconds are those in which a core was ours or idle. The
second one is right if what was idle would have been idle in any case; it is too high if other processes used time in
which we had nothing to do. On an idle machine both are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from enrich.ledger.run_state import EngineKind
from tests.bench.flights_year import write_flights
from tests.bench.pipeline_worker import FLIGHTS

RUNS = ((EngineKind.LOCAL, 1), (EngineKind.SPARK, 1), (EngineKind.SPARK, 2))


def execute(engine: str, cores: int, copies: int, *, endpoint: str | None = None) -> list[dict[str, Any]]:
    """Execute both kinds of a run in a process of its own; return their figures."""
    env = {name: value for name, value in os.environ.items() if name != "AWS_ENDPOINT_URL"}
    env |= {"AWS_ENDPOINT_URL": endpoint} if endpoint else {}
    command = [sys.executable, "-m", "tests.bench.scale_worker", engine, str(cores), str(copies)]
    load = os.getloadavg()[0]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return [{**json.loads(line), "load": load} for line in done.stdout.splitlines()]


def summarize(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the medians of all rounds by engine, cores and kind."""
    summary = []
    for key, group in groupby(sorted(found, key=_key), _key):
        rounds = list(group)
        quiet = [(one["cpu_s"] + one["idle_s"]) / one["cores"] for one in rounds]
        names = ("rows", "cpu_s", "seconds", "worker_mb")
        medians = {name: median(one[name] for one in rounds) for name in names}
        summary.append({**dict(zip(("engine", "kind", "cores"), key, strict=True)), **medians})
        summary[-1] |= {"quiet_s": median(quiet), "rounds": rounds}
    return summary


def _key(one: dict[str, Any]) -> tuple[str, str, int]:
    return one["engine"], one["kind"], one["cores"]


def print_tables(summary: list[dict[str, Any]]) -> None:
    """Print rows per CPU-second, and the gain of the second core, both in Markdown."""
    print("| engine | | cores | rows per CPU-second | of local | seconds | largest worker, MB |\n|" + "---|" * 7)
    found = {_key(one): one for one in summary}
    for (engine, kind, cores), each in found.items():
        local = found.get((EngineKind.LOCAL, kind, 1))
        share = f"{local['cpu_s'] / each['cpu_s']:.2f}" if local else ""
        print(
            f"| {engine} | {kind} | {cores} | {each['rows'] / each['cpu_s']:,.0f} | {share} | {each['seconds']:.1f} "
            f"| {each['worker_mb']:.0f} |"
        )
    titles = (
        "1 -> 2 cores",
        "as measured",
        "without other processes",
        "CPU with 2",
        "idle with 2",
        "driver alone with 2",
    )
    print(f"\n| {' | '.join(titles)} |\n|" + "---|" * len(titles))
    for (engine, kind, cores), one in found.items():
        two = found.get((engine, kind, 2))
        if cores != 1 or two is None:
            continue
        idle = median(each["idle_s"] / each["seconds"] / 2 for each in two["rounds"])
        alone = median(1 - sum(each["stages_s"].values()) / each["seconds"] for each in two["rounds"])
        print(
            f"| {kind} | {one['seconds'] / two['seconds'] / 2:.0%} | {one['quiet_s'] / two['quiet_s'] / 2:.0%} "
            f"| {two['cpu_s'] / one['cpu_s']:.2f} times | {idle:.0%} | {alone:.0%} |"
        )


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(prog="tests.bench.scale", description="Runs in one process against runs on Spark.")
    parser.add_argument("--copies", type=int, default=8, metavar="N", help="of the flights of 2013 (default 8)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="each executes all runs (default 1)")
    parser.add_argument("--spark-only", action="store_true", help="no runs in one process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    options = parser.parse_args()
    write_flights(FLIGHTS)
    found: list[dict[str, Any]] = []
    print(f"load of the machine at the beginning: {os.getloadavg()[0]:.1f}", flush=True)
    for number in range(options.rounds):
        for engine, cores in RUNS if number % 2 == 0 else reversed(RUNS):
            if engine == EngineKind.SPARK or not options.spark_only:
                found += execute(engine, cores, options.copies)
    summary = summarize(found)
    print_tables(summary)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"scale": summary}, indent=1))


if __name__ == "__main__":
    main()
