"""Exponential backoff with full jitter."""

import os

# `random` is not used: importing it would slow a cold start.
_STEPS = 2**32


def draw() -> float:
    """Return a random number from [0, 1)."""
    return int.from_bytes(os.urandom(4)) / _STEPS


def full_jitter(tries: int, base: float, cap: float, share: float) -> float:
    """Return the seconds to wait after `tries` failures: `share` (from [0, 1)) of a bound that doubles with each.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return share * min(cap, base * 2.0 ** min(tries - 1, 32))
