"""Write rendered items to DynamoDB as fast as it accepts them.

The writer is single-threaded. Requests are in flight in the transport, and the writer waits only there, so with the
same transport, clock and random numbers it behaves the same.

Item keys are unique within a run (the check stage rejects duplicates), so a retry never overwrites a newer put.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa

from enrich.errors import OutOfTime
from enrich.write.rate_limiter import RateLimiter
from enrich.write.requests import WriteRequest, build_batches, build_puts
from enrich.write.responses import WriteFailed, WriteThrottled, parse_outcome
from serve.item import Order
from wire.backoff import full_jitter
from wire.errors import Throttled, TransportError, WireError
from wire.response import Response

BACKOFF_BASE = 0.05  # seconds; what AWS's SDKs use for DynamoDB
BACKOFF_CAP = 5.0
# Requests that can wait for a retry before `put` blocks: this many of one hot subject can wait while those of other
# subjects are sent.
MAX_WAITING = 200
MAX_WAIT_SECONDS = 1.0  # between two checks of the clock


class Transport(Protocol):
    """Sends requests: `wire.transport.Transport`, or a double in tests."""

    def send(self, target: str, payload: bytes) -> int:
        """Send and return a handle."""

    def wait(self, timeout: float) -> list[tuple[int, Response | TransportError]]:
        """Wait up to `timeout` seconds and return the responses by handle; sleep if nothing is in flight."""


class Budget(NamedTuple):
    """The limits of a run's writing."""

    units_per_second: float | None = None  # write units; None: found from throttling
    tries: int = 30  # of one request, if none of its items is accepted
    seconds: float = 60.0  # during which no item is written


class Written(NamedTuple):
    """The results of the items put since the last flush."""

    written: int
    superseded: int
    superseded_rows: list[int]
    units: int


@dataclass(slots=True)
class Attempt:
    """A request in flight or waiting for a retry."""

    request: WriteRequest
    tries: int = 0  # consecutive tries without any item accepted
    due: float = 0.0  # when to retry


class Writer:
    """Writes chunks in the order they are put. After an exception it must be discarded; nothing is in flight then."""

    def __init__(
        self,
        transport: Transport,
        table: str,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        budget: Budget | None = None,
        stop_at: Callable[[], float] | None = None,
        keep_lease: Callable[[], None] | None = None,
    ) -> None:
        self.table = table
        self._transport = transport
        self._clock = clock
        self._random = random
        self._budget = budget or Budget()
        self._stop_at = stop_at or (lambda: float("inf"))  # moves when the lease is renewed
        self._keep_lease = keep_lease or (lambda: None)  # called about every `MAX_WAIT_SECONDS` while it waits
        self._limiter = RateLimiter(self._budget.units_per_second, clock())
        self._in_flight: dict[int, Attempt] = {}
        self._waiting: list[Attempt] = []
        self._written = 0
        self._units = 0
        self._superseded: list[int] = []
        self._unknown_at: float | None = None
        self._progressed = clock()

    @property
    def rate(self) -> float:
        """Write units per second, as last measured."""
        return self._limiter.rate

    @property
    def unknown_at(self) -> float | None:
        """When a write last ended without a response, if any did: it can still be applied, even if sent again."""
        return self._unknown_at

    def put(self, chunk: pa.Table, *, order: Order, expires_at: int, conditional: bool) -> None:
        """Send a chunk's items in its order; return when all are queued, before they are written.

        Args:
            chunk: columns row, pk, sk, body (string; null: a tombstone), rank (string; null: none) and entries (int64:
            the index entries that a write changes), subjects interleaved, no item too large.
            order: the run's order.
            expires_at: epoch seconds.
            conditional: write an item only if the stored item does not have a newer order.

        Raises:
            WriteFailed: a write was refused, or the budget is spent.
            OutOfTime: `stop_at` has passed.
        """
        build = build_puts if conditional else build_batches
        for request in build(chunk, self.table, order, expires_at):
            while not self._has_room(now := self._clock()):
                self._send_and_wait(now)
            if not self._in_flight and not self._waiting:
                self._progressed = now  # the time since then was not spent on writing
            self._send(Attempt(request), now)

    def flush(self) -> Written:
        """Wait until every item that was put is written or superseded; return the counts. Raises as `put` does."""
        while self._in_flight or self._waiting:
            self._send_and_wait(self._clock())
        counts = Written(self._written, len(self._superseded), self._superseded, self._units)
        self._written, self._superseded, self._units = 0, [], 0
        return counts

    def settle(self) -> None:
        """Wait until nothing is in flight, at most for the transport's time-out, so that no write is applied later.

        Call this when writing ends for an external reason. After `flush`, and after an error of this class, nothing is
        in flight.
        """
        while self._in_flight:
            self._receive(MAX_WAIT_SECONDS)

    def rest(self) -> None:
        """Wait until what was sent is within the budget. Call this where a writer with a budget of its own follows."""
        self.settle()
        while self._limiter.fixed and (seconds := self._limiter.delay(self._clock())):
            self._transport.wait(seconds)

    def _has_room(self, now: float) -> bool:
        return self._may_send(now) and len(self._waiting) < MAX_WAITING and not self._is_due(now)

    def _may_send(self, now: float) -> bool:
        return (
            now < self._stop_at()
            and len(self._in_flight) < int(self._limiter.window)
            and self._limiter.delay(now) == 0.0
        )

    def _is_due(self, now: float) -> bool:
        return bool(self._waiting) and self._waiting[0].due <= now

    def _send_and_wait(self, now: float) -> None:
        """Send the retries that are due, then wait for responses until there is something else to do."""
        if now >= self._stop_at() and (self._waiting or not self._in_flight):
            self.settle()
            raise OutOfTime(f"table {self.table}: time is up; the next invocation writes the rest")
        try:
            self._keep_lease()
        except Exception:
            self.settle()
            raise
        while self._is_due(now) and self._may_send(now):
            self._send(self._waiting.pop(0), now)
        self._collect(self._choose_wait(now))

    def _choose_wait(self, now: float) -> float:
        wait = MAX_WAIT_SECONDS
        if len(self._in_flight) < int(self._limiter.window):
            if delay := self._limiter.delay(now):
                wait = min(wait, delay)
            elif self._waiting:
                wait = min(wait, self._waiting[0].due - now)
        return min(wait, self._stop_at() - now) if now < self._stop_at() else wait

    def _send(self, attempt: Attempt, now: float) -> None:
        self._limiter.spend(attempt.request.units, now)
        self._in_flight[self._transport.send(attempt.request.target, attempt.request.payload)] = attempt

    def _collect(self, timeout: float) -> None:
        full = len(self._in_flight) >= int(self._limiter.window)
        responses = self._receive(timeout)
        now = self._clock()
        try:
            for attempt, response in responses:
                self._handle(attempt, response, now, full=full)
        except WriteFailed:
            self.settle()
            raise

    def _receive(self, timeout: float) -> list[tuple[Attempt, Response | TransportError]]:
        responses = [(self._in_flight.pop(handle), response) for handle, response in self._transport.wait(timeout)]
        if any(isinstance(response, TransportError) for _, response in responses):
            self._unknown_at = self._clock()
        return responses

    def _handle(self, attempt: Attempt, response: Response | TransportError, now: float, *, full: bool) -> None:
        outcome = parse_outcome(attempt.request, self.table, response)
        self._written += outcome.written
        if outcome.superseded:
            self._superseded.append(attempt.request.row)
        accepted = outcome.written + outcome.superseded
        left = outcome.retry
        if accepted:
            self._progressed = now
            units = attempt.request.units - (left.units if left else 0)
            self._units += units
            self._limiter.delivered(units, now, full=full)
        if left is None:
            return
        if attempt.tries == 0:  # a first try mixes all subjects; a retry may be of one hot subject only
            self._limiter.throttled(now)
        tries = 1 if accepted else attempt.tries + 1
        if tries >= self._budget.tries or now - self._progressed >= self._budget.seconds:
            raise self._build_failure(outcome.reason)
        pause = full_jitter(tries, BACKOFF_BASE, BACKOFF_CAP, self._random())
        insort(self._waiting, Attempt(left, tries, now + pause), key=lambda waiting: waiting.due)

    def _build_failure(self, reason: WireError | None) -> WriteFailed:
        kind = WriteThrottled if isinstance(reason, Throttled) else WriteFailed
        remedy = (
            "raise the table's write capacity or lower the write-unit budget"
            if kind is WriteThrottled
            else "check that DynamoDB is reachable and healthy in this region"
        )
        return kind(
            f"table {self.table}: writing failed after many tries, the last: {reason}; {remedy}, then run again"
        )
