"""Limit write units per second and requests in flight, as configured or as found from throttling."""

from __future__ import annotations

MIN_LIMIT = 5.0  # units/s: a batch of small items every five seconds, under any throttling
DECREASE = 0.8  # new limit after a throttle, as a share of the delivered rate
INCREASE = 0.1  # of the best rate seen, added to the limit for each second without a throttle
MIN_INCREASE = 50.0  # units/s
BURST_SECONDS = 0.1  # after a pause, the units of this many seconds can be sent at once
MEASURE_SECONDS = 1.0  # over which the delivered rate is measured
FIRST_WINDOW = 8
MAX_WINDOW = 64


class RateLimiter:
    """A limit of write units per second and a window of requests in flight: additive increase, multiplicative decrease.

    `fixed`: a limit in units per second that is never exceeded. None: unlimited until the first throttle, then a share
    of the delivered rate that grows each second.
    """

    def __init__(self, fixed: float | None, now: float) -> None:
        self.fixed = fixed
        self.limit = fixed
        self.rate = 0.0  # units/s delivered in the last measurement, for progress
        self.window = float(FIRST_WINDOW)
        self._best = 0.0
        self._ready = now
        self._since = now
        self._units = 0
        self._raised = now
        self._lowered = now - MEASURE_SECONDS

    def delay(self, now: float) -> float:
        """Return the seconds until the next request can be sent."""
        return max(0.0, self._ready - now) if self.limit else 0.0

    def spend(self, units: int, now: float) -> None:
        """Count the units of a request that was sent."""
        if self.limit:
            self._ready = max(self._ready, now - BURST_SECONDS) + units / self.limit

    def delivered(self, units: int, now: float, *, full: bool) -> None:
        """Count units that were written. `full`: the window was full, so a larger one can help."""
        self._units += units
        if now - self._since >= MEASURE_SECONDS:
            self.rate = self._units / (now - self._since)
            self._best = max(self._best, self.rate)
            self._since, self._units = now, 0
        if full:
            self.window = min(MAX_WINDOW, self.window + 1 / self.window)
        if self.limit and self.limit != self.fixed:
            self.limit += max(MIN_INCREASE, INCREASE * self._best) * (now - self._raised)
            if self.fixed:
                self.limit = min(self.limit, self.fixed)
        self._raised = now

    def throttled(self, now: float) -> None:
        """Lower the limit and the window after a throttle, once for all requests that were in flight at that time."""
        self._raised = now
        if now - self._lowered < MEASURE_SECONDS / 4:
            return
        self._lowered = now
        self.window = max(1.0, self.window / 2)
        elapsed = now - self._since
        rate = (
            self._units / elapsed
            if elapsed >= MEASURE_SECONDS / 4
            else max(self.rate, self._units / (MEASURE_SECONDS / 4))
        )
        self.limit = max(MIN_LIMIT, DECREASE * min(rate, self.limit or rate))
        if self.fixed:
            self.limit = min(self.limit, self.fixed)
