"""How many write units a second, and how many requests at once: given, or learned from throttles. Pure."""

from __future__ import annotations

FLOOR = 5.0  # units/s: a batch of small items every five seconds, however much is throttled
SHARE = 0.8  # of what was just delivered, after a throttle
STEP = 0.1  # of the best rate seen, added for each second without one
LEAST_STEP = 50.0  # units/s
BURST = 0.1  # seconds' worth of units that may go at once after a pause
SPAN = 1.0  # seconds over which delivery is measured
FIRST_WINDOW = 8
LAST_WINDOW = 64


class Pace:
    """A budget of write units and a window of requests in flight: additive increase, multiplicative decrease.

    `given` is a budget in units per second that is never passed; None learns one: without bounds until a throttle,
    then a share of what was delivered, and a little more with each second.
    """

    def __init__(self, given: float | None, now: float) -> None:
        self.given = given
        self.limit = given
        self.rate = 0.0  # units/s delivered lately, for progress
        self.window = float(FIRST_WINDOW)
        self._best = 0.0
        self._ready = now
        self._since = now
        self._units = 0
        self._raised = now
        self._lowered = now - SPAN

    def delay(self, now: float) -> float:
        """Return the seconds until the next request may be sent."""
        return max(0.0, self._ready - now) if self.limit else 0.0

    def spend(self, units: int, now: float) -> None:
        """Note that a request was sent."""
        if self.limit:
            self._ready = max(self._ready, now - BURST) + units / self.limit

    def delivered(self, units: int, now: float, *, full: bool) -> None:
        """Note that units were written. `full`: the window was, so that a larger one may help."""
        self._units += units
        if now - self._since >= SPAN:
            self.rate = self._units / (now - self._since)
            self._best = max(self._best, self.rate)
            self._since, self._units = now, 0
        if full:
            self.window = min(LAST_WINDOW, self.window + 1 / self.window)
        if self.limit and self.limit != self.given:
            self.limit += max(LEAST_STEP, STEP * self._best) * (now - self._raised)
            if self.given:
                self.limit = min(self.limit, self.given)
        self._raised = now

    def throttled(self, now: float) -> None:
        """Note that the table asked for less, once for all the requests that were then in flight."""
        self._raised = now
        if now - self._lowered < SPAN / 4:
            return
        self._lowered = now
        self.window = max(1.0, self.window / 2)
        elapsed = now - self._since
        rate = self._units / elapsed if elapsed >= SPAN / 4 else max(self.rate, self._units / (SPAN / 4))
        self.limit = max(FLOOR, SHARE * min(rate, self.limit or rate))
        if self.given:
            self.limit = min(self.limit, self.given)
