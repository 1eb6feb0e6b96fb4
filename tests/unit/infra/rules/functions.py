"""Rules on the Lambda functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from infra.bundle import RUNTIME
from infra.translate import ROOT, Template
from serve.handler import MARGIN_SECONDS, REQUEST_SECONDS
from tests.unit.infra.rules.template import Rule, by_type, functions, get

METRICS_ARE_LATE = 120  # seconds until a metric exists and its alarm is evaluated

FORBIDDEN = {  # property -> why no function has it
    "SnapStart": "it excludes provisioned concurrency",
    "Events": "the function can be called past the gateway, the queue and the schedules",
    "ReservedConcurrentExecutions": "a throttled poll costs a receive, a throttled request is a 500",
}


def functions_can_start(template: Template) -> Iterator[str]:
    """Handlers exist in the sources; runtime and architecture are those that the bundles are built for."""
    for name, function in functions(template).items():
        module, _, called = function["Handler"].rpartition(".")
        path = ROOT / Path(*module.split(".")).with_suffix(".py")
        tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
        if called not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            yield f"{name}: there is no {function['Handler']}"
        if function["Runtime"] != f"python{RUNTIME}" or function["Architectures"] != ["arm64"]:
            yield f"{name}: bundles are built for python{RUNTIME} on arm64"
        if function.get("Tracing") != "Active":
            yield f"{name}: has no traces, for which its role has permissions"
        yield from (f"{name}: {member}: {why}" for member, why in FORBIDDEN.items() if member in function)


def serve_is_called_through_its_alias(template: Template) -> Iterator[str]:
    """Only the gateway calls serve's alias, and waits longer than serve can run; a bad version is rolled back."""
    serve = functions(template)["ServeFunction"]
    if not REQUEST_SECONDS + 2 * MARGIN_SECONDS <= serve["Timeout"] < 29:
        yield "ServeFunction: must outlast a cold start and a request's time limit, and the gateway gives up after 29 s"
    if serve.get("AutoPublishAlias") != template["Resources"]["Api"]["Properties"]["StageName"]:
        yield "ServeFunction: has no alias of the stage's name"
    shift = get(serve, "DeploymentPreference") or {}
    alarms = {one.get("Ref") for one in shift.get("Alarms", [])}
    if shift.get("Enabled") != {"Ref": "Canary"} or not str(shift.get("Type")).startswith("Canary"):
        yield "ServeFunction: a new version gets all traffic at once"
    metrics = set()
    minutes = int((re.findall(r"(\d+)Minutes$", str(shift.get("Type"))) or ["0"])[0])
    for name, alarm in by_type(template, "AWS::CloudWatch::Alarm").items():
        if name in alarms:
            metrics.add(alarm["MetricName"])
            if alarm["Period"] * alarm["EvaluationPeriods"] + METRICS_ARE_LATE > minutes * 60:
                yield f"ServeFunction: {name} cannot fire within a canary of {minutes} minutes"
    if not {"Errors", "5XXError", "Latency"} <= metrics:
        yield "ServeFunction: no alarm rolls a bad version back"
    if serve.get("AutoPublishCodeSha256") != {"Ref": "ServeDigest"}:
        yield "ServeFunction: a changed parameter would not reach its alias"
    permission = template["Resources"]["ApiMayCallServe"]["Properties"]
    if permission["FunctionName"] != {"Ref": "ServeFunction.Alias"}:
        yield "ApiMayCallServe: is not for the alias that the gateway calls"
    caller = (permission["Principal"], str(get(permission, "SourceArn", "Fn::Sub")).rpartition(":")[2])
    if caller != ("apigateway.amazonaws.com", "${Api}/*"):
        yield f"ApiMayCallServe: allows {caller}, not the API alone"


RULES: tuple[Rule, ...] = (functions_can_start, serve_is_called_through_its_alias)
