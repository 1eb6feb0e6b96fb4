"""Rules on the functions. Pure but for reading our own sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from infra.bundle import RUNTIME
from infra.rules.look import Rule, functions, get
from infra.translate import ROOT, Template

ENVIRONMENT = {  # what each side reads; the tests of enrich.settings and serve.settings know the same names
    "EnrichFunction": "ENVIRONMENT VERSION TABLE LEDGER BUCKET OUTPUTS QUEUE WORKGROUP",
    "ServeFunction": "ENVIRONMENT TABLE CORS_ORIGINS ISSUERS",
    "PublishFunction": "",
    "SyntheticFunction": "ENVIRONMENT SECRET URL",
}
REFERENCED = {  # LARDER_TABLE is the table, and not the ledger
    "TABLE": {"Ref": "Table"},
    "LEDGER": {"Ref": "Ledger"},
    "BUCKET": {"Ref": "Bucket"},
    "QUEUE": {"Ref": "Queue"},
    "WORKGROUP": {"Ref": "Workgroup"},
    "ENVIRONMENT": {"Ref": "Environment"},
    "VERSION": {"Ref": "ReleaseVersion"},
    "OUTPUTS": {"Fn::If": ["CreatesOutputsBucket", {"Ref": "OutputsBucket"}, {"Ref": "OutputsBucketName"}]},
    "CORS_ORIGINS": {"Ref": "CorsOrigins"},
    "SECRET": {"Ref": "SyntheticSecret"},
}
ISSUERS = '[{"issuer": "${Issuer}", "audience": "${Audience}", "keys": "${Keys}"}]'
KEYS = {"Fn::If": ["HasKeyStore", {"Ref": "KeyStore"}, {"Fn::Sub": "ssm:/larder/${Environment}/keys/"}]}
UNKNOWN_TO_THE_STAND_IN = (
    "AWS::ApplicationAutoScaling::",
    "AWS::CloudWatch::CompositeAlarm",
    "AWS::CodeDeploy::",
    "AWS::Events::EventBusPolicy",
    "AWS::WAFv2::LoggingConfiguration",
    "AWS::WAFv2::WebACLAssociation",
)
ON_AWS = {"OnAws", "HasWafOnAws", "IsScaled", "HasOutputsAccount"}  # each of them implies OnAws


def functions_can_start(template: Template) -> Iterator[str]:
    """Handlers exist in our sources; runtime and architecture are those that the bundles are built for."""
    for name, function in functions(template).items():
        module, _, called = function["Handler"].rpartition(".")
        path = ROOT / Path(*module.split(".")).with_suffix(".py")
        tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
        if called not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            yield f"{name}: there is no {function['Handler']}"
        if function["Runtime"] != f"python{RUNTIME}" or function["Architectures"] != ["arm64"]:
            yield f"{name}: bundles are built for python{RUNTIME} on arm64"
        if function.get("SnapStart"):
            yield f"{name}: SnapStart and provisioned concurrency exclude each other"
        if function.get("Tracing") != "Active":
            yield f"{name}: is not traced"
        if set(function) & {"FunctionUrlConfig", "Events"}:
            yield f"{name}: can be called past the gateway, the queue and the schedules"
        if set(function) & {"Layers", "VpcConfig", "FileSystemConfigs"}:
            yield f"{name}: needs more than its bundle, and starts more slowly"
        if "ReservedConcurrentExecutions" in function:
            yield f"{name}: with reserved concurrency a throttled poll costs a receive, a throttled request is a 500"


def functions_know_their_places(template: Template) -> Iterator[str]:
    """Environment variables are those that the code reads, and name the resources that they should."""
    for name, function in functions(template).items():
        found = get(function, "Environment", "Variables") or {}
        wanted = {f"LARDER_{one}" for one in ENVIRONMENT[name].split()}
        if set(found) != wanted:
            yield f"{name}: variables {sorted(set(found) ^ wanted)} are too many or missing"
        for variable, value in found.items():
            if REFERENCED.get(variable.removeprefix("LARDER_"), value) != value:
                yield f"{name}: {variable} is {value}"
    if template["Parameters"]["CorsOrigins"]["Default"] != "":
        yield "ServeFunction: pages of anybody may read with a visitor's token"
    issuers = get(functions(template)["ServeFunction"], "Environment", "Variables", "LARDER_ISSUERS", "Fn::Sub")
    if issuers != [ISSUERS, {"Keys": KEYS}]:
        yield f"ServeFunction: LARDER_ISSUERS is {issuers}"


def serve_answers_in_time(template: Template) -> Iterator[str]:
    """The gateway waits 29 s; consumers reach serve through an alias, so that a bad version can be taken back."""
    serve = functions(template)["ServeFunction"]
    if not 5 <= serve["Timeout"] < 29:
        yield "ServeFunction: a cold start with its keys takes seconds, and after 29 the gateway has given up"
    if serve.get("AutoPublishAlias") != "live":
        yield "ServeFunction: has no alias live"
    guards = [one.get("Ref") for one in get(serve, "DeploymentPreference", "Alarms") or []]
    shift = get(serve, "DeploymentPreference") or {}
    if (
        shift.get("Enabled") != {"Ref": "Canary"}
        or not str(shift.get("Type")).startswith("Canary")
        or not {"ServeCrashes", "ErrorsIn5Minutes"} <= set(guards)
    ):
        yield "ServeFunction: a new version gets all traffic at once, or nothing takes it back"
    if get(template["Resources"]["ApiMayCallServe"], "Properties", "FunctionName") != {"Ref": "ServeFunction.Alias"}:
        yield "ApiMayCallServe: the gateway calls the alias"
    permission = template["Resources"]["ApiMayCallServe"]["Properties"]
    if (permission["Principal"], permission["Action"]) != ("apigateway.amazonaws.com", "lambda:InvokeFunction"):
        yield "ApiMayCallServe: does not let the gateway call"
    if not str(get(permission, "SourceArn", "Fn::Sub")).endswith(":${AWS::AccountId}:${Api}/*"):
        yield "ApiMayCallServe: every API of every account may call serve"


def stand_in_can_take_it(template: Template) -> Iterator[str]:
    """What the stand-in does not know is under a condition that leaves it out there."""
    for name, one in template["Resources"].items():
        unknown = one["Type"].startswith(UNKNOWN_TO_THE_STAND_IN)
        math = one["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in one["Properties"]
        if (unknown or math) and one.get("Condition") not in ON_AWS:
            yield f"{name}: {one['Type']} needs the condition OnAws"


RULES: tuple[Rule, ...] = (
    functions_can_start,
    functions_know_their_places,
    serve_answers_in_time,
    stand_in_can_take_it,
)
