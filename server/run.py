"""Run the server: its processes, the exporter of metrics, and an end that loses no request."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from server.logs import report
from server.ports import check_port
from server.settings import DRAINS, END_SECONDS, FOLDER, FUNCTION, SIGNALS, THREADS, Settings
from wire.scratch import create_folder

_PREFIX = "larder-server-"
KILL_SECONDS = END_SECONDS + 2
START_SECONDS = 3.0  # one that replaced another and ends sooner cannot start: the next one would not either
_FLAGS = ("-P",) if sys.flags.safe_path else ()


def run(name: str, host: str, port: int, metrics_port: int, settings: Settings) -> int:
    """Serve a function until SIGTERM or SIGINT, which are blocked; return the exit status.

    Raises:
        OSError: a port is in use.
    """
    port = check_port(host, port)
    # A container that is started again in its pod finds the former one's folder, and /tmp is small.
    folder, lock = create_folder(Path(tempfile.gettempdir()), _PREFIX)
    os.environ |= {
        FUNCTION: name,
        FOLDER: str(folder),
        THREADS: str(settings.threads),
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
    }
    _raise_files()
    exporter = None
    workers = Workers([sys.executable, *_FLAGS, "-m", "server.worker", host, str(port)], settings.processes)
    try:
        exporter = _export(host, metrics_port)
        report("INFO", "listening", function=name, host=host, port=port, metrics_port=exporter.server_port)
        return _wait(workers, folder / DRAINS, settings.drain_seconds)
    finally:
        workers.end()
        if exporter:
            exporter.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _wait(workers: Workers, drains: Path, drain_seconds: int) -> int:
    """Return the exit status once the server must end: 1 if a process cannot be replaced.

    On SIGTERM, say first that it drains, and keep answering for some seconds; SIGINT, or a second SIGTERM, ends it at
    once.
    """
    while (one := signal.sigwait(SIGNALS)) != signal.SIGINT:
        if one == signal.SIGCHLD:
            if not workers.replace():
                return 1
        elif one == signal.SIGALRM or drains.exists() or not drain_seconds:
            break
        else:
            try:
                drains.touch()
            except OSError:  # a full disk: nobody would know that the server drains
                break
            signal.setitimer(signal.ITIMER_REAL, drain_seconds)
    return 0


class Workers:
    """The processes that answer requests."""

    def __init__(self, command: list[str], number: int) -> None:
        """Start them."""
        self._command = command
        self._processes = [self._start() for _ in range(number)]
        self._replaced = [float("-inf")] * number  # when

    def _start(self) -> subprocess.Popen[bytes]:
        # It ends with the pipe, which this process closes, or the system if this process is gone.
        return subprocess.Popen(self._command, stdin=subprocess.PIPE)  # noqa: S603 - of this program's own words

    def replace(self) -> bool:
        """Replace those that have ended; return False if one ended within seconds after it replaced another."""
        for place, process in enumerate(self._processes):
            if process.poll() is None:
                continue
            report("ERROR", "server", message=f"a process ended with {process.returncode}")
            if time.monotonic() - self._replaced[place] < START_SECONDS:
                return False
            self._processes[place], self._replaced[place] = self._start(), time.monotonic()
        return True

    def end(self) -> None:
        """End all, within the time of the longest request."""
        for process in self._processes:
            if process.stdin:
                process.stdin.close()
        ends = time.monotonic() + KILL_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _export(host: str, port: int) -> Any:
    """Serve the metrics of all processes at /metrics."""
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    collect: Any = MultiProcessCollector  # has no annotations
    collect(registry)
    return start_http_server(port, host, registry)[0]


def _raise_files() -> None:
    """Allow as many open files as the system does: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
