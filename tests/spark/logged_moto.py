"""moto's server with a log of all requests, which can hold one of them while a test kills or stops its sender."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Self

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

HOLD_SECONDS = 60.0  # for which a request is held at most: a test that failed does not release it


class Gate:
    """Holds one request: before it is applied, or before it is answered."""

    def __init__(self, pattern: str, *, after: str, skip: int, is_applied: bool) -> None:
        self._pattern = re.compile(pattern)
        self._after = re.compile(after)
        self._is_open = not after
        self._left = skip
        self.is_applied = is_applied
        self.reached = threading.Event()
        self.released = threading.Event()
        self.port = 0  # of the sender

    def takes(self, what: str, port: int) -> bool:
        """Return whether this is the request; called by one thread at a time."""
        self._is_open = self._is_open or bool(self._after.search(what))
        if self.reached.is_set() or not self._is_open or not self._pattern.search(what):
            return False
        self._left -= 1
        if self._left >= 0:
            return False
        self.port = port
        self.reached.set()
        return True


class LoggedMoto(AbstractContextManager["LoggedMoto"]):
    """A server in threads of this process.

    Attributes:
        port: of the server.
        url: its address.
        requests: what has arrived: method and path (S3), or operation (DynamoDB).
        gate: holds a request, if any.
    """

    def __init__(self) -> None:
        """Bind a port; `with` serves."""
        self.requests: list[str] = []
        self.gate: Gate | None = None
        self._lock = threading.Lock()
        self._application: Any = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self.port = self._server.port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        """Serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Release the held request, and end."""
        if self.gate is not None:
            self.gate.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def count(self, pattern: str) -> int:
        """Count the requests that match."""
        return sum(1 for each in list(self.requests) if re.search(pattern, each))

    def hold(self, pattern: str, *, after: str = "", skip: int = 0, is_applied: bool = False) -> Gate:
        """Hold a request that comes from now on.

        Args:
            pattern: regular expression that it matches.
            after: one that a request before it matches, which also comes from now on.
            skip: number of requests that match and are not held.
            is_applied: hold its answer.
        """
        self.gate = Gate(pattern, after=after, skip=skip, is_applied=is_applied)
        return self.gate

    def _serve(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        what = environ.get("HTTP_X_AMZ_TARGET") or f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        with self._lock:
            self.requests.append(what)
            gate = self.gate if self.gate and self.gate.takes(what, int(environ["REMOTE_PORT"])) else None
        if gate and not gate.is_applied:
            gate.released.wait(HOLD_SECONDS)
        answer: Iterable[bytes] = self._application(environ, start)
        if gate and gate.is_applied:
            answer = list(answer)
            gate.released.wait(HOLD_SECONDS)
        return answer
