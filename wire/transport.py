"""Many requests in flight to one AWS service, sent and collected by a single thread over non-blocking sockets.

awscrt runs an event loop in a thread of its own and passes every exchange to it and back, which took more CPU time than
the rest of writing. So did a pool of threads with one blocking connection each (docs/decisions/sockets.md).
"""

import os
import selectors
import ssl
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from wire.addresses import Addresses
from wire.channel import tls_context
from wire.client import DEFAULTS
from wire.endpoint import Endpoint
from wire.errors import TransportError, WireError
from wire.request import RequestBuilder, operation_headers
from wire.response import Response
from wire.response_parser import ResponseParser
from wire.sigv4 import Credentials
from wire.slot import WOULD_BLOCK, Slot, State

_RECEIVE = 64 * 1024
_TRUSTED = 0.05  # seconds for which an idle connection is used without checking that it is open
_IDLE = DEFAULTS.idle  # seconds after which an idle connection is closed

Reports = list[tuple[int, Response | TransportError]]


class Outgoing(NamedTuple):
    """A request that waits for a connection, and is not sent after `until`, in epoch seconds."""

    handle: int
    target: str
    payload: bytes
    until: float


class Transport:
    """A pool of keep-alive connections. It does not retry: a failure is reported to the caller.

    Requests beyond `connections` are queued; the time-out, in seconds, starts when a request is sent. One that has
    waited longer than that before is not sent: a process can be paused, and must not write during a later run.
    `credentials` returns the current ones; without it requests are not signed. A process needs one transport per
    endpoint: `renew` passes it to the next user.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Callable[[], Credentials] | None,
        *,
        connections: int = 8,
        connect_timeout: float = 3.0,
        timeout: float = 10.0,
        largest: int = 32 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,  # also advances while a Lambda is frozen
    ) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self._connect_timeout = connect_timeout
        self._largest = largest
        self._clock = clock
        self._wall = wall
        self._requests = RequestBuilder(endpoint, credentials)
        self._tls = tls_context(os.environ.get("AWS_CA_BUNDLE") or None) if endpoint.tls else None
        self._addresses = Addresses(endpoint, connect_timeout)
        self._selector = selectors.DefaultSelector()
        self._most = connections
        self._slots: set[Slot] = set()
        self._idle: list[Slot] = []
        self._connecting = 0
        self._waiting: deque[Outgoing] = deque()
        self._reports: Reports = []
        self._look_at = float("-inf")  # when to check for time-outs again
        self._handles = count()

    def send(self, target: str, payload: bytes) -> int:
        """Send an operation (`DynamoDB_20120810.BatchWriteItem`) and return the handle that `wait` reports it under."""
        handle = next(self._handles)
        self._waiting.append(Outgoing(handle, target, payload, self._wall() + self.timeout))
        self._dispatch()
        return handle

    def wait(self, timeout: float) -> Reports:
        """Wait up to `timeout` seconds for a response, and return all that were received.

        Every handle is reported exactly once, with a response of any status or an error. With nothing in flight this
        sleeps for `timeout` seconds.
        """
        now = self._clock()
        ends = now + timeout
        while True:
            until = min(ends, self._look_at) if self._slots else ends
            for key, _ in self._selector.select(0 if self._reports else max(0.0, until - now)):
                self._go_on(key.data)
            now = self._clock()
            if now >= self._look_at:
                self._expire(now)
            self._dispatch()
            if self._reports or now >= ends:
                reports, self._reports = self._reports, []
                return reports

    def renew(self, timeout: float) -> "Transport":
        """Return this transport for the next user, with its time-out and without the requests of the previous user.

        Those are never reported: connections on which one is in flight are closed. Idle connections are kept.
        """
        self.timeout = timeout
        for slot in [slot for slot in self._slots if slot.state is State.BUSY]:
            self._drop(slot)
        self._waiting.clear()
        self._reports.clear()
        return self

    def close(self) -> None:
        """Close every connection and the selector; requests in flight are never reported."""
        for slot in list(self._slots):
            self._drop(slot)
        self._waiting.clear()
        self._selector.close()

    def _dispatch(self) -> None:
        """Send queued requests on idle connections, and open a connection for each request that is left."""
        while self._waiting and self._idle:
            slot = self._idle[-1]
            idle = self._wall() - slot.idle_since
            if not (0 <= idle <= _TRUSTED or (0 <= idle < _IDLE and slot.is_quiet())):
                self._drop(slot)
            else:
                self._start(self._idle.pop(), self._waiting.popleft())
        while self._connecting < len(self._waiting) and len(self._slots) < self._most:
            self._open()

    def _open(self) -> None:
        now = self._clock()
        try:
            slot = Slot(*self._addresses.connect(now), now + self._connect_timeout)
        except OSError as error:
            while self._waiting:  # connecting would fail for the other requests too
                self._give_up(error)
            return
        self._slots.add(slot)
        self._connecting += 1
        slot.watch(self._selector, selectors.EVENT_WRITE)

    def _go_on(self, slot: Slot) -> None:
        """Take the next step on a connection that has become ready."""
        if slot.state is State.BUSY:
            if slot.unsent and self._clock() >= slot.expires:
                self._fail(slot, f"not sent within {self.timeout} s")
            elif self._push(slot):
                self._pull(slot)
        elif slot.state is not State.IDLE:
            self._connect(slot)
        elif not slot.is_quiet():
            self._drop(slot)

    def _connect(self, slot: Slot) -> None:
        try:
            slot.connect(self._selector, self._tls, self.endpoint.host)
        except ssl.SSLWantReadError:
            slot.watch(self._selector, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            slot.watch(self._selector, selectors.EVENT_WRITE)
        except OSError as error:
            self._lose(slot, error)
        else:
            self._connecting -= 1
            self._rest(slot)

    def _start(self, slot: Slot, outgoing: Outgoing) -> None:
        headers = operation_headers(self.endpoint.service, outgoing.target)
        try:
            if self._wall() > outgoing.until:
                raise TransportError(f"not sent within {self.timeout} s")
            request = self._requests.build("POST", "/", headers, outgoing.payload)
        except WireError as error:
            self._reports.append((outgoing.handle, TransportError(str(error))))
            self._rest(slot)
            return
        slot.state = State.BUSY
        slot.handle = outgoing.handle
        slot.parser = ResponseParser("POST", self._largest)
        slot.unsent = memoryview(request)
        slot.expires = self._clock() + self.timeout
        self._push(slot)

    def _push(self, slot: Slot) -> bool:
        """Send as much as possible without waiting; return whether the connection is still open."""
        try:
            while slot.unsent:
                slot.unsent = slot.unsent[slot.connection.send(slot.unsent) :]
        except WOULD_BLOCK:
            slot.watch(self._selector, selectors.EVENT_READ | selectors.EVENT_WRITE)
        except OSError as error:
            # A server can refuse a request before it has read all of it, and reset the connection.
            self._pull(slot, broken=error)
            return False
        else:
            slot.watch(self._selector, selectors.EVENT_READ)  # no system call if nothing changed
        return True

    def _pull(self, slot: Slot, broken: OSError | None = None) -> None:
        """Receive what has arrived, and report the response when it is complete.

        `broken` is the error of a failed send: only what has already arrived can be read.
        """
        parser = slot.parser
        try:
            while True:
                received = slot.connection.recv(_RECEIVE)
                if not received:
                    self._fail(slot, f"connection failed: {broken or 'closed before the end of a response'}")
                    return
                if parser.feed(received):
                    break
        except WOULD_BLOCK:
            if broken:
                self._fail(slot, f"connection failed: {broken}")
            return
        except OSError as error:
            self._fail(slot, f"connection failed: {broken or error}")
            return
        except WireError as error:
            self._fail(slot, str(error))
            return
        self._reports.append((slot.handle, parser.response))
        if parser.keeps_open and not slot.unsent:
            self._rest(slot)
        else:
            self._drop(slot)

    def _rest(self, slot: Slot) -> None:
        slot.watch(self._selector, selectors.EVENT_READ)
        slot.state = State.IDLE
        slot.idle_since = self._wall()
        self._idle.append(slot)

    def _fail(self, slot: Slot, message: str) -> None:
        self._reports.append((slot.handle, TransportError(message)))
        self._drop(slot)

    def _lose(self, slot: Slot, error: OSError) -> None:
        """Drop a connection that failed to open; a request is reported only when no other address is left to try."""
        self._drop(slot)
        if self._addresses.fail(slot.address):
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Report the oldest queued request, if there is one, because no connection can be made."""
        if self._waiting:
            message = f"no connection to {self.endpoint.authority}: {error}"
            self._reports.append((self._waiting.popleft().handle, TransportError(message)))

    def _expire(self, now: float) -> None:
        self._look_at = now + self._connect_timeout / 4
        for slot in [slot for slot in self._slots if slot.state is not State.IDLE and slot.expires <= now]:
            if slot.state is State.BUSY:
                self._addresses.fail(slot.address)
                self._fail(slot, f"no response within {self.timeout} s")
            else:
                self._lose(slot, TimeoutError(f"not within {self._connect_timeout} s"))

    def _drop(self, slot: Slot) -> None:
        if slot.state is State.IDLE:
            self._idle.remove(slot)
        elif slot.state is not State.BUSY:
            self._connecting -= 1
        self._slots.remove(slot)
        slot.close(self._selector)
