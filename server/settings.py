"""How the server runs, which is not how the function runs: from the environment."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import NamedTuple

FUNCTIONS = ("score", "serve")
# What the main process passes to the others, in their environment.
FUNCTION, FOLDER, THREADS = "LARDER_SERVER_FUNCTION", "LARDER_SERVER_FOLDER", "LARDER_THREADS"
# Time-outs of the two functions in infra/template.yaml, which a test compares.
SERVE_SECONDS, SCORE_SECONDS = 10.0, 20.0
END_SECONDS = SCORE_SECONDS + 2  # for the requests that are being answered when the drain ends
# What the main process waits for. Processes inherit that they are blocked.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM)
DRAINS = "drains"  # a file of the folder that exists once the server is asked to end


class Settings(NamedTuple):
    """How the server runs, which is not how the function runs.

    Attributes:
        processes: with one interpreter each.
        threads: of each process.
        drain_seconds: between SIGTERM and the end of the listening sockets: load balancers need it to notice.
    """

    processes: int = 2
    threads: int = 8
    drain_seconds: int = 10


def parse_settings(env: Mapping[str, str]) -> Settings:
    """Parse LARDER_PROCESSES, LARDER_THREADS and LARDER_DRAIN_SECONDS.

    Raises:
        ValueError: one of them is no number in its bounds; the message names it.
    """
    defaults = Settings()
    return Settings(
        _parse(env, "LARDER_PROCESSES", defaults.processes, 1, 64),
        _parse(env, THREADS, defaults.threads, 1, 256),
        _parse(env, "LARDER_DRAIN_SECONDS", defaults.drain_seconds, 0, 300),
    )


def _parse(env: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = env.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ValueError(f"{name} is {text!r}, expected a number from {least} to {most}")
    return int(text)
