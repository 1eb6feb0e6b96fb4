"""`python -m tests.bench.read`: one warm GET of a 2 KB item by each reader in turn; CPU time of its process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.bench.read_setup import HERE, READERS, build_env, endpoint, interpreter

ROUNDS, REQUESTS = 9, 400


def main() -> None:
    """Print the table."""
    readers = sys.argv[1:] or list(READERS)
    found: dict[str, list[list[float]]] = {reader: [] for reader in readers}
    with endpoint() as port, tempfile.TemporaryDirectory() as work:
        env = build_env(port, Path(work))
        workers = {}
        for reader in readers:
            command: list[str | Path] = [interpreter(reader), HERE / "read_worker.py", f"{reader}_handler"]
            workers[reader] = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        try:
            for worker in workers.values():
                assert worker.stdout is not None
                worker.stdout.readline()
            for turn in range(ROUNDS + 1):
                for reader, worker in workers.items():
                    assert worker.stdin is not None
                    assert worker.stdout is not None
                    worker.stdin.write(f"{REQUESTS}\n")
                    line = worker.stdout.readline()
                    if turn:  # the first warms up
                        found[reader].append([float(figure) / 1000 for figure in line.split()])
        finally:
            for worker in workers.values():
                worker.terminate()
    base = median(row[0] for row in found[readers[0]])
    print(f"{'one warm GET of 2 KB, RS256':30}{'CPU µs':>10}{'x':>7}{'p50 µs':>10}{'p99 µs':>10}")  # noqa: T201
    for reader, rows in found.items():
        cpu, p50, p99 = (median(row[column] for row in rows) for column in range(3))
        print(f"{reader:30}{cpu:10.0f}{cpu / base:7.1f}{p50:10.0f}{p99:10.0f}")  # noqa: T201


if __name__ == "__main__":
    main()
