"""The writer: puts rendered items into DynamoDB as fast as it accepts them.

One thread. Requests are in flight inside the transport, and waiting for one is the only way that time passes here:
given the same transport, clock and random numbers, it does the same again.

Keys are unique within a run (run.py has seen to it), so that a retry never overtakes a newer put of the same item.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa

from enrich.errors import OutOfTime
from enrich.write.rate_limiter import Pace
from enrich.write.requests import Request, build_batches, build_puts
from enrich.write.responses import WriteFailed, WriteThrottled, parse_answer
from serve.item import Order
from wire.backoff import full_jitter
from wire.errors import Throttled, TransportError, WireError
from wire.response import Response

BACKOFF_BASE = 0.05  # seconds; what AWS's SDKs use for DynamoDB
BACKOFF_CAP = 5.0
# Requests that may wait for another try before no new ones are taken. So many of one hot subject can wait while the
# other subjects' items pass.
MOST_WAITING = 200
LONGEST_WAIT = 1.0  # seconds between looks at the clock


class Transport(Protocol):
    """What carries requests: `wire.transport.Transport`, or a model of it."""

    def send(self, target: str, payload: bytes) -> int:
        """Send and return a handle."""

    def wait(self, timeout: float) -> list[tuple[int, Response | TransportError]]:
        """Wait up to `timeout` seconds and return what was answered; just sleep when nothing is in flight."""


class Budget(NamedTuple):
    """What a run may spend.

    `units_per_second`: write units; None learns from throttles. `tries`: on a request of which no item is taken.
    `seconds`: in which nothing at all is written.
    """

    units_per_second: float | None = None
    tries: int = 30
    seconds: float = 60.0


class Written(NamedTuple):
    """What became of the items that were put since the last flush."""

    written: int
    superseded: int
    superseded_rows: list[int]
    units: int


@dataclass(slots=True)
class Sending:
    """A request on its way or waiting for another try; `tries` failed since it last got anywhere."""

    request: Request
    order: str
    tries: int = 0
    due: float = 0.0


class Writer:
    """Writes chunks in the order they are put. After an exception it must be discarded; nothing of it is in flight."""

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
        self._stop_at = stop_at or (lambda: float("inf"))  # a lease that is renewed moves it
        self._keep_lease = keep_lease or (lambda: None)  # called about every `LONGEST_WAIT` while it waits
        self._pace = Pace(self._budget.units_per_second, clock())
        self._flying: dict[int, Sending] = {}
        self._waiting: list[Sending] = []
        self._written = 0
        self._units = 0
        self._superseded: list[int] = []
        self._unknown_at: float | None = None
        self._progressed = clock()

    @property
    def rate(self) -> float:
        """Write units per second, lately."""
        return self._pace.rate

    @property
    def unknown_at(self) -> float | None:
        """When a write last ended without an answer, if any did: it may yet be applied, though it was sent again."""
        return self._unknown_at

    def put(self, chunk: pa.Table, *, order: Order, expires_at: int, conditional: bool) -> None:
        """Send items in the order of the chunk, which is best interleaved; returns when all are accepted, not written.

        Args:
            chunk: columns pk, sk, body (string; null makes a tombstone); others are ignored. None is too large.
            order: the run's.
            expires_at: epoch seconds.
            conditional: write only where no item with the same or a newer order is stored.

        Raises:
            WriteFailed: refused for good, or the budget is spent.
            OutOfTime: `stop_at` has come.
        """
        build = build_puts if conditional else build_batches
        for request in build(chunk, self.table, order, expires_at):
            while not self._has_room(now := self._clock()):
                self._turn(now)
            if not self._flying and not self._waiting:
                self._progressed = now  # whatever passed since then was not spent on writing
            self._send(Sending(request, order.text), now)

    def flush(self) -> Written:
        """Wait until every item that was put is written or superseded, and count them. Errors are those of `put`."""
        while self._flying or self._waiting:
            self._turn(self._clock())
        counts = Written(self._written, len(self._superseded), self._superseded, self._units)
        self._written, self._superseded, self._units = 0, [], 0
        return counts

    def settle(self) -> None:
        """Wait until nothing is in flight (the transport's time-outs see to it), so that no write lands after us.

        For whoever gives up on writing for a reason of its own; `flush`, and every error of this class, leave nothing.
        """
        while self._flying:
            self._receive(LONGEST_WAIT)

    def _has_room(self, now: float) -> bool:
        return self._may_send(now) and len(self._waiting) < MOST_WAITING and not self._is_due(now)

    def _may_send(self, now: float) -> bool:
        return now < self._stop_at() and len(self._flying) < int(self._pace.window) and self._pace.delay(now) == 0.0

    def _is_due(self, now: float) -> bool:
        return bool(self._waiting) and self._waiting[0].due <= now

    def _turn(self, now: float) -> None:
        """Send again what is due, then wait for answers no longer than until there is something else to do."""
        if now >= self._stop_at() and (self._waiting or not self._flying):
            self.settle()
            raise OutOfTime(f"stopped writing to {self.table} in time; what is left is for the next go")
        try:
            self._keep_lease()
        except Exception:
            self.settle()
            raise
        while self._is_due(now) and self._may_send(now):
            self._send(self._waiting.pop(0), now)
        self._collect(self._patience(now))

    def _patience(self, now: float) -> float:
        wait = LONGEST_WAIT
        if len(self._flying) < int(self._pace.window):
            if delay := self._pace.delay(now):
                wait = min(wait, delay)
            elif self._waiting:
                wait = min(wait, self._waiting[0].due - now)
        return min(wait, self._stop_at() - now) if now < self._stop_at() else wait

    def _send(self, sending: Sending, now: float) -> None:
        self._pace.spend(sending.request.units, now)
        self._flying[self._transport.send(sending.request.target, sending.request.payload)] = sending

    def _collect(self, timeout: float) -> None:
        full = len(self._flying) >= int(self._pace.window)
        answered = self._receive(timeout)
        now = self._clock()
        try:
            for sending, answer in answered:
                self._take(sending, answer, now, full=full)
        except WriteFailed:
            self.settle()
            raise

    def _receive(self, timeout: float) -> list[tuple[Sending, Response | TransportError]]:
        answered = [(self._flying.pop(handle), answer) for handle, answer in self._transport.wait(timeout)]
        if any(isinstance(answer, TransportError) for _, answer in answered):
            self._unknown_at = self._clock()
        return answered

    def _take(self, sending: Sending, answer: Response | TransportError, now: float, *, full: bool) -> None:
        outcome = parse_answer(sending.request, self.table, sending.order, answer)
        self._written += outcome.written
        if outcome.superseded:
            self._superseded.append(sending.request.row)
        taken = outcome.written + outcome.superseded
        left = outcome.left
        if taken:
            self._progressed = now
            units = sending.request.units - (left.units if left else 0)
            self._units += units
            self._pace.delivered(units, now, full=full)
        if left is None:
            return
        if sending.tries == 0:  # a request's first try is a mix of all subjects, its others may be of one that is hot
            self._pace.throttled(now)
        tries = 1 if taken else sending.tries + 1
        if tries >= self._budget.tries or now - self._progressed >= self._budget.seconds:
            raise self._spent(outcome.reason)
        pause = full_jitter(tries, BACKOFF_BASE, BACKOFF_CAP, self._random())
        insort(self._waiting, Sending(left, sending.order, tries, now + pause), key=lambda waiting: waiting.due)

    def _spent(self, reason: WireError | None) -> WriteFailed:
        kind = WriteThrottled if isinstance(reason, Throttled) else WriteFailed
        remedy = (
            "raise the table's write capacity or lower the write-unit budget"
            if kind is WriteThrottled
            else "see whether DynamoDB is reachable and healthy in this region"
        )
        return kind(f"gave up writing to {self.table} after many tries, the last: {reason}; {remedy}, then run again")
