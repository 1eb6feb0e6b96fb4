"""A file with the variables of the stack that runs on this machine, for the commands that use it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

PLACE = Path(__file__).resolve().parents[2] / ".larder" / "running.json"
_TIMEOUT = 1.0  # seconds until the stand-in must accept a connection


class NotRunning(ValueError):
    """No stack runs on this machine; the message says how to start one."""


@contextmanager
def announce(variables: Mapping[str, str], place: Path = PLACE) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Keep variables in the file until the block ends; a second stack replaces the first.

    Args:
        variables: the environment of a command that uses the stack.
        place: the file; only its owner can read it.

    Yields:
        A function that replaces the variables with those of the stack after another deploy.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    text = _write(variables, place)

    def replace(variables: Mapping[str, str]) -> None:
        nonlocal text
        if _is_own(place, text):
            text = _write(variables, place)

    try:
        yield replace
    finally:
        if _is_own(place, text):
            place.unlink(missing_ok=True)


def _write(variables: Mapping[str, str], place: Path) -> str:
    text = json.dumps(dict(variables), indent=1)
    draft = place.with_name(f"{place.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(place)  # atomic, so that a reader sees a complete file
    return text


def _is_own(place: Path, text: str) -> bool:
    """Return whether the file has the text that this process wrote, and not that of another stack."""
    with suppress(OSError):
        return place.read_text() == text
    return False


def read_variables(place: Path = PLACE) -> dict[str, str]:
    """Read the variables of the running stack.

    Raises:
        NotRunning: there is no file, it is damaged, or the stand-in that it names does not respond.
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
        raise NotRunning(f"the stack of {place} has ended: {parts.netloc} does not respond; {start}") from None
    return found
