"""`python -m tests.bench.read [--json FILE] [--rounds N] [READER ...]`: warm GETs of a 2 KB item, RS256, all checks.

Six tables. Handlers: each in a separate process, with the CPU of the whole process. Several: 100 items, in one request
and one by one, and by the `entity_rows` of Feast's SDK. Ranked: the first 10 of a ranked list, and 10 by their ids.
Servers: one process each, over HTTP on loopback, for one item and for 100; `due_` are latencies at a fixed rate, each
from when its request was due. Shares: the parts of the CPU of a request to Larder. Rounds are interleaved, so that
other load affects all alike; compare figures within one run only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.read_servers import RATE, Load, open_server
from tests.bench.read_setup import HERE, READERS, SERVERS, build_env, endpoint, installed, interpreter

REQUESTS = 400
SEVERAL, TIMES = ("larder_named", "larder_singles", "feast_rows"), 8  # handlers that answer for 100 items, and calls
SEVERAL_SERVERS, SERVER_TIMES, SERVER_RATE = ("larder_server_named", "feast_server_rows"), 40, 10.0
_SERVED = ("cpu_us", "p50_us", "p99_us", "rate", "rate_p99_us")
_DUE = ("due_p50_us", "due_p99_us", "due_p99.9_us")
RANKED, RANKED_TIMES = ("larder_top", "larder_ten"), 80  # those that answer for 10


def main() -> None:
    """Run all, print the tables, and write JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", default=[], help=", ".join([*READERS, *SERVERS]))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = arguments.readers or [*READERS, *SERVERS]
    with endpoint() as port, tempfile.TemporaryDirectory() as work:
        env = build_env(port, Path(work))
        found = {
            "handlers": run_handlers(
                [reader for reader in chosen if reader in READERS and reader not in SEVERAL + RANKED],
                env,
                arguments.rounds,
            ),
            "several": run_handlers([reader for reader in chosen if reader in SEVERAL], env, arguments.rounds, TIMES),
            "ranked": run_handlers(
                [reader for reader in chosen if reader in RANKED], env, arguments.rounds, RANKED_TIMES
            ),
            "servers": run_servers(
                [reader for reader in chosen if reader in SERVERS and reader not in SEVERAL_SERVERS],
                env,
                Path(work),
                arguments.rounds,
            ),
            "several_servers": run_servers(
                [reader for reader in chosen if reader in SEVERAL_SERVERS],
                env,
                Path(work),
                arguments.rounds,
                SERVER_TIMES,
                SERVER_RATE,
            ),
            "shares_cpu_us": run_share(env),
        }
    print_tables(found)
    if arguments.json:
        arguments.json.write_text(json.dumps({"read": found}, indent=1))


def run_handlers(readers: list[str], env: dict[str, str], rounds: int, count: int = REQUESTS) -> list[dict[str, Any]]:
    """Call each handler in turn, `count` times a round; return figures in microseconds."""
    rows: dict[str, list[list[float]]] = {reader: [] for reader in readers}
    with ExitStack() as stack:
        workers = {}
        for reader in readers:
            command: list[str | Path] = [interpreter(reader), HERE / "read_worker.py", f"{reader}_handler"]
            worker = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            stack.callback(worker.terminate)
            workers[reader] = worker
        for worker in workers.values():
            _read(worker)
        for turn in range(rounds + 1):
            for reader, worker in workers.items():
                assert worker.stdin is not None
                worker.stdin.write(f"{count}\n")
                figures = [float(figure) / 1000 for figure in _read(worker).split()]
                if turn:  # the first round warms up
                    rows[reader].append(figures)
    names = ("cpu_us", "p50_us", "p99_us")
    return [
        {"reader": reader, "packages": installed(reader)}
        | {name: median(row[column] for row in kept) for column, name in enumerate(names)}
        for reader, kept in rows.items()
    ]


def run_servers(
    names: list[str], env: dict[str, str], folder: Path, rounds: int, count: int = REQUESTS, rate: float = RATE
) -> list[dict[str, Any]]:
    """Send `count` requests a round to each server in turn, and as many at a rate per second."""
    with ExitStack() as stack:
        loads = [Load(stack.enter_context(open_server(name, env, folder)), rate) for name in names]
        for _ in range(rounds + 1):
            for load in loads:
                load.run(count)
    return [load.figures() | {"packages": installed(load.server.name)} for load in loads]


def run_share(env: dict[str, str]) -> dict[str, float]:
    """Return the parts of the CPU of a request to Larder, in microseconds."""
    command = [interpreter("larder"), HERE / "read_share.py"]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    shares: dict[str, float] = json.loads(done.stdout)
    return shares


def print_tables(found: dict[str, Any]) -> None:
    """Print the tables; x is how many times more CPU, or p50, than the first."""
    for title, name, rows, columns in (
        ("handler, one warm GET", "reader", found["handlers"], ("cpu_us", "p50_us", "p99_us")),
        ("handler, 100 items of 2 KB", "reader", found["several"], ("cpu_us", "p50_us", "p99_us")),
        ("handler, 10 items of 2 KB", "reader", found["ranked"], ("cpu_us", "p50_us", "p99_us")),
        ("server on loopback", "server", found["servers"], (*_SERVED, *_DUE)),
        ("server, 100 items of 2 KB", "server", found["several_servers"], (*_SERVED, *_DUE)),
    ):
        print(f"{title:34}" + "".join(f"{column:>13}" for column in columns) + f"{'x CPU':>9}{'x p50':>9}")
        for row in rows:
            times = "".join(f"{row[column] / rows[0][column]:9.1f}" for column in ("cpu_us", "p50_us"))
            print(f"{row[name]:34}" + "".join(f"{row[column]:13,.0f}" for column in columns) + times)
    handlers = {row["reader"]: row["p50_us"] for row in found["handlers"]}
    for row in found["servers"]:
        if "larder" in handlers and row["server"].startswith("feast"):
            print(f"{row['server']}'s p50 is {row['p50_us'] / handlers['larder']:.1f} times that of Larder's handler")
    print("parts of the CPU of a request to Larder, µs")
    for what, figure in found["shares_cpu_us"].items():
        print(f"  {what:32}{figure:13,.0f}")


def _read(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit("a reader process ended; its error is above")
    return line


if __name__ == "__main__":
    main()
