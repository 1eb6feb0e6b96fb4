"""python -m server serve|score: run a function as a server; the environment is that of the function."""

from __future__ import annotations

import argparse
import os
import sys

from server.functions import OPEN
from server.run import run
from server.settings import parse_settings


def main() -> int:
    """Run the server; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m server", description=__doc__)
    parser.add_argument("function", choices=sorted(OPEN))
    parser.add_argument("--host", default="0.0.0.0", help="default: %(default)s")  # noqa: S104 - a container's own
    parser.add_argument("--port", type=int, default=8080, help="default: %(default)s; 0: any free port")
    parser.add_argument("--metrics-port", type=int, default=9090, help="default: %(default)s; 0: any free port")
    options = parser.parse_args()
    try:
        OPEN[options.function](os.environ, lambda _: None)  # a mistake is one message, not one of each process
        return run(options.function, options.host, options.port, options.metrics_port, parse_settings(os.environ))
    except (ValueError, OSError) as error:
        print(f"larder server: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
