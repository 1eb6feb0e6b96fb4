"""A server of raw sockets on loopback, whose threads have ended when it is closed."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

PATIENCE = 30.0  # seconds for which a thread that does not end is waited for


@dataclass
class Peer:
    """The server's end of one connection. The function that serves it sets `closed_by_client`, if it notices."""

    socket: socket.socket
    number: int
    closed_by_client: threading.Event = field(default_factory=threading.Event)

    def wait_closed(self) -> None:
        """Wait until this end is closed; on loopback, the client's end has received it by then."""
        ends = time.monotonic() + PATIENCE
        while self.socket.fileno() != -1:
            assert time.monotonic() < ends
            time.sleep(0.002)


class Loopback:
    """Calls `serve` with each connection, in a thread of its own, over TLS with a context.

    Attributes:
        address: host and port.
        peers: the connections, in the order in which they were accepted.
    """

    def __init__(
        self, serve: Callable[[Peer], None], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.peers: list[Peer] = []
        self._serve = serve
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._is_closing = False
        self._listener = socket.create_server((host, 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._start(self._accept)

    def close(self) -> None:
        """End every connection, and wait until the threads have ended.

        Closing a socket does not wake a thread that waits for it, and its number can be that of another file by then.
        """
        self._is_closing = True
        with socket.socket() as last:
            last.connect(self.address)
            self._join(self._threads.pop(0))
        self._listener.close()
        for peer in self.peers:
            with suppress(OSError):  # is closed already
                socket.socket.shutdown(peer.socket, socket.SHUT_RDWR)
        for thread in self._threads:
            self._join(thread)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    @staticmethod
    def _join(thread: threading.Thread) -> None:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread of the server has not ended"

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._is_closing:
                connection.close()
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # otherwise a reset overtakes data
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            self.peers.append(Peer(connection, len(self.peers)))
            self._start(self._run, self.peers[-1])

    def _run(self, peer: Peer) -> None:
        with suppress(OSError), peer.socket:
            if isinstance(peer.socket, ssl.SSLSocket):
                peer.socket.do_handshake()
            self._serve(peer)
