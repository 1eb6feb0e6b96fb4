"""The writer's rate limiter: how fast it sends, and how many requests are in flight."""

from typing import Any

import pytest

from enrich.write.rate_limiter import FIRST_WINDOW, MAX_WINDOW, RateLimiter


def deliver(pace: Any, units_per_second: Any, seconds: Any, start: Any, *, full: Any = True) -> Any:
    """Deliver evenly, ten times a second; return the time after that."""
    for step in range(int(seconds * 10)):
        pace.delivered(int(units_per_second / 10), start + step / 10, full=full)
    return start + seconds


def test_without_throttles_nothing_waits() -> None:
    """A rate that is to be learned is unlimited until the table throttles."""
    pace = RateLimiter(None, 0.0)
    for _ in range(1000):
        assert pace.delay(0.0) == 0.0
        pace.spend(1000, 0.0)


def test_given_rate_spaces_requests() -> None:
    """At 50 units/s, a request of 25 units delays the next one by half a second, less a small burst."""
    pace = RateLimiter(50.0, 0.0)
    pace.spend(25, 10.0)
    assert pace.delay(10.0) == pytest.approx(0.4)
    assert pace.delay(10.5) == 0.0


def test_throttle_reduces_the_limit_and_success_raises_it() -> None:
    """After a throttle the limit is 80 % of the delivered rate; each second of success adds a tenth of the best."""
    pace = RateLimiter(None, 0.0)
    now = deliver(pace, 1000, 5, 0.0)
    pace.throttled(now)
    assert pace.limit == pytest.approx(800, rel=0.1)
    lowered = pace.limit
    assert lowered is not None
    deliver(pace, 800, 3, now)
    assert pace.limit == pytest.approx(lowered + 3 * 100, rel=0.1)


def test_throttles_of_one_moment_count_once() -> None:
    """Many requests that were in flight together and are all throttled reduce limit and window once."""
    pace = RateLimiter(None, 0.0)
    now = deliver(pace, 1000, 5, 0.0)
    pace.throttled(now)
    limit, window = pace.limit, pace.window
    pace.throttled(now + 0.01)
    assert (pace.limit, pace.window) == (limit, window)


def test_window_grows_with_success_and_halves_with_throttles() -> None:
    """The number of requests in flight adapts: it grows while a full window succeeds, and halves after a throttle."""
    pace = RateLimiter(None, 0.0)
    deliver(pace, 1000, 50, 0.0, full=False)
    assert pace.window == FIRST_WINDOW
    deliver(pace, 1000, 500, 50.0)
    assert pace.window == MAX_WINDOW
    for second in range(10):
        window = pace.window
        pace.throttled(1000.0 + second)
        assert pace.window == max(1.0, window / 2)


def test_given_rate_is_never_exceeded() -> None:
    """Throttles reduce a given rate, too, and success raises it back to the given value, but no further."""
    pace = RateLimiter(1000.0, 0.0)
    now = deliver(pace, 500, 5, 0.0)
    pace.throttled(now)
    assert pace.limit is not None
    assert pace.limit < 500
    deliver(pace, 900, 60, now)
    assert pace.limit == 1000.0
