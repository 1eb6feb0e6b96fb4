"""What linters do not see in the template: each rule looks at it and says in plain words what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from infra.rules import access, address, api, dashboards, fire, gateway, kept, pipeline, watch
from infra.rules.look import Rule
from infra.translate import Template

RULES: tuple[Rule, ...] = tuple(
    rule for module in (pipeline, kept, access, api, gateway, address, watch, fire, dashboards) for rule in module.RULES
)


def check(template: Template) -> list[str]:
    """Return every fault that a rule finds, with the rule's name."""
    return [f"{rule.__name__}: {fault}" for rule in RULES for fault in _apply(rule, template)]


def _apply(rule: Rule, template: Template) -> Iterator[str]:
    try:
        yield from rule(template)
    except (KeyError, IndexError, TypeError) as error:  # a rule looks at what has to be there
        yield f"cannot find what it looks at: {error!r}"
