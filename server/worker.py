"""One process of the server: `python -m server.worker HOST PORT`, started by `server.run`, which also ends it.

Its standard input is a pipe. It ends when the main process closes that, or is gone. Signals stay blocked, as the main
process has them: systemd sends SIGTERM, and a terminal SIGINT, to all processes, and the main one decides when they
end.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path

from server.app import Application
from server.connection import HttpServer, open_socket
from server.functions import OPEN
from server.logs import FaultReporter, LogWriter, report
from server.settings import DRAINS, END_SECONDS, FOLDER, FUNCTION, THREADS

VALUES_BYTES = 512 * 1024  # of each file of values: a thousand series of each kind


def create() -> Application:
    """Create the application of this process, as its environment says."""
    try:
        reserve_values(Path(os.environ[FOLDER]), os.getpid())
    except OSError as error:  # requests matter more than their metrics, which now stay in this process
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        report("ERROR", "no_metrics", message=str(error))
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
    )


async def serve(application: Application, host: str, port: int) -> None:
    """Answer requests until standard input ends, and those that have come by then.

    Raises:
        Exception: the function cannot start, or the port is in use.
    """
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(FaultReporter())
    stdin = sys.stdin.fileno()

    def notice_end() -> None:
        loop.remove_reader(stdin)  # the end of a file can be read again and again
        end.set()

    loop.add_reader(stdin, notice_end)
    await application.start()
    try:
        server = HttpServer(application, application.threads)
        await server.listen(open_socket(host, port))
        gc.collect()
        gc.freeze()  # modules and models live as long as the process
        await end.wait()
        await server.close(END_SECONDS)
    finally:
        await application.stop()  # writes the lines that wait


def main(host: str, port: int) -> int:
    """Run the process; return its exit status."""
    try:
        asyncio.run(serve(create(), host, port))
    except Exception as error:  # noqa: BLE001 - whatever it is, this process cannot answer requests
        report("ERROR", "server", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
