"""Lookups in a template: resources by type, properties by path, defaults of parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from infra.translate import Template

Rule = Callable[[Template], Iterator[str]]
STATISTICS = {"Average", "Sum", "Minimum", "Maximum", "SampleCount"}
PERCENTILE = re.compile(r"p(?:100|\d{1,2}(?:\.\d{1,10})?)")


def by_type(template: Template, *types: str) -> dict[str, dict[str, Any]]:
    """Return the properties of each resource of some types, by logical id."""
    return {name: one.get("Properties", {}) for name, one in template["Resources"].items() if one["Type"] in types}


def get(node: Any, *path: str) -> Any:
    """Follow a path of members; None if one is missing."""
    for member in path:
        node = node.get(member) if isinstance(node, dict) else None
    return node


def default(template: Template, value: Any) -> Any:
    """Replace a reference to a parameter by its default."""
    if isinstance(value, dict) and "Ref" in value:
        return get(template["Parameters"], value["Ref"], "Default")
    return value


def functions(template: Template) -> dict[str, dict[str, Any]]:
    """Return each function's properties, with those of Globals."""
    shared = get(template, "Globals", "Function") or {}
    return {name: {**shared, **one} for name, one in by_type(template, "AWS::Serverless::Function").items()}


def statements(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (logical id, statement) of every role's policies, including those under a condition."""
    for name, role in by_type(template, "AWS::IAM::Role").items():
        for policy in role.get("Policies", []):
            for statement in policy["PolicyDocument"]["Statement"]:
                yield name, statement["Fn::If"][1] if "Fn::If" in statement else statement


def listed(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as a list of one."""
    return value if isinstance(value, list) else [value]
