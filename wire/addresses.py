"""Resolve the host name of an endpoint with a time-out, and spread connections evenly over its addresses."""

import errno
import os
import socket
from _thread import allocate_lock, start_new_thread
from collections import Counter
from typing import Any

from wire.backoff import draw
from wire.endpoint import Endpoint

# A request of 25 items fits into the socket's send buffer, so that the kernel sends it while the next one is built.
_SEND_BUFFER = 256 * 1024
_KEPT = 60.0  # seconds until the host name is resolved again

Address = tuple[socket.AddressFamily, tuple[Any, ...]]


def look_up(host: str, port: int, timeout: float) -> list[Address]:
    """Look up the addresses of a host.

    The system's resolver has no time-out, so a thread waits for it; when the time is up, the thread is left behind.

    Raises:
        TimeoutError: no result in `timeout` seconds.
        OSError: the name has no address.
    """
    name = host.encode() if host.isascii() else host  # for a text, Python imports its tables of international names
    found: list[Address] = []
    failed: list[OSError] = []
    busy = allocate_lock()
    busy.acquire()

    def run() -> None:
        try:
            found.extend((one[0], one[4]) for one in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(OSError(str(error)))
        finally:
            busy.release()

    start_new_thread(run, ())
    if not busy.acquire(timeout=timeout):
        raise TimeoutError
    if failed:
        raise failed[0]
    return found


def spread(addresses: list[Address], share: float) -> list[Address]:
    """Return the addresses in the order to try them, beginning `share` (0 to 1) of the way through the first family.

    The resolver puts the address family that is more likely to work first (RFC 6724), so other families stay last.
    """
    first = [each for each in addresses if each[0] == addresses[0][0]]
    start = int(share * len(first))
    return [*first[start:], *first[:start], *(each for each in addresses if each[0] != addresses[0][0])]


class Addresses:
    """Opens non-blocking connections to the addresses of an endpoint in turn, avoiding those that failed lately."""

    _found: list[Address]
    _used: Counter[Address]  # how many connections were made to each

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._failed: set[Address] = set()
        self._until = float("-inf")  # the first connection resolves the host name

    def connect(self, now: float) -> tuple[socket.socket, Address]:
        """Begin to connect; the socket becomes writable when the attempt has succeeded or failed.

        Raises:
            OSError: the host name was not resolved (TimeoutError: not in time), or every address failed at once.
        """
        if now >= self._until:
            try:
                found = look_up(self._endpoint.host, self._endpoint.port, self._timeout)
            except TimeoutError:
                raise TimeoutError("its host name was not resolved in time") from None
            self._found = spread(found, draw())
            self._used = Counter()
            self._until = now + _KEPT
            self._failed.clear()
        while True:
            address = self._next()
            try:
                return _begin(address), address
            except OSError:
                if self.fail(address):
                    raise

    def fail(self, address: Address) -> bool:
        """Note that an address did not connect or respond; return whether all have failed: then all are tried again."""
        self._failed.add(address)
        if not self._failed.issuperset(self._found):
            return False
        self._failed.clear()
        return True

    def _next(self) -> Address:
        usable = [each for each in self._found if each not in self._failed]
        address = min((each for each in usable if each[0] == usable[0][0]), key=self._used.__getitem__)
        self._used[address] += 1
        return address


def _begin(address: Address) -> socket.socket:
    connection = socket.socket(address[0], socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    code = connection.connect_ex(address[1])
    if code not in (0, errno.EINPROGRESS):
        connection.close()
        raise OSError(code, os.strerror(code))
    return connection
