"""A synchronous client of one AWS service for the reading side: one answer per call, or one of a few errors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from wire.backoff import draw, full_jitter
from wire.channel import Channel, open_channel
from wire.endpoint import Endpoint
from wire.errors import Dropped, Unavailable
from wire.request import RequestBuilder, operation_headers
from wire.response import Response, parse_failure
from wire.sigv4 import Credentials


class Limits(NamedTuple):
    """How long and how often a call may try; seconds and bytes."""

    connect: float = 1.0  # TCP and TLS together
    attempt: float = 2.0  # one exchange, from sending to the last byte: a slow drip ends here too
    budget: float = 6.0  # the whole call with its retries
    tries: int = 4
    base: float = 0.025  # of the full jitter
    cap: float = 1.0
    largest: int = 16 * 1024 * 1024
    # NAT gateways and VPC endpoints drop a flow idle for 350 s without a word, and a frozen Lambda wakes after that.
    idle: float = 240.0


DEFAULTS = Limits()


class Client:
    """Kept-alive connections to one endpoint. Threads may share it: each exchange has a connection of its own.

    `clock` tells seconds that pass while a Lambda is frozen too (the wall's, not the monotonic one's).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Callable[[], Credentials] | None,
        limits: Limits = DEFAULTS,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.endpoint = endpoint
        self.limits = limits
        self._requests = RequestBuilder(endpoint, credentials)
        self._clock = clock
        self._sleep = sleep
        self._idle: list[tuple[Channel, float]] = []

    def send(self, target: str, payload: bytes, *, budget: float | None = None) -> bytes:
        """Send an operation of DynamoDB or SSM, e.g. `DynamoDB_20120810.GetItem`; payload and answer are JSON text.

        Errors are those of `call`.
        """
        headers = operation_headers(self.endpoint.service, target)
        return self.call("POST", "/", headers, payload, budget=budget).body

    def call(
        self,
        method: str,
        path: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        budget: float | None = None,
    ) -> Response:
        """Send a request until it is answered. Retries throttling, 5xx, resets, time-outs and damaged bodies.

        Raises:
            Refused: 4xx other than throttling, or a redirection.
            Throttled: throttled to the end.
            Unavailable: no good answer within the tries and `budget` seconds (the limits' by default).
            TooLarge: the answer is larger than the limit.
        """
        ends = time.monotonic() + (self.limits.budget if budget is None else budget)
        tries = 0
        while True:
            idle = None
            try:
                request = self._requests.build(method, path, headers, body)
                idle = self._reuse()
                response = self._exchange(idle or self._connect(ends), method, request, ends)
                failure = parse_failure(response)
                if failure is None:
                    return response
                raise failure
            except Unavailable as error:
                pause = 0.0
                if idle and isinstance(error, Dropped):
                    # It died while idle, which says nothing about the service: try at once, on a new connection (once,
                    # then, since the others are closed too).
                    self.close()
                else:
                    tries += 1
                    pause = full_jitter(tries, self.limits.base, self.limits.cap, draw())
                if tries >= self.limits.tries or time.monotonic() + pause >= ends:
                    raise
            self._sleep(pause)

    def close(self) -> None:
        """Close the idle connections; the client stays usable."""
        while self._idle:
            self._idle.pop()[0].close()

    def _exchange(self, channel: Channel, method: str, request: bytes, ends: float) -> Response:
        timeout = max(0.001, min(self.limits.attempt, ends - time.monotonic()))
        try:
            return channel.exchange(method, request, self.limits.largest, timeout)
        finally:
            if channel.is_reusable:
                self._idle.append((channel, self._clock()))
            else:
                channel.close()

    def _connect(self, ends: float) -> Channel:
        return open_channel(self.endpoint, max(0.001, min(self.limits.connect, ends - time.monotonic())))

    def _reuse(self) -> Channel | None:
        while self._idle:
            channel, since = self._idle.pop()
            if 0 <= self._clock() - since < self.limits.idle and channel.is_quiet():
                return channel
            channel.close()
        return None
