"""One process of the server: granian imports `create` and calls it in each of them."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry

from server.app import Application
from server.functions import OPEN
from server.logs import LogWriter
from server.metrics import Metrics
from server.settings import DRAINS, FOLDER, FUNCTION, THREADS


def create() -> Application:
    """Create the application of this process, as its environment says."""
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
    )
