"""`python -m tests.bench.doors [--rounds N] [--seconds S] [--json FILE] [SERVER ...]`: containers under load.

wrk sends GETs of a 2 KB item over 32 connections; storage answers after 4 ms. Rounds are interleaved. The CPU is
that of all processes of a server. `feast` is Feast's server, with its own environment; it checks no token.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.bench.read_servers import FEAST_QUERY, open_server
from tests.bench.read_setup import HERE, build_env, endpoint
from tests.doors.kit import build_tree, run_server

DELAY, CONNECTIONS = 0.004, 32
SERVERS = ("larder", "waitress", "feast")


@contextmanager
def open_one(name: str, env: dict[str, str], folder: Path) -> Iterator[tuple[int, int, str]]:
    """Run a server; yield its port, its process, and the script of wrk."""
    token = json.loads(Path(env["BENCH_EVENT"]).read_text())["headers"]["Authorization"]
    script = f'wrk.path = "/v1/flight-delays/a"\nwrk.headers["Authorization"] = "{token}"\n'
    if name == "feast":
        script = f"wrk.method = 'POST'\nwrk.path = '/get-online-features'\nwrk.body = [[{FEAST_QUERY.decode()}]]\n"
        script += 'wrk.headers["Content-Type"] = "application/json"\n'
        with open_server("feast_server", env, folder) as feast:
            yield feast.port, feast.pid, script
    elif name == "waitress":
        command = [sys.executable, str(HERE / "peers/serve_waitress.py")]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield int(json.loads(process.stdout.readline())["port"]), process.pid, script
            process.terminate()
    else:
        tree = build_tree(folder / "tree")
        shutil.copy(env["BENCH_SERVED"], tree / "serve/datasets.json")
        with run_server(tree, {**env, "LARDER_DRAIN_SECONDS": "0"}, folder, stdout=subprocess.DEVNULL) as server:
            yield server.port, server.process.pid, script


def measure(port: int, pid: int, script: Path, seconds: int) -> dict[str, float]:
    """Send requests for some seconds."""
    parent = psutil.Process(pid)
    processes = [parent, *parent.children(recursive=True)]
    before = sum(sum(each.cpu_times()[:2]) for each in processes)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script)]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+) requests in", done)
    rate, slow = re.search(r"Requests/sec: +([\d.]+)", done), re.search(r"99% +([\d.]+)(us|ms|s)", done)
    assert found is not None
    assert rate is not None
    assert slow is not None
    assert "Non-2xx" not in done, done
    cpu = sum(sum(each.cpu_times()[:2]) for each in processes) - before
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}[slow[2]]
    memory = sum(each.memory_info().rss for each in processes) / 1e6
    return {
        "rate": float(rate[1]),
        "p99_ms": float(slow[1]) * scale,
        "cpu_us": cpu / int(found[1]) * 1e6,
        "mb": memory,
    }


def main() -> None:
    """Run all, print the table, and write JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("servers", nargs="*", default=[], help=", ".join(SERVERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in options.servers or SERVERS}
    with endpoint(DELAY) as port, tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        env = build_env(port, Path(work))
        opened = {}
        for name in rounds:
            folder = Path(work) / name
            folder.mkdir()
            opened[name] = stack.enter_context(open_one(name, env, folder))
            (folder / "wrk.lua").write_text(opened[name][2])
        for _ in range(options.rounds + 1):
            for name, (at, pid, _) in opened.items():
                rounds[name].append(measure(at, pid, Path(work) / name / "wrk.lua", options.seconds))
    found: list[dict[str, Any]] = [
        {"server": name} | {column: median(one[column] for one in kept[1:]) for column in kept[0]}
        for name, kept in rounds.items()
    ]
    print(f"{'server':12}{'req/s':>10}{'p99 ms':>10}{'CPU us':>10}{'MB':>8}{'x rate':>9}")
    for row in found:
        times = found[0]["rate"] / row["rate"]
        figures = f"{row['rate']:10,.0f}{row['p99_ms']:10.0f}{row['cpu_us']:10.0f}{row['mb']:8.0f}"
        print(f"{row['server']:12}{figures}{times:9.1f}")
    if options.json:
        options.json.write_text(json.dumps({"doors": found}, indent=1))


if __name__ == "__main__":
    main()
