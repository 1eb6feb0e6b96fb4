"""Least privilege, on a stand-in that enforces IAM: if any action is removed, a step fails."""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from examples.flights import demo, site
from infra.local.athena.api import Api
from infra.local.deploy import DeployError, deploy, destroy
from infra.local.ministack import ACCOUNT, REGION, Ministack, run_ministack
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
from tests.unit.infra.rules.template import listed, statements

pytestmark = pytest.mark.slow  # each action has its own stack

# ScoreRole and KeepRole are enforced in test_models_deployed.py; that they have no other actions is a rule (grants.py).
ROLES = ("EnrichRole", "NotifyRole", "ServeRole", "PublishRole", "SyntheticRole")

HERE = f"{REGION}:{ACCOUNT}"
KEYS = {name: f"arn:aws:kms:{HERE}:key/{name}" for name in ("outputs", "lake", "keys", "tables")}
# Actions that the stand-in does not check: (Sid, action) and the resources that AWS checks, by its documentation.
# The stand-in checks all other actions.
ASKED_BY_AWS: dict[tuple[str, str], list[str]] = {
    # Lambda's poller takes messages with the function's role (Lambda guide, "Using Lambda with Amazon SQS").
    **{("ReceiveAndContinue", f"sqs:{one}"): [f"arn:aws:sqs:{HERE}:{{Queue}}"] for one in (
        "ReceiveMessage", "DeleteMessage", "GetQueueAttributes",
    )},
    # So it writes logs and sends traces (Lambda guide, "Defining permissions with an execution role").
    **{("Log", f"logs:{one}"): [f"arn:aws:logs:{HERE}:log-group:{{Logs}}:log-stream:2030/01/01"] for one in (
        "CreateLogStream", "PutLogEvents",
    )},
    **{("Trace", f"xray:{one}"): ["*"] for one in ("PutTraceSegments", "PutTelemetryRecords")},
    # Athena reads catalog and lake, and keeps results, as its caller (Athena guide, "Configure access to databases and
    # tables", "Control access to Amazon S3 from Athena"); the local Athena checks no role.
    **{("ReadCatalog", f"glue:{one}"): [
        f"arn:aws:glue:{HERE}:{what}" for what in ("catalog", "database/reference", "table/reference/airlines")
    ] for one in ("GetDatabase", "GetTable", "GetPartitions")},
    ("ListLake", "s3:ListBucket"): ["arn:aws:s3:::asked-lake"],
    ("ListLake", "s3:GetBucketLocation"): ["arn:aws:s3:::asked-lake"],
    ("ReadLake", "s3:GetObject"): ["arn:aws:s3:::asked-lake/airlines/part-0.parquet"],
    ("ListOwn", "s3:GetBucketLocation"): ["arn:aws:s3:::{Bucket}"],
    ("KeepOwn", "s3:AbortMultipartUpload"): ["arn:aws:s3:::{Bucket}/athena/one", "arn:aws:s3:::{Bucket}/rejects/one"],
    **{("QueryMetadata", f"athena:{one}"): [f"arn:aws:athena:{HERE}:workgroup/{{Workgroup}}"] for one in (
        "StartQueryExecution", "GetQueryExecution", "GetQueryResults", "StopQueryExecution",
    )},
    # S3 decrypts an object with the permissions of its reader; the stand-in does not encrypt.
    ("OpenOutputs", "kms:Decrypt"): [KEYS["outputs"]],
    ("OpenLake", "kms:Decrypt"): [KEYS["lake"]],
    ("OpenSigningKeys", "kms:Decrypt"): [KEYS["keys"]],
    # So does DynamoDB (its guide, "Encryption at rest: usage notes").
    **{("OpenTables", f"kms:{one}"): [KEYS["tables"]] for one in (
        "Decrypt", "Encrypt", "GenerateDataKey", "DescribeKey",
    )},
    **{("OpenTable", f"kms:{one}"): [KEYS["tables"]] for one in ("Decrypt", "DescribeKey")},
    # Lake Formation gives Athena the data on behalf of its caller; its action has no resource.
    ("UseLakeFormation", "lakeformation:GetDataAccess"): ["*"],
    # A catalog of another account is registered with Athena (Athena guide, "Configure cross-account access").
    ("FindCatalog", "athena:GetDataCatalog"): [f"arn:aws:athena:{HERE}:datacatalog/theirs"],
    # Lambda's poller reads the stream with notify's role, and DynamoDB decrypts it (its guide, "Streams and Lambda").
    **{("ReadChanges", f"dynamodb:{one}"): [f"arn:aws:dynamodb:{HERE}:table/{{Table}}/stream/2030"] for one in (
        "DescribeStream", "GetRecords", "GetShardIterator", "ListStreams",
    )},
    ("OpenChanges", "kms:Decrypt"): [KEYS["tables"]],
    # The journey below sends no events; test_events_deployed.py does.
    **{(sid, "events:PutEvents"): [f"arn:aws:events:{HERE}:event-bus/asked-events"] for sid in (
        "ReportRuns", "ReportItems",
    )},
    ("KeepDeadLetters", "sqs:SendMessage"): [f"arn:aws:sqs:{HERE}:{{NotifyDeadLetters}}"],
    # The journey below has no run that is too large for one Lambda.
    ("StartJob", "glue:StartJobRun"): [f"arn:aws:glue:{HERE}:job/asked-job"],
    # It has no key store on S3.
    ("ReadSigningKeysOnS3", "s3:GetObject"): ["arn:aws:s3:::asked-keys/jwks.json"],
    ("ListSigningKeysOnS3", "s3:ListBucket"): ["arn:aws:s3:::asked-keys"],
}  # fmt: skip


def read_actions(template: Template) -> list[tuple[str, str, str]]:
    """List (role, Sid, action) of the functions' roles."""
    return [
        (role, statement["Sid"], action)
        for role, statement in statements(template)
        if role in ROLES
        for action in listed(statement["Action"])
    ]


ALL = read_actions(read_template())
ACTIONS = [one for one in ALL if one[1:] not in ASKED_BY_AWS]
BY_AWS = [one for one in ALL if one[1:] in ASKED_BY_AWS]


def without(template: Template, role: str, sid: str, action: str) -> Template:
    """Return the template without one action of one statement."""
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
    """A stand-in that enforces IAM, and a local Athena that records its operations."""
    answer = Api.answer

    def note(api: Api, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        ASKED_OF_ATHENA.add(operation)
        return answer(api, operation, request)

    log = tmp_path_factory.mktemp("auth") / "ministack.log"
    with pytest.MonkeyPatch.context() as patch, run_stand_in(log, auth=True) as found:
        patch.setattr(Api, "answer", note)
        yield found


def journey(larder: Deployed) -> Iterator[tuple[str, object]]:
    """Do all that the two functions do; yield each step and its result."""
    larder.client("events").disable_rule(Name=larder.stack["OutputsRuleName"])

    def run(object_key: str, body: bytes) -> object:
        return larder.run(larder.put(object_key, body)), larder.state(object_key)

    # about as many rows in each, which the dataset's guards accept; one reject of 200 is tolerated
    yield "an output", run(object_key(1), parquet(150))
    one = "2030-03-01.JFK.B61"
    paths = ("", f"/{one}", f"?id={one}&id=none", "?top=2")
    yield "its items", [larder.get(path).status for path in paths]
    yield "an older one, which writes with a condition", run(object_key(2), parquet(200))
    yield (
        "a newer one with a reject, compared with the fingerprints",
        run(object_key(0), parquet(200, delay=7.0, bad=1)),
    )
    larder.put(object_key(3), parquet(150))
    yield "a sweep of the dataset", (larder.enrich({"sweep": DATASET}), larder.state(object_key(3)))
    yield "a sweep of all, a message each", larder.enrich({"sweep": True})
    listed = larder.client("s3").list_objects_v2(Bucket=larder.stack["BucketName"], Prefix=f"fingerprints/{DATASET}/")
    yield "fingerprints after four runs: the last, and those before it", len(listed.get("Contents", []))


def side_journey(stand_in: tuple[Any, str], name: str, template: Template) -> Iterator[tuple[str, object]]:
    """Do what the stack's other two functions do: publish and remove the discovery files, check the stage."""
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
    return run_side_journey(stand_in, "side", read_template())


def test_whole_path_works_with_enforced_roles(stand_in: tuple[Any, str], whole: dict[str, object]) -> None:
    """With the template's roles every step succeeds, with events and with direct invocation."""
    assert whole == {
        "an output": ("", "done"),
        "its items": [200] * 4,
        "an older one, which writes with a condition": ("", "done"),
        "a newer one with a reject, compared with the fingerprints": ("", "done"),
        "a sweep of the dataset": ("", "done"),
        "a sweep of all, a message each": "",
        "fingerprints after four runs: the last, and those before it": 2,
    }
    larder = deploy_larder(*stand_in, "events")
    assert larder.wait(larder.put(object_key(), parquet()), 120) == "done"
    assert larder.get().status == 200


def test_each_athena_action_is_needed(whole: dict[str, object]) -> None:
    """A run uses each action on the work group; it cancels slow queries, and describes those without rows."""
    (allowed,) = (
        one["Action"]
        for role, one in statements(read_template())
        if (role, one["Sid"]) == ("EnrichRole", "QueryMetadata")
    )
    assert whole["an output"] == ("", "done")
    not_in_the_journey = {"athena:StopQueryExecution", "athena:GetQueryResults"}  # of slow queries and empty ones
    assert {f"athena:{operation}" for operation in ASKED_OF_ATHENA} | not_in_the_journey == set(allowed)


@pytest.fixture(scope="module")
def asked(stand_in: tuple[Any, str]) -> Deployed:
    """A stack with every resource that a role has access to."""
    parameters = {
        "OutputsKmsKeyArn": KEYS["outputs"],
        "LakeKmsKeyArn": KEYS["lake"],
        "KeyStoreBucketName": "asked-keys",
        "KeyStoreKmsKeyArn": KEYS["keys"],
        "TableKmsKeyArn": KEYS["tables"],
        "LakeAccount": ACCOUNT,  # in reality of another account, hence the catalog's ARNs above
        "DiscoveryBucketName": "asked-discovery",
        "SyntheticSecret": "larder/dev/synthetic",
        "EventBus": "own",
        "ItemEvents": "true",
        "JobWorkers": "2",
    }
    stand_in[0]("s3").create_bucket(Bucket="asked-discovery")
    return deploy_larder(*stand_in, "asked", parameters=parameters)


def decide(asked: Deployed, role: str, action: str, resource: str) -> str:
    """Have IAM's policy simulator decide for a role of the stack."""
    arn = f"arn:aws:iam::{ACCOUNT}:role/{find_resource(asked.client, asked.stack.name, role)}"
    simulated = asked.client("iam").simulate_principal_policy(
        PolicySourceArn=arn, ActionNames=[action], ResourceArns=[resource]
    )
    decision: str = simulated["EvaluationResults"][0]["EvalDecision"]
    return decision


@pytest.mark.parametrize(("role", "sid", "action"), BY_AWS, ids=[":".join(one) for one in BY_AWS])
def test_actions_that_aws_checks_are_allowed(asked: Deployed, role: str, sid: str, action: str) -> None:
    """For an action that AWS executes with the function's role, the role has access to the resource and to no other."""
    names = {"Logs": find_resource(asked.client, "asked", f"{role.removesuffix('Role')}Logs")}
    places = ("Bucket", "Queue", "Workgroup", "Table", "NotifyDeadLetters")
    names |= {one: find_resource(asked.client, "asked", one).rpartition("/")[2] for one in places}
    for resource in ASKED_BY_AWS[sid, action]:
        arn = resource.format(**names)
        assert decide(asked, role, action, arn) == "allowed", arn
        if arn != "*":
            assert decide(asked, role, action, arn.replace(":", ":x", 5)) == "implicitDeny"


ELSEWHERE = [  # (role, action, resource) that the stand-in's journey does not use
    ("EnrichRole", "s3:PutObject", "arn:aws:s3:::{Bucket}/elsewhere/one"),
    ("EnrichRole", "s3:GetObject", "arn:aws:s3:::another-bucket/one"),
    ("EnrichRole", "s3:GetObject", "arn:aws:s3:::{Bucket}/lake/one"),
    *(
        (role, "s3:GetObject", f"arn:aws:s3:::{{Bucket}}/{folder}/one")
        for role in ("EnrichRole", "JobRole")
        for folder in (
            "kept",
            "models",
            "elsewhere",
        )
    ),
    ("EnrichRole", "s3:PutObject", "arn:aws:s3:::{OutputsBucket}/flight-delays/one"),
    ("EnrichRole", "dynamodb:DeleteTable", f"arn:aws:dynamodb:{HERE}:table/{{Table}}"),
    ("ServeRole", "dynamodb:GetItem", f"arn:aws:dynamodb:{HERE}:table/{{Ledger}}"),
    ("ServeRole", "dynamodb:BatchGetItem", f"arn:aws:dynamodb:{HERE}:table/{{Ledger}}"),
    ("ServeRole", "dynamodb:PutItem", f"arn:aws:dynamodb:{HERE}:table/{{Table}}"),
    ("ServeRole", "dynamodb:Query", f"arn:aws:dynamodb:{HERE}:table/{{Table}}/index/another"),
    ("ServeRole", "dynamodb:Scan", f"arn:aws:dynamodb:{HERE}:table/{{Table}}/index/ranked"),
]


@pytest.mark.parametrize(("role", "action", "resource"), ELSEWHERE, ids=[" ".join(one[:2]) for one in ELSEWHERE])
def test_permissions_end_at_their_resource(asked: Deployed, role: str, action: str, resource: str) -> None:
    """A role has no access to resources and folders that its function does not use."""
    names = {one: find_resource(asked.client, "asked", one) for one in ("Bucket", "OutputsBucket", "Table", "Ledger")}
    assert decide(asked, role, action, resource.format(**names)) == "implicitDeny"


def test_stack_without_a_lake_reads_one_folder_of_its_bucket(stand_in: tuple[Any, str]) -> None:
    """Without LakeBucketName the tables are below `lake/`; kept features and models are not readable."""
    larder = deploy_larder(*stand_in, "no-lake", parameters={"LakeBucketName": "", "JobWorkers": "2"})
    bucket = larder.stack["BucketName"]
    for role in ("EnrichRole", "JobRole"):
        found = {
            folder: decide(larder, role, "s3:GetObject", f"arn:aws:s3:::{bucket}/{folder}/one")
            for folder in ("lake", "kept", "models", "elsewhere")
        }
        assert found == {"lake": "allowed"} | dict.fromkeys(("kept", "models", "elsewhere"), "implicitDeny"), role
        assert decide(larder, role, "s3:ListBucket", f"arn:aws:s3:::{bucket}") == "allowed"


def test_every_action_is_tested() -> None:
    """Each action is needed by the journey or is in ASKED_BY_AWS, which has no other."""
    assert {one[1:] for one in BY_AWS} == set(ASKED_BY_AWS)
    assert len(ALL) == len(set(ALL)) == len(ACTIONS) + len(BY_AWS)


def of_roles(*roles: str) -> pytest.MarkDecorator:
    """Parametrize a test with each action of some roles, by name."""
    actions = [one for one in ACTIONS if one[0] in roles]
    return pytest.mark.parametrize(("role", "sid", "action"), actions, ids=[":".join(one) for one in actions])


@of_roles("EnrichRole", "ServeRole")
def test_each_action_is_needed(
    stand_in: tuple[Any, str], whole: dict[str, object], role: str, sid: str, action: str
) -> None:
    """Without this action a step has another result: the role needs it."""
    name = f"no-{ACTIONS.index((role, sid, action))}"
    larder = deploy_larder(*stand_in, name, template=without(read_template(), role, sid, action))
    try:
        assert any(came != whole[step] for step, came in journey(larder))
    finally:
        destroy(larder.client, larder.stack)


def test_side_functions_work_with_enforced_roles(whole_side: dict[str, object]) -> None:
    """With the template's roles the files are published and removed, and the check runs."""
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


@pytest.fixture
def _own_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the project afterwards: the demo sets another one for its process, here that of all later tests."""
    monkeypatch.setenv("LARDER_PROJECT", os.environ["LARDER_PROJECT"])


@pytest.mark.usefixtures("_own_project")
def test_whole_demo_works_with_enforced_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python3 dev.py demo --once` with `AUTH=true`: real flights, from the model to the responses."""
    monkeypatch.setattr("infra.local.stand_in.run_ministack", enforcing)
    assert demo.main(["--once"]) == 0


@pytest.mark.usefixtures("_own_project")
def test_demo_fails_without_a_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    """IAM is enforced in the demo, too: without one action of serve it fails."""
    lacking = without(read_template(), "ServeRole", "ReadItems", "dynamodb:GetItem")
    monkeypatch.setattr("infra.local.stand_in.run_ministack", enforcing)
    monkeypatch.setattr(site, "deploy", functools.partial(deploy, template=lacking))
    assert demo.main(["--once"]) == 1


def enforcing(log: Path, *, env: Mapping[str, str]) -> AbstractContextManager[Ministack]:
    """Run the stand-in of the demo with IAM enforced."""
    return run_ministack(log, env={**env, "AUTH": "true"})
