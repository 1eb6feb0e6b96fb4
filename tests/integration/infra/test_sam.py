"""`sam build && sam deploy --config-env E` against the stand-in: all five environments, and a teardown."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.flights.http import get
from examples.flights.tokens import Issuer, open_issuer
from infra.bundle import ROOT
from infra.discovery import CATALOG_PATH, build_base_url, build_files
from infra.environments import build_parameters, build_samconfig, read_environments
from infra.local.ministack import client_env
from infra.synthetic import send
from infra.tools import install
from tests.integration.infra.deployed import run_stand_in
from tests.unit.infra.rules.storage import RETAINED

pytestmark = pytest.mark.slow

DOCUMENT = read_environments(ROOT / "examples/flights/infra/environments.yaml")
REGION = DOCUMENT["environments"]["dev"]["region"]
# The stand-in runs the SAM transform with the template's defaults: no canary.
LAPTOP = {"Platform": "laptop"}


@dataclass(frozen=True)
class Sam:
    """The command line of sam, with the stand-in as its target."""

    client: Callable[[str], Any]
    endpoint: str
    env: Mapping[str, str]
    config: Path
    issuers: dict[str, Issuer] = field(default_factory=dict)

    def __call__(self, *words: str, answer: str = "") -> None:
        """Run a command of the runbook in the checkout."""
        command = [str(install("sam") / "sam"), *words, "--config-file", str(self.config)]
        done = subprocess.run(command, env=self.env, cwd=ROOT, capture_output=True, text=True, input=answer)
        assert done.returncode == 0, done.stdout + done.stderr

    def outputs(self, environment: str) -> dict[str, str]:
        """Return the outputs of an environment's complete stack."""
        name = DOCUMENT["environments"][environment]["stack"]
        described = self.client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
        assert described["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), described
        return {one["OutputKey"]: one["OutputValue"] for one in described["Outputs"]}

    def read(self, environment: str, stack: Mapping[str, str]) -> None:
        """Read from an environment's API, with an API key if it asks for one: 401 without a token, 200 with one."""
        url = f"{self.endpoint}/_aws/execute-api/{stack['ApiId']}/live/v1/flight-delays"
        given = DOCUMENT["environments"][environment]
        if environment not in self.issuers:
            self.issuers[environment] = open_issuer(
                self.client("ssm"), stack["KeyStorePath"], given["issuer"], given["audience"]
            )
        headers = {}
        if given.get("parameters", {}).get("ApiKeys") == "required":
            headers["x-api-key"] = self.create_api_key(stack["ApiId"])
        token = self.issuers[environment].sign("B6", time.time())
        assert send(url, headers, None).status == 401
        answer = send(url, {**headers, "Authorization": f"Bearer {token}"}, None)
        assert (answer.status, json.loads(answer.body)["items"]) == (200, [])

    def create_api_key(self, api: str) -> str:
        """Create a key in the API's usage plan, and return its value."""
        gateway = self.client("apigateway")
        key = gateway.create_api_key(name="somebody", enabled=True)
        plans = gateway.get_usage_plans()["items"]
        (plan,) = [each["id"] for each in plans if api in [stage["apiId"] for stage in each.get("apiStages", [])]]
        gateway.create_usage_plan_key(usagePlanId=plan, keyId=key["id"], keyType="API_KEY")
        return str(key["value"])


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sam]:
    """Build once, with samconfig.toml and the parameter Platform=laptop."""
    place = tmp_path_factory.mktemp("sam")
    document = copy.deepcopy(DOCUMENT)
    for given in document["environments"].values():
        given["parameters"] = {**given.get("parameters", {}), **LAPTOP}
    (place / "samconfig.toml").write_text(build_samconfig(document))
    with run_stand_in(place / "ministack.log", region=REGION) as (client, endpoint):
        env = {**os.environ, **client_env(endpoint), "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}
        env |= {"LARDER_PYTHON": sys.executable, "LARDER_TARGET": "native", "SAM_CLI_TELEMETRY": "0"}
        client("s3").create_bucket(
            Bucket=DOCUMENT["discovery"]["bucket"], CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        shutil.rmtree(ROOT / ".aws-sam", ignore_errors=True)
        run = Sam(client, endpoint, env, place / "samconfig.toml")
        run("build", "--config-env", "dev")
        yield run


@pytest.mark.parametrize("environment", DOCUMENT["environments"])
def test_each_environment_is_deployed_and_answers(sam: Sam, environment: str) -> None:
    """`sam deploy --config-env E` creates a stack whose API requires a token, and accepts a token of its issuer."""
    sam("deploy", "--config-env", environment, answer="y\n")  # prod asks for confirmation
    sam.read(environment, sam.outputs(environment))


def test_every_environment_is_found_by_the_catalog(sam: Sam) -> None:
    """The five stacks publish the discovery files that `infra.discovery` builds, with the same addresses."""
    s3, bucket = sam.client("s3"), DOCUMENT["discovery"]["bucket"]
    openapi = yaml.safe_load((ROOT / "examples" / "flights" / "openapi.yaml").read_text())
    expected: dict[str, str] = {}
    for environment in DOCUMENT["environments"]:
        files = build_files(DOCUMENT, openapi, environment, release="unversioned")
        expected |= {object_key: text for object_key, (_, text) in files.items()}
        published = sam.client("ssm").get_parameter(Name=f"/discovery/{DOCUMENT['service']}/{environment}/v1/base-url")
        assert published["Parameter"]["Value"] == build_base_url(DOCUMENT, environment)
    listed = {one["Key"] for one in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert listed == set(expected)
    for object_key, text in expected.items():
        assert json.loads(s3.get_object(Bucket=bucket, Key=object_key)["Body"].read()) == json.loads(text), object_key


def test_smallest_deploy_of_the_readme(sam: Sam, tmp_path: Path) -> None:
    """The README's file and its two commands of sam: a stack that requires a token, and `sam delete`."""
    section = (ROOT / "README.md").read_text().partition("### The smallest deploy")[2].partition("\n### ")[0]
    (text,) = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    document = yaml.safe_load(text)
    ((name, given),) = document["environments"].items()
    given["parameters"] |= LAPTOP
    (tmp_path / "samconfig.toml").write_text(build_samconfig(document))
    run = replace(sam, config=tmp_path / "samconfig.toml")
    commands = re.findall(r"^sam (.*)$", section, re.MULTILINE)
    assert commands == [f"build --config-env {name}", f"deploy --config-env {name}"]
    for command in commands:
        run(*command.split())
    stacks = sam.client("cloudformation").describe_stacks(StackName=given["stack"])["Stacks"]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stacks[0]["Outputs"]}
    url = f"{sam.endpoint}/_aws/execute-api/{outputs['ApiId']}/live/v1"
    assert get(f"{url}/health", None).json() == {"status": "pass"}
    issuer = open_issuer(sam.client("ssm"), outputs["KeyStorePath"], given["issuer"], given["audience"])
    asked = [get(f"{url}/flight-delays", token).status for token in (None, issuer.sign("B6", time.time()))]
    assert asked == [401, 200]
    run("delete", "--no-prompts", "--config-env", name)


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_second_deploy_is_in_place_and_teardown_keeps_the_data(sam: Sam, environment: str) -> None:
    """A release changes the value of one parameter; `sam delete` leaves tables, buckets and the catalog unchanged."""
    before = sam.outputs(environment)
    given = build_parameters(DOCUMENT, environment) | LAPTOP | {"ReleaseVersion": "next"}
    overrides = [f"{name}={value}" for name, value in given.items()]
    sam("deploy", "--config-env", environment, "--parameter-overrides", *overrides, answer="y\n")
    after = sam.outputs(environment)
    assert after == before
    sam.read(environment, after)
    name = after["EnrichFunctionName"]
    function = sam.client("lambda").get_function_configuration(FunctionName=name)
    assert function["Environment"]["Variables"]["LARDER_VERSION"] == "next"
    sam("delete", "--no-prompts", "--config-env", environment)
    prefix = DOCUMENT["environments"][environment]["stack"] + "-"
    left = {*sam.client("dynamodb").list_tables()["TableNames"]}
    left |= {one["Name"] for one in sam.client("s3").list_buckets()["Buckets"]}
    assert len({one for one in left if one.startswith(prefix)}) == len(RETAINED)
    functions = sam.client("lambda").list_functions()["Functions"]
    assert not [one for one in functions if one["FunctionName"].startswith(prefix)]
    kept = sam.client("s3").list_objects_v2(Bucket=DOCUMENT["discovery"]["bucket"])["Contents"]
    assert CATALOG_PATH in {one["Key"] for one in kept}
    assert not [one for one in kept if one["Key"].startswith(f"{DOCUMENT['service']}/{environment}/")]
