"""What linters do not see in the template: each rule looks at it and says in plain words what is wrong. Pure."""

from __future__ import annotations

from infra.rules import access, api, kept, pipeline, watch
from infra.translate import Template

RULES = (*pipeline.RULES, *kept.RULES, *access.RULES, *api.RULES, *watch.RULES)


def check(template: Template) -> list[str]:
    """Return every fault that a rule finds, with the rule's name."""
    return [f"{rule.__name__}: {fault}" for rule in RULES for fault in rule(template)]
