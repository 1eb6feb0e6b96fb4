"""Rules on API Gateway and the firewall."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from infra.gateway import build_gateway
from infra.translate import Template
from tests.unit.infra.rules.template import Rule, default, get

SECRETS = ("authorizer", "input", "requestOverride", "sourceIp", "querystring", "header")
COUNTED = {"SizeRestrictions_QUERYSTRING"}  # blocks queries of more than 2,048 bytes: 100 ids are longer
MANAGED_RULES = {"AWSManagedRulesCommonRuleSet", "AWSManagedRulesKnownBadInputsRuleSet"}


def stage_is_safe(template: Template) -> Iterator[str]:
    """The whole stage is throttled; bodies pass unchanged; no cache is shared between subjects; CORS is off."""
    api = template["Resources"]["Api"]["Properties"]
    settings = (api.get("MethodSettings") or [{}])[0]
    if (settings.get("ResourcePath"), settings.get("HttpMethod")) != ("/*", "*"):
        yield "Api: only some operations are throttled"
    for bound in ("ThrottlingRateLimit", "ThrottlingBurstLimit"):
        if not default(template, settings.get(bound)):
            yield f"Api: has no {bound}"
    if not api.get("OpenApiVersion"):
        yield "Api: without OpenApiVersion SAM adds a stage named Stage"
    if "Fn::If" in json.dumps(build_gateway()) and api.get("AlwaysDeploy") is not True:
        # SAM deploys the API again if the document's text changes, in which parameters are not resolved.
        yield "Api: a parameter that the document depends on (ApiKeys) would not reach the stage"
    if api.get("BinaryMediaTypes") != ["*~1*"]:
        yield "Api: API Gateway would decode a gzip body as text"
    if "CacheClusterEnabled" in api or "CachingEnabled" in settings:
        yield "Api: a shared cache would give one subject's response to another"
    if template["Parameters"]["CorsOrigins"]["Default"] != "":
        yield "CorsOrigins: by default, pages of other origins can read with a visitor's token"


def logs_hold_no_secret(template: Template) -> Iterator[str]:
    """The access log is JSON in its own group; neither it, nor traces, nor the firewall's log contain a token."""
    api = template["Resources"]["Api"]["Properties"]
    if get(api, "AccessLogSetting", "DestinationArn", "Fn::GetAtt") != ["AccessLogs", "Arn"]:
        yield "Api: has no access log of its own"
    text = get(api, "AccessLogSetting", "Format") or ""
    try:
        json.loads(text)
    except ValueError:
        yield "Api: the access log's format is not JSON"
    for word in SECRETS:
        if re.search(rf"\$(context|input)[.\w]*{word}", text, re.IGNORECASE):
            yield f"Api: the access log would hold {word}"
    if (api.get("MethodSettings") or [{}])[0].get("DataTraceEnabled") is not False:
        yield "Api: traces would hold tokens and bodies"
    redacted = get(template["Resources"]["WafLogging"], "Properties", "RedactedFields") or []
    if {"SingleHeader": {"Name": "authorization"}} not in redacted:
        yield "WafLogging: the log would hold tokens"


def firewall_blocks(template: Template) -> Iterator[str]:
    """On the API's stage, managed rules and the rate rule block (not count), by the address of the connection."""
    rules = template["Resources"]["WebAcl"]["Properties"]["Rules"]
    groups = {
        get(one, "Statement", "ManagedRuleGroupStatement", "Name")
        for one in rules
        if one.get("OverrideAction") == {"None": {}}
    }
    if not groups >= MANAGED_RULES:
        yield "WebAcl: a managed rule set is missing, or only counts"
    counted = {
        override["Name"]
        for one in rules
        for override in get(one, "Statement", "ManagedRuleGroupStatement", "RuleActionOverrides") or []
    }
    if counted != COUNTED:
        yield f"WebAcl: the rules {sorted(counted)} do not block, and not {sorted(COUNTED)}"
    rates = [one for one in rules if get(one, "Statement", "RateBasedStatement", "AggregateKeyType") == "IP"]
    if [one.get("Action") for one in rates] != [{"Block": {}}]:
        yield "WebAcl: the rate of an address is not limited"
    target = get(template["Resources"]["WebAclAssociation"], "Properties", "ResourceArn", "Fn::Sub") or ""
    if not target.endswith("/restapis/${Api}/stages/${Api.Stage}"):
        yield "WebAclAssociation: is not on the API's stage"
    group = get(template["Resources"]["WafLogs"], "Properties", "LogGroupName", "Fn::Sub") or ""
    if not group.startswith("aws-waf-logs-"):
        yield "WafLogs: WAF writes only to groups named aws-waf-logs-..."


RULES: tuple[Rule, ...] = (stage_is_safe, logs_hold_no_secret, firewall_blocks)
