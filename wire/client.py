"""A synchronous client of one AWS service, with retries: each call returns a response or raises one of a few errors."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from wire.backoff import draw, full_jitter
from wire.channel import Channel, open_channel
from wire.deadline import deadline
from wire.endpoint import Endpoint
from wire.errors import Dropped, Unavailable
from wire.request import RequestBuilder, operation_headers
from wire.response import Response, parse_failure
from wire.sigv4 import Credentials


class Limits(NamedTuple):
    """Limits of a call, in seconds and bytes."""

    connect: float = 1.0  # TCP and TLS together
    attempt: float = 2.0  # one exchange, from the first byte sent to the last byte received
    budget: float = 6.0  # the whole call with its retries
    tries: int = 4
    base: float = 0.025  # backoff: upper bound of the first pause
    cap: float = 1.0  # backoff: upper bound of any pause
    largest: int = 16 * 1024 * 1024
    # NAT gateways and VPC endpoints silently drop a flow after 350 idle seconds, e.g. while a Lambda is frozen.
    idle: float = 240.0


DEFAULTS = Limits()


class Client:
    """Keep-alive connections to one endpoint. Threads can share it: each exchange has its own connection.

    `clock` returns wall-clock seconds, which also pass while a Lambda is frozen.
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
        """Send an operation of DynamoDB, SSM or SQS, e.g. `DynamoDB_20120810.GetItem`; payload and result are JSON.

        Raises the errors of `call`.
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
        """Send a request and return the response. Retries throttling, 5xx, resets, time-outs and malformed responses.

        Raises:
            Refused: 4xx other than throttling, or a redirection.
            Throttled: every try was throttled.
            Unavailable: no successful response within the tries, within `budget` seconds (default: `Limits.budget`), or
                before the deadline of the unit of work that the call belongs to (`wire.deadline`).
            NoCredentials: no credentials were found, or they could not be refreshed.
            TooLarge: the response is larger than the limit.
        """
        begins = time.monotonic()
        ends = min(begins + (self.limits.budget if budget is None else budget), deadline())
        if begins >= ends:
            raise Unavailable("no time was left for the call")
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
                    # The connection ended while idle, which says nothing about the service: retry at once on a new one.
                    # This happens once per call, because the other idle connections are closed too.
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
