"""Rules on how consumers get to the API, how much each may ask, and what is told of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from infra.rules.api import KEYS
from infra.rules.look import Rule, functions, get
from infra.translate import Template
from serve.datasets import SERVED

API = {"Ref": "Api"}
STAGE = {"Ref": "Api.Stage"}
ALIAS = {
    "DNSName": {"Fn::GetAtt": ["Domain", "RegionalDomainName"]},
    "HostedZoneId": {"Fn::GetAtt": ["Domain", "RegionalHostedZoneId"]},
}
BASE_URL = {"Fn::GetAtt": ["BaseUrlParameter", "Value"]}
PUBLISHED = {
    "ServiceToken": {"Fn::GetAtt": ["PublishFunction", "Arn"]},
    "Code": {"Ref": "PublishFunction.Version"},  # without it a new contract would not be written
    "Bucket": {"Ref": "DiscoveryBucketName"},
    "Service": {"Ref": "Service"},
    "Environment": {"Ref": "Environment"},
    "Release": {"Ref": "ReleaseVersion"},
    "BaseUrl": BASE_URL,
    "Keys": KEYS,
}


def consumers_are_bounded(template: Template) -> Iterator[str]:
    """The stage as a whole is throttled; where API keys are asked for, each has its rate, burst and quota."""
    resources = template["Resources"]
    api, plan = resources["Api"]["Properties"], resources["UsagePlan"]["Properties"]
    settings = (api.get("MethodSettings") or [{}])[0]
    if (settings.get("ResourcePath"), settings.get("HttpMethod")) != ("/*", "*"):
        yield "Api: only some operations are throttled"
    bounds = (settings.get("ThrottlingRateLimit"), settings.get("ThrottlingBurstLimit"))
    if bounds != ({"Ref": "ThrottleRate"}, {"Ref": "ThrottleBurst"}):
        yield "Api: is not throttled by ThrottleRate and ThrottleBurst"
    if api.get("ApiKeySourceType", "HEADER") != "HEADER":
        yield "Api: takes API keys from elsewhere than x-api-key"
    if api.get("Auth") != {"ApiKeyRequired": {"Ref": "ApiKeys"}}:
        yield "Api: does not ask for an API key where ApiKeys says so, or asks for more"
    if plan.get("ApiStages") != [{"ApiId": API, "Stage": STAGE}]:
        yield "UsagePlan: is not of the API's stage"
    if plan.get("Throttle") != {"RateLimit": {"Ref": "UsageRate"}, "BurstLimit": {"Ref": "UsageBurst"}}:
        yield "UsagePlan: a key has no rate or burst"
    if plan.get("Quota") != {"Limit": {"Ref": "UsageQuota"}, "Period": "DAY"}:
        yield "UsagePlan: a key has no daily quota"
    first = resources["FirstApiKeyInPlan"]["Properties"]
    if (get(first, "KeyId", "Ref"), get(first, "UsagePlanId", "Ref")) != ("FirstApiKey", "UsagePlan"):
        yield "FirstApiKeyInPlan: the first key is in no plan"
    if resources["FirstApiKey"]["Properties"].get("Enabled") is not True:
        yield "FirstApiKey: is switched off"


def address_leads_to_the_stage(template: Template) -> Iterator[str]:
    """The domain's root is the stage, and the address that is told is the one that answers."""
    resources = template["Resources"]
    mapping, domain = resources["DomainMapping"]["Properties"], resources["Domain"]["Properties"]
    if (mapping.get("RestApiId"), mapping.get("Stage")) != (API, STAGE) or mapping.get("BasePath"):
        yield "DomainMapping: the domain's root is not the stage"
    kinds = [get(resources["Api"]["Properties"], "EndpointConfiguration", "Type")]
    if kinds + (get(domain, "EndpointConfiguration", "Types") or []) != ["REGIONAL"] * 2:
        yield "Domain: a regional certificate is for a regional API behind a regional domain"
    record = resources["DomainRecord"]["Properties"]
    if (record["Name"], record["AliasTarget"]) != ({"Ref": "DomainName"}, ALIAS):
        yield "DomainRecord: does not lead to the domain"
    told = get(resources["BaseUrlParameter"]["Properties"], "Value", "Fn::If") or ["", {}, {}]
    address = "https://${Api}.execute-api.${AWS::Region}.${AWS::URLSuffix}/live/v1"
    if told != ["HasDomain", {"Fn::Sub": "https://${DomainName}/v1"}, {"Fn::Sub": address}]:
        yield "BaseUrlParameter: is not the domain's address, nor the API's own"


def environment_is_found(template: Template) -> Iterator[str]:
    """What the stack publishes is of its environment and its release, and written again with other code."""
    given = template["Resources"]["Discovery"]["Properties"]
    for name, value in PUBLISHED.items():
        if given.get(name) != value:
            yield f"Discovery: {name} is {given.get(name)}"


def check_reads_as_a_consumer(template: Template) -> Iterator[str]:
    """The synthetic check reads a dataset at the address that consumers have."""
    url = get(functions(template)["SyntheticFunction"], "Environment", "Variables", "LARDER_URL", "Fn::Sub")
    if url != ["${Url}${SyntheticPath}", {"Url": BASE_URL}]:
        yield f"SyntheticFunction: reads {url}"
    path = template["Parameters"]["SyntheticPath"]["Default"]
    if path.partition("?")[0].removeprefix("/") not in SERVED:
        yield f"SyntheticPath: {path} is no dataset's, and needs no token"


RULES: tuple[Rule, ...] = (
    consumers_are_bounded,
    address_leads_to_the_stage,
    environment_is_found,
    check_reads_as_a_consumer,
)
