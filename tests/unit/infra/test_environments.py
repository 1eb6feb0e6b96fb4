"""The five environments: their schema, the template's parameters, samconfig.toml."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from infra.bundle import FUNCTIONS
from infra.environments import SAMCONFIG, build_parameters, build_samconfig, read_environments
from infra.rules.look import functions
from infra.rules.pipeline import RATE
from infra.translate import read_template

NAMES = ["dev", "test", "qa", "pre-prod", "prod"]


@pytest.fixture(scope="module")
def document() -> Any:
    return read_environments()


def test_samconfig_is_what_the_environments_say(document: Any) -> None:
    """Whoever changes one runs `python -m infra.environments` and commits both."""
    assert SAMCONFIG.read_text() == build_samconfig(document)


def fits(parameter: Mapping[str, Any], value: str) -> bool:
    """Tell whether CloudFormation would take a value of a parameter."""
    if value not in [str(one) for one in parameter.get("AllowedValues", [value])]:
        return False
    if not re.fullmatch(parameter.get("AllowedPattern", ".*"), value):
        return False
    if parameter["Type"] != "Number":
        return True
    return value.isdecimal() and parameter.get("MinValue", 0) <= int(value) <= parameter.get("MaxValue", 10**12)


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("Waf", "maybe", False),
        ("LatencyP99Ms", "fast", False),
        ("LatencyP99Ms", "300", True),
        ("ServeMemory", "128", False),
        ("OutputsAccount", "12345", False),
        ("KeyStore", "http://keys.example.com", False),
        ("KeyStore", "s3://keys/dev/", True),
    ],
)
def test_fitting_values(name: str, value: str, taken: bool) -> None:
    """Type, bounds, pattern and list of a parameter are what a value is held against."""
    assert fits(read_template()["Parameters"][name], value) is taken


@pytest.mark.parametrize("what", ["stack", "domain", "certificate", "issuer"])
def test_environments_share_nothing(document: Any, what: str) -> None:
    """A token, a name or a stack of one environment is none of another's."""
    assert len({given[what] for given in document["environments"].values()}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_environment_has_its_check(document: Any, name: str) -> None:
    """The synthetic check reads with credentials of its own environment."""
    assert build_parameters(document, name)["SyntheticSecret"] == f"larder/{name}/synthetic"


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_templates(document: Any, name: str) -> None:
    """Each parameter exists in the template, and has a value that it allows."""
    parameters = read_template()["Parameters"]
    for parameter, value in build_parameters(document, name).items():
        assert parameter in parameters, parameter
        assert fits(parameters[parameter], value), (parameter, value)
        assert parameter != "SweepRate" or RATE.fullmatch(value)
    assert build_parameters(document, name)["Environment"] == name


def test_prod_is_guarded_more_than_dev(document: Any) -> None:
    """Prod has the firewall, a canary, API keys, provisioned concurrency, and somebody to wake."""
    prod = build_parameters(document, "prod")
    assert prod.get("Waf", "true") == "true"
    assert (prod["Canary"], prod["ApiKeys"]) == ("true", "required")
    assert int(prod["ProvisionedConcurrency"]) > 0
    assert prod["PageEmail"]


def test_samconfig_is_toml_with_a_section_per_environment() -> None:
    """`sam deploy --config-env NAME` finds a stack, a region and parameters of its own for each name."""
    config = tomllib.loads(SAMCONFIG.read_text())
    stacks = [config[name]["deploy"]["parameters"]["stack_name"] for name in NAMES]
    assert len(set(stacks)) == len(NAMES)
    assert config["prod"]["deploy"]["parameters"]["confirm_changeset"] is True


WRONG: list[tuple[str, Any]] = [
    ("an environment too few", lambda d: d["environments"].pop("qa")),
    ("a sixth environment", lambda d: d["environments"].update(staging=d["environments"]["qa"])),
    ("no issuer", lambda d: d["environments"]["dev"].pop("issuer")),
    ("plain http", lambda d: d["environments"]["dev"].update(issuer="http://login.example.com/")),
    ("a parameter that is told elsewhere", lambda d: d["environments"]["dev"]["parameters"].update(Issuer="x")),
    ("a list for a parameter", lambda d: d["environments"]["dev"]["parameters"].update(Waf=["true"])),
    ("a region that is none", lambda d: d["environments"]["dev"].update(region="Frankfurt")),
]


@pytest.mark.parametrize("change", [case[1] for case in WRONG], ids=[case[0] for case in WRONG])
def test_schema_refuses(document: Any, change: Any, tmp_path: Any) -> None:
    """A file that is not as the schema says is refused when it is read."""
    faulty = copy.deepcopy(document)
    change(faulty)
    path = tmp_path / "environments.yaml"
    path.write_text(json.dumps(faulty))
    with pytest.raises(jsonschema.ValidationError):
        read_environments(path)


def test_each_function_has_a_bundle() -> None:
    """Deploying on the laptop, and `sam build`, know a bundle for each function of the template."""
    names = set(functions(read_template()))
    assert set(FUNCTIONS) == names
    makefile = (SAMCONFIG.parent / "infra/bundles/Makefile").read_text()
    for function in names:
        assert f"build-{function}: ;" in makefile
        assert (
            f"infra.bundle {FUNCTIONS[function]} --target" in makefile.split(f"build-{function}: ;")[1].splitlines()[0]
        )
