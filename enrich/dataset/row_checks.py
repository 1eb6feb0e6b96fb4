"""Generate the SQL of the checks that reject a row, and of expressions that can fail for a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from enrich.dataset.binding import Leaf
from enrich.dataset.expressions import Expression
from enrich.dataset.json_sql import BAD_VALUE, JsonPolicy, identifier, render_json_sql


class Reasons:
    """Numbers the reject reasons, so that the SQL carries a small code instead of text."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = [(BAD_VALUE, "the line can't be read")]

    def add(self, reason: str, detail: str) -> int:
        """Add a reason and return its code."""
        self.all.append((reason, detail))
        return len(self.all) - 1


@dataclass
class RowChecks:
    """The checks of a relation's rows with their codes, and the columns (slots) of expressions that can fail.

    Attributes:
        prefix: distinguishes the names of the slots from those of other relations.
        reasons: where the codes are defined.
        slots: SQL of the additional columns.
        checks: pairs of a condition and its reject code.
        metadata: names of the metadata that the expressions use.
    """

    prefix: str
    reasons: Reasons
    slots: list[str] = field(default_factory=list)
    checks: list[tuple[str, int]] = field(default_factory=list)
    metadata: set[str] = field(default_factory=set)
    _values: dict[tuple[str, str], str] = field(default_factory=dict)

    def value(self, expression: Expression) -> str:
        """Return the SQL of an expression's value; one that can fail is computed once, in a slot, and checked."""
        self.metadata |= {name for name, _ in expression.metadata}
        if expression.plain:
            return f"({expression.sql})"
        if (at := (expression.place, expression.sql)) in self._values:  # a guard measures what is rendered
            return self._values[at]
        slot = identifier(f"larder.{self.prefix}.{len(self.slots)}")
        # TRY returns null for an error; the struct distinguishes this from an expression whose value is null.
        self.slots.append(f"try(struct_pack(v := ({expression.sql}\n))) as {slot}")
        failed = f"{expression.place}: the expression {expression.sql!r} fails for this row"
        self.checks.append((f"{slot} is null", self.reasons.add(BAD_VALUE, failed)))
        self._values[at] = f"{slot}.v"
        return self._values[at]

    def text(self, leaf: Leaf, policy: JsonPolicy) -> str:
        """Return the SQL of a leaf's JSON text, and add the checks of its value."""
        rendered = render_json_sql(self.value(leaf.expression), leaf.kind, policy)
        for check in rendered.checks:
            detail = f"{leaf.expression.place}{check.path} {check.because}"
            self.checks.append((check.sql, self.reasons.add(check.reason, detail)))
        return rendered.sql

    def select(self, relation: str) -> str:
        """Return the relation with the slots as additional columns."""
        return f"(select {', '.join(['*', *self.slots])} from {relation})"

    @property
    def code(self) -> str:
        """The SQL of the code of the first check that is true; null if none is."""
        return render_case(self.checks)


def render_case(cases: list[tuple[str, Any]]) -> str:
    """Return a CASE over (condition, value) pairs; null if there are none."""
    if not cases:
        return "null"
    return f"case {' '.join(f'when {condition} then {value}' for condition, value in cases)} end"
