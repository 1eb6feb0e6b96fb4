"""One blocking keep-alive connection on a standard-library socket, with limits on time and size.

A caller that waits for each response needs no event loop: awscrt passes every exchange to its own thread and back,
which costs several times the CPU (docs/decisions/sockets.md).
"""

import os
import select
import socket
import time
from functools import cache
from typing import TYPE_CHECKING

from wire.addresses import Address, look_up, spread
from wire.backoff import draw
from wire.endpoint import Endpoint
from wire.errors import Dropped, TransportError, Unavailable
from wire.response import Response
from wire.response_parser import ResponseParser

if TYPE_CHECKING:
    import ssl

_READ = 64 * 1024
_LONGEST = 86_400.0  # seconds of one `poll`, whose argument is a C integer of milliseconds
# Loading these five roots instead of the system's 140 saves 20 ms of a cold start (docs/decisions/cold-start.md).
AMAZON_ROOTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "amazon-roots.pem")
AMAZON_HOSTS = ".amazonaws.com"


@cache
def tls_context(ca_bundle: str | None) -> "ssl.SSLContext":
    """Return a cached TLS context, since loading root certificates takes tens of milliseconds.

    `ca_bundle` is the path of a file of root certificates that replaces the system's.
    """
    import ssl  # slow to import, and a laptop's services have no TLS

    return ssl.create_default_context(cafile=ca_bundle)


def open_channel(endpoint: Endpoint, timeout: float) -> "Channel":
    """Connect, including the TLS handshake. AWS_CA_BUNDLE names the root certificates, as in the AWS SDKs.

    Raises:
        Unavailable: no connection within `timeout` seconds, or the certificate is not trusted.
    """
    ends = time.monotonic() + timeout
    try:
        addresses = spread(look_up(endpoint.host, endpoint.port, timeout), draw())
        if not endpoint.tls:
            return Channel(_connect(addresses, ends))
        if _is_certified_by_amazon(endpoint.host):
            from ssl import SSLCertVerificationError

            try:
                return _secure(_connect(addresses, ends), endpoint.host, AMAZON_ROOTS, ends)
            except SSLCertVerificationError:
                pass  # AWS has a new root, or a firewall inspects TLS: the system's roots decide
        bundle = os.environ.get("AWS_CA_BUNDLE") or None
        return _secure(_connect(addresses, ends), endpoint.host, bundle, ends)
    except TimeoutError as error:
        raise Unavailable(f"no connection to {endpoint.authority} in time") from error
    except OSError as error:
        raise Unavailable(f"no connection to {endpoint.authority}: {error}") from error


class Channel:
    """A connection for one exchange at a time. After an error it must be closed.

    It does not block, and waits by itself: a socket with a time-out asks the kernel three times as often.
    """

    __slots__ = ("_connection", "_poll", "_would_block", "is_reusable")

    def __init__(self, connection: socket.socket, would_block: tuple[type[OSError], ...] = (BlockingIOError,)) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._would_block = would_block
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self.is_reusable = False

    def is_quiet(self) -> bool:
        """Return whether nothing arrived since the last response: neither stray bytes nor the end of the connection."""
        return not self._poll.poll(0)

    def exchange(self, method: str, request: bytes, largest: int, timeout: float) -> Response:
        """Send a request and read the complete response.

        Raises:
            Dropped: the connection ended before any byte of the response.
            TransportError: the connection was reset, or the response is truncated or malformed.
            TooLarge: the body has more than `largest` bytes.
            Unavailable: no complete response within `timeout` seconds.
        """
        ends = time.monotonic() + timeout
        self.is_reusable = False
        parser = ResponseParser(method, largest)
        try:
            try:
                self._send(request, ends)
            except OSError:
                # A server can refuse a request before it has read all of it, and reset the connection.
                if not self._has_received(parser):
                    raise
                return parser.response
            _wait(self._poll, ends)
            while not self._receive(parser):
                _wait(self._poll, ends)
        except TimeoutError as error:
            raise Unavailable("no response in time") from error
        except OSError as error:
            kind = TransportError if parser.has_begun else Dropped
            raise kind(f"connection failed: {error}") from error
        self.is_reusable = parser.keeps_open
        return parser.response

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _send(self, request: bytes, ends: float) -> None:
        unsent = memoryview(request)
        while True:
            try:
                unsent = unsent[self._connection.send(unsent) :]
            except self._would_block:
                either = select.poll()  # TLS can have to receive before it can send
                either.register(self._connection, select.POLLIN | select.POLLOUT)
                _wait(either, ends)
            if not unsent:
                return

    def _receive(self, parser: ResponseParser) -> bool:
        """Parse what has arrived; return whether the response is complete.

        Raises:
            OSError: the connection ended before that.
        """
        try:
            while received := self._connection.recv(_READ):
                if parser.feed(received):
                    return True
        except self._would_block:
            return False
        raise ConnectionError("closed before the end of a response")

    def _has_received(self, parser: ResponseParser) -> bool:
        """Parse what has already arrived on a broken connection; return whether it is a complete response."""
        try:
            return self._receive(parser)
        except OSError:  # nothing more has arrived
            return False


def _wait(poll: "select.poll", ends: float) -> None:
    while not poll.poll(min(_left(ends), _LONGEST) * 1000):
        pass  # `_left` raises at the end


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _is_certified_by_amazon(host: str) -> bool:
    """Return whether a host is AWS's own, and no environment variable names other root certificates."""
    others = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
    return host.endswith(AMAZON_HOSTS) and not any(os.environ.get(name) for name in others)


def _secure(connection: socket.socket, host: str, roots: str | None, ends: float) -> Channel:
    """Do the TLS handshake; the connection is closed if it fails."""
    from ssl import SSLWantReadError, SSLWantWriteError

    connection.settimeout(_left(ends))
    secured = tls_context(roots).wrap_socket(connection, server_hostname=host)
    return Channel(secured, (SSLWantReadError, SSLWantWriteError))


def _connect(addresses: list[Address], ends: float) -> socket.socket:
    """Connect to the first address that accepts; each has an equal share of the time that is left."""
    last: OSError = OSError("no address")
    for position, (family, address) in enumerate(addresses):
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # an address family that this system does not support
            last = error
            continue
        try:
            connection.settimeout(_left(ends) / (len(addresses) - position))
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        except OSError as error:
            connection.close()
            last = error
        else:
            return connection
    raise last
