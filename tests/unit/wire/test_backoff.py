"""Pauses between attempts."""

from math import inf
from typing import Any

import pytest

from wire.backoff import draw, full_jitter


@pytest.mark.parametrize(("tries", "bound"), [(1, 0.05), (2, 0.1), (3, 0.2), (32, 5.0), (33, 5.0), (1000, 5.0)])
def test_bound_doubles_up_to_the_cap(tries: Any, bound: Any) -> None:
    """The pause is a share of a bound that doubles with each failure up to the cap."""
    assert full_jitter(tries, 0.05, 5.0, 1.0) == pytest.approx(bound)
    assert full_jitter(tries, 0.05, 5.0, 0.5) == pytest.approx(bound / 2)
    assert full_jitter(tries, 0.05, 5.0, 0.0) == 0.0
    assert full_jitter(tries, 1.0, inf, 1.0) == 2.0 ** min(tries - 1, 32), "no number is too large for a float"


def test_draws_spread_over_the_unit_interval() -> None:
    """The numbers are in [0, 1) and differ."""
    drawn = [draw() for _ in range(200)]
    assert all(0 <= number < 1 for number in drawn)
    assert min(drawn) < 0.2 < 0.8 < max(drawn)
