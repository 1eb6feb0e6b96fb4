"""`python -m tests.bench.cold`: from the start of a process to its first answered GET by each reader in turn; CPU.

`.pyc` files are there, as they are shipped. `python` is the interpreter alone; `boto3.client` only makes the client.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.bench.read_setup import HERE, READERS, build_env, endpoint, interpreter

ROUNDS = 11


def _spend(command: list[object], env: dict[str, str]) -> tuple[float, float]:
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} failed")
    return (usage.ru_utime + usage.ru_stime) * 1000, (time.perf_counter() - start) * 1000


def main() -> None:
    """Print the table."""
    readers = [reader for reader in (sys.argv[1:] or READERS) if not reader.endswith("_unremembered")]
    with endpoint() as port, tempfile.TemporaryDirectory() as work:
        env = build_env(port, Path(work))
        commands: dict[str, list[object]] = {
            "python": [interpreter("boto3"), "-c", "pass"],
            "boto3.client": [interpreter("boto3"), "-c", "import boto3; boto3.client('dynamodb')"],
        }
        for reader in readers:
            commands[reader] = [interpreter(reader), HERE / "read_worker.py", f"{reader}_handler", "--cold"]
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for turn in range(ROUNDS + 1):
            for name, command in commands.items():
                figures = _spend(command, env)
                if turn:  # the first compiles and warms the disk's cache
                    found[name].append(figures)
    base = median(row[0] for row in found["boto3.client"])
    print(f"{'cold process to first GET':30}{'CPU ms':>10}{'x':>7}{'wall ms':>10}")  # noqa: T201
    for name, rows in found.items():
        cpu, wall = (median(row[column] for row in rows) for column in range(2))
        print(f"{name:30}{cpu:10.0f}{cpu / base:7.2f}{wall:10.0f}")  # noqa: T201


if __name__ == "__main__":
    main()
