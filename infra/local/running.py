"""The variables of the stack that runs on this machine, in a file, for the commands that work with it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

PLACE = Path(__file__).resolve().parents[2] / ".larder" / "running.json"
_TIMEOUT = 1.0  # seconds until the stand-in must accept a connection


class NotRunning(ValueError):
    """No stack runs on this machine; the message says how to start one."""


@contextmanager
def announce(variables: Mapping[str, str], place: Path = PLACE) -> Iterator[None]:
    """Keep variables in the file until the block ends; a second stack takes the place of the first.

    Args:
        variables: the environment of a command that works with the stack.
        place: the file; only its owner reads it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(variables), indent=1)
    draft = place.with_name(f"{place.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(place)  # a reader sees all of it or none
    try:
        yield
    finally:
        with suppress(OSError):
            if place.read_text() == text:  # not another stack's
                place.unlink()


def read_variables(place: Path = PLACE) -> dict[str, str]:
    """Read the variables of the running stack.

    Raises:
        NotRunning: there is no file, or the stand-in that it names does not answer.
    """
    start = "start one with `./larder up` (or `./larder demo`), or set the variables of a stack (docs/runbook.md)"
    try:
        found: dict[str, str] = json.loads(place.read_text())
        parts = urlsplit(found["AWS_ENDPOINT_URL"])
        address = parts.hostname or "", parts.port or 0
    except FileNotFoundError:
        raise NotRunning(f"no stack runs on this machine ({place} does not exist); {start}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise NotRunning(f"{place} is damaged ({error!r}); delete it, and {start}") from error
    try:
        socket.create_connection(address, _TIMEOUT).close()
    except OSError:
        raise NotRunning(f"the stack of {place} has ended: {parts.netloc} does not answer; {start}") from None
    return found
