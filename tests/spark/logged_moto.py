"""`python -m tests.spark.logged_moto LOG`: moto's server, with a line in a file for each request that writes an item.

It prints its port. The fault harness sees in the file when items are written, and that no write comes any more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from enrich.write.requests import BATCH, PUT


def main() -> None:
    """Serve until the process is killed."""
    log = Path(sys.argv[1]).open("a", buffering=1)  # noqa: SIM115 - open as long as the process
    application: Any = DomainDispatcherApplication(create_backend_app)

    def serve(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("HTTP_X_AMZ_TARGET") in {BATCH, PUT}:
            print(time.time(), file=log)
        answer: Iterable[bytes] = application(environ, start)
        return answer

    server = make_server("127.0.0.1", 0, serve, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
