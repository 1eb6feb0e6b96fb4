"""Rules on the API's address, and on how consumers find it."""

from __future__ import annotations

from collections.abc import Iterator

from infra.translate import Template
from tests.unit.infra.rules.template import Rule, functions, get
from tests.unit.serve.kit import SERVED


def domain_leads_to_the_stage(template: Template) -> Iterator[str]:
    """The domain's root is the stage; domain, certificate, record and API are all regional; old TLS is refused."""
    resources = template["Resources"]
    mapping, domain = resources["DomainMapping"]["Properties"], resources["Domain"]["Properties"]
    if (mapping.get("RestApiId"), mapping.get("Stage")) != ({"Ref": "Api"}, {"Ref": "Api.Stage"}):
        yield "DomainMapping: does not lead to the API's stage"
    if mapping.get("BasePath"):
        yield "DomainMapping: the published address has no path before /v1"
    kinds = [get(resources["Api"]["Properties"], "EndpointConfiguration", "Type")]
    if kinds + (get(domain, "EndpointConfiguration", "Types") or []) != ["REGIONAL"] * 2:
        yield "Domain: a regional certificate needs a regional API and a regional domain"
    if domain.get("SecurityPolicy") != "TLS_1_2":
        yield "Domain: accepts old TLS"
    record = resources["DomainRecord"]["Properties"]
    alias = [record["AliasTarget"][name].get("Fn::GetAtt") for name in ("DNSName", "HostedZoneId")]
    if alias != [["Domain", "RegionalDomainName"], ["Domain", "RegionalHostedZoneId"]]:
        yield "DomainRecord: does not lead to the regional domain"
    if record["Name"] != {"Ref": "DomainName"}:
        yield "DomainRecord: is for another name"


def discovery_agrees_with_serve(template: Template) -> Iterator[str]:
    """The published location of the keys is the one that serve reads; new code publishes the files again."""
    published = template["Resources"]["Discovery"]["Properties"]
    variables = functions(template)["ServeFunction"]["Environment"]["Variables"]
    issuers = get(variables, "LARDER_ISSUERS", "Fn::If")[2]["Fn::Sub"]
    if published["Keys"] != issuers[1]["Keys"]:
        yield f"Discovery: publishes {published['Keys']}, and serve reads {issuers[1]['Keys']}"
    if published.get("Code") != {"Ref": "PublishFunction.Version"}:
        yield "Discovery: a new contract would not be published"


def check_reads_a_dataset(template: Template) -> Iterator[str]:
    """The synthetic check reads a dataset, which needs a token."""
    path = template["Parameters"]["SyntheticPath"]["Default"]
    if path and path.partition("?")[0].removeprefix("/") not in SERVED:
        yield f"SyntheticPath: {path} is no dataset's, and needs no token"


RULES: tuple[Rule, ...] = (domain_leads_to_the_stage, discovery_agrees_with_serve, check_reads_a_dataset)
