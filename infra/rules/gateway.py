"""Rules on the API before serve, and the firewall before that. Pure but for reading openapi.yaml."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from infra.rules.look import Rule, default, get
from infra.translate import ROOT, TEMPLATE, Template

SECRETS = ("authorizer", "input", "requestOverride", "sourceIp", "querystring", "header")


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
    if "CacheClusterEnabled" in api or "CachingEnabled" in settings:
        yield "Api: a shared cache would hand one subject's answer to another"
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
    for path, item in _read_contract()["paths"].items():
        for operation in (one for one in item.values() if isinstance(one, dict)):
            uri = get(operation, "x-amazon-apigateway-integration", "uri", "Fn::Sub") or ""
            if not uri.endswith(("functions/${ServeFunction.Alias}/invocations", ":live/invocations")):
                yield f"openapi.yaml {path}: an operation does not go to serve's alias"


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
    rates = [one for one in rules if get(one, "Statement", "RateBasedStatement", "AggregateKeyType") == "IP"]
    if [one.get("Action") for one in rates] != [{"Block": {}}]:
        yield "WebAcl: nothing limits the rate of an address"
    if template["Resources"]["WebAcl"]["Properties"]["Scope"] != "REGIONAL":
        yield "WebAcl: a regional API wants a regional one"
    if template["Resources"]["WebAcl"]["Properties"]["DefaultAction"] != {"Allow": {}}:
        yield "WebAcl: blocks what no rule speaks of"
    if any(get(one, "Statement", "RateBasedStatement", "Limit") not in (None, {"Ref": "WafRate"}) for one in rules):
        yield "WebAcl: the rate is not WafRate"
    if len({one["Priority"] for one in rules}) != len(rules):
        yield "WebAcl: two rules have one priority"
    target = get(template["Resources"]["WebAclAssociation"], "Properties", "ResourceArn", "Fn::Sub") or ""
    if not target.endswith("/restapis/${Api}/stages/${Api.Stage}"):
        yield "WebAclAssociation: is not on the API's stage"
    name = get(template["Resources"]["WafLogs"], "Properties", "LogGroupName", "Fn::Sub") or ""
    if not name.startswith("aws-waf-logs-"):
        yield "WafLogs: WAF writes to no group that is called otherwise than aws-waf-logs-..."
    redacted = get(template["Resources"]["WafLogging"], "Properties", "RedactedFields") or []
    if {"SingleHeader": {"Name": "authorization"}} not in redacted:
        yield "WafLogging: tokens would be logged"


@functools.cache
def _read_contract() -> Any:
    return yaml.safe_load((ROOT / "openapi.yaml").read_text())


RULES: tuple[Rule, ...] = (api_is_the_contract, firewall_is_there)
