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
import yaml

from infra.bundle import FUNCTIONS, digest_inputs
from infra.discovery import build_files
from infra.environments import SAMCONFIG, build_digest, build_parameters, build_samconfig, read_environments
from infra.translate import read_template
from tests.unit.infra.rules.queues import RATE
from tests.unit.infra.rules.template import functions

NAMES = ["dev", "test", "qa", "pre-prod", "prod"]
TEMPLATE = read_template()


@pytest.fixture(scope="module")
def document() -> Any:
    return read_environments()


def test_samconfig_is_up_to_date(document: Any) -> None:
    """After a change of the environments, run `python -m infra.environments` and commit both files."""
    assert SAMCONFIG.read_text() == build_samconfig(document)


def fits(parameter: Mapping[str, Any], value: str) -> bool:
    """Return whether CloudFormation accepts a value of a parameter."""
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
        ("LakeAccount", "", True),
        ("LakeAccount", "1111222233334", False),
        ("LakeDatabase", "reference,weather", True),
        ("LakeDatabase", "reference, weather", False),
        ("LakeDatabase", "*", False),
        ("LakeDatabase", "a,b,c,d,e,f", False),
        ("TableKmsKeyArn", "alias/larder", False),
        ("TableKmsKeyArn", "arn:aws:kms:eu-central-1:111122223333:key/1", True),
        ("KeyStoreKmsKeyArn", "arn:aws:s3:::keys", False),
        ("ServeDigest", "a" * 64, True),
        ("ServeDigest", "latest", False),
    ],
)
def test_values_are_checked_as_in_cloudformation(name: str, value: str, taken: bool) -> None:
    """A value is checked with the type, bounds, pattern and list of its parameter."""
    assert fits(TEMPLATE["Parameters"][name], value) is taken


@pytest.mark.parametrize("what", ["stack", "domain", "certificate", "issuer"])
def test_environments_share_nothing(document: Any, what: str) -> None:
    """No two environments have the same issuer, name, certificate or stack."""
    assert len({given[what] for given in document["environments"].values()}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_environment_has_its_check(document: Any, name: str) -> None:
    """The synthetic check uses credentials of its own environment."""
    assert build_parameters(document, name)["SyntheticSecret"] == f"larder/{name}/synthetic"


def holds(condition: Any, values: Mapping[str, str]) -> bool:
    """Evaluate a condition of the template as CloudFormation does."""
    ((intrinsic, given),) = condition.items()
    if intrinsic == "Condition":
        return holds(TEMPLATE["Conditions"][given], values)
    if intrinsic == "Fn::Equals":
        one, other = (values[side["Ref"]] if isinstance(side, dict) else str(side) for side in given)
        return one == other
    each = [holds(part, values) for part in given]
    return {"Fn::Not": not each[0], "Fn::And": all(each), "Fn::Or": any(each)}[intrinsic]


def find_conditions(given: Mapping[str, str]) -> set[str]:
    """Return the conditions that hold with some parameters and the defaults of the others."""
    values = {parameter: str(one["Default"]) for parameter, one in TEMPLATE["Parameters"].items()} | dict(given)
    return {name for name, condition in TEMPLATE["Conditions"].items() if holds(condition, values)}


ALL_HAVE = {"OnAws", "CreatesOutputsBucket", "CreatesOutputsBucketOnAws", "HasDomain", "HasDiscovery", "HasSynthetic"}
MORE = {
    "dev": set(),
    "test": set(),
    "qa": {"HasWaf", "HasWafOnAws"},
    "pre-prod": {"HasWaf", "HasWafOnAws", "HasTicketEmail"},
    "prod": {
        "HasWaf", "HasWafOnAws", "HasTicketEmail", "HasPageEmail", "IsProd", "HasApiKeys", "IsKeptWarm", "IsWarm",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_conditions_hold_where_they_should(document: Any, name: str) -> None:
    """The conditions of each environment beside those of all: a firewall from qa on, and everything in prod."""
    assert find_conditions(build_parameters(document, name)) == ALL_HAVE | MORE[name]


SWITCHES = [
    ({"OutputsBucketName": "models"}, {"CreatesOutputsBucket", "CreatesOutputsBucketOnAws"}, set()),
    ({"OutputsKmsKeyArn": "k", "LakeKmsKeyArn": "k"}, set(), {"HasOutputsKey", "HasLakeKey"}),
    ({"OutputsAccount": "111122223333"}, set(), {"HasOutputsAccount"}),
    ({"LakeBucketName": "lake"}, set(), {"HasLakeBucket"}),
    ({"LakeAccount": "111122223333"}, set(), {"HasLakeAccount"}),
    ({"KeyStoreKmsKeyArn": "k", "TableKmsKeyArn": "k"}, set(), {"HasKeyStoreKey", "HasTableKey"}),
    ({"KeyStore": "s3://keys/dev", "KeyStoreBucketName": "keys"}, set(), {"HasKeyStore", "HasKeysOnS3"}),
    ({"BillingMode": "PROVISIONED"}, set(), {"IsProvisioned", "IsScaled"}),
    ({"HostedZoneId": "Z1"}, set(), {"HasZone"}),
    ({"ApiGatewayAccount": "true"}, set(), {"SetsApiGatewayAccount"}),
    ({"Platform": "laptop"}, {"OnAws", "CreatesOutputsBucketOnAws"}, set()),
]


@pytest.mark.parametrize(("given", "less", "more"), SWITCHES, ids=[", ".join(case[0]) for case in SWITCHES])
def test_parameters_switch_their_conditions(
    document: Any, given: dict[str, str], less: set[str], more: set[str]
) -> None:
    """Each parameter that switches resources switches its conditions and no others."""
    assert find_conditions(build_parameters(document, "dev") | given) == (ALL_HAVE - less) | more


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_valid_for_the_template(document: Any, name: str) -> None:
    """Each parameter exists in the template, and has a value that it allows."""
    parameters = TEMPLATE["Parameters"]
    for parameter, value in build_parameters(document, name).items():
        assert parameter in parameters, parameter
        assert fits(parameters[parameter], value), (parameter, value)
        assert parameter != "SweepRate" or RATE.fullmatch(value)
    assert build_parameters(document, name)["Environment"] == name


GIVEN: dict[str, dict[str, str]] = {  # what the environments give beside names, issuer, domain and certificate
    "dev": {"LogRetentionDays": "7", "LatencyP99Ms": "1000", "Waf": "false"},
    "test": {"LogRetentionDays": "7", "LatencyP99Ms": "1000", "Waf": "false"},
    "qa": {"LogRetentionDays": "14", "LatencyP99Ms": "500"},
    "pre-prod": {"Canary": "true", "TicketEmail": "larder-tickets@example.com"},
    "prod": {
        "ApiKeys": "required", "Canary": "true", "LogRetentionDays": "90", "PageEmail": "larder-pages@example.com",
        "ProvisionedConcurrency": "2", "TicketEmail": "larder-tickets@example.com", "WarmWriteUnits": "8000",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_environment_is_as_decided(document: Any, name: str) -> None:
    """Its parameters, each once; names, issuer and domain are its own, and the certificate is of its region."""
    given, prefix = document["environments"][name], "" if name == "prod" else f"{name}."
    domain = f"predictions.{prefix}api.example.com"
    certificate = re.fullmatch(r"arn:aws:acm:([a-z0-9-]+):\d{12}:certificate/[0-9a-f-]{36}", given["certificate"])
    assert certificate
    assert certificate[1] == given["region"] == "eu-central-1"
    assert (given["stack"], given["domain"]) == (f"larder-{name}", domain)
    assert build_parameters(document, name) == GIVEN[name] | {
        "Environment": name,
        "Service": "predictions",
        "Issuer": f"https://login.{prefix}example.com/",
        "Audience": "larder",
        "DomainName": domain,
        "CertificateArn": given["certificate"],
        "DiscoveryBucketName": "larder-discovery-example",
        "SyntheticSecret": f"larder/{name}/synthetic",
    }


def test_accounts_are_apart(document: Any) -> None:
    """Each environment is in an account of its own."""
    assert len({one["certificate"].split(":")[4] for one in document["environments"].values()}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_sam_deploys_as_decided(document: Any, name: str) -> None:
    """Stack, region and place of the artifacts are the environment's; only prod asks for confirmation."""
    found = tomllib.loads(build_samconfig(document))[name]["deploy"]["parameters"]
    overrides = found.pop("parameter_overrides")
    assert found == {
        "stack_name": f"larder-{name}",
        "region": "eu-central-1",
        "resolve_s3": True,
        "s3_prefix": f"larder-{name}",
        "capabilities": ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
        "confirm_changeset": name == "prod",
        "fail_on_empty_changeset": False,
    }
    assert overrides[-1] == 'ServeDigest=""', "else sam passes the digest of the deploy before, which hides new code"


def test_digest_covers_code_and_parameters(document: Any) -> None:
    """Another template, other code or another value is another digest; the digest itself is not digested."""
    given = build_parameters(document, "dev")
    digest = build_digest("t", "c", given)
    assert digest == build_digest("t", "c", given | {"ServeDigest": "x"})
    others = [build_digest("u", "c", given), build_digest("t", "d", given)]
    others += [build_digest("t", "c", given | {name: value + "x"}) for name, value in given.items()]
    assert len({digest, *others}) == len(others) + 1
    assert digest_inputs("serve") != digest_inputs("enrich")


def test_prod_is_guarded_more_than_dev(document: Any) -> None:
    """Prod has the firewall, a canary, API keys, provisioned concurrency, and an address for pages."""
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
    ("no environment", lambda d: d["environments"].clear()),
    ("a name that is no part of a path", lambda d: d["environments"].update({"Staging/1": d["environments"]["qa"]})),
    ("a domain without its certificate", lambda d: d["environments"]["dev"].pop("certificate")),
    ("no issuer", lambda d: d["environments"]["dev"].pop("issuer")),
    ("plain http", lambda d: d["environments"]["dev"].update(issuer="http://login.example.com/")),
    ("a parameter that has a member of its own", lambda d: d["environments"]["dev"]["parameters"].update(Issuer="x")),
    ("a list for a parameter", lambda d: d["environments"]["dev"]["parameters"].update(Waf=["true"])),
    ("an invalid region", lambda d: d["environments"]["dev"].update(region="Frankfurt")),
]


@pytest.mark.parametrize("change", [case[1] for case in WRONG], ids=[case[0] for case in WRONG])
def test_schema_refuses(document: Any, change: Any, tmp_path: Any) -> None:
    """A file that does not conform to the schema is refused when it is read."""
    faulty = copy.deepcopy(document)
    change(faulty)
    path = tmp_path / "environments.yaml"
    path.write_text(json.dumps(faulty))
    with pytest.raises(jsonschema.ValidationError):
        read_environments(path)


ISSUER = {"issuer": "https://login.example.com/", "audience": "larder"}
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("a relaxation that is misspelled", {"issuers": [ISSUER | {"allow_no_kid": True}]}, {}, "allow_no_kid"),
    ("no issuer at all", {"issuers": []}, {}, "issuers"),
    ("keys over plain http", {"issuers": [ISSUER | {"keys": "http://x.example.com/"}]}, {}, "http://x.example.com/"),
    ("an algorithm with a shared secret", {"issuers": [ISSUER | {"algorithms": ["HS256"]}]}, {}, "HS256"),
    ("both forms", {**ISSUER, "issuers": [ISSUER]}, {}, "issuers"),
    ("half of the short form", {"issuer": "https://login.example.com/"}, {}, "audience"),
    ("blanks around an issuer", {"issuers": [ISSUER | {"issuer": "https://x.example.com/ "}]}, {}, "x.example.com/ "),
    ("an issuer twice", {"issuers": [ISSUER, ISSUER]}, {}, "has an issuer twice"),
    ("a path with dots", {"issuers": [ISSUER | {"audience_claim": "a.b"}]}, {}, "audience_claim must be"),
    ("a dataset that is not served", {"issuers": [ISSUER | {"datasets": ["flights"]}]}, {}, "known: flight-delays"),
    (
        "keys of another environment",
        {"issuers": [ISSUER | {"keys": "ssm:/larder/prod/keys/"}]},
        {},
        "not allowed to read",
    ),
    ("keys in a bucket of others", {"issuers": [ISSUER | {"keys": "s3://b/k/"}]}, {}, "KeyStoreBucketName"),
    (
        "a KeyStore that is not used",
        {"issuers": [ISSUER]},
        {"KeyStore": "https://x.example.com/"},
        "instead of KeyStore",
    ),
    ("more than fits", {"issuers": [ISSUER | {"audience": ["x" * 3000]}]}, {}, "3000 fit"),
    ("an origin with a path", ISSUER, {"CorsOrigins": "https://app.example.com/x"}, "exact origins"),
    ("the origin null", ISSUER, {"CorsOrigins": "null"}, "exact origins"),
    ("a KeyStore on S3 without its bucket", ISSUER, {"KeyStore": "s3://b/k"}, "KeyStoreBucketName"),
]


@pytest.mark.parametrize(
    ("given", "parameters", "message"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_what_serve_would_refuse_is_not_deployed(
    document: Any, given: dict[str, Any], parameters: dict[str, Any], message: str, tmp_path: Any
) -> None:
    """Issuers and origins are checked before a deploy, by the schema or as serve checks them, with the remedy."""
    faulty = copy.deepcopy(document)
    dev = faulty["environments"]["dev"]
    del dev["issuer"], dev["audience"]
    dev |= given
    dev["parameters"] |= parameters
    path = tmp_path / "environments.yaml"
    path.write_text(json.dumps(faulty))
    with pytest.raises((jsonschema.ValidationError, ValueError), match=re.escape(message)):
        build_parameters(read_environments(path), "dev")


def test_issuers_reach_the_template(document: Any, tmp_path: Any) -> None:
    """As one parameter that samconfig.toml and the command line can carry; keys are in the environment's own place."""
    given = copy.deepcopy(document)
    dev = given["environments"]["dev"]
    del dev["issuer"], dev["audience"]
    elsewhere = ISSUER | {
        "issuer": "https://other.example.com/",
        "keys": "ssm:/larder/dev/keys/other",
        "audience": ["a b"],
    }
    dev["issuers"] = [ISSUER, elsewhere]
    parameters = build_parameters(given, "dev")
    assert not {"Issuer", "Audience"} & parameters.keys()
    assert json.loads(parameters["Issuers"]) == [ISSUER | {"keys": "ssm:/larder/dev/keys/"}, elsewhere]
    assert fits(TEMPLATE["Parameters"]["Issuers"], parameters["Issuers"])
    (override,) = [
        one
        for one in tomllib.loads(build_samconfig(given))["dev"]["deploy"]["parameters"]["parameter_overrides"]
        if one.startswith("Issuers=")
    ]
    quoted = override.removeprefix("Issuers=")
    assert re.fullmatch(r'"(?:\\.|[^"\\])*"', quoted), "as SAM's command line finds a value"
    assert quoted[1:-1].replace('\\"', '"') == parameters["Issuers"]
    assert " " not in override
    assert find_conditions(parameters) == ALL_HAVE | MORE["dev"] | {"HasIssuers"}


def test_a_member_that_occurs_twice_is_refused(tmp_path: Any) -> None:
    """YAML parsers use the last one; which is meant, nobody knows."""
    path = tmp_path / "environments.yaml"
    text = (SAMCONFIG.parent / "infra/environments.yaml").read_text()
    path.write_text(text.replace("    audience: larder\n", "    audience: larder\n    audience: others\n", 1))
    with pytest.raises(yaml.YAMLError, match=r"'audience' occurs twice[\s\S]*line 15"):
        read_environments(path)


def test_smallest_environment_is_enough(tmp_path: Any) -> None:
    """One environment of any name, without domain, certificate, discovery and synthetic check, is a valid file."""
    path = tmp_path / "environments.yaml"
    staging = {"stack": "larder", "region": "eu-west-1", "issuer": "https://login.example.com/", "audience": "larder"}
    small = {"service": "predictions", "version": "v1", "environments": {"staging-2": staging}}
    path.write_text(json.dumps(small))
    document = read_environments(path)
    given = build_parameters(document, "staging-2")
    assert set(given) == {"Environment", "Service", "Issuer", "Audience"}
    assert all(fits(TEMPLATE["Parameters"][name], value) for name, value in given.items())
    assert "staging-2" in tomllib.loads(build_samconfig(document))
    assert not find_conditions(given) & {"HasDomain", "HasDiscovery", "HasSynthetic"}
    openapi: dict[str, Any] = {"paths": {}}
    files = build_files(document, openapi, "staging-2", release="1", base_url="https://x.example.com/live/v1")
    assert set(files) == {"predictions/staging-2/service.json", "predictions/staging-2/openapi.json"}


def test_each_function_has_a_bundle() -> None:
    """The laptop's deploy and `sam build` have a bundle for each function of the template."""
    names = set(functions(TEMPLATE))
    assert set(FUNCTIONS) == names
    makefile = (SAMCONFIG.parent / "infra/bundles/Makefile").read_text()
    for function in names:
        assert f"build-{function}: ;" in makefile
        assert (
            f"infra.bundle {FUNCTIONS[function]} --target" in makefile.split(f"build-{function}: ;")[1].splitlines()[0]
        )
