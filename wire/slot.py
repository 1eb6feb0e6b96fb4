"""One of a transport's connections, which never blocks, and the addresses that they are made to. An edge."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from enum import Enum, auto
from selectors import EVENT_WRITE, BaseSelector
from typing import Any

from wire.answer import Answer
from wire.channel import look_up
from wire.endpoint import Endpoint

# A request of 25 items goes into the system's buffer at once, so that it leaves while something else is computed.
_SEND_BUFFER = 256 * 1024
Address = tuple[socket.AddressFamily, tuple[Any, ...]]
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_ADDRESSES_LAST = 60.0  # seconds for which further connections use what was looked up


class State(Enum):
    """What a connection is doing."""

    CONNECTING = auto()
    HANDSHAKE = auto()
    IDLE = auto()
    BUSY = auto()


class Addresses:
    """Where a service answers. Connections are made to the first of its addresses at which that works."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._found: list[Address] = []
        self._failed: set[Address] = set()
        self._until = 0.0

    def connect(self, now: float) -> tuple[socket.socket, Address]:
        """Begin to connect; how that went is told when the socket becomes writable.

        Raises:
            OSError: the name was not found, or the system says at once that there is no way.
        """
        if now >= self._until:
            try:
                self._found = look_up(self._endpoint.host, self._endpoint.port, self._timeout)
            except TimeoutError:
                raise TimeoutError("its name was not looked up in time") from None
            self._until = now + _ADDRESSES_LAST
            self._failed.clear()
        while True:
            address = next(each for each in self._found if each not in self._failed)
            connection = socket.socket(address[0], socket.SOCK_STREAM)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            code = connection.connect_ex(address[1])
            if code in (0, errno.EINPROGRESS):
                return connection, address
            connection.close()
            if self.fail(address):
                raise OSError(code, os.strerror(code))

    def fail(self, address: Address) -> bool:
        """Note that no connection came about; return whether that holds for all addresses now, which begins anew."""
        self._failed.add(address)
        if not self._failed.issuperset(self._found):
            return False
        self._failed.clear()
        return True


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
