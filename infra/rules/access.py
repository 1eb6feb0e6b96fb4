"""Rules on who may do what. Pure; that nothing is unneeded is shown on the stand-in (tests/integration/infra)."""

from __future__ import annotations

from collections.abc import Iterator

from infra.rules.look import Rule, by_type, functions, get, listed, statements
from infra.translate import Template

WITHOUT_RESOURCES = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
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


def roles_are_apart(template: Template) -> Iterator[str]:
    """Each function has a role of its own, which only its service may take; managed policies say more than we ask."""
    taken = [get(one, "Role", "Fn::GetAtt") for one in functions(template).values()]
    if None in taken or len({tuple(one) for one in taken if one}) != len(taken):
        yield "two functions share a role, or one gets SAM's own"
    for name, role in by_type(template, "AWS::IAM::Role").items():
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            if get(statement, "Principal", "Service") not in TRUSTED:
                yield f"{name}: may be taken by {statement.get('Principal')}"
        if "ManagedPolicyArns" in role and name != "ApiGatewayLogRole":  # AWS wants just that policy there
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
    for name, policy in by_type(template, "AWS::SQS::QueuePolicy").items():
        stated = [one["Fn::If"][1] if "Fn::If" in one else one for one in policy["PolicyDocument"]["Statement"]]
        for statement in stated:
            if statement["Effect"] == "Allow" and not get(statement, "Condition", "ArnLike", "aws:SourceArn"):
                yield f"{name} {statement.get('Sid')}: takes messages of anybody's rules"
        denied = [one for one in stated if one["Effect"] == "Deny"]
        if [get(one, "Condition", "Bool", "aws:SecureTransport") for one in denied] != ["false"]:
            yield f"{name}: takes requests without TLS"


def functions_may_log(template: Template) -> Iterator[str]:
    """Each function's role may write to the function's own log group, and to no other."""
    for name, function in functions(template).items():
        role, group = function["Role"]["Fn::GetAtt"][0], function["LoggingConfig"]["LogGroup"]["Ref"]
        logs = [one for owner, one in statements(template) if owner == role and one["Sid"] == "Log"]
        if [one["Resource"] for one in logs] != [{"Fn::GetAtt": [group, "Arn"]}]:
            yield f"{name}: {role} may not write to {group}"


RULES: tuple[Rule, ...] = (permissions_name_what_they_touch, roles_are_apart, queues_take_from_ours, functions_may_log)
