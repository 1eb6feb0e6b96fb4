"""A small HTTP server on loopback that misbehaves as configured, and records the requests."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from tests.loopback import Loopback, Peer
from wire.endpoint import Endpoint


@dataclass
class Seen:
    """A request as it arrived, and its connection (counted from 0)."""

    connection: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[[Peer], bool]  # True: keep the connection


def answer(status: int = 200, body: bytes = b"{}", headers: tuple[tuple[str, str], ...] = ()) -> Behaviour:
    """Respond properly and keep the connection."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {status} X\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode()

    def behave(peer: Peer) -> bool:
        peer.socket.sendall(head + body)
        return True

    return behave


def raw(data: bytes, *, then_close: bool = True) -> Behaviour:
    """Send these bytes and close."""

    def behave(peer: Peer) -> bool:
        peer.socket.sendall(data)
        return not then_close

    return behave


def error(code: str, status: int = 400) -> Behaviour:
    """Respond like DynamoDB when it refuses a request."""
    return answer(status, f'{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"because"}}'.encode())


def reset(peer: Peer) -> bool:
    """Reset the connection instead of responding."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def silence(peer: Peer) -> bool:
    """Never respond; only wait until the client closes."""
    peer.socket.settimeout(10)
    try:
        if peer.socket.recv(1) == b"":
            peer.closed_by_client.set()
    except OSError:
        peer.closed_by_client.set()
    return False


def drip(peer: Peer) -> bool:
    """Send a response so slowly that it would take a minute, a byte at a time."""
    try:
        peer.socket.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 3000\r\n\r\n")
        for _ in range(3000):
            peer.socket.sendall(b"x")
            time.sleep(0.02)
    except OSError:
        peer.closed_by_client.set()
    return False


def late(seconds: float, then: Behaviour) -> Behaviour:
    """Do something after a delay."""

    def behave(peer: Peer) -> bool:
        time.sleep(seconds)
        return then(peer)

    return behave


def together(count: int, then: Behaviour) -> Behaviour:
    """Do something once `count` requests have arrived, each on a connection of its own."""
    barrier = threading.Barrier(count, timeout=20)

    def behave(peer: Peer) -> bool:
        barrier.wait()
        return then(peer)

    return behave


def then_closed(then: Behaviour) -> Behaviour:
    """Do something, then close the connection like an idle one."""

    def behave(peer: Peer) -> bool:
        then(peer)
        return False

    return behave


class FaultyServer:
    """Handles each request with the next entry of `script`; the last one repeats. `host` is a loopback address."""

    def __init__(self, *script: Behaviour, host: str = "127.0.0.1") -> None:
        self.script = list(script) or [answer()]
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._loopback = Loopback(self._serve, host)
        self.peers = self._loopback.peers
        self.address = self._loopback.address
        self.port = self.address[1]

    def __enter__(self) -> FaultyServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._loopback.close()

    def endpoint(self, service: str = "dynamodb") -> Endpoint:
        """Return the endpoint of this server."""
        return Endpoint(service, "eu-west-1", "127.0.0.1", self.port, tls=False)

    def _serve(self, peer: Peer) -> None:
        try:
            with peer.socket.makefile("rb") as stream:
                while self._serve_one(peer, stream):
                    pass
        except (OSError, threading.BrokenBarrierError):
            peer.closed_by_client.set()

    def _serve_one(self, peer: Peer, stream: BinaryIO) -> bool:
        line = stream.readline().decode()
        if not line:
            peer.closed_by_client.set()
            return False
        method, path, _ = line.split(" ")
        headers = {}
        while (line := stream.readline().decode().rstrip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", "0")))
        with self._lock:
            self.seen.append(Seen(peer.number, method, path, headers, body))
            behave = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return behave(peer)
