"""Certificates for tests, and a server on loopback with or without TLS."""

from __future__ import annotations

import datetime
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.certificates import DAY, build_certificate
from tests.loopback import Loopback
from wire.endpoint import Endpoint


class Issued(NamedTuple):
    """A self-signed certificate and its key, in one PEM file."""

    path: Path


def issue(folder: Path, name: str, *, age: datetime.timedelta = datetime.timedelta()) -> Issued:
    """Issue a certificate for a host, valid for a day, the middle of which was `age` ago."""
    path = folder / f"{name}-{age.days}.pem"
    path.write_bytes(b"".join(build_certificate([name], age=age)))
    return Issued(path)


def _read_request(stream: Any) -> bool:
    if not stream.readline():
        return False
    length = 0
    while line := stream.readline().strip().lower():
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return len(stream.read(length)) == length


def _answer_all(peer: socket.socket) -> None:
    with peer.makefile("rb") as stream:
        while _read_request(stream):
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def refuse_early(data: bytes) -> Callable[[socket.socket], None]:
    """Send `data` after the first bytes of a request, then reset the connection."""

    def serve(peer: socket.socket) -> None:
        peer.recv(100)
        peer.sendall(data)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return serve


@contextmanager
def socket_server(issued: Issued | None, serve: Callable[[socket.socket], None] = _answer_all) -> Iterator[Endpoint]:
    """Serve each connection in a separate thread, over TLS if there is a certificate."""
    context = None
    if issued is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.path)
    server = Loopback(lambda peer: serve(peer.socket), tls=context)
    try:
        yield Endpoint("dynamodb", "x", *server.address, tls=issued is not None)
    finally:
        server.close()


def tls_server(issued: Issued) -> AbstractContextManager[Endpoint]:
    """Respond to every request over TLS with `{}`."""
    return socket_server(issued)


UNTRUSTED: dict[str, Callable[[Path], tuple[Issued, Issued]]] = {
    "another issuer": lambda folder: (issue(folder, "127.0.0.1"), issue(folder, "localhost")),
    "another host": lambda folder: (issue(folder, "example.com"),) * 2,
    "expired": lambda folder: (issue(folder, "127.0.0.1", age=2 * DAY),) * 2,
}
