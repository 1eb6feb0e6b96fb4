"""Compare the statistics of an output with its dataset's guards."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from enrich.dataset.guards import SHARES as MEASURES_OF_SHARES
from enrich.dataset.guards import Guard, Shares
from enrich.guard.cells import find_cell
from enrich.guard.statistics import Distribution, Summary, group_cells

PSI_GROUPS = 10
NO_SHARE = 1e-4  # replaces a share of 0, which has no logarithm


class Reference(NamedTuple):
    """What an output is compared with: in a run, the newest closed run that had items.

    Attributes:
        name: what sentences call it, e.g. `run 12`.
        summary: its statistics.
        run: its number; None if it is no run.
    """

    name: str
    summary: Summary
    run: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of a guard on an output.

    Attributes:
        guard: the measure and its value.
        passed: None if it could not be compared.
        found: the measured number; None if there is none.
        reference: what it was compared with; None if the guard has only absolute bounds, or there is no reference.
        says: a sentence with the found value, the allowed values, and the reference.
    """

    guard: str
    passed: bool | None
    found: float | None
    reference: float | None
    says: str

    def describe(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def evaluate(guards: Sequence[Guard], summary: Summary, reference: Reference | None) -> list[Verdict]:
    """Return the verdict of each guard over an output's statistics."""
    return [_judge(guard, summary, reference) for guard in guards]


def measure(guard: Guard, summary: Summary) -> float | tuple[float, float] | None:
    """Return a guard's measure, except `psi`; for `range`, smallest and largest value; None if there is none."""
    if guard.measure == "rows":
        return summary.rows
    if guard.measure == "changed":
        return summary.changed
    value = summary.values.get(guard.of or "")
    if value is None or not value.rows:
        return None
    if guard.measure == "nulls":
        return value.nulls / value.rows
    if guard.measure == "range":
        return None if value.min is None or value.max is None else (value.min, value.max)
    found: float | None = (
        value.percentiles.get(guard.measure)
        if guard.measure.startswith("p")
        else {"min": value.min, "max": value.max, "mean": value.mean}[guard.measure]
    )
    return found


def _judge(guard: Guard, summary: Summary, reference: Reference | None) -> Verdict:
    value = summary.values.get(guard.of or "")
    if guard.of is not None and not summary.rows:
        return Verdict(guard.name, None, None, None, f"{guard.name}: not compared, no prediction became an item")
    if value is not None and value.min is None and guard.measure != "nulls":
        return _judge_nothing(guard, value, reference)
    if guard.measure == "psi":
        return _judge_psi(guard, summary, reference)
    found = measure(guard, summary)
    if found is None:
        why = "it names no live item" if guard.measure == "changed" else "it can't be computed"
        return Verdict(guard.name, None, None, None, f"{guard.name}: not compared, {why}")
    if isinstance(found, tuple):
        return _judge_range(guard, found)
    wrong = list(_find_absolute(guard, found, found))
    other, source = _find_reference(guard, reference)
    shown = f"{guard.name} is {_show(guard, found)}"
    if other is not None:
        shown += f", and {_show(guard, other)} {source}{_show_change(guard, found, other)}"
        wrong += _find_relative(guard, found, other)
    elif guard.is_relative and not wrong:
        return Verdict(guard.name, None, found, None, f"{shown}: not compared, {source}")
    return _conclude(guard, shown, wrong, found, other)


def _judge_nothing(guard: Guard, value: Distribution, reference: Reference | None) -> Verdict:
    """Judge a value that is null in all rows: it fails, unless it was null before."""
    before = reference.summary.values.get(guard.of or "") if reference else None
    shown = f"{guard.name}: all {value.rows:,} values are null"
    is_bounded = guard.least is not None or guard.reference is not None
    is_bounded |= guard.most is not None and guard.measure != "psi"
    if not is_bounded and (before is None or before.min is None):
        return Verdict(guard.name, None, None, None, f"{shown}: not compared, no earlier run has other values")
    return Verdict(guard.name, False, None, None, f"{shown}; a number is expected")


def _judge_range(guard: Guard, found: tuple[float, float]) -> Verdict:
    low, high = found
    shown = f"{guard.name} is {_number(low)} to {_number(high)}"
    return _conclude(guard, shown, list(_find_absolute(guard, low, high)), low, None)


def _judge_psi(guard: Guard, summary: Summary, reference: Reference | None) -> Verdict:
    found = summary.values[guard.of or ""]
    before = reference.summary.values.get(guard.of or "") if reference else None
    if isinstance(guard.reference, Shares):
        expected: Sequence[float] = guard.reference.shares
        edges, source = [find_cell(edge) for edge in guard.reference.edges], "the fixed shares"
    elif reference is None or before is None or before.min is None:
        return Verdict(guard.name, None, None, None, f"{guard.name}: not compared, {_why_none(reference)}")
    else:
        edges, expected = _divide(before)
        source = reference.name
    actual = _share(found.groups, edges)
    psi = math.fsum(add_psi(mine, theirs) for mine, theirs in zip(actual, expected, strict=True))
    shown = f"{guard.name} is {psi:.3f} against {source}"
    return _conclude(guard, shown, list(_find_absolute(guard, psi, psi)), psi, None)


def _divide(before: Distribution) -> tuple[list[int], list[float]]:
    """Divide a distribution into about ten groups of equal size; return the cells where they end, and their shares.

    The first and the last group have the values outside of it: a shift of a constant shows only there.
    """
    count = before.rows - before.nulls
    groups = group_cells(before.groups, count / PSI_GROUPS)
    below = find_cell(before.min or 0.0) - 1
    return [below, *(cell for cell, _ in groups)], [0.0, *(number / count for _, number in groups), 0.0]


def _share(groups: Sequence[Sequence[int]], edges: Sequence[int]) -> list[float]:
    """Return the shares of a distribution up to each edge, and above the last."""
    counts = [0] * (len(edges) + 1)
    for cell, count in groups:
        counts[bisect_left(edges, cell)] += count
    return [count / sum(counts) for count in counts]


def add_psi(actual: float, expected: float) -> float:
    """Return how much two shares of a group add to the population stability index."""
    actual, expected = max(actual, NO_SHARE), max(expected, NO_SHARE)
    return (actual - expected) * math.log(actual / expected)


def _find_reference(guard: Guard, reference: Reference | None) -> tuple[float | None, str]:
    """Return the reference of a guard's measure and where it comes from, or why there is none."""
    if not guard.is_relative:
        return None, ""
    if isinstance(guard.reference, float | int):
        return guard.reference, "is the reference"
    found = measure(guard, reference.summary) if reference else None
    if reference is None or found is None or isinstance(found, tuple):
        return None, _why_none(reference)
    return found, f"in {reference.name}"


def _why_none(reference: Reference | None) -> str:
    return f"{reference.name} has no such number" if reference else "no earlier output has statistics"


def _find_absolute(guard: Guard, low: float, high: float) -> Iterator[str]:
    if guard.least is not None and low < guard.least:
        yield f"at least {_show(guard, guard.least)}"
    if guard.most is not None and high > guard.most:
        yield f"at most {_show(guard, guard.most)}"


def _find_relative(guard: Guard, found: float, other: float) -> Iterator[str]:
    away = abs(found - other)
    if guard.change is not None and away > guard.change * abs(other) * (1 + 1e-12):
        yield f"{_percent(guard.change)} up or down"
    if guard.difference is not None and away > guard.difference * (1 + 1e-12):
        yield f"{_show(guard, guard.difference)} up or down"


def _conclude(guard: Guard, shown: str, wrong: Sequence[str], found: float, other: float | None) -> Verdict:
    says = f"{shown}; allowed is {' and '.join(wrong)}" if wrong else shown
    return Verdict(guard.name, not wrong, found, other, says)


def _show(guard: Guard, number: float) -> str:
    return _percent(number) if guard.measure in MEASURES_OF_SHARES else _number(number)


def _show_change(guard: Guard, found: float, other: float) -> str:
    if guard.measure in MEASURES_OF_SHARES or not other:
        return ""
    return f" ({(found - other) / abs(other):+.1%})"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) and abs(number) < 1e15 else f"{number:,.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
