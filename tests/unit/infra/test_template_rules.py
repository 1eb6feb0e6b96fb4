"""The template follows our rules, and each rule reports the faults that are seeded for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from infra.gateway import GATEWAY, build_gateway, render
from infra.translate import Template, read_template
from tests.unit.infra.rules import RULES, check
from tests.unit.serve.kit import SERVED

GONE = object()


class Replaced(NamedTuple):
    """A text that replaces another within a text."""

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
        Replaced(*case["text"]) if "text" in case else case.get("value", GONE),
    )
    for rule, cases in FAULTS.items()
    for case in cases
]


def seed(template: Template, place: tuple[Any, ...], value: Any) -> Template:
    """Return a copy of the template with one value set or removed."""
    faulty = copy.deepcopy(template)
    node = faulty
    for step in place[:-1]:
        node = node[step]
    if value is GONE:
        del node[place[-1]]
    elif isinstance(value, Replaced):
        assert value.old in node[place[-1]], "the seed changes nothing"
        node[place[-1]] = node[place[-1]].replace(*value)
    else:
        assert node.get(place[-1]) != value if isinstance(node, dict) else True, "the seed changes nothing"
        node[place[-1]] = value
    return faulty


@pytest.fixture(scope="module")
def template() -> Template:
    return read_template()


def test_committed_template_follows_every_rule(template: Template) -> None:
    """No rule reports a fault of the template that is deployed."""
    assert check(template) == []


@pytest.mark.parametrize(("rule", "place", "value"), [case[1:] for case in SEEDS], ids=[case[0] for case in SEEDS])
def test_seeded_fault_is_reported(template: Template, rule: str, place: tuple[Any, ...], value: Any) -> None:
    """A fault that linters do not report is reported by its rule."""
    faults = check(seed(template, place, value))
    assert [fault for fault in faults if fault.startswith(f"{rule}:")], faults


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_each_rule_has_a_seed(rule: Callable[..., Any]) -> None:
    """Every rule has at least one fault that it must report."""
    assert rule.__name__ in {case[1] for case in SEEDS}


def test_gateway_file_is_up_to_date() -> None:
    """After a change of openapi.yaml, run `python -m infra.gateway` and commit both files."""
    assert GATEWAY.read_text() == render(build_gateway())


def test_key_is_required_where_a_token_is() -> None:
    """With API keys, the operations that require a token require a key too; preflights and health require neither."""
    document = build_gateway()
    keyed = {
        (path, method)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if isinstance(operation, dict) and operation.get("security")
    }
    assert keyed == {
        (path, method)
        for name in SERVED
        for path in (f"/v1/{name}", f"/v1/{name}/{{prediction_id}}")
        for method in ("get", "head")
    }
    for path, method in keyed:
        with_keys: list[dict[str, list[str]]] = [{"bearerAuth": [], "apiKey": []}]
        expected = {"Fn::If": ["HasApiKeys", with_keys, [{"bearerAuth": []}]]}
        assert document["paths"][path][method]["security"] == expected
    schemes = document["components"]["securitySchemes"]
    assert (schemes["bearerAuth"]["type"], schemes["bearerAuth"]["scheme"]) == ("http", "bearer")
    assert schemes["apiKey"] == {"type": "apiKey", "in": "header", "name": "x-api-key"}


def test_each_operation_of_the_contract_calls_serve() -> None:
    """Each operation of openapi.yaml has an integration that calls serve's alias, which follows a canary deployment."""
    paths = build_gateway()["paths"]
    operations = [one for item in paths.values() for one in item.values() if isinstance(one, dict)]
    assert operations
    for operation in operations:
        uri = operation["x-amazon-apigateway-integration"]["uri"]["Fn::Sub"]
        assert uri.endswith("functions/${ServeFunction.Alias}/invocations")
