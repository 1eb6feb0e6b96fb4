"""What this process and all its descendants use: CPU seconds, and memory of Python workers.

Peers import this module in their own environments, so it needs only the standard library.
"""

from __future__ import annotations

import os
from pathlib import Path


def measure_tree() -> tuple[float, float]:
    """Return CPU seconds of this process and all its descendants, and the largest peak RSS of a Python worker in MB."""
    parents, cpu = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(path.parent.name)] = int(rest[1])
        cpu[int(path.parent.name)] = sum(map(int, rest[11:15])) / os.sysconf("SC_CLK_TCK")
    found, peak = {os.getpid()}, 0.0
    for _ in range(5):  # driver, JVM, daemon, worker
        found |= {each for each, parent in parents.items() if parent in found}
    for each in found - {os.getpid()}:
        try:
            text = Path(f"/proc/{each}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text.startswith("Name:\tpython") and "VmHWM:" in text:
            peak = max(peak, int(text.partition("VmHWM:")[2].split()[0]) / 1024)
    return sum(cpu[each] for each in found), peak


def measure_idle() -> float:
    """Return the seconds that the processors to which this process is bound were idle, since the machine's start."""
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    return sum(int(line[4]) + int(line[5]) for line in lines if line[0] in ours) / os.sysconf("SC_CLK_TCK")
