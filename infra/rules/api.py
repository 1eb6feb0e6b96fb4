"""Rules on the functions and the API before them. Pure but for reading our own sources."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from infra.bundle import RUNTIME
from infra.rules.look import Rule, default, functions, get
from infra.translate import ROOT, TEMPLATE, Template

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
UNKNOWN_TO_THE_STAND_IN = (
    "AWS::ApplicationAutoScaling::",
    "AWS::CloudWatch::CompositeAlarm",
    "AWS::CodeDeploy::",
    "AWS::Events::EventBusPolicy",
    "AWS::WAFv2::LoggingConfiguration",
    "AWS::WAFv2::WebACLAssociation",
)
ON_AWS = {"OnAws", "HasWafOnAws", "IsScaled", "HasOutputsAccount"}  # each of them implies OnAws
SECRETS = ("authorizer", "input", "requestOverride", "sourceIp", "querystring", "header")


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
    issuers = get(functions(template)["ServeFunction"], "Environment", "Variables", "LARDER_ISSUERS", "Fn::Sub")
    try:
        members = set(json.loads(issuers[0])[0])
    except (TypeError, ValueError):
        members = set()
    if not {"issuer", "audience", "keys"} <= members:
        yield "ServeFunction: LARDER_ISSUERS is not a list of issuer, audience and keys"


def serve_answers_in_time(template: Template) -> Iterator[str]:
    """The gateway waits 29 s; consumers reach serve through an alias, so that a bad version can be taken back."""
    serve = functions(template)["ServeFunction"]
    if serve["Timeout"] >= 29:
        yield "ServeFunction: the gateway has given up by then"
    if serve.get("AutoPublishAlias") != "live":
        yield "ServeFunction: has no alias live"
    guards = [one.get("Ref") for one in get(serve, "DeploymentPreference", "Alarms") or []]
    if get(serve, "DeploymentPreference", "Type") is None or not {"ServeCrashes", "ErrorsIn5Minutes"} <= set(guards):
        yield "ServeFunction: a new version gets all traffic at once, or nothing takes it back"
    if get(template["Resources"]["ApiMayCallServe"], "Properties", "FunctionName") != {"Ref": "ServeFunction.Alias"}:
        yield "ApiMayCallServe: the gateway calls the alias"
    permission = template["Resources"]["ApiMayCallServe"]["Properties"]
    if (permission["Principal"], permission["Action"]) != ("apigateway.amazonaws.com", "lambda:InvokeFunction"):
        yield "ApiMayCallServe: does not let the gateway call"
    if not permission.get("SourceArn"):
        yield "ApiMayCallServe: every API of every account may call serve"


def api_is_the_contract(template: Template) -> Iterator[str]:
    """The API is openapi.yaml, each operation goes to the alias, the stage is throttled and logs no secret."""
    api = template["Resources"]["Api"]["Properties"]
    location = get(api, "DefinitionBody", "Fn::Transform", "Parameters", "Location")
    if location is None or (TEMPLATE.parent / location).resolve() != ROOT / "openapi.yaml":
        yield "Api: is not made from openapi.yaml"
    if not api.get("OpenApiVersion"):
        yield "Api: without OpenApiVersion SAM adds a stage called Stage"
    if api.get("BinaryMediaTypes") != ["*~1*"]:
        yield "Api: a gzip body would be mangled"
    settings = (api.get("MethodSettings") or [{}])[0]
    if not default(template, settings.get("ThrottlingRateLimit")) or settings.get("DataTraceEnabled") is not False:
        yield "Api: is not throttled, or traces bodies and tokens into the log"
    if get(api, "AccessLogSetting", "DestinationArn") != {"Fn::GetAtt": ["AccessLogs", "Arn"]}:
        yield "Api: writes no access log"
    if template["Resources"]["Domain"]["Properties"].get("SecurityPolicy") != "TLS_1_2":
        yield "Domain: takes old TLS"
    log = get(api, "AccessLogSetting", "Format") or ""
    try:
        json.loads(log)
    except ValueError:
        yield "Api: the access log's format is not JSON"
    for word in SECRETS:
        if re.search(rf"\$(context|input)[.\w]*{word}", log, re.IGNORECASE):
            yield f"Api: the access log would hold {word}"
    for path, item in yaml.safe_load((ROOT / "openapi.yaml").read_text())["paths"].items():
        for operation in (one for one in item.values() if isinstance(one, dict)):
            uri = get(operation, "x-amazon-apigateway-integration", "uri", "Fn::Sub") or ""
            if not uri.endswith(("functions/${ServeFunction.Alias}/invocations", ":live/invocations")):
                yield f"openapi.yaml {path}: an operation does not go to serve's alias"


def stand_in_can_take_it(template: Template) -> Iterator[str]:
    """What the stand-in does not know is under a condition that leaves it out there."""
    for name, one in template["Resources"].items():
        unknown = one["Type"].startswith(UNKNOWN_TO_THE_STAND_IN)
        math = one["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in one["Properties"]
        if (unknown or math) and one.get("Condition") not in ON_AWS:
            yield f"{name}: {one['Type']} needs the condition OnAws"


def firewall_is_there(template: Template) -> Iterator[str]:
    """The common and bad-inputs rule sets and the rate rule block, on the API's stage."""
    rules = template["Resources"]["WebAcl"]["Properties"]["Rules"]
    groups = {
        get(one, "Statement", "ManagedRuleGroupStatement", "Name")
        for one in rules
        if one.get("OverrideAction") == {"None": {}}
    }
    if not {"AWSManagedRulesCommonRuleSet", "AWSManagedRulesKnownBadInputsRuleSet"} <= groups:
        yield "WebAcl: a managed rule set is missing, or only counts"
    if not any("RateBasedStatement" in one["Statement"] and one.get("Action") == {"Block": {}} for one in rules):
        yield "WebAcl: nothing limits the rate"
    if len({one["Priority"] for one in rules}) != len(rules):
        yield "WebAcl: two rules have one priority"
    target = get(template["Resources"]["WebAclAssociation"], "Properties", "ResourceArn", "Fn::Sub") or ""
    if not target.endswith("/restapis/${Api}/stages/${Api.Stage}"):
        yield "WebAclAssociation: is not on the API's stage"
    redacted = get(template["Resources"]["WafLogging"], "Properties", "RedactedFields") or []
    if {"SingleHeader": {"Name": "authorization"}} not in redacted:
        yield "WafLogging: tokens would be logged"


RULES: tuple[Rule, ...] = (
    functions_can_start,
    functions_know_their_places,
    serve_answers_in_time,
    api_is_the_contract,
    stand_in_can_take_it,
    firewall_is_there,
)
