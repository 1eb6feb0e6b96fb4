"""Rules on permissions. Which actions a role needs is tested on the stand-in (tests/integration/infra)."""

from __future__ import annotations

from collections.abc import Iterator

from infra.translate import Template
from tests.unit.infra.rules.template import Rule, by_type, functions, get, listed, statements

WITHOUT_RESOURCES = {"xray:PutTraceSegments", "xray:PutTelemetryRecords", "lakeformation:GetDataAccess"}
TRUSTED = {"lambda.amazonaws.com", "scheduler.amazonaws.com", "apigateway.amazonaws.com", "glue.amazonaws.com"}


def permissions_name_their_resources(template: Template) -> Iterator[str]:
    """No wildcard in an action or for a whole service; each statement allows named actions and has a Sid."""
    for role, statement in statements(template):
        name = f"{role} {statement.get('Sid', '(no Sid)')}"
        actions = set(listed(statement["Action"]))
        if not statement.get("Sid") or statement["Effect"] != "Allow" or "NotAction" in statement:
            yield f"{name}: a statement must allow named actions and have a Sid"
        if any("*" in action for action in actions):
            yield f"{name}: a wildcard in an action"
        resources = statement["Resource"]
        if isinstance(resources, dict) and resources.get("Fn::If", [""])[0] == "OnAws":
            resources = resources["Fn::If"][1]
        if "*" in listed(resources) and not actions <= WITHOUT_RESOURCES:
            yield f"{name}: allows it on every resource"
        for resource in listed(resources):
            text = str(get(resource, "Fn::Sub") or "")
            if text.endswith((":*", ":::*")) or ":::*" in text:
                yield f"{name}: allows it on every resource of a service"


def roles_are_apart(template: Template) -> Iterator[str]:
    """Each function has its own role, which only its service can assume, without managed or SAM policies."""
    assumed = [get(one, "Role", "Fn::GetAtt") for one in functions(template).values()]
    if None in assumed or len({tuple(one) for one in assumed if one}) != len(assumed):
        yield "two functions share a role, or one has SAM's default role"
    for name, role in by_type(template, "AWS::IAM::Role").items():
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            service = get(statement, "Principal", "Service")
            account = get(statement, "Condition", "StringEquals", "aws:SourceAccount")
            if service not in TRUSTED:
                yield f"{name}: can be assumed by {statement.get('Principal')}"
            if service == "scheduler.amazonaws.com" and account != {"Ref": "AWS::AccountId"}:
                yield f"{name}: can be assumed for the schedules of any account"
        if any(":policy/service-role/" not in str(get(one, "Fn::Sub")) for one in role.get("ManagedPolicyArns", [])):
            yield f"{name}: has a managed policy that is not a service role's"
    for name, account in by_type(template, "AWS::ApiGateway::Account").items():
        role = template["Resources"][account["CloudWatchRoleArn"]["Fn::GetAtt"][0]]["Properties"]
        assumed_by = [get(one, "Principal", "Service") for one in role["AssumeRolePolicyDocument"]["Statement"]]
        managed = [str(get(one, "Fn::Sub")).rpartition("/")[2] for one in role.get("ManagedPolicyArns", [])]
        # API Gateway developer guide, "Set up CloudWatch logging for REST APIs"
        if (assumed_by, managed) != (["apigateway.amazonaws.com"], ["AmazonAPIGatewayPushToCloudWatchLogs"]):
            yield f"{name}: API Gateway must write logs with its role, which {assumed_by} assume for {managed}"
    for name, function in functions(template).items():
        if "Policies" in function:
            yield f"{name}: has policies beside its role"


def functions_can_log(template: Template) -> Iterator[str]:
    """Each function's role can write to the function's own log group, and to no other."""
    for name, function in functions(template).items():
        role, group = function["Role"]["Fn::GetAtt"][0], function["LoggingConfig"]["LogGroup"]["Ref"]
        logs = [one for owner, one in statements(template) if owner == role and one["Sid"] == "Log"]
        if [one["Resource"] for one in logs] != [{"Fn::GetAtt": [group, "Arn"]}]:
            yield f"{name}: {role} is not allowed to write to {group}"


def serve_can_read_its_keys(template: Template) -> Iterator[str]:
    """Serve's role covers the parameters that LARDER_ISSUERS names by default; the stand-in does not check the path."""
    variables = functions(template)["ServeFunction"]["Environment"]["Variables"]
    issuers = get(variables, "LARDER_ISSUERS", "Fn::If")[2]["Fn::Sub"]
    path = issuers[1]["Keys"]["Fn::If"][2]["Fn::Sub"].removeprefix("ssm:").rstrip("/")
    resources = next(
        one["Resource"]["Fn::If"][1]
        for role, one in statements(template)
        if role == "ServeRole" and "ssm:GetParametersByPath" in listed(one["Action"])
    )
    if not [one for one in resources if one["Fn::Sub"].endswith(f":parameter{path}")]:
        yield f"ServeRole: is not allowed to read the parameters below {path}"


RULES: tuple[Rule, ...] = (
    permissions_name_their_resources,
    roles_are_apart,
    functions_can_log,
    serve_can_read_its_keys,
)
