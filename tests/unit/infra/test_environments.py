"""The environments: their schema, the template's parameters, samconfig.toml."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from enrich.datasets import load_datasets
from infra.bundle import FUNCTIONS, digest_inputs
from infra.discovery import build_files, build_service
from infra.environments import (
    SAMCONFIG,
    SCHEMA,
    build_digest,
    build_parameters,
    build_samconfig,
    find_mismatch,
    is_protected,
    main,
    read_environments,
)
from infra.translate import read_template
from tests.unit.infra.rules.evaluate import Stack
from tests.unit.infra.rules.pins import PINS
from tests.unit.infra.rules.queues import RATE
from tests.unit.infra.rules.template import functions

NAMES = list(read_environments()["environments"])
TEMPLATE = read_template()
EXAMPLE = Path(__file__).parents[3] / "examples" / "flights" / "infra" / "environments.yaml"
DECIDE = "if that is what you decided for the example, write it into `environments` of tests/unit/infra/pins.yaml"


@pytest.fixture(scope="module")
def document() -> Any:
    """Return the file that is deployed."""
    return read_environments()


@pytest.fixture(scope="module")
def example() -> Any:
    """Return a complete file: the user's own can have other environments, and fewer settings."""
    return read_environments(EXAMPLE)


def test_samconfig_is_up_to_date(document: Any) -> None:
    """The committed file is generated from infra/environments.yaml."""
    stale = SAMCONFIG.read_text() != build_samconfig(document)
    assert not stale, "infra/environments.yaml has changed: run `./larder environments`, commit samconfig.toml"


def fits(parameter: Mapping[str, Any], value: str) -> bool:
    """Return whether CloudFormation accepts a value of a parameter."""
    return not find_mismatch(parameter, value)


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
def test_environments_share_nothing(example: Any, what: str) -> None:
    """No two environments have the same stack, domain, certificate or issuer."""
    given = [one[what] for one in example["environments"].values() if what in one]
    assert len(set(given)) == len(given)


@pytest.mark.parametrize("name", PINS["environments"])
def test_each_environment_has_its_check(example: Any, name: str) -> None:
    """The synthetic check uses its own environment's credentials."""
    secret = build_parameters(example, name).get("SyntheticSecret")
    assert secret is None or f"/{name}/" in secret


def find_conditions(given: Mapping[str, str]) -> set[str]:
    """Return the conditions that hold with some parameters, and the defaults of the others."""
    return Stack(TEMPLATE, given).find_conditions()


@pytest.mark.parametrize("name", PINS["environments"])
def test_environment_is_as_decided(example: Any, name: str) -> None:
    """Its members, and the conditions that hold with them. The user's own environments are not pinned."""
    found = {**example["environments"][name], "conditions": sorted(find_conditions(build_parameters(example, name)))}
    assert found == PINS["environments"].get(name), f"environments.{name}: {DECIDE}"


def test_environments_are_those_that_were_decided(example: Any) -> None:
    """None is missing, and what they share is as decided."""
    assert list(PINS["environments"]) == list(example["environments"]), DECIDE
    shared = {member: value for member, value in example.items() if member != "environments"}
    assert shared == PINS["shared"], f"write it into `shared`: {DECIDE}"


SMALLEST = {"Environment": "trial", "Issuer": "https://login.example.com/", "Audience": "larder"}
SWITCHES = [
    ({"OutputsBucketName": "models"}, {"CreatesOutputsBucket", "CreatesOutputsBucketOnAws"}, set()),
    ({"OutputsKmsKeyArn": "k", "LakeKmsKeyArn": "k"}, set(), {"HasOutputsKey", "HasLakeKey"}),
    ({"OutputsAccount": "111122223333"}, set(), {"HasOutputsAccount"}),
    ({"LakeBucketName": "lake"}, set(), {"HasLakeBucket"}),
    ({"LakeAccount": "111122223333"}, set(), {"HasLakeAccount"}),
    ({"KeyStoreKmsKeyArn": "k", "TableKmsKeyArn": "k"}, set(), {"HasKeyStoreKey", "HasTableKey"}),
    ({"KeyStore": "s3://keys/dev", "KeyStoreBucketName": "keys"}, set(), {"HasKeyStore", "HasKeysOnS3"}),
    ({"KeyStore": "https://keys.example.com/"}, set(), {"HasKeyStore"}),
    ({"BillingMode": "PROVISIONED"}, set(), {"IsProvisioned", "IsScaled"}),
    ({"DomainName": "api.example.com"}, set(), {"HasDomain"}),
    ({"DomainName": "api.example.com", "HostedZoneId": "Z1"}, set(), {"HasDomain", "HasZone"}),
    ({"HostedZoneId": "Z1"}, set(), set()),
    ({"PublicUrl": "https://door.example.com/v1"}, set(), {"HasPublicUrl"}),
    ({"DiscoveryBucketName": "discovery"}, set(), {"HasDiscovery"}),
    ({"SyntheticSecret": "larder/trial/synthetic"}, set(), {"HasSynthetic"}),
    ({"DeletionProtection": "false"}, {"IsProtected"}, set()),
    ({"Environment": "prod"}, set(), set()),
    ({"Waf": "false"}, {"HasWaf", "HasWafOnAws"}, set()),
    ({"ApiKeys": "required"}, set(), {"HasApiKeys"}),
    ({"ProvisionedConcurrency": "1", "WarmWriteUnits": "1"}, set(), {"IsKeptWarm", "IsWarm"}),
    ({"PageEmail": "a@example.com", "TicketEmail": "a@example.com"}, set(), {"HasPageEmail", "HasTicketEmail"}),
    ({"Issuers": "[{}]"}, set(), {"HasIssuers"}),
    ({"ApiGatewayAccount": "true"}, set(), {"SetsApiGatewayAccount"}),
    ({"Platform": "laptop"}, {"OnAws", "CreatesOutputsBucketOnAws", "HasWafOnAws"}, set()),
]


@pytest.mark.parametrize(
    ("given", "less", "more"), SWITCHES, ids=[", ".join(map("=".join, case[0].items())) for case in SWITCHES]
)
def test_parameters_switch_their_conditions(given: dict[str, str], less: set[str], more: set[str]) -> None:
    """Each parameter that switches resources switches its conditions and no others."""
    usual = find_conditions(SMALLEST)
    assert less <= usual
    assert find_conditions(SMALLEST | given) == (usual - less) | more


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_valid_for_the_template(document: Any, name: str) -> None:
    """Each parameter exists in the template, and has a valid value."""
    parameters = TEMPLATE["Parameters"]
    for parameter, value in build_parameters(document, name).items():
        assert parameter in parameters, parameter
        assert fits(parameters[parameter], value), (parameter, value)
        assert parameter != "SweepRate" or RATE.fullmatch(value)
    assert build_parameters(document, name)["Environment"] == name


@pytest.mark.parametrize("name", NAMES)
def test_sam_deploys_as_decided(document: Any, name: str) -> None:
    """Stack, region and place of the artifacts are the environment's; a protected one asks for confirmation."""
    given = document["environments"][name]
    found = tomllib.loads(build_samconfig(document))[name]["deploy"]["parameters"]
    overrides = found.pop("parameter_overrides")
    resources = TEMPLATE["Resources"].values()
    needed = {"CAPABILITY_IAM"} if any(one["Type"].startswith("AWS::IAM::") for one in resources) else set()
    if any(isinstance(one["Properties"].get("DefinitionBody"), dict) for one in resources):
        needed |= {"CAPABILITY_AUTO_EXPAND"}  # AWS::Include is a macro
    assert set(found.pop("capabilities")) >= needed
    assert found == {
        "stack_name": given["stack"],
        "region": given["region"],
        "resolve_s3": True,
        "s3_prefix": given["stack"],
        "confirm_changeset": is_protected(document, name),
        "fail_on_empty_changeset": False,
    }
    assert overrides[-2:] == ['ServeDigest=""', 'ScoreDigest=""'], (
        "else sam passes the digest of the deploy before, which hides new code"
    )


def test_digest_covers_code_and_parameters(example: Any) -> None:
    """Another template, other code or another value gives another digest; the digest itself is not digested."""
    given = build_parameters(example, "dev")
    digest = build_digest("t", "c", given)
    assert digest == build_digest("t", "c", given | {"ServeDigest": "x"})
    others = [build_digest("u", "c", given), build_digest("t", "d", given)]
    others += [build_digest("t", "c", given | {name: value + "x"}) for name, value in given.items()]
    assert len({digest, *others}) == len(others) + 1
    assert digest_inputs("serve") != digest_inputs("enrich")


def test_protection_is_a_setting_of_an_environment(example: Any) -> None:
    """Whatever its name, an environment is protected by default, as in the template."""
    assert TEMPLATE["Parameters"]["DeletionProtection"]["Default"] == "true"
    for name, given, protected in (("trial", {}, True), ("prod", {"DeletionProtection": "false"}, False)):
        other = {**example, "environments": {name: {**example["environments"]["dev"], "parameters": given}}}
        assert is_protected(other, name) is protected
        assert ("IsProtected" in find_conditions(build_parameters(other, name))) is protected


@pytest.mark.parametrize("name", PINS["environments"])
def test_protected_environment_is_guarded(example: Any, name: str) -> None:
    """If data is protected, consumers are, too: a firewall, a canary, an address for pages, and logs of a month."""
    if not is_protected(example, name):
        return
    given = {one: str(parameter["Default"]) for one, parameter in TEMPLATE["Parameters"].items()}
    given |= build_parameters(example, name)
    assert (given["Waf"], given["Canary"]) == ("true", "true")
    assert given["PageEmail"]
    assert int(given["LogRetentionDays"]) >= 30
    names = example["environments"]
    others = [build_parameters(example, one).get("LatencyP99Ms", given["LatencyP99Ms"]) for one in names]
    assert int(given["LatencyP99Ms"]) <= min(map(int, others))


def test_samconfig_is_toml_with_a_section_per_environment() -> None:
    """For each name, `sam deploy --config-env NAME` finds its own stack, region and parameters."""
    config = tomllib.loads(SAMCONFIG.read_text())
    stacks = [config[name]["deploy"]["parameters"]["stack_name"] for name in NAMES]
    assert len(set(stacks)) == len(NAMES)


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
def test_schema_refuses(example: Any, change: Any, tmp_path: Any) -> None:
    """A file that does not conform to the schema is refused when it is read."""
    faulty = copy.deepcopy(example)
    change(faulty)
    path = tmp_path / "environments.yaml"
    path.write_text(json.dumps(faulty))
    with pytest.raises(jsonschema.ValidationError):
        read_environments(path)


ISSUER = {"issuer": "https://login.example.com/", "audience": "larder"}
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("item events without a bus", {"issuers": [ISSUER]}, {"ItemEvents": "true"}, "set EventBus to own or default"),
    ("a bus of another account", {"issuers": [ISSUER]}, {"EventBus": "arn:aws:events:x:1:event-bus/b"}, "EventBus is"),
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
    (
        "keys with a password",
        {"issuers": [ISSUER | {"keys": "https://a:b@x.example.com/"}]},
        {},
        "must be without user name and password",
    ),
    *(
        (f"keys at {keys}", {"issuers": [ISSUER | {"keys": keys}]}, {}, "location of keys")
        for keys in (
            *("https:///x", "https://x.example.com:99999/", "https://x.example.com:k/"),
            *("https://x y.example.com/", "https://x.example.com/#f", "https://x.example.com/\u00e4"),
            "ssm:/larder/dev/keys/?x",
        )
    ),
    ("keys in a bucket of others", {"issuers": [ISSUER | {"keys": "s3://b/k/"}]}, {}, "KeyStoreBucketName"),
    (
        "a KeyStore that is not used",
        {"issuers": [ISSUER]},
        {"KeyStore": "https://x.example.com/"},
        "give each issuer its keys",
    ),
    ("more than fits", {"issuers": [ISSUER | {"audience": ["x" * 3000]}]}, {}, "expected at most 3000"),
    ("an origin with a path", ISSUER, {"CorsOrigins": "https://app.example.com/x"}, "exact origins"),
    ("the origin null", ISSUER, {"CorsOrigins": "null"}, "exact origins"),
    ("a KeyStore on S3 without its bucket", ISSUER, {"KeyStore": "s3://b/k"}, "KeyStoreBucketName"),
    ("a parameter that the template has not", ISSUER, {"WarmWrites": 1}, "did you mean 'WarmWriteUnits'?"),
    ("a value that is not in the list", ISSUER, {"LogRetentionDays": 10}, "one of 1, 3, 5, 7, 14"),
    ("a value beyond its bounds", ISSUER, {"ServeMemory": 128}, "a whole number from 256 to 10240"),
    ("a value of another form", ISSUER, {"TableKmsKeyArn": "alias/larder"}, "a text that matches ^(arn:"),
    ("a door without the firewall", {**ISSUER, "door": "load-balancer"}, {}, "needs the firewall; remove Waf"),
    ("API keys at a door that has none", {**ISSUER, "door": "kubernetes"}, {"ApiKeys": "required"}, "no API keys"),
    ("a door that does not exist", {**ISSUER, "door": "nlb"}, {}, "'nlb' is not one of"),
    ("a certificate of another region", {**ISSUER, "region": "eu-west-1"}, {}, "is not in eu-west-1"),
    ("outputs that are gone before their items", ISSUER, {"ReplacedOutputDays": 6}, "set ReplacedOutputDays to 7 or"),
]


@pytest.mark.parametrize(
    ("given", "parameters", "message"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_what_serve_would_refuse_is_not_deployed(
    example: Any, given: dict[str, Any], parameters: dict[str, Any], message: str, tmp_path: Any
) -> None:
    """Issuers and origins are checked before a deploy, by the schema or as serve checks them, with the remedy."""
    faulty = copy.deepcopy(example)
    dev = faulty["environments"]["dev"]
    del dev["issuer"], dev["audience"]
    dev |= given
    dev["parameters"] |= parameters
    path = tmp_path / "environments.yaml"
    path.write_text(json.dumps(faulty))
    with pytest.raises((jsonschema.ValidationError, ValueError), match=re.escape(message)):
        build_parameters(read_environments(path), "dev")


def test_replaced_outputs_are_kept_as_long_as_an_item_lives(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest ttl decides, in whole days; the list of an output's parts is kept as long, whosever its bucket is."""
    datasets = load_datasets()
    for ttl, days in ((timedelta(days=365), 0), (timedelta(days=365, seconds=1), 366), (timedelta(hours=1), 0)):
        given = {name: replace(each, ttl=ttl) for name, each in datasets.items()}
        monkeypatch.setattr("infra.environments.load_datasets", lambda given=given: given)
        document = copy.deepcopy(example)
        parameters = document["environments"]["dev"]["parameters"]
        if days:
            with pytest.raises(ValueError, match=rf"dev: .*'flight-delays'.* set ReplacedOutputDays to {days} or more"):
                build_parameters(document, "dev")
            parameters["ReplacedOutputDays"] = days
            assert build_parameters(document, "dev")["ReplacedOutputDays"] == str(days)
        build_parameters(document, "dev")


def test_issuers_reach_the_template(example: Any, tmp_path: Any) -> None:
    """They are one parameter that samconfig.toml and the command line can carry; keys are the environment's own."""
    given = copy.deepcopy(example)
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
    assert find_conditions(parameters) == find_conditions(build_parameters(example, "dev")) | {"HasIssuers"}


def test_a_duplicate_member_is_refused(tmp_path: Any) -> None:
    """YAML parsers use the last one; which one is right is unknown."""
    path = tmp_path / "environments.yaml"
    text = EXAMPLE.read_text()
    path.write_text(text.replace("    audience: larder\n", "    audience: larder\n    audience: others\n", 1))
    with pytest.raises(yaml.YAMLError, match=r"'audience' occurs twice[\s\S]*line 14"):
        read_environments(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("service: ", "service: [", "line "),
        ("service: ", "services: ", "$: "),
        ("    region: ", "    region: 1 # ", ".region: "),
        ("    audience: larder\n", "    audience: larder\n    audience: others\n", "'audience' occurs twice"),
        ("parameters:\n", "parameters:\n      WarmWrites: 1\n", "did you mean 'WarmWriteUnits'?"),
    ],
    ids=["not YAML", "an unknown member", "a wrong type", "a member twice", "an unknown parameter"],
)
def test_a_mistake_is_an_error_of_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str, said: str
) -> None:
    """The error names the file and the place, without a traceback, and nothing is written."""
    path = tmp_path / "environments.yaml"
    text = EXAMPLE.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    monkeypatch.setattr(read_environments, "__defaults__", (path,))
    monkeypatch.setattr("sys.argv", ["larder"])
    before = SAMCONFIG.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main()
    assert str(ended.value.code).startswith("infra/environments.yaml: ")
    assert said in str(ended.value.code)
    assert SAMCONFIG.read_bytes() == before


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


DOORS = json.loads(SCHEMA.read_text())["properties"]["environments"]["patternProperties"]["^[a-z][a-z0-9-]{0,30}$"]


@pytest.mark.parametrize("door", DOORS["properties"]["door"]["enum"])
def test_domain_belongs_to_one_door(example: Any, door: str) -> None:
    """If another door has the domain, the address stays the same, and service.json names the door."""
    document = copy.deepcopy(example)
    qa = document["environments"]["qa"]
    usual = build_parameters(document, "qa")
    qa["door"] = door
    given, url = build_parameters(document, "qa"), f"https://{qa['domain']}/v1"
    if door == "api-gateway":
        assert given == usual
    else:
        others = {member: value for member, value in usual.items() if member not in {"DomainName", "CertificateArn"}}
        assert given == {**others, "PublicUrl": url}
        assert fits(TEMPLATE["Parameters"]["PublicUrl"], url)
    service = build_service(document, "qa", release="1")
    assert (service["door"], service["base_url"]) == (door, url)
    del qa["domain"], qa["certificate"]
    if door != "api-gateway":
        with pytest.raises(ValueError, match=f"the door {door} needs a domain"):
            build_parameters(document, "qa")


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
