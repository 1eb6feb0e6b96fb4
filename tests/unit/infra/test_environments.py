"""The five environments: their schema, the template's parameters, samconfig.toml."""

from __future__ import annotations

import copy
import json
import tomllib
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


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_templates(document: Any, name: str) -> None:
    """Each parameter exists in the template, and has a value that it allows."""
    parameters = read_template()["Parameters"]
    for parameter, value in build_parameters(document, name).items():
        assert parameter in parameters, parameter
        allowed = parameters[parameter].get("AllowedValues")
        assert allowed is None or value in [str(one) for one in allowed], (parameter, value)
        assert parameter != "SweepRate" or RATE.fullmatch(value)
    assert build_parameters(document, name)["Environment"] == name


def test_prod_is_guarded_more_than_dev(document: Any) -> None:
    """Prod has the firewall, a canary, API keys, provisioned concurrency, somebody to wake, and a check of its own."""
    prod = build_parameters(document, "prod")
    assert prod.get("Waf", "true") == "true"
    assert (prod["Canary"], prod["ApiKeys"]) == ("true", "required")
    assert int(prod["ProvisionedConcurrency"]) > 0
    assert prod["PageEmail"]
    assert prod["SyntheticSecret"]


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
