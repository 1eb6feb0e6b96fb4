"""Summaries of values, and the population stability index between two of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from enrich.guard.evaluate import add_psi

QUANTILES = {
    "min": 0.0,
    "p01": 0.01,
    "p05": 0.05,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p95": 0.95,
    "p99": 0.99,
    "max": 1.0,
}
DECILES = [n / 10 for n in range(1, 10)]
BINS = 20  # bins of a histogram


def find_psi(a: Sequence[int], b: Sequence[int]) -> float | None:
    """Return the population stability index of two counts over the same bins; None if one of them has no values.

    It is the sum of (b - a) * ln(b / a) over the bins' shares: 0 for equal distributions. Below 0.1 is usually taken
    as stable, above 0.25 as shifted.
    """
    if not sum(a) or not sum(b):
        return None
    total_a, total_b = sum(a), sum(b)
    return math.fsum(add_psi(y / total_b, x / total_a) for x, y in zip(a, b, strict=True))


def pick_quantiles(batches: Iterable[Sequence[float]], count: int, fractions: Iterable[float]) -> list[float]:
    """Return quantiles of sorted values that come in batches, interpolated between neighbours as numpy does.

    Args:
        batches: the values, ascending.
        count: number of all values, at least 1.
        fractions: ascending, 0 to 1.
    """
    places = [(count - 1) * fraction for fraction in fractions]
    wanted = sorted({math.floor(place) for place in places} | {math.ceil(place) for place in places})
    at = dict(_pick(batches, wanted))
    return [_interpolate(at[math.floor(place)], at[math.ceil(place)], place % 1) for place in places]


def _pick(batches: Iterable[Sequence[float]], wanted: Sequence[int]) -> Iterator[tuple[int, float]]:
    first = n = 0
    for batch in batches:
        while n < len(wanted) and wanted[n] < first + len(batch):
            yield wanted[n], float(batch[wanted[n] - first])
            n += 1
        first += len(batch)


def _interpolate(low: float, high: float, fraction: float) -> float:
    return low if low == high else low * (1 - fraction) + high * fraction


def find_cuts(deciles: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the bounds of PSI's bins: the deciles, and each value that is a tenth of all values or more.

    A bin is `<= bound`, except that such a value is a bin of its own.
    """
    bounds = sorted(set(deciles))
    return bounds, [value for value in bounds if deciles.count(value) > 1]


def find_edges(low: float, high: float) -> list[float] | None:
    """Return the edges of a histogram's bins; None if they are too far apart for a double."""
    if low == high:
        low, high = low - 0.5, high + 0.5
    width = (high - low) / BINS
    if not math.isfinite(width) or width <= 0:
        return None
    return [low + n * width for n in range(BINS)] + [high]
