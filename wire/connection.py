"""One connection of awscrt and one exchange on it: awscrt's thread fills it, whoever sent it enforces the time-out."""

from __future__ import annotations

import os
from concurrent.futures import Future
from functools import cache
from typing import Any

from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpClientConnection, HttpRequest
from awscrt.io import (
    ClientBootstrap,
    ClientTlsContext,
    DefaultHostResolver,
    EventLoopGroup,
    SocketOptions,
    TlsConnectionOptions,
    TlsContextOptions,
)

from wire.endpoint import Endpoint
from wire.errors import TooLarge, TransportError
from wire.response import Response, check_whole


@cache
def bootstrap() -> ClientBootstrap:
    """Return the process's one event loop: a second thread of awscrt would wait for it at the interpreter lock."""
    loops = EventLoopGroup(1)
    return ClientBootstrap(loops, DefaultHostResolver(loops))


@cache
def tls_context(ca_bundle: str | None) -> ClientTlsContext:
    """Make a TLS context once (loading the trust store takes milliseconds); `ca_bundle` replaces the system's."""
    options = TlsContextOptions()
    if ca_bundle:
        options.override_default_trust_store_from_path(None, ca_bundle)
    return ClientTlsContext(options)


def open_connection(endpoint: Endpoint, timeout: float) -> Future[HttpClientConnection]:
    """Begin to connect; the future fails with an `AwsCrtError`. AWS_CA_BUNDLE is honoured as the SDKs do."""
    tls = None
    if endpoint.tls:
        tls = TlsConnectionOptions(tls_context(os.environ.get("AWS_CA_BUNDLE")))
        tls.set_server_name(endpoint.host)
    socket = SocketOptions()
    socket.connect_timeout_ms = max(1, int(timeout * 1000))
    connecting: Future[HttpClientConnection] = HttpClientConnection.new(
        endpoint.host, endpoint.port, bootstrap(), socket, tls
    )
    return connecting


def abandon(connecting: Future[HttpClientConnection]) -> None:
    """Close a connection whenever it opens: awscrt's time-out covers TCP only, not the TLS handshake."""
    connecting.add_done_callback(lambda late: None if late.exception() else late.result().close())


class Exchange:
    """One request and what has come of it so far.

    awscrt delivers status 200 and fails afterwards when the body is cut off: nothing is an answer before `response()`.
    """

    __slots__ = ("headers", "limit", "method", "parts", "size", "status", "stream")

    def __init__(self, method: str, limit: int) -> None:
        self.method = method
        self.limit = limit
        self.parts: list[bytes] = []
        self.size = 0

    def start(self, connection: HttpClientConnection, request: HttpRequest) -> Future[int]:
        """Send the request; the future fails with an `AwsCrtError`.

        Raises:
            TransportError: the connection was closed while it was idle.
        """
        try:
            self.stream = connection.request(request, self._on_response, self._on_body)
            self.stream.activate()
        except (RuntimeError, AwsCrtError) as error:
            raise TransportError(f"connection was closed while idle: {error}") from error
        done: Future[int] = self.stream.completion_future
        return done

    def _on_response(self, status_code: int, headers: list[tuple[str, str]], **_: Any) -> None:
        self.status = status_code
        self.headers = headers

    def _on_body(self, http_stream: Any, chunk: bytes, **_: Any) -> None:
        self.size += len(chunk)
        if self.size <= self.limit:
            self.parts.append(chunk)
        else:  # an exception here would end the stream as well, but awscrt prints it
            self.parts.clear()
            http_stream.connection.close()

    def response(self, error: BaseException | None) -> Response:
        """Return the answer, now that awscrt has done with it; `error` is the future's.

        Raises:
            TransportError: reset, cut off or damaged.
            TooLarge: past the limit.
        """
        if self.size > self.limit:
            raise TooLarge(f"answer is larger than {self.limit} bytes")
        if error is not None:
            raise TransportError(f"connection failed: {error}") from error
        response = Response(self.status, self.headers, b"".join(self.parts))
        check_whole(response, self.method)
        return response
