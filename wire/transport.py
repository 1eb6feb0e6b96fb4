"""Many requests in flight to one AWS service for the writing side, sent and collected by a single thread. An edge."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpClientConnection

from wire.connection import Exchange, abandon, open_connection
from wire.endpoint import Endpoint
from wire.errors import TransportError, WireError
from wire.nodelay import set_nodelay
from wire.response import Response
from wire.signing import Signer


class Outgoing(NamedTuple):
    """A request that waits for a connection."""

    handle: int
    target: str
    payload: bytes


class Slot:
    """One place for a connection: closed, connecting, idle or busy. Only the caller's thread touches it."""

    __slots__ = ("connection", "exchange", "expires", "handle")

    def __init__(self) -> None:
        self.connection: HttpClientConnection | None = None
        self.exchange: Exchange | None = None
        self.handle = 0
        self.expires = 0.0


class Transport:
    """A pool of kept-alive connections. It never retries: what failed is reported, for the caller to judge.

    Requests beyond `connections` wait their turn; the time-out counts from when one is sent.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        provider: AwsCredentialsProvider | None,
        *,
        connections: int = 8,
        connect_timeout: float = 3.0,
        timeout: float = 10.0,
        largest: int = 32 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        self._connect_timeout = connect_timeout
        self._largest = largest
        self._clock = clock
        self._signer = Signer(endpoint, provider)
        version = "1.0" if endpoint.service == "dynamodb" else "1.1"
        self._content_type = ("content-type", f"application/x-amz-json-{version}")
        self._free = [Slot() for _ in range(connections)]
        self._busy: dict[Future[Any], Slot] = {}
        self._waiting: deque[Outgoing] = deque()
        self._done: SimpleQueue[Future[Any]] = SimpleQueue()
        self._failed: list[tuple[int, Response | TransportError]] = []
        self._sent = 0

    def send(self, target: str, payload: bytes) -> int:
        """Send an operation (`DynamoDB_20120810.BatchWriteItem`) and return the handle that `wait` reports it under."""
        self._sent += 1
        self._waiting.append(Outgoing(self._sent, target, payload))
        self._dispatch()
        return self._sent

    def wait(self, timeout: float) -> list[tuple[int, Response | TransportError]]:
        """Wait up to `timeout` seconds for an answer, and return all that there are.

        Every handle is reported exactly once, as an answer of any status or as an error. With nothing in flight this
        sleeps for `timeout`.
        """
        ends = self._clock() + timeout
        answered, self._failed = self._failed, []
        while True:
            # An answer at hand is taken without waiting; time-outs are looked for only when there is none.
            try:
                future = self._done.get(timeout=0 if answered else self._patience(ends))
            except Empty:
                answered += self._expire()
                if answered or self._clock() >= ends:
                    return answered
            else:
                answered += self._complete(future)
                self._dispatch()
                answered += self._failed
                self._failed.clear()

    def close(self) -> None:
        """Close every connection; what is in flight is never reported."""
        for slot in [*self._free, *self._busy.values()]:
            self._drop(slot)
        self._busy.clear()
        self._waiting.clear()

    def _dispatch(self) -> None:
        while self._waiting and self._free:
            slot = self._free.pop()
            if slot.connection is not None and not slot.connection.is_open():
                slot.connection = None
            if slot.connection is None:
                if sum(1 for busy in self._busy.values() if busy.exchange is None) >= len(self._waiting):
                    self._free.append(slot)
                    return  # as many connections are being opened as there are requests for them
                self._watch(slot, open_connection(self.endpoint, self._connect_timeout), self._connect_timeout)
            else:
                self._start(slot, slot.connection, self._waiting.popleft())

    def _start(self, slot: Slot, connection: HttpClientConnection, outgoing: Outgoing) -> None:
        headers = (self._content_type, ("x-amz-target", outgoing.target))
        exchange = Exchange("POST", self._largest)
        try:
            request = self._signer.build("POST", "/", headers, outgoing.payload)
        except WireError as error:
            self._failed.append((outgoing.handle, TransportError(str(error))))
            self._free.append(slot)
            return
        try:
            future = exchange.start(connection, request)
        except TransportError:  # closed while idle: nothing was sent, so another connection takes it
            self._drop(slot)
            self._free.append(slot)
            self._waiting.appendleft(outgoing)
            return
        slot.exchange = exchange
        slot.handle = outgoing.handle
        self._watch(slot, future, self.timeout)

    def _watch(self, slot: Slot, future: Future[Any], timeout: float) -> None:
        slot.expires = self._clock() + timeout
        self._busy[future] = slot
        future.add_done_callback(self._done.put)

    def _complete(self, future: Future[Any]) -> list[tuple[int, Response | TransportError]]:
        slot = self._busy.pop(future, None)
        if slot is None:
            return []  # it was given up before
        self._free.append(slot)
        error = future.exception()
        exchange, slot.exchange = slot.exchange, None
        if exchange is None:
            if error is None:
                slot.connection = future.result()
                set_nodelay(self.endpoint.port)
                return []
            return self._give_up(f"no connection to {self.endpoint.authority}: {error}")
        try:
            return [(slot.handle, exchange.response(error))]
        except WireError as failure:
            self._drop(slot)
            return [(slot.handle, failure if isinstance(failure, TransportError) else TransportError(str(failure)))]

    def _give_up(self, message: str) -> list[tuple[int, Response | TransportError]]:
        """Report the request that has waited longest, if any still does, for a connection that was not made."""
        if not self._waiting:
            return []
        return [(self._waiting.popleft().handle, TransportError(message))]

    def _patience(self, ends: float) -> float:
        """Return how long to wait for awscrt before looking for time-outs (an early look costs nothing)."""
        first = next(iter(self._busy.values()), None)
        if first is not None:
            ends = min(ends, first.expires, self._clock() + self._connect_timeout / 4)
        return max(0.0, ends - self._clock())

    def _expire(self) -> list[tuple[int, Response | TransportError]]:
        now = self._clock()
        answered: list[tuple[int, Response | TransportError]] = []
        for future, slot in [(future, slot) for future, slot in self._busy.items() if slot.expires <= now]:
            del self._busy[future]
            if slot.exchange is None:
                abandon(future)
                answered += self._give_up(f"no connection to {self.endpoint.authority} in time")
            else:
                answered.append((slot.handle, TransportError(f"no answer within {self.timeout} s")))
            self._drop(slot)
            self._free.append(slot)
        if answered:
            self._dispatch()
        return answered

    def _drop(self, slot: Slot) -> None:
        """Close a slot's connection: after a time-out awscrt keeps it open, with the answer still on its way."""
        if slot.connection is not None:
            slot.connection.close()
        slot.connection = None
        slot.exchange = None
