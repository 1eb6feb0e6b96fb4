"""Side by side over one relation: expressions that may fail, and the checks that reject a row, numbered. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from enrich.dataset.binding import Leaf
from enrich.dataset.expressions import Expression
from enrich.dataset.json_sql import BAD_VALUE, Policy, identifier, render


class Reasons:
    """Numbers what can reject a row, so that SQL carries a small code; the words are attached to what comes out."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = [(BAD_VALUE, "the line can't be read")]

    def add(self, reason: str, detail: str) -> int:
        """Return the code of a reason."""
        self.all.append((reason, detail))
        return len(self.all) - 1


@dataclass
class Scope:
    """What is computed side by side over one relation: expressions that may fail, and checks with their codes."""

    prefix: str
    reasons: Reasons
    slots: list[str] = field(default_factory=list)
    checks: list[tuple[str, int]] = field(default_factory=list)
    metadata: set[str] = field(default_factory=set)

    def value(self, expression: Expression) -> str:
        """Return SQL of the expression's value; one that may fail is computed once, and its failing is checked."""
        self.metadata |= {name for name, _ in expression.metadata}
        if expression.plain:
            return f"({expression.sql})"
        slot = identifier(f"larder.{self.prefix}.{len(self.slots)}")
        # TRY gives null for an error; the struct around tells it from an expression that is null.
        self.slots.append(f"try(struct_pack(v := ({expression.sql}\n))) as {slot}")
        failed = f"the expression {expression.sql!r} at {expression.place} fails for this row"
        self.checks.append((f"{slot} is null", self.reasons.add(BAD_VALUE, failed)))
        return f"{slot}.v"

    def text(self, leaf: Leaf, policy: Policy) -> str:
        """Return SQL of the leaf's JSON text and check its value."""
        rendered = render(self.value(leaf.expression), leaf.kind, policy)
        for check in rendered.checks:
            detail = f"{leaf.expression.place}{check.path} {check.because}"
            self.checks.append((check.sql, self.reasons.add(check.reason, detail)))
        return rendered.sql

    def select(self, relation: str) -> str:
        """Return a relation that has the slots as columns too."""
        return f"(select {', '.join(['*', *self.slots])} from {relation})"

    @property
    def code(self) -> str:
        """Return SQL of the first check that is true, null if none is."""
        return render_case(self.checks)


def render_case(cases: list[tuple[str, Any]]) -> str:
    """Render a CASE of (condition, value); null without any."""
    if not cases:
        return "null"
    return f"case {' '.join(f'when {condition} then {value}' for condition, value in cases)} end"
