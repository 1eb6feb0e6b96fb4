"""Rules on who may do what. Pure; that nothing is unneeded is shown on the stand-in (tests/integration/infra)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from infra.rules.look import Rule, by_type, functions, get, listed, statements
from infra.translate import Template

GRANTS: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(Path(__file__).with_name("grants.yaml").read_text())
WITHOUT_RESOURCES = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
OUR_RULES = {"Fn::Sub": "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:rule/${AWS::StackName}-*"}
MANAGED = {
    "ApiGatewayLogRole": ["iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"]
}  # AWS wants just it
TRUSTED = {"lambda.amazonaws.com", "scheduler.amazonaws.com", "apigateway.amazonaws.com"}


def permissions_name_what_they_touch(template: Template) -> Iterator[str]:
    """No wildcard in an action, none for a whole resource; each statement has a name, which tests use."""
    for role, statement in statements(template):
        name = f"{role} {statement.get('Sid', '(no Sid)')}"
        actions = set(listed(statement["Action"]))
        if not statement.get("Sid") or statement["Effect"] != "Allow" or "NotAction" in statement:
            yield f"{name}: a statement allows named actions and has a Sid"
        if any("*" in action for action in actions):
            yield f"{name}: a wildcard among its actions"
        resources = statement["Resource"]
        if isinstance(resources, dict) and resources.get("Fn::If", [""])[0] == "OnAws":
            resources = resources["Fn::If"][1]
        if "*" in listed(resources) and not actions <= WITHOUT_RESOURCES:
            yield f"{name}: allows it on everything"
        for resource in listed(resources):
            if isinstance(resource, dict) and str(resource.get("Fn::Sub", "")).endswith((":*", ":::*")):
                yield f"{name}: allows it on every resource of a service"


def roles_may_what_is_listed(template: Template) -> Iterator[str]:
    """Each role has the statements of grants.yaml, under their conditions, and no other."""
    for name, role in by_type(template, "AWS::IAM::Role").items():
        stated = [one for policy in role.get("Policies", []) for one in policy["PolicyDocument"]["Statement"]]
        found = dict(_describe(one) for one in stated)
        listed_ = GRANTS.get(name, {})
        for sid in sorted(set(found) | set(listed_)):
            if found.get(sid) != listed_.get(sid) or len(found) != len(stated):
                yield f"{name} {sid}: {found.get(sid)} here, {listed_.get(sid)} in grants.yaml"
    for name in sorted(set(GRANTS) - set(by_type(template, "AWS::IAM::Role"))):
        yield f"{name}: is not there"


def _describe(statement: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Describe a statement as grants.yaml does: its Sid, and its condition, actions and resources."""
    condition = {"if": statement["Fn::If"][0]} if "Fn::If" in statement else {}
    statement = statement["Fn::If"][1] if condition else statement
    actions, resources = listed(statement["Action"]), statement["Resource"]
    if get(resources, "Fn::If"):  # the stand-in's own
        resources = resources["Fn::If"][1]
    return statement.get("Sid", ""), {
        **condition,
        "may": " ".join(actions),
        "touch": [_text(one) for one in listed(resources)],
    }


def _text(value: Any) -> str:
    """Spell out what a value refers to: `Table.Arn`, `s3:::${LakeBucketName}/*`."""
    if not isinstance(value, dict):
        return str(value)
    ((intrinsic, given),) = value.items()
    if intrinsic == "Fn::If":
        return f"{given[0]} ? {_text(given[1])} : {_text(given[2])}"
    if intrinsic == "Fn::Sub":
        text, names = given if isinstance(given, list) else (given, {})
        for name, meant in names.items():
            text = text.replace(f"${{{name}}}", f"${{{_text(meant)}}}")
        text = text.removeprefix("arn:${AWS::Partition}:").replace("${AWS::Region}:${AWS::AccountId}", "here")
        return str(text)
    return ".".join(listed(given))


def roles_are_apart(template: Template) -> Iterator[str]:
    """Each function has a role of its own, which only its service may take; managed policies say more than we ask."""
    taken = [get(one, "Role", "Fn::GetAtt") for one in functions(template).values()]
    if None in taken or len({tuple(one) for one in taken if one}) != len(taken):
        yield "two functions share a role, or one gets SAM's own"
    for name, role in by_type(template, "AWS::IAM::Role").items():
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            if get(statement, "Principal", "Service") not in TRUSTED:
                yield f"{name}: may be taken by {statement.get('Principal')}"
            if get(statement, "Principal", "Service") == "scheduler.amazonaws.com" and get(
                statement, "Condition", "StringEquals", "aws:SourceAccount"
            ) != {"Ref": "AWS::AccountId"}:
                yield f"{name}: may be taken for the schedules of any account"
        if [_text(one) for one in role.get("ManagedPolicyArns", [])] != MANAGED.get(name, []):
            yield f"{name}: has a managed policy"
    for name, function in functions(template).items():
        if "Policies" in function:
            yield f"{name}: has policies beside its role"


def queues_take_from_ours(template: Template) -> Iterator[str]:
    """Only the stack's own rules send events to the queue, over TLS."""
    queue = {"Fn::GetAtt": ["Queue", "Arn"]}
    ours = template["Resources"]["QueuePolicy"]["Properties"]
    first = ours["PolicyDocument"]["Statement"][0]
    told = (first.get("Principal"), first.get("Action"), first.get("Resource"))
    if ours["Queues"] != [{"Ref": "Queue"}] or told != ({"Service": "events.amazonaws.com"}, "sqs:SendMessage", queue):
        yield "QueuePolicy: the rules' events do not get into the queue"
    policies = by_type(template, "AWS::SQS::QueuePolicy")
    for name, policy in policies.items():
        stated = [one["Fn::If"][1] if "Fn::If" in one else one for one in policy["PolicyDocument"]["Statement"]]
        for statement in stated:
            if statement["Effect"] == "Allow" and get(statement, "Condition", "ArnLike", "aws:SourceArn") != OUR_RULES:
                yield f"{name} {statement.get('Sid')}: takes messages of anybody's rules"
        denied = [one for one in stated if one["Effect"] == "Deny"]
        if [get(one, "Condition", "Bool", "aws:SecureTransport") for one in denied] != ["false"]:
            yield f"{name}: takes requests without TLS"
    for name, one in by_type(template, "AWS::SQS::Queue").items():
        if one.get("SqsManagedSseEnabled") is not True:
            yield f"{name}: is not encrypted"
        if {"Ref": name} not in [queue for policy in policies.values() for queue in policy["Queues"]]:
            yield f"{name}: has no policy"
    bus = template["Resources"]["OutputsAccountMaySendEvents"]["Properties"]["Statement"]
    if "${OutputsAccount}:root" not in _text(get(bus, "Principal", "AWS")) or bus["Action"] != "events:PutEvents":
        yield "OutputsAccountMaySendEvents: lets others in than the outputs' account, or to more than events"
    if get(bus, "Condition", "StringEquals", "events:source") != "aws.s3":
        yield "OutputsAccountMaySendEvents: takes other events than those of S3"


def functions_may_log(template: Template) -> Iterator[str]:
    """Each function's role may write to the function's own log group, and to no other."""
    for name, function in functions(template).items():
        role, group = function["Role"]["Fn::GetAtt"][0], function["LoggingConfig"]["LogGroup"]["Ref"]
        logs = [one for owner, one in statements(template) if owner == role and one["Sid"] == "Log"]
        if [one["Resource"] for one in logs] != [{"Fn::GetAtt": [group, "Arn"]}]:
            yield f"{name}: {role} may not write to {group}"


RULES: tuple[Rule, ...] = (
    permissions_name_what_they_touch,
    roles_may_what_is_listed,
    roles_are_apart,
    queues_take_from_ours,
    functions_may_log,
)
