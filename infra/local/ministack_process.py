"""The process of ministack: serve an inherited loopback socket until the parent closes the pipe.

`infra.local.ministack` runs this file by its path, so that the checkout is not on the process's module path: Lambda
functions that ministack starts inherit its environment, and a bundle must not find the checkout's modules.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import threading


def main(socket_fd: int, directory: str) -> None:
    """Serve ministack on the listening socket `socket_fd`; remove `directory` when the parent has ended."""
    threading.Thread(target=_end_with_parent, args=(directory,), daemon=True).start()
    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack.app import app

    config = Config()
    config.bind = [f"fd://{socket_fd}"]
    config.keep_alive_timeout = 75
    # With an explicit trigger, hypercorn installs no signal handlers: only the parent handles Ctrl-C.
    asyncio.run(serve(app, config, shutdown_trigger=asyncio.Event().wait))


def _end_with_parent(directory: str) -> None:
    """Kill this process group, including the functions that ministack started, when standard input ends.

    The pipe ends when the parent closes it or dies, even by SIGKILL.
    """
    sys.stdin.buffer.read()
    shutil.rmtree(directory, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
