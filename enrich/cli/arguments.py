"""Types of arguments. argparse names a type in its message by its `__name__`."""

from __future__ import annotations

import math


def positive(text: str) -> float:
    """Parse a number above 0; not infinity or NaN."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError(text)
    return number


positive.__name__ = "number above 0"


def positive_int(text: str) -> int:
    """Parse a whole number above 0."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


positive_int.__name__ = "whole number above 0"


def count(text: str) -> int:
    """Parse a whole number, 0 or above."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


count.__name__ = "whole number"
