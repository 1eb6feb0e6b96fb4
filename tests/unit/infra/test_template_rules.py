"""The template's own rules: the committed template breaks none, and each seeded fault is seen by its rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from infra.rules import RULES, check
from infra.translate import Template, read_template

GONE = object()


class Other(NamedTuple):
    """Other words within a text."""

    old: str
    new: str


def parse_place(text: str) -> tuple[str | int, ...]:
    """Parse `Resources.Api.Properties.MethodSettings.0` into the steps that lead there."""
    return tuple(int(step) if step.isdecimal() else step for step in text.split("."))


FAULTS = yaml.safe_load(Path(__file__).with_name("faults.yaml").read_text())
SEEDS: list[tuple[str, str, tuple[str | int, ...], Any]] = [
    (
        case["fault"],
        rule,
        parse_place(case["place"]),
        Other(*case["text"]) if "text" in case else case.get("value", GONE),
    )
    for rule, cases in FAULTS.items()
    for case in cases
]


def seed(template: Template, place: tuple[Any, ...], value: Any) -> Template:
    """Return the template with one value put somewhere, or taken away."""
    faulty = copy.deepcopy(template)
    node = faulty
    for step in place[:-1]:
        node = node[step]
    if value is GONE:
        del node[place[-1]]
    elif isinstance(value, Other):
        assert value.old in node[place[-1]], "the seed changes nothing"
        node[place[-1]] = node[place[-1]].replace(*value)
    else:
        assert node.get(place[-1]) != value if isinstance(node, dict) else True, "the seed changes nothing"
        node[place[-1]] = value
    return faulty


@pytest.fixture(scope="module")
def template() -> Template:
    return read_template()


def test_committed_template_breaks_no_rule(template: Template) -> None:
    """The template that is deployed is as every rule wants it."""
    assert check(template) == []


@pytest.mark.parametrize(("rule", "place", "value"), [case[1:] for case in SEEDS], ids=[case[0] for case in SEEDS])
def test_seeded_fault_is_seen(template: Template, rule: str, place: tuple[Any, ...], value: Any) -> None:
    """A fault that linters let pass is told by the rule that is there for it."""
    faults = check(seed(template, place, value))
    assert [fault for fault in faults if fault.startswith(f"{rule}:")], faults


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_each_rule_has_a_seed(rule: Callable[..., Any]) -> None:
    """No rule is there that has never been seen to fail."""
    assert rule.__name__ in {case[1] for case in SEEDS}
