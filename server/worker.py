"""One process of the server: granian imports `create` and calls it in each of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from server.app import Application
from server.functions import OPEN
from server.listener import bound_connections
from server.logs import LogWriter
from server.settings import DRAINS, FOLDER, FUNCTION, THREADS

VALUES_BYTES = 512 * 1024  # of each file of values: a thousand series of each kind


def create() -> Application:
    """Create the application of this process, as its environment says."""
    try:
        reserve_values(Path(os.environ[FOLDER]), os.getpid())
    except OSError as error:  # requests matter more than their metrics, which now stay in this process
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        line = {"level": "ERROR", "event": "no_metrics", "message": str(error)}
        print(json.dumps(line), file=sys.stderr, flush=True)  # noqa: T201
    # Not before: prometheus_client looks at the variable when it is imported.
    from prometheus_client import CollectorRegistry

    from server.metrics import Metrics

    metrics = Metrics(CollectorRegistry())
    log = LogWriter(1, metrics.count_lost, metrics.read_line)
    function = OPEN[os.environ[FUNCTION]](os.environ, log.write)

    def stop() -> None:
        function.stop()
        log.close()

    return Application(
        function._replace(stop=stop),
        int(os.environ[THREADS]),
        drains=Path(os.environ[FOLDER]) / DRAINS,
        report=metrics.count_refused,
        log=log.write,
        bound=bound_connections,
    )


def reserve_values(folder: Path, pid: int) -> None:
    """Fill the files in which prometheus_client keeps the values of a process with zeros, as many as it needs.

    It maps them into memory, and makes them as sparse files. On a full disk the first value in a new page would end
    the process (SIGBUS).

    Raises:
        OSError: the disk is full.
    """
    files = [folder / f"{kind}_{pid}.db" for kind in ("counter", "histogram")]
    try:
        for file in files:
            file.write_bytes(bytes(VALUES_BYTES))
    except OSError:
        for file in files:
            file.unlink(missing_ok=True)  # the exporter cannot read a part of one
        raise
