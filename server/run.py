"""Run the server: granian with its processes, the exporter of metrics, and an end that loses no request."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from server.ports import check_port
from server.settings import DRAINS, FOLDER, FUNCTION, SCORE_SECONDS, THREADS, Settings

MAX_HEAD = 64 * 1024  # bytes of a request line and its headers
# For the headers of a request, and for a connection without one: longer than doors keep an idle connection (60 s), so
# that they close it and never send a request into its end.
IDLE_SECONDS = 75
CONNECTIONS = 16_384  # of a process
BACKLOG = 1024
_PREFIX = "larder-server-"
KILL_SECONDS = int(SCORE_SECONDS) + 2  # for the requests that are being answered when the drain ends


def run(name: str, host: str, port: int, metrics_port: int, settings: Settings) -> int:
    """Serve a function until SIGTERM or SIGINT; return the exit status.

    Raises:
        OSError: a port is in use.
    """
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    port = check_port(host, port)
    folder, lock = create_folder(Path(tempfile.gettempdir()))
    os.environ |= {
        FUNCTION: name,
        FOLDER: str(folder),
        THREADS: str(settings.threads),
        "PROMETHEUS_MULTIPROC_DIR": str(folder),
    }
    _raise_files()
    multiprocessing.set_start_method("spawn")  # the exporter's threads must not be forked
    server: Any = Granian(  # some of its methods have no annotations
        "server.worker:create",
        host,
        port,
        interface=Interfaces.ASGI,
        factory=True,
        workers=settings.processes,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=IDLE_SECONDS * 1000, max_buffer_size=MAX_HEAD),
        websockets=False,
        backlog=BACKLOG,
        backpressure=CONNECTIONS,
        log_level=LogLevels.warning,
        log_dictconfig=_LOGGING,
        respawn_failed_workers=True,
        workers_kill_timeout=KILL_SECONDS,
    )

    interrupt: Callable[[], None] = server.signal_handler_interrupt

    def end(signum: int, _frame: object) -> None:
        """On SIGTERM: say that the server drains, keep answering, and end later. SIGINT, or a second one: end now."""
        drains = folder / DRAINS
        if signum == signal.SIGINT or drains.exists() or not settings.drain_seconds:
            interrupt()
            return
        try:
            drains.touch()
        except OSError:  # a full disk: nobody would know that the server drains
            interrupt()
            return
        timer = threading.Timer(settings.drain_seconds, interrupt)
        timer.daemon = True
        timer.start()

    exporters: list[Any] = []

    def start() -> None:
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, end)
        exporters.append(_export(host, metrics_port))
        ports = {"event": "listening", "function": name, "host": host, "port": port}
        ports["metrics_port"] = exporters[0].server_port
        print(json.dumps({"level": "INFO", **ports}), file=sys.stderr, flush=True)  # noqa: T201

    server.on_startup(start)
    try:
        server.serve()
    finally:
        for exporter in exporters:
            exporter.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
    return 0


def create_folder(place: Path) -> tuple[Path, int]:
    """Create the folder that the processes share, and delete those of servers that were killed.

    A container that is started again in its pod finds the former one's, and /tmp is small.

    Returns:
        the folder, and a file descriptor that locks it as long as the server runs.

    Raises:
        OSError: the disk is full.
    """
    for other in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is in use, or another user's
            lock = os.open(other, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(other, ignore_errors=True)
            finally:
                os.close(lock)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


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


_LOGGING = {  # granian's own messages go to standard error, as JSON
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"format": '{"level": "%(levelname)s", "event": "server", "message": "%(message)s"}'}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
    "loggers": {"_granian": {"handlers": ["stderr"], "propagate": False}},
}
