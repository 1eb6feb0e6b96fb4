"""Distributions of features: typical values for explanations, bins fixed by publishing, and drift from them (PSI).

Pure functions over lists of values; None is a missing value.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from score.manifest import Bins, Scalar
from score.model import Boolean, Category, Model, Number, Text, iterate_features

QUANTILES = 10
DRIFTED = 0.2  # PSI: below 0.1 is stable, above 0.2 has changed (Siddiqi, Credit Risk Scorecards)
_LEAST = 1e-4  # smallest share, so that an empty bin does not make PSI infinite

Column = Sequence[Scalar]


def find_baseline(model: Model, columns: Mapping[str, Column]) -> dict[str, Scalar]:
    """Return the typical value of each feature: the median, the most frequent value, or the empty text."""
    baseline: dict[str, Scalar] = {}
    for name, kind in iterate_features(model):
        if name in columns:
            baseline[name] = _find_typical(kind, [value for value in columns[name] if value is not None])
    return baseline


def _find_typical(kind: Number | Category | Boolean | Text, values: Column) -> Scalar:
    if isinstance(kind, Text):
        return ""
    if not values:
        return None
    if isinstance(kind, Number):
        typical = float(median([float(value) for value in values if value is not None and not isinstance(value, str)]))
        return round(typical) if kind.integer else typical
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], str(value)))


def find_bins(model: Model, columns: Mapping[str, Column]) -> dict[str, Bins]:
    """Return the distribution of each feature except texts."""
    bins = {}
    for name, kind in iterate_features(model):
        if name not in columns or isinstance(kind, Text):
            continue
        if isinstance(kind, Number):
            bins[name] = cut_numbers(columns[name])
        else:
            values = kind.choices if isinstance(kind, Category) else ("false", "true")
            bins[name] = fill_bins(Bins((), values, ()), columns[name])
    return bins


def cut_numbers(values: Column) -> Bins:
    """Return bins of numbers with edges at the distinct deciles."""
    numbers = sorted(float(value) for value in values if value is not None and not isinstance(value, str))
    edges: tuple[float, ...] = ()
    if numbers:
        places = [min(len(numbers) - 1, round(len(numbers) * part / QUANTILES)) for part in range(1, QUANTILES)]
        edges = tuple(sorted({numbers[place] for place in places}))
    return fill_bins(Bins(edges, (), ()), values)


def fill_bins(bins: Bins, values: Column) -> Bins:
    """Return bins with the same edges or values, and the shares of `values`."""
    counts = [0] * (len(bins.edges or bins.values) + 2)
    places = {value: number for number, value in enumerate(bins.values)}
    for value in values:
        if value is None:
            counts[-1] += 1
        elif bins.values:
            text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
            counts[places.get(text, len(places))] += 1
        else:
            counts[bisect_right(bins.edges, float(value))] += 1
    total = sum(counts) or 1
    return bins._replace(shares=tuple(count / total for count in counts))


def measure_psi(before: Bins, values: Column) -> float:
    """Return the population stability index (PSI) of values: the sum over bins of (now - then) * ln(now / then)."""
    psi = 0.0
    for pair in zip(before.shares, fill_bins(before, values).shares, strict=True):
        if any(pair):
            then, now = (max(share, _LEAST) for share in pair)
            psi += (now - then) * math.log(now / then)
    return psi
