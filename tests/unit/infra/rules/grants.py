"""Rules on what a function is given: the variables that its code reads, permissions for its requests, addresses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import botocore.session
from botocore import xform_name

from enrich.run.fingerprints import PREFIX as FINGERPRINTS
from enrich.settings import Settings as EnrichSettings
from infra.discovery import CATALOG_PATH
from infra.translate import ROOT, Template
from serve.item import RANKED
from serve.settings import parse_settings
from tests.unit.infra.rules.evaluate import ACCOUNT, HERE, REGION, Stack
from tests.unit.infra.rules.permissions import WITHOUT_RESOURCES
from tests.unit.infra.rules.template import Rule, by_type, functions, listed

LAKE = "444455556666"
KEY = f"arn:aws:kms:{HERE}:key/{{}}"
GIVEN = {  # every option on which a permission depends
    "Environment": "dev", "Service": "predictions", "LakeBucketName": "lake", "LakeAccount": LAKE,
    "LakeDatabase": "reference,weather,a,b,c", "KeyStoreBucketName": "keys", "DiscoveryBucketName": "discovery",
    "SyntheticSecret": "larder/dev/synthetic", "Models": "true", "OutputsAccount": "555566667777",
    "EventBus": "own", "ItemEvents": "true", "JobWorkers": "10",
    **{f"{one}KmsKeyArn": KEY.format(one) for one in ("Outputs", "Lake", "KeyStore", "Table")},
}  # fmt: skip
OWN = [
    f"arn:aws:s3:::Bucket/{folder}one"
    for folder in ("athena/", FINGERPRINTS, "metadata/", "parts/", "rejects/", "work/")
]
OWN_LAKE = "arn:aws:s3:::Bucket/lake/one"  # a metadata's file, where no other bucket is the lake
CATALOG = [f"arn:aws:glue:{REGION}:{LAKE}:{what}" for what in (
    "catalog", *(f"{kind}/{name}" for name in ("reference", "weather", "a", "b", "c") for kind in ("database",)),
    *(f"table/{name}/one" for name in ("reference", "weather", "a", "b", "c")),
)]  # fmt: skip
TABLE, LEDGER = (f"arn:aws:dynamodb:{HERE}:table/{name}" for name in ("Table", "Ledger"))
STREAM, BUS = f"{TABLE}/stream/2030-01-01T00:00:00.000", f"arn:aws:events:{HERE}:event-bus/Bus"
QUEUE, WORKGROUP = f"arn:aws:sqs:{HERE}:Queue", f"arn:aws:athena:{HERE}:workgroup/Workgroup"
PARAMETERS = f"arn:aws:ssm:{HERE}:parameter/larder/dev/keys"
FOLDER = "arn:aws:s3:::discovery/predictions/dev/service.json"
# What Lambda, Athena, S3 and KMS do with a function's role, which is not visible in its code (their developer guides).
LAMBDA = {"logs:CreateLogStream", "logs:PutLogEvents", "xray:PutTraceSegments", "xray:PutTelemetryRecords"}
TABLE_KEY = {f"kms:{one}": [KEY.format("Table")] for one in ("Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey")}
# role -> IAM action -> the resources that its function uses
REQUESTS: dict[str, dict[str, list[str]]] = {
    "EnrichRole": {
        **{f"sqs:{one}": [QUEUE] for one in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes", "SendMessage")},
        "s3:ListBucket": ["arn:aws:s3:::OutputsBucket", "arn:aws:s3:::Bucket", "arn:aws:s3:::lake"],
        "s3:GetBucketLocation": ["arn:aws:s3:::Bucket", "arn:aws:s3:::lake"],
        "s3:GetObject": ["arn:aws:s3:::OutputsBucket/one", "arn:aws:s3:::lake/one", *OWN],
        "s3:GetObjectVersion": ["arn:aws:s3:::OutputsBucket/one"],
        "s3:PutObject": OWN,
        "s3:AbortMultipartUpload": OWN,
        "s3:DeleteObject": [one for one in OWN if FINGERPRINTS in one],
        **{f"glue:{one}": CATALOG for one in ("GetDatabase", "GetTable", "GetPartitions")},
        "lakeformation:GetDataAccess": ["*"],
        **{f"athena:{one}": [WORKGROUP] for one in (
            "StartQueryExecution", "GetQueryExecution", "GetQueryResults", "StopQueryExecution",
        )},
        "athena:GetDataCatalog": [f"arn:aws:athena:{HERE}:datacatalog/{LAKE}"],
        "dynamodb:BatchWriteItem": [TABLE],
        "dynamodb:PutItem": [TABLE, LEDGER],
        "dynamodb:DescribeTable": [TABLE],
        **{f"dynamodb:{one}": [LEDGER] for one in ("GetItem", "DeleteItem", "Query")},
        **TABLE_KEY,
        "kms:Decrypt": [KEY.format(one) for one in ("Outputs", "Lake", "Table")],
        "events:PutEvents": [BUS],
        "glue:StartJobRun": [f"arn:aws:glue:{HERE}:job/Job"],
    },
    "NotifyRole": {
        **{f"dynamodb:{one}": [STREAM] for one in ("DescribeStream", "GetRecords", "GetShardIterator", "ListStreams")},
        "events:PutEvents": [BUS],
        "sqs:SendMessage": [f"arn:aws:sqs:{HERE}:NotifyDeadLetters"],
        "kms:Decrypt": [KEY.format("Table")],
    },
    "ServeRole": {
        "dynamodb:GetItem": [TABLE],
        "dynamodb:BatchGetItem": [TABLE],
        "dynamodb:Query": [TABLE, f"{TABLE}/index/{RANKED}"],
        "ssm:GetParametersByPath": [PARAMETERS, f"{PARAMETERS}/one.pem"],
        "s3:GetObject": ["arn:aws:s3:::keys/one"],
        "s3:ListBucket": ["arn:aws:s3:::keys"],
        "kms:Decrypt": [KEY.format("KeyStore"), KEY.format("Table")],
        "kms:DescribeKey": [KEY.format("Table")],
    },
    "ScoreRole": {
        "dynamodb:GetItem": [TABLE],
        "dynamodb:BatchGetItem": [TABLE],
        "ssm:GetParametersByPath": [PARAMETERS, f"{PARAMETERS}/one.pem"],
        "s3:GetObject": ["arn:aws:s3:::keys/one", "arn:aws:s3:::Bucket/models/one"],
        "s3:ListBucket": ["arn:aws:s3:::keys"],
        "kms:Decrypt": [KEY.format("KeyStore"), KEY.format("Table")],
        "kms:DescribeKey": [KEY.format("Table")],
        "sqs:SendMessage": [f"arn:aws:sqs:{HERE}:KeptQueue"],
    },
    "KeepRole": {
        **{f"sqs:{one}": [f"arn:aws:sqs:{HERE}:KeptQueue"] for one in (
            "ReceiveMessage", "DeleteMessage", "GetQueueAttributes",
        )},
        "s3:PutObject": ["arn:aws:s3:::Bucket/kept/one"],
        "s3:GetObject": ["arn:aws:s3:::Bucket/kept/one", "arn:aws:s3:::Bucket/models/one"],
        "s3:ListBucket": ["arn:aws:s3:::Bucket"],
    },
    "PublishRole": {"s3:PutObject": [f"arn:aws:s3:::discovery/{CATALOG_PATH}", FOLDER], "s3:DeleteObject": [FOLDER]},
    "SyntheticRole": {
        "secretsmanager:GetSecretValue": [f"arn:aws:secretsmanager:{HERE}:secret:larder/dev/synthetic-Ab12Cd"]
    },
    "SweepRole": {"sqs:SendMessage": [QUEUE]},
    "DriftScheduleRole": {"lambda:InvokeFunction": [f"arn:aws:lambda:{HERE}:function:KeepFunction"]},
    "SyntheticScheduleRole": {"lambda:InvokeFunction": [f"arn:aws:lambda:{HERE}:function:SyntheticFunction"]},
}  # fmt: skip
# The job does what enrich does in a run. Glue writes its log, and reads its files.
REQUESTS["JobRole"] = {
    **{action: resources for action, resources in REQUESTS["EnrichRole"].items() if action not in {
        "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "glue:StartJobRun",
    }},
    "s3:GetObject": [*REQUESTS["EnrichRole"]["s3:GetObject"], "arn:aws:s3:::Bucket/job/one"],
    "logs:CreateLogGroup": [f"arn:aws:logs:{HERE}:log-group:{group}:*" for group in ("JobOutput", "JobErrors")],
}  # fmt: skip
NOT_IN_CODE = {  # in addition to LAMBDA
    "EnrichRole": {
        "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes",  # the poller of the mapping
        "s3:GetBucketLocation", "s3:AbortMultipartUpload", "lakeformation:GetDataAccess", "athena:GetDataCatalog",
        "glue:GetDatabase", "glue:GetTable", "glue:GetPartitions",  # Athena, as its caller
        "athena:GetQueryResults",  # PyAthena, for a result without rows
        "s3:GetObjectVersion",  # a GetObject with a VersionId
        "dynamodb:DeleteItem",  # within a transaction
        *TABLE_KEY,
        "events:PutEvents",  # through notify/bus.py
    },
    # the poller of the mapping
    "NotifyRole": {
        *(f"dynamodb:{one}" for one in ("DescribeStream", "GetRecords", "GetShardIterator", "ListStreams")),
        "kms:Decrypt",
    },
    "ServeRole": {"s3:GetObject", "s3:ListBucket", "kms:Decrypt", "kms:DescribeKey"},  # signed GETs name no operation
    "ScoreRole": {  # its calls are those of serve's storage and keys
        "dynamodb:GetItem", "dynamodb:BatchGetItem", "ssm:GetParametersByPath",
        "s3:GetObject", "s3:ListBucket", "kms:Decrypt", "kms:DescribeKey",
    },
    # the poller of the mapping; a paginator
    "KeepRole": {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "s3:ListBucket"},
    "PublishRole": set(),
    "SyntheticRole": set(),
}  # fmt: skip
CODE = {
    "EnrichRole": "enrich",
    "NotifyRole": "notify",
    "ServeRole": "serve",
    "ScoreRole": "score",
    "KeepRole": "score/keep",
    "PublishRole": "infra/publish.py",
    "SyntheticRole": "infra/synthetic.py",
}
SERVICES = ("athena", "dynamodb", "events", "glue", "s3", "secretsmanager", "sqs", "ssm")
ALIASES = {  # an operation whose IAM action has another name
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:DeleteObjects": "s3:DeleteObject",
    "dynamodb:TransactWriteItems": "dynamodb:PutItem",
}
COMMAND_LINE = {
    "console",
    "diff",
    "plan",
    "commands",
    "cli",
    "__main__.py",
    "dev",
    "publish",
    "keep",  # another function
}  # runs with the operator's permissions, not with the function's
VARIABLE = re.compile(r"LARDER_[A-Z_]+")


@cache
def find_called(place: str) -> frozenset[str]:
    """Find the IAM actions of the operations that some code calls, by method (`get_item`) or by name (`"GetItem"`)."""
    path = ROOT / place
    files = (
        [path]
        if path.suffix
        else [one for one in path.rglob("*.py") if not COMMAND_LINE & set(one.relative_to(path).parts)]
    )
    text = "\n".join(one.read_text() for one in files)
    methods, names = set(re.findall(r"\.(\w+)\(", text)), set(re.findall(r"(?<=[.\"])(\w+)\"", text))
    called = set()
    for service in SERVICES:
        for operation in _list_operations(service):
            if xform_name(operation) in methods or operation in names:
                action = f"{service}:{operation}"
                called.add(ALIASES.get(action, action))
    return frozenset(called)


@cache
def _list_operations(service: str) -> tuple[str, ...]:
    return tuple(botocore.session.Session().get_service_model(service).operation_names)


def list_grants(template: Template, given: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """List (role, Sid, action, resource) of the statements that a stack has."""
    stack = Stack(template, given)
    for role, properties in by_type(template, "AWS::IAM::Role").items():
        for policy in stack.value(properties.get("Policies", [])) if stack.exists(role) else []:
            for statement in policy["PolicyDocument"]["Statement"]:
                for action in set(listed(statement["Action"])) - LAMBDA:  # functions_can_log
                    for resource in listed(statement["Resource"]):
                        yield role, statement["Sid"], action, str(resource)


def roles_allow_what_the_code_does(template: Template) -> Iterator[str]:
    """Each request of a function is allowed, and nothing else is; the requests are those of the code."""
    granted = list(list_grants(template, GIVEN))
    everything = {one for requests in REQUESTS.values() for resources in requests.values() for one in resources}
    # resources of others: an object elsewhere, another bucket, environment, service, queue, database
    everything |= {re.sub(old, new, one) for one in everything for old, new in (
        (r"/(one|service\.json)", "/elsewhere/one"), ("Bucket|lake|keys", "another"), ("/dev/", "/prod/"),
        ("predictions", "others"), ("reference|weather", "secret"), ("Queue", "DeadLetters"),
        (":key/.*", ":key/Another"), (r"Bucket/\w+/", "Bucket/elsewhere/"),
    )} - {"*"}  # fmt: skip
    for role, requests in REQUESTS.items():
        if role in CODE and set(requests) != (wanted := find_called(CODE[role]) | NOT_IN_CODE[role]):
            yield f"{role}: {CODE[role]} calls {sorted(wanted ^ set(requests))}, and REQUESTS differs"
        mine = [(sid, action, resource) for owner, sid, action, resource in granted if owner == role]
        for action, resources in requests.items():
            for one in resources:
                if not any(action == allowed and fnmatchcase(one, resource) for _, allowed, resource in mine):
                    yield f"{role}: is not allowed {action} on {one}"
        for sid, action, resource in mine:
            matched = {one for one in everything if fnmatchcase(one, resource)}
            needed = set(requests.get(action, []))
            if action in WITHOUT_RESOURCES and action in requests:
                continue
            if not matched & needed:
                yield f"{role} {sid}: allows {action} on {resource}, which nothing requests"
            yield from _find_excess(role, sid, action, resource, everything)
    for name in GIVEN:  # without an option, another resource can take the place of the option's
        for role, sid, action, resource in list_grants(template, {**GIVEN, name: _read_default(template, name)}):
            for fault in _find_excess(role, sid, action, resource, everything):
                yield f"without {name}: {fault}"


def _find_excess(role: str, sid: str, action: str, resource: str, everything: set[str]) -> Iterator[str]:
    needed = set(REQUESTS.get(role, {}).get(action, []))
    if action in WITHOUT_RESOURCES:
        return
    for one in sorted(one for one in everything - needed if fnmatchcase(one, resource)):
        if not _is_within(one, needed):
            yield f"{role} {sid}: allows {action} on {one}, which nothing requests"


def _read_default(template: Template, name: str) -> str:
    return str(template["Parameters"][name]["Default"])


def grants_follow_their_parameters(template: Template) -> Iterator[str]:
    """A grant for a parameter's resource exists only with that parameter; an empty parameter grants nothing."""
    for name in sorted(GIVEN):
        given = GIVEN[name].split(",")[0]
        if name in ("Environment", "Service", "OutputsAccount", "Models", "EventBus", "ItemEvents", "JobWorkers"):
            continue
        resources = [resource for *_, resource in list_grants(template, {name: GIVEN[name]})]
        if not any(given in resource for resource in resources):
            yield f"{name}: alone it grants nothing on {given}"
    for role in ("EnrichRole", "JobRole"):
        for bucket, allowed in (("", True), ("lake", False)):
            grants = list_grants(template, {**GIVEN, "LakeBucketName": bucket})
            reads = [one for one in grants if (one[0], one[2]) == (role, "s3:GetObject")]
            if any(fnmatchcase(OWN_LAKE, resource) for *_, resource in reads) is not allowed:
                yield f"{role}: with LakeBucketName {bucket!r} it is {'not ' * allowed}allowed to read {OWN_LAKE}"
    for role, sid, action, resource in list_grants(template, {}):
        if not resource or re.search(r":::(/|$)|/$|:key/?$", resource):
            yield f"{role} {sid}: allows {action} on {resource!r}, where no parameter is given"


def _is_within(resource: str, needed: set[str]) -> bool:
    """Return whether a resource is within one that a function uses: the folder of an object, a parameter or a table."""
    folders = [one.rpartition("/")[0] for one in needed if re.search(r"/(one[.\w]*|service\.json)$", one)]
    return any(resource.startswith(f"{folder}/") for folder in folders)


def variables_are_those_that_the_code_reads(template: Template) -> Iterator[str]:
    """Each function has exactly the variables that its code reads, and each names its own resource."""
    stack = Stack(
        template,
        {
            "Environment": "qa",
            "ReleaseVersion": "7",
            "CorsOrigins": "https://a.example.com",
            "EventBus": "own",
            "ItemEvents": "true",
            "JobWorkers": "10",
        },
    )
    read = {  # handler -> variables
        "enrich.handler.handler": {f"LARDER_{field.name.upper()}" for field in fields(EnrichSettings)},
        "notify.handler.handler": _find_variables("notify/handler.py"),
        "serve.handler.handler": (_find_variables("serve/settings.py") - {"LARDER_REALM"})  # has a default
        | {"MALLOC_TOP_PAD_"},  # the system's allocator reads it
        "score.handler.handler": _find_variables("serve/settings.py", "score/settings.py") - {"LARDER_REALM"},
        "score.keep.handler.handler": _find_variables("score/keep/handler.py"),
        "infra.synthetic.handler": _find_variables("infra/synthetic.py"),
        "infra.publish.handler": _find_variables("infra/publish.py"),
    }
    if sorted(one["Handler"] for one in functions(template).values()) != sorted(read):
        yield f"functions do not have the handlers {sorted(read)}, each once"
    names = {"LARDER_ENVIRONMENT": "qa", "LARDER_VERSION": "7", "LARDER_TABLE": "Table", "LARDER_LEDGER": "Ledger",
             "LARDER_BUCKET": "Bucket", "LARDER_MODELS_BUCKET": "Bucket",
             "LARDER_OUTPUTS": "OutputsBucket", "LARDER_QUEUE": "Queue",
             "LARDER_WORKGROUP": "Workgroup", "LARDER_BUS": "Bus", "LARDER_JOB": "Job",
             "LARDER_DEAD_LETTERS": "NotifyDeadLetters",
             "LARDER_KEPT_QUEUE": "KeptQueue",
             "LARDER_CORS_ORIGINS": "https://a.example.com"}  # fmt: skip
    for name, function in functions(template).items():
        given = stack.value(function.get("Environment", {}).get("Variables", {}))
        wanted = read.get(function["Handler"], set())
        if set(given) != wanted:
            yield f"{name}: its variables differ from those that its code reads by {sorted(set(given) ^ wanted)}"
        for variable in sorted(set(given) & set(names)):
            if given[variable] != names[variable]:
                yield f"{name}: {variable} is {given[variable]}, not {names[variable]}"


def _find_variables(*places: str) -> set[str]:
    return {name for place in places for name in VARIABLE.findall(Path(ROOT / place).read_text())}


def issuers_reach_serve(template: Template) -> Iterator[str]:
    """Serve parses the parameters as meant: one issuer with its keys in either location, or the list unchanged."""
    one = {"Issuer": "https://one.example.com/", "Audience": "them", "Environment": "qa"}
    many = [{"issuer": f"https://{name}.example.com/", "audience": "them", "keys": "ssm:/k/"} for name in "ab"]
    wanted: list[tuple[dict[str, str], list[tuple[str, str]]]] = [
        (one, [(one["Issuer"], "ssm:/larder/qa/keys/")]),
        (one | {"KeyStore": "s3://keys/qa"}, [(one["Issuer"], "s3://keys/qa")]),
        (one | {"Issuers": json.dumps(many)}, [(each["issuer"], each["keys"]) for each in many]),
    ]
    variables = functions(template)["ServeFunction"]["Environment"]["Variables"]
    for given, issuers in wanted:
        try:
            parsed = parse_settings(Stack(template, given).value(variables), {}).issuers
        except ValueError as error:
            yield f"ServeFunction: refuses {sorted(given)}: {error}"
            continue
        if [(each.policy.issuer, each.keys) for each in parsed] != issuers:
            yield f"ServeFunction: with {sorted(given)} it trusts {[each.policy.issuer for each in parsed]}"
        if any("them" not in str(each.policy.audience) for each in parsed):
            yield f"ServeFunction: with {sorted(given)} it accepts another audience"


def addresses_lead_to_the_api(template: Template) -> Iterator[str]:
    """The published address is another door's, the domain's, or the stage's, with the version; the check reads it."""
    api, stage = "Api", template["Resources"]["Api"]["Properties"]["StageName"]
    usual = f"https://{api}.execute-api.{REGION}.amazonaws.com/{stage}/v1"
    check = functions(template)["SyntheticFunction"]["Environment"]["Variables"]
    own, door = {"DomainName": "api.example.com"}, "https://door.example.com/v1"
    for given, url in (({}, usual), (own, "https://api.example.com/v1"), ({**own, "PublicUrl": door}, door)):
        stack = Stack(template, {**given, "Service": "them", "Environment": "qa", "SyntheticPath": "/d?limit=1"})
        properties = stack.value(template["Resources"]["BaseUrlParameter"]["Properties"])
        if (properties["Name"], properties["Value"]) != ("/discovery/them/qa/v1/base-url", url):
            yield f"BaseUrlParameter: {properties['Name']} is {properties['Value']}, not {url}"
        if stack.value(check)["LARDER_URL"] != f"{url}/d?limit=1":
            yield f"SyntheticFunction: reads {stack.value(check)['LARDER_URL']}"
        if stack.value(template["Outputs"]["BaseUrl"]["Value"]) != usual:
            yield "Outputs: BaseUrl is not the stage's address"


def buses_accept_only_the_outputs_account(template: Template) -> Iterator[str]:
    """The bus accepts S3's events of the outputs' account, and the account has no other permission on it."""
    stack = Stack(template, GIVEN)
    wanted = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{GIVEN['OutputsAccount']}:root"},
        "Action": "events:PutEvents",
        "Resource": f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/default",
        "Condition": {"StringEquals": {"events:source": "aws.s3"}},
    }
    if stack.value(template["Resources"]["OutputsAccountMaySendEvents"]["Properties"]["Statement"]) != wanted:
        yield "OutputsAccountMaySendEvents: allows more or less than S3's events of the outputs' account"


RULES: tuple[Rule, ...] = (
    roles_allow_what_the_code_does,
    grants_follow_their_parameters,
    variables_are_those_that_the_code_reads,
    issuers_reach_serve,
    addresses_lead_to_the_api,
    buses_accept_only_the_outputs_account,
)
