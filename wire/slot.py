"""One non-blocking connection of a transport."""

import os
import socket
import ssl
from enum import Enum, auto
from selectors import EVENT_WRITE, BaseSelector

from wire.addresses import Address
from wire.response_parser import ResponseParser

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class State(Enum):
    """State of a connection."""

    CONNECTING = auto()
    HANDSHAKE = auto()
    IDLE = auto()
    BUSY = auto()


class Slot:
    """A connection and its current exchange: `handle`, `parser` and `unsent`; `idle_since` the end of the last one."""

    __slots__ = ("_watched", "address", "connection", "expires", "handle", "idle_since", "parser", "state", "unsent")

    handle: int
    parser: ResponseParser
    unsent: memoryview
    idle_since: float

    def __init__(self, connection: socket.socket, address: Address, expires: float) -> None:
        self.connection = connection
        self.address = address
        self.state = State.CONNECTING
        self.expires = expires
        self._watched = 0

    def watch(self, selector: BaseSelector, events: int) -> None:
        """Register the connection for these events."""
        if self._watched == 0:
            selector.register(self.connection, events, self)
        elif events != self._watched:
            selector.modify(self.connection, events, self)
        self._watched = events

    def connect(self, selector: BaseSelector, tls: ssl.SSLContext | None, host: str) -> None:
        """Continue to connect; when this returns, the connection is ready.

        Raises:
            SSLWantReadError, SSLWantWriteError: call again when the socket is ready.
            OSError: the connection failed, or the certificate is not trusted.
        """
        if self.state is State.CONNECTING:
            if code := self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
            if tls is not None:
                selector.unregister(self.connection)
                self._watched = 0
                self.connection = tls.wrap_socket(self.connection, server_hostname=host, do_handshake_on_connect=False)
                self.watch(selector, EVENT_WRITE)
            self.state = State.HANDSHAKE
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.do_handshake()

    def is_quiet(self) -> bool:
        """Return whether nothing arrived since the last response: neither stray bytes nor the end of the connection.

        Messages of TLS itself, e.g. session tickets, do not count.
        """
        try:
            self.connection.recv(1)
        except WOULD_BLOCK:
            return True
        except OSError:
            return False
        return False

    def close(self, selector: BaseSelector) -> None:
        """Close the connection."""
        if self._watched:
            selector.unregister(self.connection)
        self.connection.close()
