"""How long to wait before the next try: full jitter. Pure, but for the operating system's random numbers."""

from __future__ import annotations

import os

# Importing `random` costs a cold start more than the few numbers it would give.
_STEPS = 2**32


def draw() -> float:
    """Draw a number from [0, 1)."""
    return int.from_bytes(os.urandom(4)) / _STEPS


def full_jitter(tries: int, base: float, cap: float, share: float) -> float:
    """Return the seconds to wait after `tries` failures: `share` (drawn from [0, 1)) of a bound that doubles each time.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return share * min(cap, base * 2.0 ** min(tries - 1, 32))
