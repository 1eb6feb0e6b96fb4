"""The template on the stand-in: the whole path works, a second deploy is in place, a teardown keeps the data."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.env import fetch_variables
from infra.environments import build_parameters, read_environments
from infra.local.deploy import DeployError, deploy, destroy
from infra.translate import ROOT, read_template
from serve.item import EXPIRES_AT
from tests.integration.infra.deployed import (
    AUDIENCE,
    ISSUER,
    Deployed,
    ask,
    deploy_larder,
    find_resource,
    object_key,
    parquet,
    run_stand_in,
)
from tests.unit.infra.rules.storage import RETAINED


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """A stand-in for these tests, whose functions use the local Athena."""
    with run_stand_in(tmp_path_factory.mktemp("deploy") / "ministack.log") as found:
        yield found


@pytest.fixture(scope="module")
def larder(stand_in: tuple[Any, str]) -> Deployed:
    return deploy_larder(*stand_in, "larder")


def test_event_becomes_items_and_items_answers(larder: Deployed) -> None:
    """A file on S3 becomes items through EventBridge, SQS and enrich; serve returns them to their subject only."""
    assert larder.wait(larder.put(object_key(), parquet())) == "done"
    page = larder.get()
    assert (page.status, len(page.json()["items"])) == (200, 3)
    assert larder.get("/2030-03-01.JFK.B61").status == 200
    assert larder.get("/2030-03-01.JFK.B61", carrier="UA").status == 404
    assert larder.get(carrier=None).status == 401


def test_table_has_its_ttl(larder: Deployed) -> None:
    """The stand-in ignores the template's TTL; the deploy sets it."""
    described = larder.client("dynamodb").describe_time_to_live(TableName=larder.stack["TableName"])
    assert described["TimeToLiveDescription"] == {"TimeToLiveStatus": "ENABLED", "AttributeName": EXPIRES_AT}


def test_variables_of_a_stack_are_those_of_its_function(larder: Deployed) -> None:
    """The command line of enrich works on the given stack."""
    found = fetch_variables(larder.client("cloudformation"), larder.client("lambda"), larder.stack.name)
    assert found["LARDER_TABLE"] == larder.stack["TableName"]
    assert {f"LARDER_{name}" for name in ("LEDGER", "BUCKET", "OUTPUTS", "QUEUE", "WORKGROUP")} <= set(found)


def test_second_deploy_is_in_place(larder: Deployed, stand_in: tuple[Any, str]) -> None:
    """A changed parameter reaches the functions; table, queue and API stay the same, and so do the items."""
    larder.put(object_key(), parquet())
    larder.run(object_key())
    parameters = {
        "Service": "larder",
        "LakeBucketName": "larder-lake",
        "Issuer": ISSUER,
        "Audience": AUDIENCE,
        "ReleaseVersion": "next",
    }
    again = deploy(*stand_in, name="larder", parameters=parameters)
    assert again.outputs == larder.stack.outputs
    function = larder.client("lambda").get_function_configuration(FunctionName=again["EnrichFunctionName"])
    assert function["Environment"]["Variables"]["LARDER_VERSION"] == "next"
    assert larder.get().status == 200


CHANGES: list[dict[str, str]] = [  # parameters of serve, each alone
    {"CorsOrigins": "https://app.example.com"},
    {"Issuer": "https://other.example.com/"},
    {"Audience": "other"},
    {"ServeMemory": "2048"},
    {"KeyStore": "https://keys.example.com/jwks.json"},
]


@pytest.mark.long
def test_changed_parameter_reaches_consumers(stand_in: tuple[Any, str]) -> None:
    """A deploy that changes only a parameter or the template publishes a version, which consumers reach."""
    client, _ = stand_in
    given = {"Issuer": ISSUER, "Audience": AUDIENCE}
    larder = deploy_larder(*stand_in, "turned", parameters=given)
    name = larder.stack["ServeFunctionName"]
    seen = {""}

    def read_alias() -> Any:
        found = client("lambda").get_function_configuration(FunctionName=name, Qualifier="live")
        assert found["Version"] not in seen
        seen.add(found["Version"])
        return found

    def list_flights(issuer: str, audience: str, **headers: str) -> Any:
        token = dataclasses.replace(larder.issuer, issuer=issuer, audience=audience).sign("B6", time.time())
        headers = {"Authorization": f"Bearer {token}", **headers}
        return ask(f"{larder.stack.base_url}/flight-delays", "GET", headers)

    read_alias()
    for change in CHANGES:
        given |= change
        deploy(*stand_in, name="turned", parameters=given)
        read = read_alias()
        assert read["MemorySize"] == int(given.get("ServeMemory", "1769"))
        if "KeyStore" in given:
            assert given["KeyStore"] in read["Environment"]["Variables"]["LARDER_ISSUERS"]
            continue
        answer = list_flights(given["Issuer"], given["Audience"], Origin="https://app.example.com")
        assert answer.status == 200, change
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        if change.keys() & {"Issuer", "Audience"}:
            assert list_flights(ISSUER, AUDIENCE).status == 401, change
    template = copy.deepcopy(read_template())
    template["Resources"]["ServeFunction"]["Properties"]["Timeout"] = 11
    deploy(*stand_in, name="turned", parameters=given, template=template)
    assert read_alias()["Timeout"] == 11
    deploy(*stand_in, name="turned", parameters=given, template=template)
    version = client("lambda").get_alias(FunctionName=name, Name="live")["FunctionVersion"]
    assert version in seen, "the same parameters publish nothing"
    destroy(client, larder.stack)


@pytest.mark.long
def test_smallest_deploy_of_the_readme_answers(stand_in: tuple[Any, str], tmp_path: Path) -> None:
    """The README's environments.yaml is a valid file, and its stack accepts a token of its issuer."""
    section = (ROOT / "README.md").read_text().partition("### The smallest deploy")[2].partition("\n### ")[0]
    (text,) = re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    (tmp_path / "environments.yaml").write_text(text)
    document = read_environments(tmp_path / "environments.yaml")
    ((name, environment),) = document["environments"].items()
    assert set(environment) == {"stack", "region", "issuer", "audience", "parameters"}, "nothing that could be left out"
    parameters = build_parameters(document, name)
    larder = deploy_larder(*stand_in, "smallest", parameters=parameters)
    token = dataclasses.replace(larder.issuer, issuer=environment["issuer"], audience=environment["audience"])
    asked = {None: 401, token.sign("B6", time.time()): 200}
    url = f"{larder.stack.base_url}/flight-delays"
    given = {one: ask(url, "GET", {"Authorization": f"Bearer {one}"} if one else {}).status for one in asked}
    assert given == asked
    assert ask(f"{larder.stack.base_url}/health").body == b'{"status":"pass"}'
    assert larder.stack["KeyStorePath"] == f"/larder/{name}/keys/"
    made = stand_in[0]("cloudformation").describe_stack_resources(StackName="smallest")["StackResources"]
    kinds = {one["ResourceType"] for one in made}
    assert not kinds & {
        "AWS::WAFv2::WebACL",
        "AWS::ApiGateway::DomainName",
        "Custom::Discovery",
        "AWS::ApiGateway::ApiKey",
    }
    assert {"AWS::ApiGateway::Account", "AWS::DynamoDB::Table"} <= kinds
    destroy(stand_in[0], larder.stack)


@pytest.mark.long
def test_list_of_issuers_reaches_the_function(stand_in: tuple[Any, str]) -> None:
    """A list in environments.yaml becomes the parameter `Issuers`; each issuer is trusted with its own settings."""
    other = {
        "issuer": "https://other.example.com/",
        "audience": ["others", "larder"],
        "scopes": {"flight-delays": None},
    }
    bound = {"issuer": "https://bound.example.com/", "audience": AUDIENCE, "datasets": ["flight-delays"], "leeway": 0}
    document: Any = {
        "service": "larder", "version": "v1",
        "environments": {"trial": {"stack": "trusts", "region": "us-east-1",
                                   "issuers": [{"issuer": ISSUER, "audience": AUDIENCE}, other, bound]}},
    }  # fmt: skip
    larder = deploy_larder(*stand_in, "trusts", parameters=build_parameters(document, "trial"))

    def ask_as(issuer: str, audience: str, **changed: Any) -> int:
        issued = dataclasses.replace(larder.issuer, issuer=issuer, audience=audience, **changed)
        token = issued.sign("B6", time.time())
        return ask(f"{larder.stack.base_url}/flight-delays", "GET", {"Authorization": f"Bearer {token}"}).status

    asked = {
        (ISSUER, AUDIENCE): 200, (ISSUER, "others"): 401, ("https://other.example.com/", "others"): 200,
        ("https://bound.example.com/", AUDIENCE): 200, ("https://bound.example.com/", "others"): 401,
        ("https://unknown.example.com/", AUDIENCE): 401,
    }  # fmt: skip
    assert {case: ask_as(*case) for case in asked} == asked
    destroy(stand_in[0], larder.stack)


def test_failed_resource_is_named(stand_in: tuple[Any, str]) -> None:
    """The error names a resource that cannot be created, and the reason."""
    template = copy.deepcopy(read_template())
    template["Resources"]["Queue"]["Properties"]["VisibilityTimeout"] = 99999
    with pytest.raises(DeployError, match="Queue: "):
        deploy(*stand_in, name="broken", template=template)


@pytest.mark.long
def test_stack_publishes_its_discovery_files(stand_in: tuple[Any, str]) -> None:
    """With a discovery bucket, the stack writes the catalog and its two files, and the parameter with its address."""
    client, _ = stand_in
    client("s3").create_bucket(Bucket="discovery")
    parameters = {"Environment": "qa", "DiscoveryBucketName": "discovery", "DomainName": "qa.example.com"}
    stack = deploy(*stand_in, name="found", parameters=parameters)
    written = {one["Key"] for one in client("s3").list_objects_v2(Bucket="discovery")["Contents"]}
    assert written == {".well-known/api-catalog", "predictions/qa/service.json", "predictions/qa/openapi.json"}
    service = json.loads(client("s3").get_object(Bucket="discovery", Key="predictions/qa/service.json")["Body"].read())
    published = client("ssm").get_parameter(Name="/discovery/predictions/qa/v1/base-url")["Parameter"]["Value"]
    assert service["base_url"] == published == "https://qa.example.com/v1"
    destroy(client, stack)


@pytest.mark.long
def test_api_keys_are_required_where_configured(stand_in: tuple[Any, str]) -> None:
    """With a usage plan the gateway refuses requests without a key of it; serve still requires the token."""
    client, _ = stand_in
    larder = deploy_larder(*stand_in, "keyed", parameters={"Environment": "test", "ApiKeys": "required"})
    url = f"{larder.stack.base_url}/flight-delays"
    api_key = client("apigateway").get_api_key(apiKey=find_resource(client, "keyed", "FirstApiKey"), includeValue=True)[
        "value"
    ]
    token = {"Authorization": f"Bearer {larder.issuer.sign('B6', time.time())}"}
    asked = [
        ask(url, "GET", headers).status for headers in (token, {"x-api-key": api_key}, {**token, "x-api-key": api_key})
    ]
    assert asked == [403, 401, 200]
    free = {
        (method, path): ask(f"{larder.stack.base_url}{path}", method).status
        for method in ("GET", "HEAD", "OPTIONS")
        for path in ("/health", "/flight-delays", "/flight-delays/2030-03-01.JFK.B61")
    }
    wanted = {case: 204 if case[0] == "OPTIONS" else 200 if case[1] == "/health" else 403 for case in free}
    assert free == wanted, "browsers' preflights and health checks have no key"
    destroy(client, larder.stack)


@pytest.mark.long
def test_teardown_leaves_only_what_is_retained(stand_in: tuple[Any, str], tmp_path: Path) -> None:
    """Tables and buckets stay; functions, queues, the API, rules, roles and logs go."""
    client, _ = stand_in
    stack = deploy(*stand_in, name="gone", parameters={"Environment": "pre-prod"})
    made = client("cloudformation").describe_stack_resources(StackName="gone")["StackResources"]
    kept = {one["PhysicalResourceId"] for one in made if one["LogicalResourceId"] in RETAINED}
    destroy(client, stack)
    left = set(client("dynamodb").list_tables()["TableNames"])
    left |= {one["Name"] for one in client("s3").list_buckets()["Buckets"]}
    assert {one for one in left if one.startswith("gone-")} == kept
    assert len(kept) == len(RETAINED)
    assert not [
        one for one in client("lambda").list_functions()["Functions"] if one["FunctionName"].startswith("gone-")
    ]
    assert not [url for url in client("sqs").list_queues().get("QueueUrls", []) if "/gone-" in url]
    assert not [one for one in client("iam").list_roles()["Roles"] if one["RoleName"].startswith("gone-")]
