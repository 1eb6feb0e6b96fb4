"""The template follows our rules, and each rule reports the faults that are seeded for it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from enrich.datasets import find_project
from infra.gateway import build_gateway, render
from infra.lint import translate_all
from infra.translate import ROOT, Template, read_template
from tests.unit.infra.rules import RULES, check
from tests.unit.infra.rules.evaluate import Stack
from tests.unit.infra.rules.template import listed
from tests.unit.serve.kit import SERVED

GONE = object()


class Replaced(NamedTuple):
    """A text that replaces another one within a text."""

    old: str
    new: str


def parse_place(text: str) -> tuple[str | int, ...]:
    """Parse `Resources.Api.Properties.MethodSettings.0` into the steps that lead there."""
    return tuple(int(step) if step.isdecimal() else step for step in text.split("."))


FAULTS = yaml.load(Path(__file__).with_name("faults.yaml").read_text(), yaml.CSafeLoader)
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
    (one,) = (one for one in RULES if one.__name__ == rule)  # all of them would take a minute
    assert check(seed(template, place, value), [one])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_each_rule_has_a_seed(rule: Callable[..., Any]) -> None:
    """Every rule has at least one fault that it must report."""
    assert rule.__name__ in {case[1] for case in SEEDS}


def test_gateway_file_is_up_to_date() -> None:
    """The example's file is generated from its datasets; tests/contract/test_own_datasets.py checks the user's."""
    stale = (find_project() / "infra" / "gateway.yaml").read_text() != render(build_gateway())
    assert not stale, "run `./larder gateway` with LARDER_PROJECT=examples/flights, and commit what it writes"


def find_references(node: Any) -> Iterator[str]:
    """Find the resources that a part of a template names."""
    if isinstance(node, list):
        for one in node:
            yield from find_references(one)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name == "Ref":
                yield value
            elif name == "Fn::GetAtt":
                yield value[0]
            elif name == "Fn::Sub":
                text = value if isinstance(value, str) else value[0]
                yield from (found.partition(".")[0] for found in re.findall(r"\$\{([^}]+)\}", text))
            elif name == "DependsOn":
                yield from listed(value)
            yield from find_references(value)


def test_stage_waits_for_the_accounts_logging_role(template: Template) -> None:
    """CloudFormation creates the stage after the account's role for logs, and nothing waits for a missing resource."""
    resources = translate_all(template)["Resources"]
    (stage,) = [name for name, one in resources.items() if one["Type"] == "AWS::ApiGateway::Stage"]
    waits_for, left = set(), {stage}
    while left:
        name = left.pop()
        waits_for.add(name)
        left |= (set(find_references(resources[name])) & set(resources)) - waits_for
    assert {"ApiGatewayLogging", "ApiGatewayLogRole"} <= waits_for
    for name, one in resources.items():
        for other in listed(one.get("DependsOn", [])):
            assert resources[other].get("Condition") in (None, one.get("Condition")), f"{name} waits for {other}"


@pytest.mark.parametrize(
    ("given", "others", "free_dashboards", "said"),
    [
        ({"SyntheticSecret": "s"}, 20.7, 0, {"docs/cost.md": "| **total** | **{}** |"}),
        (
            {"Waf": "false"},
            20.7,
            3,
            {"docs/cost.md": "with free dashboards | {} |", "README.md": "request: ${} a month"},
        ),
        ({"SyntheticSecret": "s"}, -8, 3, {"docs/cost.md": "| alarms | {} |"}),
    ],
    ids=["with every option", "the smallest", "alarms alone"],
)
def test_pages_say_what_an_environment_costs(
    template: Template, given: dict[str, str], others: float, free_dashboards: int, said: dict[str, str]
) -> None:
    """The sums are those of a stack's resources, with the prices of docs/decisions/what-a-million-costs.md."""
    stack, cost = Stack(template, given), others
    for name, one in template["Resources"].items():
        if not stack.exists(name):
            continue
        if one["Type"] == "AWS::CloudWatch::Alarm":
            cost += 0.30 if "Metrics" in one["Properties"] else 0.10
        elif one["Type"] == "AWS::CloudWatch::CompositeAlarm":
            cost += 0.50
        elif one["Type"] == "AWS::CloudWatch::Dashboard":
            free_dashboards -= 1
            cost += 3.00 if free_dashboards < 0 else 0
        elif one["Type"] == "AWS::WAFv2::WebACL":
            cost += 5.00 + len(one["Properties"]["Rules"])
    for page, text in said.items():
        assert text.format(f"{cost:.2f}") in (ROOT / page).read_text(), f"{page}: {cost:.2f}"


def test_key_is_required_where_a_token_is() -> None:
    """With API keys, operations that require a token also require a key; preflights and health require neither."""
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
    """Each operation of openapi.yaml has an integration that calls serve's alias, which a canary deployment moves."""
    paths = build_gateway()["paths"]
    operations = [one for item in paths.values() for one in item.values() if isinstance(one, dict)]
    assert operations
    for operation in operations:
        uri = operation["x-amazon-apigateway-integration"]["uri"]["Fn::Sub"]
        assert uri.endswith("functions/${ServeFunction.Alias}/invocations")
