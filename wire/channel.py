"""One kept-alive connection on a socket of the standard library, bounded in time and size. An edge.

A single caller that waits for each answer needs no event loop: awscrt hands every exchange to a thread of its own and
back, which costs several times the CPU (docs/decisions/sockets.md).
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from functools import cache

from wire.addresses import Address, look_up, spread
from wire.answer import Answer
from wire.backoff import draw
from wire.endpoint import Endpoint
from wire.errors import Dropped, TransportError, Unavailable
from wire.response import Response

_READ = 64 * 1024


@cache
def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Make a TLS context once: loading roots takes tens of milliseconds. `ca_bundle` replaces the system's."""
    return ssl.create_default_context(cafile=ca_bundle)


def open_channel(endpoint: Endpoint, timeout: float) -> Channel:
    """Connect, TLS included. AWS_CA_BUNDLE is honoured as the SDKs do.

    Raises:
        Unavailable: no connection in `timeout` seconds, or none that can be trusted.
    """
    ends = time.monotonic() + timeout
    try:
        connection = _connect(spread(look_up(endpoint.host, endpoint.port, timeout), draw()), ends)
        if endpoint.tls:
            connection.settimeout(_left(ends))
            context = tls_context(os.environ.get("AWS_CA_BUNDLE") or None)
            connection = context.wrap_socket(connection, server_hostname=endpoint.host)
    except TimeoutError as error:
        raise Unavailable(f"no connection to {endpoint.authority} in time") from error
    except OSError as error:
        raise Unavailable(f"no connection to {endpoint.authority}: {error}") from error
    return Channel(connection)


class Channel:
    """A connection, for one exchange at a time. After an error it must be closed."""

    __slots__ = ("_connection", "_poll", "is_reusable")

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self.is_reusable = False

    def is_quiet(self) -> bool:
        """Tell whether nothing has come since the last answer: neither its end nor bytes that belong to no request."""
        return not self._poll.poll(0)

    def exchange(self, method: str, request: bytes, largest: int, timeout: float) -> Response:
        """Send a request and read its answer to the end.

        Raises:
            Dropped: the connection ended before anything of the answer came.
            TransportError: reset, cut off or damaged.
            TooLarge: the body has more than `largest` bytes.
            Unavailable: not answered in `timeout` seconds.
        """
        ends = time.monotonic() + timeout
        self.is_reusable = False
        answer = Answer(method, largest)
        try:
            try:
                self._connection.settimeout(timeout)
                self._connection.sendall(request)
            except OSError:
                # A server can refuse a request before it has read all of it, and reset the connection.
                if not self._is_answered(answer):
                    raise
                return answer.response
            while not answer.feed(self._receive(ends)):
                pass
        except TimeoutError as error:
            raise Unavailable("no answer in time") from error
        except OSError as error:
            kind = TransportError if answer.has_begun else Dropped
            raise kind(f"connection failed: {error}") from error
        self.is_reusable = answer.keeps_open
        return answer.response

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _is_answered(self, answer: Answer) -> bool:
        """Read what was received already; return whether it is a whole answer."""
        self._connection.settimeout(0)
        try:
            while received := self._connection.recv(_READ):
                if answer.feed(received):
                    return True
        except OSError:  # there is no more of it
            pass
        return False

    def _receive(self, ends: float) -> bytes:
        self._connection.settimeout(_left(ends))
        received = self._connection.recv(_READ)
        if not received:
            raise ConnectionError("closed before the end of an answer")
        return received


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connect(addresses: list[Address], ends: float) -> socket.socket:
    """Connect to the first address that answers; each has an equal share of the time that is left."""
    last: OSError = OSError("no address")
    for position, (family, address) in enumerate(addresses):
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # a family that this system does not have
            last = error
            continue
        try:
            connection.settimeout(_left(ends) / (len(addresses) - position))
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connection.close()
            last = error
        else:
            return connection
    raise last
