"""Checks of infra/template.yaml that linters do not make: each rule is a function from the template to its faults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from infra.translate import Template
from tests.unit.infra.rules import (
    addresses,
    alarm_simulation,
    alarms,
    dashboards,
    functions,
    gateway,
    grants,
    parameters,
    permissions,
    pins,
    queues,
    storage,
)
from tests.unit.infra.rules.template import Rule

MODULES = (
    queues,
    storage,
    permissions,
    grants,
    parameters,
    functions,
    gateway,
    addresses,
    alarms,
    alarm_simulation,
    dashboards,
    pins,
)
RULES: tuple[Rule, ...] = tuple(rule for module in MODULES for rule in module.RULES)


def check(template: Template, rules: Iterable[Rule] = RULES) -> list[str]:
    """Return every fault that a rule finds, with the rule's name."""
    return [f"{rule.__name__}: {fault}" for rule in rules for fault in _apply(rule, template)]


def _apply(rule: Rule, template: Template) -> Iterator[str]:
    try:
        yield from rule(template)
    except (
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
    ) as error:  # the rule expects a resource or a property that is missing
        yield f"cannot find what it checks: {error!r}"
