"""One time limit for all calls of a unit of work, e.g. of one request."""

import time
from contextvars import ContextVar, Token

# A context variable, as in other libraries with time limits (anyio's `fail_after`): an argument would have to pass
# through every function between a request and its sockets, and a function that drops it would wait without a limit.
# Each thread has its own.
_ends: ContextVar[float] = ContextVar("ends", default=float("inf"))


class time_limit:  # noqa: N801 - used as a function; `contextlib.contextmanager` would take 2 us more per request
    """Bound the calls of every `wire.client.Client` in the block; an inner limit can only shorten an outer one."""

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._token: Token[float] = _ends.set(min(_ends.get(), time.monotonic() + self._seconds))

    def __exit__(self, *_: object) -> None:
        _ends.reset(self._token)


def deadline() -> float:
    """Return when the current unit of work ends, on `time.monotonic`; infinity without a limit."""
    return _ends.get()
