"""Least privilege, under a stand-in that enforces IAM: without any one action something fails."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from examples.flights import demo, site
from infra.local.athena.api import Api
from infra.local.deploy import DeployError, deploy, destroy
from infra.local.ministack import Ministack, run_ministack
from infra.rules.look import listed, statements
from infra.translate import Template, read_template
from tests.integration.infra.deployed import (
    DATASET,
    Deployed,
    deploy_larder,
    find_resource,
    object_key,
    parquet,
    run_stand_in,
)

pytestmark = pytest.mark.slow  # each action has a stack of its own

ROLES = ("EnrichRole", "ServeRole", "PublishRole", "SyntheticRole")

# What the stand-in does by itself and never asks a role for: AWS's documentation says that it has to be there.
NOT_ASKED = {
    "sqs:ReceiveMessage": "Lambda's poller takes messages with the function's role (Lambda guide, Amazon SQS)",
    "sqs:DeleteMessage": "the same",
    "sqs:GetQueueAttributes": "the same",
    "logs:CreateLogStream": "Lambda writes logs with the function's role",
    "logs:PutLogEvents": "the same",
    "xray:PutTraceSegments": "Lambda sends traces with the function's role",
    "xray:PutTelemetryRecords": "the same",
    "glue:GetDatabase": "Athena reads the catalog as its caller; the local Athena does it by itself",
    "glue:GetTable": "the same",
    "glue:GetPartitions": "the same",
    "kms:Decrypt": "S3 opens objects under a key of its owner's as their reader; the stand-in encrypts nothing",
    "s3:GetBucketLocation": "Athena asks for the location of the buckets it reads and writes, as its caller",
    "s3:AbortMultipartUpload": "Athena and boto3 end uploads that fail half-way",
    "athena:StartQueryExecution": "the local Athena asks nobody's role; a test of its own sees the calls",
    "athena:GetQueryExecution": "the same",
    "athena:GetQueryResults": "the same",
    "athena:StopQueryExecution": "only sent for a query that runs out of time",
}
NOT_ASKED_SIDS = {
    "ListLake": "Athena reads the lake as its caller; the local Athena does it by itself",
    "ReadLake": "the same",
    "ReadSigningKeysOnS3": "only with a key store on S3",
    "ListSigningKeysOnS3": "the same",
    "OpenOutputs": "only with a key of the bucket's owner",
    "OpenLake": "the same",
}


def read_actions(template: Template) -> list[tuple[str, str, str]]:
    """List (role, Sid, action) of the functions' roles, but for what the stand-in never asks for."""
    found = []
    for role in ROLES:
        for stated in template["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]:
            statement = stated["Fn::If"][1] if "Fn::If" in stated else stated
            found += [(role, statement["Sid"], action) for action in listed(statement["Action"])]
    return [one for one in found if one[1] not in NOT_ASKED_SIDS and one[2] not in NOT_ASKED]


ACTIONS = read_actions(read_template())


def without(template: Template, role: str, sid: str, action: str) -> Template:
    """Return the template with one action taken from one statement."""
    lacking = copy.deepcopy(template)
    statements = lacking["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    for statement in [one for one in statements if one.get("Sid") == sid]:
        left = [one for one in listed(statement["Action"]) if one != action]
        if left:
            statement["Action"] = left
        else:
            statements.remove(statement)
    return lacking


ASKED_OF_ATHENA: set[str] = set()


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """A stand-in that enforces IAM, and a local Athena that notes what it is asked."""
    answer = Api.answer

    def note(api: Api, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        ASKED_OF_ATHENA.add(operation)
        return answer(api, operation, request)

    log = tmp_path_factory.mktemp("auth") / "ministack.log"
    with pytest.MonkeyPatch.context() as patch, run_stand_in(log, auth=True) as found:
        patch.setattr(Api, "answer", note)
        yield found


def journey(larder: Deployed) -> Iterator[tuple[str, object]]:
    """Do all that the two functions do; yield each step and what came of it."""
    larder.client("events").disable_rule(Name=larder.stack["OutputsRuleName"])

    def run(object_key: str, body: bytes) -> object:
        return larder.run(larder.put(object_key, body)), larder.state(object_key)

    yield "an output", run(object_key(1), parquet())
    yield "its items", (larder.get().status, larder.get("/2030-03-01.JFK.B61").status)
    yield "an older one, which writes with a condition", run(object_key(2), parquet(5))
    yield (
        "a newer one with a reject, compared with the fingerprints",
        run(object_key(0), parquet(200, delay=7.0, bad=1)),
    )
    larder.put(object_key(3), parquet())
    yield "a sweep of the dataset", (larder.enrich({"sweep": DATASET}), larder.state(object_key(3)))
    yield "a sweep of all, a message each", larder.enrich({"sweep": True})


def side_journey(stand_in: tuple[Any, str], name: str, template: Template) -> Iterator[tuple[str, object]]:
    """Do what the stack's own two functions do: publish and take back the discovery files, check the stage."""
    client, _ = stand_in
    client("s3").create_bucket(Bucket=f"{name}-discovery")
    client("secretsmanager").create_secret(Name=f"{name}/synthetic", SecretString=json.dumps({"token": "none"}))
    parameters = {"DiscoveryBucketName": f"{name}-discovery", "SyntheticSecret": f"{name}/synthetic"}

    def published() -> list[str]:
        listed = client("s3").list_objects_v2(Bucket=f"{name}-discovery").get("Contents", [])
        return sorted(one["Key"].removeprefix(f"{name}/") for one in listed)

    try:
        larder = deploy_larder(*stand_in, name, template=template, parameters=parameters)
    except DeployError as error:
        yield "deploying", str(error)
        return
    yield "its files", published()
    answer = client("lambda").invoke(FunctionName=find_resource(client, name, "SyntheticFunction"), Payload=b"{}")
    yield "a check", answer.get("FunctionError")
    with suppress(DeployError):
        destroy(client, larder.stack)
    yield "its files when it is gone", published()


def run_side_journey(stand_in: tuple[Any, str], name: str, template: Template) -> dict[str, object]:
    return dict(side_journey(stand_in, name, template))


@pytest.fixture(scope="module")
def whole(stand_in: tuple[Any, str]) -> dict[str, object]:
    return dict(journey(deploy_larder(*stand_in, "whole")))


@pytest.fixture(scope="module")
def whole_side(stand_in: tuple[Any, str]) -> dict[str, object]:
    return run_side_journey(stand_in, "predictions", read_template())


def test_whole_path_works_with_enforced_roles(stand_in: tuple[Any, str], whole: dict[str, object]) -> None:
    """With the roles of the template every step succeeds, by events as by hand."""
    assert whole == {
        "an output": ("", "done"),
        "its items": (200, 200),
        "an older one, which writes with a condition": ("", "done"),
        "a newer one with a reject, compared with the fingerprints": ("", "done"),
        "a sweep of the dataset": ("", "done"),
        "a sweep of all, a message each": "",
    }
    larder = deploy_larder(*stand_in, "events")
    assert larder.wait(larder.put(object_key(), parquet())) == "done"
    assert larder.get().status == 200


def test_each_athena_action_is_needed(whole: dict[str, object]) -> None:
    """Each action on the work group is one that a run asks for; stopping is for queries that take too long."""
    (allowed,) = (
        one["Action"]
        for role, one in statements(read_template())
        if (role, one["Sid"]) == ("EnrichRole", "QueryMetadata")
    )
    assert whole["an output"] == ("", "done")
    assert {f"athena:{operation}" for operation in ASKED_OF_ATHENA} | {"athena:StopQueryExecution"} == set(allowed)


def of_roles(*roles: str) -> pytest.MarkDecorator:
    """Parametrize a test with each action of some roles, by name."""
    actions = [one for one in ACTIONS if one[0] in roles]
    return pytest.mark.parametrize(("role", "sid", "action"), actions, ids=[":".join(one) for one in actions])


@of_roles("EnrichRole", "ServeRole")
def test_each_action_is_needed(
    stand_in: tuple[Any, str], whole: dict[str, object], role: str, sid: str, action: str
) -> None:
    """Without this one action some step comes out otherwise, so no role may do more than it needs."""
    name = f"no-{ACTIONS.index((role, sid, action))}"
    larder = deploy_larder(*stand_in, name, template=without(read_template(), role, sid, action))
    try:
        assert any(came != whole[step] for step, came in journey(larder))
    finally:
        destroy(larder.client, larder.stack)


def test_side_functions_work_with_enforced_roles(whole_side: dict[str, object]) -> None:
    """With the roles of the template the files are published and taken back, and the check is made."""
    own = ["dev/openapi.json", "dev/service.json"]
    assert whole_side == {
        "its files": [".well-known/api-catalog", *own],
        "a check": None,
        "its files when it is gone": [".well-known/api-catalog"],
    }


@of_roles("PublishRole", "SyntheticRole")
def test_each_action_of_the_side_functions_is_needed(
    stand_in: tuple[Any, str], whole_side: dict[str, object], role: str, sid: str, action: str
) -> None:
    """The same for the functions that publish the discovery files and check the stage."""
    name = f"no-{ACTIONS.index((role, sid, action))}"
    assert run_side_journey(stand_in, name, without(read_template(), role, sid, action)) != whole_side


def test_whole_demo_works_with_enforced_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python3 dev.py demo --once` under `AUTH=true`: real flights, from the model to the answers."""
    monkeypatch.setattr(site, "run_ministack", enforcing)
    assert demo.main(["--once"]) == 0


def test_demo_notices_a_permission_that_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is enforced in the demo too: without one action of serve's it fails."""
    lacking = without(read_template(), "ServeRole", "ReadItems", "dynamodb:GetItem")
    monkeypatch.setattr(site, "run_ministack", enforcing)
    monkeypatch.setattr(site, "deploy", functools.partial(deploy, template=lacking))
    assert demo.main(["--once"]) == 1


def enforcing(log: Path, *, env: Mapping[str, str]) -> AbstractContextManager[Ministack]:
    """Run the stand-in of the demo with IAM enforced."""
    return run_ministack(log, env={**env, "AUTH": "true"})
