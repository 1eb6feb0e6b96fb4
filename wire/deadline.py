"""One time limit for all the calls of a unit of work, e.g. of one request, wherever in it they are made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# A context variable, as in other libraries that cancel (anyio's `fail_after`): an argument would have to pass through
# every function between a request and its sockets, and one that drops it would wait for as long as it likes. Each
# thread has its own.
_ends: ContextVar[float] = ContextVar("ends", default=float("inf"))


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Bound the calls of every `wire.client.Client` in the block; an inner limit can only shorten an outer one."""
    token = _ends.set(min(_ends.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _ends.reset(token)


def deadline() -> float:
    """Return when the current unit of work ends, on `time.monotonic`; infinity without a limit."""
    return _ends.get()
