"""python -m server serve|score: run a function as a server; the environment is that of the function."""

from __future__ import annotations

import signal

from server.settings import FUNCTIONS, SIGNALS, parse_settings

# Before the other imports: the system ignores a signal to the first process of a container that is not blocked. Nor are
# there threads yet: `sigwait` alone takes them.
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

import argparse
import os
import sys

from server.ports import parse_port
from server.run import run


def main() -> int:
    """Run the server; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m server", description=__doc__)
    parser.add_argument("function", choices=FUNCTIONS)
    parser.add_argument("--host", default="0.0.0.0", help="default: %(default)s")  # noqa: S104 - a container's own
    parser.add_argument("--port", type=parse_port, default=8080, help="default: %(default)s; 0: any free port")
    parser.add_argument("--metrics-port", type=parse_port, default=9090, help="default: %(default)s; 0: any free port")
    options = parser.parse_args()
    status = _check(options.function)
    if signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
        return 0
    if status:
        return status
    try:
        return run(options.function, options.host, options.port, options.metrics_port, parse_settings(os.environ))
    except (ValueError, OSError) as error:
        return _fail(error)


def _check(function: str) -> int:
    """Open the function once, so that a mistake is one message, not one of each process; return the exit status.

    A process of its own does it: the main process then needs none of the function's modules, which take 15 MB.
    """
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    from server.functions import OPEN

    try:
        OPEN[function](os.environ, lambda _: None)
    except (ValueError, OSError) as error:
        os._exit(_fail(error))
    os._exit(0)


def _fail(error: Exception) -> int:
    print(f"larder server: {error}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
