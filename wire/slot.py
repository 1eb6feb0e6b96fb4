"""One of a transport's connections, which never blocks."""

from __future__ import annotations

import os
import socket
import ssl
from enum import Enum, auto
from selectors import EVENT_WRITE, BaseSelector

from wire.addresses import Address
from wire.answer import Answer

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class State(Enum):
    """What a connection is doing."""

    CONNECTING = auto()
    HANDSHAKE = auto()
    IDLE = auto()
    BUSY = auto()


class Slot:
    """A connection and the exchange on it; `handle`, `answer` and `unsent` are those of the exchange under way."""

    __slots__ = ("_watched", "address", "answer", "connection", "expires", "handle", "idle_since", "state", "unsent")

    answer: Answer

    def __init__(self, connection: socket.socket, address: Address, expires: float) -> None:
        self.connection = connection
        self.address = address
        self.state = State.CONNECTING
        self.expires = expires
        self.handle = 0
        self.unsent = memoryview(b"")
        self.idle_since = 0.0
        self._watched = 0

    def watch(self, selector: BaseSelector, events: int) -> None:
        """Let the selector tell of these events."""
        if self._watched == 0:
            selector.register(self.connection, events, self)
        elif events != self._watched:
            selector.modify(self.connection, events, self)
        self._watched = events

    def connect(self, selector: BaseSelector, tls: ssl.SSLContext | None, host: str) -> None:
        """Go on connecting, which is done when this returns.

        Raises:
            SSLWantReadError, SSLWantWriteError: there is more to do when the socket is ready for it.
            OSError: there is no connection, or none that can be trusted.
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
        """Tell whether nothing has come since the last answer: neither its end nor bytes that belong to no request.

        What TLS itself has to say, tickets for later sessions say, is nothing.
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
