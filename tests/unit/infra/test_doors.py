"""Templates of other doors: rules, each with seeded faults that it must report (door_faults.yaml)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.translate import DOORS, ROOT, Template, read_template
from tests.unit.infra.rules.evaluate import Stack
from tests.unit.infra.rules.gateway import SECRETS
from tests.unit.infra.rules.template import by_type, get
from tests.unit.infra.test_template_rules import GONE, parse_place, seed

Rule = Callable[[Template], Iterator[str]]
STACK = read_template()
TEMPLATES = {path.stem: read_template(path) for path in DOORS.glob("*.yaml")}
FAULTS = yaml.load(Path(__file__).with_name("door_faults.yaml").read_text(), yaml.CSafeLoader)
CONTRACT = yaml.load((ROOT / "examples/flights/openapi.yaml").read_text(), yaml.CSafeLoader)
ANSWERS = CONTRACT["x-amazon-apigateway-gateway-responses"]
TABLE = {"Environment": "dev", "TableKmsKeyArn": "k", "KeyStoreBucketName": "keys", "KeyStoreKmsKeyArn": "j"}
ELB = "AWS::ElasticLoadBalancingV2::"
SERVER_PORT, READY = 8080, "/readyz"  # docs/containers.md


def attributes(resource: dict[str, Any], member: str) -> dict[str, Any]:
    """Return a list of keys and values as a dictionary."""
    return {one["Key"]: one["Value"] for one in resource["Properties"][member]}


def parameters_are_outputs(template: Template) -> Iterator[str]:
    """A parameter that is an output of the stack has the output's form; a text has a pattern or a list of values."""
    for name, one in template["Parameters"].items():
        for output in re.findall(r"output (\w+) of the stack", one.get("Description", "")):
            if output not in STACK["Outputs"]:
                yield f"{name}: the stack has no output {output}"
        bounded = {"AllowedPattern", "AllowedValues"} & set(one) or name in {"TableName", "Namespace"}
        if one["Type"] == "String" and not bounded:
            yield f"{name}: accepts every text"
    for name in {"LogRetentionDays", "LatencyP99Ms", "ThrottleRate", "ThrottleBurst"} & set(template["Parameters"]):
        if template["Parameters"][name]["Default"] != STACK["Parameters"][name]["Default"]:
            yield f"{name}: differs from infra/template.yaml"


def firewall_is_the_stacks(template: Template) -> Iterator[str]:
    """Each public door has the stack's firewall and its rules; no door has its own rules."""
    if by_type(template, "AWS::WAFv2::WebACL"):
        yield "a firewall of its own would have other rules"
    public = [name for name, one in by_type(template, f"{ELB}LoadBalancer").items() if one["Scheme"] != "internal"]
    wanted = [{"Ref": name} for name in public]
    if "Stage" in template["Resources"]:
        stage = "arn:${AWS::Partition}:apigateway:${AWS::Region}::/restapis/${Api}/stages/${Stage}"
        wanted.append({"Fn::Sub": stage})
    found = by_type(template, "AWS::WAFv2::WebACLAssociation")
    if [one["ResourceArn"] for one in found.values()] != wanted:
        yield f"the firewall is not on {wanted}"
    if any(one["WebACLArn"] != {"Ref": "WebAclArn"} for one in found.values()):
        yield "the firewall is another"
    if public and not template.get("Rules", {}).get("HasFirewall", {}).get("Assertions"):
        yield "CloudFormation accepts a public door without WebAclArn"


def transport_is_tls(template: Template) -> Iterator[str]:
    """Listeners and names accept only TLS 1.2 and newer, with the certificates in the parameters; port 80 is closed."""
    for name, one in by_type(template, f"{ELB}Listener").items():
        protocol = one["Protocol"]["Fn::If"][1:] if isinstance(one["Protocol"], dict) else [one["Protocol"]]
        if one["Port"] != 443 or not set(protocol) <= {"HTTPS", "TLS"} or not one.get("Certificates"):
            yield f"{name}: {one['Port']} {one['Protocol']}"
        if one.get("SslPolicy") != {"Ref": "TlsPolicy"}:
            yield f"{name}: accepts old TLS"
    for policy in template["Parameters"].get("TlsPolicy", {}).get("AllowedValues", []):
        if not re.match(r"ELBSecurityPolicy-TLS13-1-[23]", policy):
            yield f"TlsPolicy: accepts {policy}"
    for name, one in by_type(template, "AWS::ApiGateway::DomainName").items():
        if one.get("SecurityPolicy") != "TLS_1_2":
            yield f"{name}: accepts old TLS"


def network_is_narrow(template: Template) -> Iterator[str]:
    """Consumers reach only a public load balancer, which reaches nothing; an internal one reaches only pods."""
    for name, one in by_type(template, "AWS::EC2::SecurityGroup").items():
        rules = [*one.get("SecurityGroupIngress", []), *one.get("SecurityGroupEgress", [])]
        if not one.get("SecurityGroupEgress"):
            yield f"{name}: without a rule AWS lets everything out"
        for rule in rules:
            if rule["FromPort"] != rule["ToPort"] or rule["ToPort"] not in {443, SERVER_PORT}:
                yield f"{name}: opens {rule['FromPort']} to {rule['ToPort']}"
        for rule in one.get("SecurityGroupEgress", []):
            if rule.get("CidrIp") not in ("127.0.0.1/32", {"Ref": "VpcCidr"}):
                yield f"{name}: reaches {rule.get('CidrIp')}"
        internal = "VpcLink" in template["Resources"]
        for rule in one.get("SecurityGroupIngress", []):
            if internal and rule.get("SourceSecurityGroupId") != {"Ref": "LinkSecurityGroup"}:
                yield f"{name}: accepts more than API Gateway"
    for name, one in by_type(template, f"{ELB}LoadBalancer").items():
        if (one["Scheme"] == "internal") != ("VpcLink" in template["Resources"]):
            yield f"{name}: is {one['Scheme']}"
        if one.get("SecurityGroups") != [{"Ref": "SecurityGroup"}]:
            yield f"{name}: has another security group"
        if one.get("Name") != {"Ref": "Name"}:
            yield f"{name}: has a new name after each replacement"


def load_balancer_is_strict(template: Template) -> Iterator[str]:
    """A load balancer refuses ambiguous requests, is protected, and a public one logs each request."""
    for name in by_type(template, f"{ELB}LoadBalancer"):
        resource = template["Resources"][name]
        given = resource["Properties"]["LoadBalancerAttributes"]
        given = given["Fn::If"][1] if isinstance(given, dict) else given
        found = {one["Key"]: one["Value"] for one in given}
        wanted = {
            "deletion_protection.enabled": {"Ref": "DeletionProtection"},
            "routing.http.drop_invalid_header_fields.enabled": "true",
            "routing.http.desync_mitigation_mode": "strictest",
        }
        if resource["Properties"]["Scheme"] != "internal":
            wanted |= {
                "waf.fail_open.enabled": "false",
                "access_logs.s3.enabled": "true",
                "access_logs.s3.bucket": {"Ref": "AccessLogs"},
            }
            if resource.get("DependsOn") != "AccessLogsPolicy":
                yield f"{name}: is made before it is allowed to write logs"
        for key, value in wanted.items():
            if found.get(key) != value:
                yield f"{name}: {key} is {found.get(key)}"
        if template["Parameters"]["DeletionProtection"]["Default"] != "true":
            yield "DeletionProtection: is off by default"


def functions_get_whole_requests(template: Template) -> Iterator[str]:
    """A function behind a load balancer gets repeated headers; only its own target group can call it, by its alias."""
    targets = {
        name: one for name, one in by_type(template, f"{ELB}TargetGroup").items() if one["TargetType"] == "lambda"
    }
    permissions = by_type(template, "AWS::Lambda::Permission")
    for name, one in targets.items():
        role = name.removesuffix("Targets")
        if attributes({"Properties": one}, "TargetGroupAttributes").get("lambda.multi_value_headers.enabled") != "true":
            yield f"{name}: the last of repeated headers hides the others"
        if one["Targets"] != [{"Id": {"Ref": f"{role}AliasArn"}}]:
            yield f"{name}: calls {one['Targets']}"
        may = permissions.get(f"LoadBalancerMayCall{role}", {})
        source = f"targetgroup/${{Name}}-{role.lower()}/*"
        if may.get("FunctionName") != {"Ref": f"{role}AliasArn"} or not str(get(may, "SourceArn", "Fn::Sub")).endswith(
            source
        ):
            yield f"{name}: is not allowed to call its function, or others are"
        if one.get("Name") != {"Fn::Sub": f"${{Name}}-{role.lower()}"}:
            yield f"{name}: its name is not that of the permission"
        if may.get("Principal") != "elasticloadbalancing.amazonaws.com":
            yield f"{name}: {may.get('Principal')} can call it"


def pods_get_their_requests(template: Template) -> Iterator[str]:
    """Targets in a cluster are pods at the server's port that are ready, and drain."""
    for name, one in by_type(template, f"{ELB}TargetGroup").items():
        if one["TargetType"] == "lambda":
            continue
        if (one["TargetType"], one["Port"]) != ("ip", SERVER_PORT):
            yield f"{name}: {one['TargetType']} {one['Port']}"
        if (one["HealthCheckPath"], one["HealthCheckProtocol"]) != (READY, "HTTP"):
            yield f"{name}: checks {one['HealthCheckPath']}"
        noticed = one["HealthCheckIntervalSeconds"] * one["UnhealthyThresholdCount"]
        if noticed >= 20 or one["HealthCheckTimeoutSeconds"] < 2:
            yield f"{name}: notices after {noticed} s that a pod drains, which takes 20 s"
        if attributes({"Properties": one}, "TargetGroupAttributes")["deregistration_delay.timeout_seconds"] != "30":
            yield f"{name}: cuts requests off"


def routes_are_the_stacks(template: Template) -> Iterator[str]:
    """Paths of models lead to score, others to serve, for the consumers' name; a stage's name is cut off the path."""
    rules = sorted(by_type(template, f"{ELB}ListenerRule").items(), key=lambda pair: int(pair[1]["Priority"]))
    if rules and [name for name, _ in rules] != ["ScoreRule", "ServeRule"]:
        yield f"rules {[name for name, _ in rules]}: serve would answer for models"
    for name, one in rules:
        if one["Actions"] != [{"Type": "forward", "TargetGroupArn": {"Ref": f"{name.removesuffix('Rule')}Targets"}}]:
            yield f"{name}: leads to {one['Actions']}"
        paths = [path for each in one["Conditions"] for path in get(each, "PathPatternConfig", "Values") or []]
        if name == "ScoreRule" and not {"/v1/models", "/v1/models/*"} <= set(paths):
            yield f"{name}: is for {paths}"
        hosts = [host for each in one["Conditions"] for host in get(each, "HostHeaderConfig", "Values") or []]
        if "VpcLink" not in template["Resources"]:
            if hosts != [{"Ref": "DomainName"}]:
                yield f"{name}: is for the names {hosts}"
            continue
        stage = template["Resources"]["Stage"]["Properties"]["StageName"]
        (transform,) = one["Transforms"]
        (rewrite,) = transform["UrlRewriteConfig"]["Rewrites"]
        replaced = re.sub(rewrite["Regex"], rewrite["Replace"].replace("$", "\\"), f"/{stage}/v1/a%2Fb")
        if replaced != "/v1/a%2Fb":
            yield f"{name}: /{stage}/v1/a%2Fb becomes {replaced}"
        if not any(path.startswith(f"/{stage}/") for path in paths):
            yield f"{name}: is not for the paths of stage {stage}"


def names_lead_to_the_door(template: Template) -> Iterator[str]:
    """The consumers' name is an alias of the door itself, also for IPv6."""
    for name, one in by_type(template, "AWS::Route53::RecordSet").items():
        if one["Name"] != {"Ref": "DomainName"}:
            yield f"{name}: is for another name"
        for alias in one["AliasTarget"]["Fn::If"][1:] if "Fn::If" in one["AliasTarget"] else [one["AliasTarget"]]:
            target, attribute = alias["DNSName"]["Fn::GetAtt"]
            zone = alias["HostedZoneId"]
            zone = zone["Fn::GetAtt"] if isinstance(zone, dict) else zone
            wanted: dict[str, tuple[set[str], Any]] = {
                "GlobalAccelerator": ({"DualStackDnsName" if one["Type"] == "AAAA" else "DnsName"}, "Z2BJ6XQ5FK7U4H"),
                "LoadBalancer": ({"DNSName"}, ["LoadBalancer", "CanonicalHostedZoneID"]),
                "Domain": ({"RegionalDomainName"}, ["Domain", "RegionalHostedZoneId"]),
            }
            if attribute not in wanted[target][0] or zone != wanted[target][1]:
                yield f"{name}: leads to {target}.{attribute} in {zone}"
    for name, one in by_type(template, "AWS::GlobalAccelerator::EndpointGroup").items():
        (end,) = one["EndpointConfigurations"]
        if end.get("EndpointId") != {"Ref": "LoadBalancer"} or end.get("ClientIPPreservationEnabled") is not True:
            yield f"{name}: the firewall sees the accelerator's address"
    url = get(template["Outputs"], "BaseUrl", "Value")
    if "DomainName" in template["Parameters"] and url != {"Fn::Sub": "https://${DomainName}/v1"}:
        yield "BaseUrl: is not the published one"


def alarms_are_the_stacks(template: Template) -> Iterator[str]:
    """Alarms have the objective of API Gateway's: burn rates, p99, topics; each has its section in the page."""
    alarms, own = (
        by_type(one, "AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm") for one in (template, STACK)
    )
    page = (ROOT / "docs" / "front-doors.md").read_text()
    if not alarms:
        return
    for name in ("ErrorsIn5Minutes", "ErrorsIn1Hour", "ErrorsIn6Hours", "ErrorsIn3Days"):
        found, wanted = alarms[f"Door{name}"], own[name]
        periods = {one["MetricStat"]["Period"] for one in found.get("Metrics", []) if "MetricStat" in one}
        if (periods or {found.get("Period")}) != {wanted["Period"]}:
            yield f"Door{name}: periods {periods}"
        for member in ("EvaluationPeriods", "Threshold", "ComparisonOperator", "TreatMissingData"):
            if found[member] != wanted[member]:
                yield f"Door{name}: {member} is {found[member]}"
        if "Metrics" in found and found["Metrics"][-1]["Expression"] != "(FILL(own, 0) + FILL(targets, 0)) / requests":
            yield f"Door{name}: {found['Metrics'][-1]['Expression']} is not the share of errors"
        if "Metrics" in found and [one["MetricStat"]["Metric"]["MetricName"] for one in found["Metrics"][:-1]] != [
            "RequestCount",
            "HTTPCode_ELB_5XX_Count",
            "HTTPCode_Target_5XX_Count",
        ]:
            yield f"Door{name}: counts something else"
    for name in ("ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly"):
        found, wanted = alarms[f"Door{name}"], own[name]
        if found["AlarmRule"]["Fn::Sub"] != wanted["AlarmRule"]["Fn::Sub"].replace("${", "${Door"):
            yield f"Door{name}: {found['AlarmRule']}"
        if found["AlarmActions"] != [{"Ref": f"{wanted['AlarmActions'][0]['Ref']}Arn"}]:
            yield f"Door{name}: notifies {found['AlarmActions']}"
    if alarms["DoorLatencyHigh"]["Threshold"] != {"Ref": "LatencyP99Ms"}:
        yield "DoorLatencyHigh: has another threshold"
    for name, one in alarms.items():
        if not one["AlarmDescription"].endswith("; docs/front-doors.md#alarms-of-a-door") or f"`{name}`" not in page:
            yield f"{name}: the page has no section on it"


def roles_are_the_functions(template: Template) -> Iterator[str]:
    """Pods can do what the functions can, except to write logs and traces; only pods of this cluster are trusted."""
    for name, one in by_type(template, "AWS::IAM::Role").items():
        stacks = {
            "template": (STACK, {**TABLE, "Models": "true"}),
            "door": (
                template,
                {
                    **TABLE,
                    "ClusterName": "c",
                    "TableName": "Table",
                    "ModelsBucketName": "Bucket",
                    "KeptQueueArn": "arn:aws:sqs:eu-central-1:111122223333:KeptQueue",
                },
            ),
        }
        granted: dict[str, list[Any]] = {}
        for where, (source, given) in stacks.items():
            # parameters without a default get a value above
            defaults = {p: {"Default": "", **v} for p, v in source["Parameters"].items()}
            stack = Stack({**source, "Parameters": defaults}, given)
            (policy,) = stack.value(source["Resources"][name]["Properties"]["Policies"])
            statements = [s for s in policy["PolicyDocument"]["Statement"] if s["Sid"] not in {"Log", "Trace"}]
            granted[where] = statements
        if granted["template"] != granted["door"]:
            found, wanted = granted["door"], granted["template"]
            more, less = [one for one in found if one not in wanted], [one for one in wanted if one not in found]
            yield f"{name}: besides the function's {more}, and without {less}"
        (trust,) = one["AssumeRolePolicyDocument"]["Statement"]
        if trust["Principal"] != {"Service": "pods.eks.amazonaws.com"} or set(trust["Action"]) != {
            "sts:AssumeRole",
            "sts:TagSession",
        }:
            yield f"{name}: trusts {trust['Principal']}"
        cluster = get(trust, "Condition", "ArnEquals", "aws:SourceArn", "Fn::Sub") or ""
        account = get(trust, "Condition", "StringEquals", "aws:SourceAccount")
        if not cluster.endswith(":cluster/${ClusterName}") or account != {"Ref": "AWS::AccountId"}:
            yield f"{name}: trusts pods of other clusters"
        identity = template["Resources"][name.replace("Role", "Identity")]["Properties"]
        account_name = f"larder-{name.removesuffix('Role').lower()}"
        if (identity["ServiceAccount"], identity["RoleArn"]) != (account_name, {"Fn::GetAtt": [name, "Arn"]}):
            yield f"{name}: is given to {identity['ServiceAccount']}"


def api_is_as_the_stacks(template: Template) -> Iterator[str]:
    """API Gateway in front of a cluster: throttled, no secrets in logs, the contract's answers, the VPC link."""
    if "Api" not in template["Resources"]:
        return
    resources = {name: one["Properties"] for name, one in template["Resources"].items()}
    stage, own = resources["Stage"], STACK["Resources"]["Api"]["Properties"]
    (settings,) = stage["MethodSettings"]
    wanted = {name: value for name, value in own["MethodSettings"][0].items() if name != "MetricsEnabled"}
    if settings != wanted:
        yield f"Stage: settings {settings}"
    text = stage["AccessLogSetting"]["Format"]
    json.loads(text)
    if any(re.search(rf"\$(context|input)[.\w]*{word}", text, re.IGNORECASE) for word in SECRETS):
        yield "Stage: the access log holds secrets"
    if resources["Api"].get("DisableExecuteApiEndpoint") is not True:
        yield "Api: has a second address, without a name"
    if resources["Api"].get("BinaryMediaTypes") != ["*/*"]:
        yield "Api: a gzip body would be decoded as text"
    way = resources["AnyMethod"]["Integration"]
    if (way["ConnectionType"], way["ConnectionId"], way["IntegrationTarget"]) != (
        "VPC_LINK",
        {"Ref": "VpcLink"},
        {"Ref": "LoadBalancer"},
    ):
        yield "AnyMethod: does not go by the VPC link"
    if not way["Uri"].startswith("https://") or not 20_000 < way["TimeoutInMillis"] <= 29_000:
        yield f"AnyMethod: {way['Uri']}, {way['TimeoutInMillis']} ms"
    if way["RequestParameters"] != {"integration.request.path.proxy": "method.request.path.proxy"}:
        yield "AnyMethod: the path is lost"
    made = by_type(template, "AWS::ApiGateway::GatewayResponse")
    for name, one in made.items():
        said = ANSWERS[one["ResponseType"]]
        template_ = one["ResponseTemplates"]["application/json"]
        if (one["StatusCode"], template_) != (said["statusCode"], said["responseTemplates"]["application/json"]):
            yield f"{name}: is not the contract's {one['ResponseType']}"
        if one["ResponseParameters"] != said["responseParameters"]:
            yield f"{name}: has other headers than the contract"
    needed = {
        "DEFAULT_4XX",
        "DEFAULT_5XX",
        "THROTTLED",
        "MISSING_AUTHENTICATION_TOKEN",
        "WAF_FILTERED",
        "INTEGRATION_TIMEOUT",
        "INTEGRATION_FAILURE",
    }
    if {one["ResponseType"] for one in made.values()} != needed:
        yield "an answer of the contract is missing"
    if set(template["Resources"]["Deployment"]["DependsOn"]) != {"AnyMethod", *made}:
        yield "Deployment: lacks what is made after it"


RULES: tuple[Rule, ...] = (
    parameters_are_outputs,
    firewall_is_the_stacks,
    transport_is_tls,
    network_is_narrow,
    load_balancer_is_strict,
    functions_get_whole_requests,
    pods_get_their_requests,
    routes_are_the_stacks,
    names_lead_to_the_door,
    alarms_are_the_stacks,
    roles_are_the_functions,
    api_is_as_the_stacks,
)


def check(template: Template, rules: tuple[Rule, ...] = RULES) -> list[str]:
    """Return every fault that a rule finds; if a rule does not find what it checks, that is a fault."""
    found = []
    for rule in rules:
        try:
            found += [f"{rule.__name__}: {fault}" for fault in rule({"Outputs": {}, **template})]
        except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
            found.append(f"{rule.__name__}: cannot find what it checks: {error!r}")
    return found


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_template_follows_every_rule(name: str) -> None:
    """No rule reports a fault of a template."""
    assert check(TEMPLATES[name]) == []


CASES = [(rule, door, one) for rule, doors in FAULTS.items() for door, faults in doors.items() for one in faults]


@pytest.mark.parametrize(("rule", "door", "fault"), CASES, ids=[case[2]["fault"] for case in CASES])
def test_seeded_fault_is_reported(rule: str, door: str, fault: dict[str, Any]) -> None:
    """Each fault is reported by its rule."""
    (one,) = (one for one in RULES if one.__name__ == rule)
    assert check(seed(TEMPLATES[door], parse_place(fault["place"]), fault.get("value", GONE)), (one,))


def test_each_rule_has_a_fault() -> None:
    """Every rule has a seeded fault."""
    assert {rule.__name__ for rule in RULES} == set(FAULTS)
