"""Guards: what an output must look like before it is published. Pure values, standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Measure = Literal[
    "rows", "changed", "nulls", "range", "min", "max", "mean",
    "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "psi",
]  # fmt: skip
OF_OUTPUT = {"rows", "changed"}  # measures of the whole output; the others are of one column or member
OF_ANY_TYPE = {"nulls"}  # the others need numbers
SHARES = {"changed", "nulls"}  # measures from 0 to 1
MEMBER = "body."  # prefix of `of` for a member of the body
MOST_GUARDS = 100
MOST_VALUES = 32  # each takes up to 4 KB of statistics in the ledger, per run
WHOLE = 0.001  # how far a sum of shares can be from 1, because they are rounded


@dataclass(frozen=True, slots=True)
class Shares:
    """A fixed distribution with which `psi` compares.

    Attributes:
        edges: ascending. A value up to the first edge belongs to the first share, one above the last edge to the last.
        shares: of the values, from 0 to 1, one more than edges; together 1.
    """

    edges: Sequence[float]
    shares: Sequence[float]


@dataclass(frozen=True, slots=True)
class Guard:
    """What a measure of an output must be, for the output to be published; else its run is held.

    Measures are taken over the predictions that become items: rejects have `tolerated`. NaN and infinity count as null.

    Attributes:
        measure: `rows`: how many predictions become items. `changed`: of the items that are served and that the output
            names, the share whose body it changes. Of one value: `nulls`, the share of nulls; `min`, `max` and `mean`;
            `range`, all values; `p1` to `p99`, percentiles within 0.2 %; `psi`, the population stability index over ten
            groups of equal size: up to 0.1 is usual, above 0.25 the distribution has changed.
        of: the value: a column, or a member of the body as `body.origin.name`. Numbers and booleans have all measures,
            other types `nulls` only.
        least: the smallest value of the measure that is allowed.
        most: the largest value that is allowed.
        change: by how much the measure can differ from the reference, as a share of it: 0.2 is 20 % up or down.
        difference: the same, in the measure's own unit.
        reference: a number, or `Shares` for `psi`. None is the same measure of the newest closed run that had items.
            If there is none, `change`, `difference` and `psi` compare nothing.
    """

    measure: Measure
    of: str | None = None
    least: float | None = None
    most: float | None = None
    change: float | None = None
    difference: float | None = None
    reference: float | Shares | None = None

    @property
    def is_relative(self) -> bool:
        """Whether it compares with a reference."""
        return self.measure == "psi" or self.change is not None or self.difference is not None

    @property
    def name(self) -> str:
        """The measure and its value, as messages name them."""
        return f"{self.measure} of {self.of}" if self.of is not None else self.measure


def find_guard_mistakes(guards: Sequence[Guard]) -> Iterator[tuple[str, str, str]]:
    """Yield place, message and remedy of each guard that can't work, whatever the measured values."""
    if len(guards) > MOST_GUARDS:
        yield "guards", f"has {len(guards)}, expected at most {MOST_GUARDS}", "remove some"
    values = list(dict.fromkeys(each.of for each in guards if each.of is not None))
    if len(values) > MOST_VALUES:
        message = f"has guards of {len(values)} columns and members, expected at most {MOST_VALUES}"
        yield "guards", message, "remove some"
    for number, guard in enumerate(guards):
        for message, remedy in _find_mistakes(guard):
            yield f"guards[{number}]", f"{guard.name}: {message}", remedy


def _find_mistakes(guard: Guard) -> Iterator[tuple[str, str]]:
    measure, numbers = guard.measure, {name: getattr(guard, name) for name in ("least", "most", "change", "difference")}
    given = {name: value for name, value in numbers.items() if value is not None}
    if measure in OF_OUTPUT and guard.of is not None:
        yield f"{measure} measures the whole output", "leave `of` out"
    if measure not in OF_OUTPUT and guard.of is None:
        yield "does not name a value", f'name a column or a member, as in Guard("{measure}", "body.NAME", ...)'
    for name in [name for name, value in given.items() if not math.isfinite(value)]:
        yield f"{name} is {given[name]}", "give a finite number, or leave it out"
    if not given:
        yield "has no bound", f"set {'most' if measure == 'psi' else 'least, most, change or difference'}"
    if guard.least is not None and guard.most is not None and guard.least > guard.most:
        yield f"least is {guard.least}, above most, {guard.most}", "swap them"
    for name in [name for name in ("change", "difference") if given.get(name, 0) < 0]:
        yield f"{name} is {given[name]}", "give a positive number or 0; it is allowed up and down"
    if measure in SHARES:
        for name in [name for name in ("least", "most", "difference") if given.get(name, 0) > 1]:
            yield f"{name} is {given[name]}, and {measure} is a share", "give a number from 0 to 1"
    bounds = {"psi": {"most"}, "range": {"least", "most"}, "changed": {"least", "most"}}.get(measure, set(numbers))
    for name in [name for name in given if name not in bounds]:
        yield f"{measure} has no {name}", f"set {' or '.join(sorted(bounds))}"
    yield from _find_reference_mistakes(guard)


def _find_reference_mistakes(guard: Guard) -> Iterator[tuple[str, str]]:
    reference = guard.reference
    if reference is None:
        return
    if guard.measure == "psi":
        if not isinstance(reference, Shares):
            yield f"reference is {reference}", "write Shares(edges=[...], shares=[...])"
            return
        edges, shares = reference.edges, reference.shares
        ascending = all(low < high for low, high in pairwise(edges)) and all(map(math.isfinite, edges))
        if not edges or not ascending:
            yield f"reference.edges are {list(edges)}", "write one finite number or several in ascending order"
        elif len(shares) != len(edges) + 1:
            yield f"reference has {len(shares)} shares for {len(edges)} edges", f"write {len(edges) + 1} shares"
        elif not all(share >= 0 for share in shares) or abs(sum(shares) - 1) > WHOLE:
            yield f"reference.shares are {list(shares)}", "write shares from 0 to 1 that add up to 1"
    elif isinstance(reference, Shares):
        yield "reference is Shares, which only psi compares with", "write a number"
    elif not math.isfinite(reference):
        yield f"reference is {reference}", "give a finite number"
    elif not guard.is_relative:
        yield "reference is not used", "set change or difference, or leave it out"
