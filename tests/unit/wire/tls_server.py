"""Certificates of our own, and a server that shows one."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.certificates import DAY, build_certificate
from wire.endpoint import Endpoint


class Issued(NamedTuple):
    """A certificate that signed itself, and its key, in one PEM file."""

    path: Path


def issue(folder: Path, name: str, *, age: datetime.timedelta = datetime.timedelta()) -> Issued:
    """Issue a certificate for a host, valid for a day from half a day before `age` ago."""
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


@contextmanager
def tls_server(issued: Issued) -> Iterator[Endpoint]:
    """Answer every request over TLS with `{}`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.path)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as peer, peer.makefile("rb") as stream:
                while _read_request(stream):
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield Endpoint("dynamodb", "x", "127.0.0.1", listener.getsockname()[1], tls=True)


UNTRUSTED: dict[str, Callable[[Path], tuple[Issued, Issued]]] = {
    "another issuer": lambda folder: (issue(folder, "127.0.0.1"), issue(folder, "localhost")),
    "another host": lambda folder: (issue(folder, "example.com"),) * 2,
    "expired": lambda folder: (issue(folder, "127.0.0.1", age=2 * DAY),) * 2,
}
