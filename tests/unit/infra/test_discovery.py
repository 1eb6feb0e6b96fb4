"""Discovery: the catalog against the rules of RFC 9727 and RFC 9264, and against the environments."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from enrich.outbox.lineage import KIND as LINEAGE
from enrich.outbox.run_event import KIND as RUN
from infra.discovery import (
    CATALOG_PATH,
    CATALOG_TYPE,
    LIMITS,
    OPENAPI_TYPE,
    build_catalog,
    build_files,
    build_openapi,
    build_service,
)
from infra.environments import read_environments
from infra.publish import handler, publish
from infra.translate import ROOT
from notify.bus import SOURCE
from notify.changes import KIND as ITEM
from serve.tokens.jwt import MAX_TOKEN_BYTES
from serve.web.page import MAX_PAGE_BYTES
from serve.web.route import MAX_LIMIT

EXAMPLE = ROOT / "examples/flights/infra/environments.yaml"  # the user's can have other environments and fewer settings
ENVIRONMENTS = read_environments(EXAMPLE)["environments"]
NAMES = list(ENVIRONMENTS)
KEYED = {name for name, one in ENVIRONMENTS.items() if "ApiKeys" in one.get("parameters", {})}


@pytest.fixture(scope="module")
def environments() -> Any:
    return read_environments(EXAMPLE)


@pytest.fixture(scope="module")
def openapi() -> Any:
    return yaml.safe_load((ROOT / "examples" / "flights" / "openapi.yaml").read_text())


def check_linkset(document: Any) -> list[str]:
    """Return violations of RFC 9264, section 4.2: a set of contexts, each with targets by relation type."""
    faults = [] if set(document) == {"linkset"} else ["a linkset document has the member linkset and no other"]
    for context in document["linkset"]:
        if not urlsplit(context["anchor"]).scheme:
            faults.append(f"anchor {context['anchor']!r} is not absolute")
        for relation, targets in context.items():
            if relation == "anchor":
                continue
            if relation != relation.lower():
                faults.append(f"relation type {relation} is not lower case")
            if not isinstance(targets, list) or not all(urlsplit(one.get("href", "")).scheme for one in targets):
                faults.append(f"{relation} is not a list of targets with absolute references")
            if any(not isinstance(one.get(name, ""), str) for one in targets for name in ("type", "title", "media")):
                faults.append(f"{relation}: type, title and media are text")
    return faults


def test_catalog_is_an_api_catalog(environments: Any) -> None:
    """It is a linkset; its own context names each API as an item (RFC 9727, section 3.1 and appendix A)."""
    catalog = build_catalog(environments)
    assert check_linkset(catalog) == []
    own = catalog["linkset"][0]
    assert urlsplit(own["anchor"]).path == "/.well-known/api-catalog"
    assert CATALOG_TYPE.startswith("application/linkset+json; profile=")
    anchors = {context["anchor"] for context in catalog["linkset"][1:]}
    assert {item["href"] for item in own["item"]} == anchors


def test_catalog_agrees_with_the_environments(environments: Any) -> None:
    """One item per environment, at its custom domain, with description, meta data and status (RFC 8631, RFC 9727)."""
    catalog = build_catalog(environments)
    found = {item["title"]: item["href"] for item in catalog["linkset"][0]["item"]}
    assert found == {name: f"https://{environments['environments'][name]['domain']}/v1" for name in NAMES}
    for context in catalog["linkset"][1:]:
        assert set(context) == {"anchor", "service-desc", "service-meta", "status"}
        assert "execute-api" not in json.dumps(context)


@pytest.mark.parametrize("name", NAMES)
def test_links_of_the_catalog_are_published(environments: Any, openapi: Any, name: str) -> None:
    """Each description and metadata link leads to a file of the declared type that the environment's stack writes."""
    files = build_files(environments, openapi, name, release="1")
    base = environments["discovery"]["base_url"]
    context = next(one for one in build_catalog(environments)["linkset"] if f"/{name}/" in str(one.get("service-desc")))
    for relation in ("service-desc", "service-meta"):
        link = context[relation][0]
        content_type, text = files[link["href"].removeprefix(f"{base}/")]
        assert content_type == link["type"]
        assert json.loads(text)
    assert urlsplit(context["status"][0]["href"]).path in openapi["paths"]


@pytest.mark.parametrize("name", NAMES)
def test_service_has_what_a_consumer_needs(environments: Any, name: str) -> None:
    """service.json has issuer, audience, keys, limits, version and release."""
    service = build_service(environments, name, release="1.2.0")
    assert service["issuer"] == environments["environments"][name]["issuer"]
    assert {"audience", "keys", "limits", "version", "release", "base_url", "api_key_required"} <= set(service)
    assert service["api_key_required"] is (name in KEYED)
    assert service["issuers"] == [{member: service[member] for member in ("issuer", "audience", "keys")}]


def test_service_has_every_issuer(environments: Any) -> None:
    """With a list of issuers, each is listed with the location of its keys; the first is the one of `issuer`."""
    one, other = (
        {"issuer": "a", "audience": ["b"]},
        {"issuer": "c", "audience": "d", "keys": "https://c/keys", "leeway": 1},
    )
    dev = {**environments["environments"]["dev"], "issuers": [one, other]}
    service = build_service({**environments, "environments": {"dev": dev}}, "dev", release="1", keys="https://unused/")
    assert service["issuers"] == [
        {"issuer": "a", "audience": ["b"], "keys": "ssm:/larder/dev/keys/"},
        {"issuer": "c", "audience": "d", "keys": "https://c/keys"},
    ]
    assert service["issuer"] == "a"


@pytest.mark.parametrize(
    ("parameters", "kinds"),
    [
        ({}, None),
        ({"EventBus": ""}, None),
        ({"EventBus": "default"}, [RUN, LINEAGE]),
        ({"EventBus": "own", "ItemEvents": "true"}, [RUN, LINEAGE, ITEM]),
    ],
)
def test_service_says_which_events_there_are(environments: Any, parameters: Any, kinds: Any) -> None:
    """service.json has the bus and the detail-types that the code sends to it."""
    dev = {**environments["environments"]["dev"], "parameters": parameters}
    events = build_service({**environments, "environments": {"dev": dev}}, "dev", release="1")["events"]
    bus = "larder-dev-events" if parameters.get("EventBus") == "own" else "default"
    assert events == (kinds and {"bus": bus, "region": dev["region"], "source": SOURCE, "detail_types": kinds})


def test_openapi_has_the_environments_address(openapi: Any) -> None:
    """The published contract has one server; its paths lead to the base URL; API Gateway's extensions are removed."""
    published = build_openapi(openapi, "https://predictions.api.example.com/v1")
    assert published["servers"] == [{"url": "https://predictions.api.example.com"}]
    assert all(path.startswith(("/v1", "/{")) for path in published["paths"])
    assert "x-amazon" not in json.dumps(published)


def test_types_are_those_of_what_is_published(openapi: Any) -> None:
    """The profile is that of RFC 9727 (section 4.2); the types of contract and health are those of the contract."""
    assert CATALOG_TYPE == 'application/linkset+json; profile="https://www.rfc-editor.org/info/rfc9727"'
    assert OPENAPI_TYPE.endswith(f";version={openapi['openapi'].rpartition('.')[0]}")
    (health,) = openapi["paths"]["/v1/health"]["get"]["responses"]["200"]["content"]
    for context in build_catalog(read_environments(EXAMPLE))["linkset"][1:]:
        assert [one["type"] for one in context["status"]] == [health]


def test_published_limits_are_those_of_serve() -> None:
    """The limits of service.json are the constants of serve."""
    assert LIMITS == {
        "max_page_items": MAX_LIMIT,
        "max_token_bytes": MAX_TOKEN_BYTES,
        "max_page_bytes": MAX_PAGE_BYTES,
    }


def test_published_contract_names_the_key(environments: Any, openapi: Any) -> None:
    """If API keys are required, the published contract says so; otherwise it does not."""
    for name in NAMES:
        text = build_files(environments, openapi, name, release="1")[f"predictions/{name}/openapi.json"][1]
        published = json.loads(text)
        secured = published["paths"]["/v1/flight-delays"]["get"].get("security", published["security"])
        assert secured == [{"bearerAuth": [], "apiKey": []} if name in KEYED else {"bearerAuth": []}]
        assert ("apiKey" in published["components"]["securitySchemes"]) is (name in KEYED)
        assert published["paths"]["/v1/health"]["get"]["security"] == []


class Bucket:
    """A bucket that records what is put and deleted."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}

    def put_object(self, **given: Any) -> None:
        self.objects[given["Key"]] = (given["ContentType"], given["Body"])

    def delete_object(self, **given: Any) -> None:
        self.objects.pop(given["Key"], None)


def test_stack_publishes_and_removes_its_files(
    environments: Any, openapi: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    """Creating a stack writes the catalog and its two files; deleting it removes only the two."""
    (tmp_path / "environments.json").write_text(json.dumps(environments))
    (tmp_path / "openapi.json").write_text(json.dumps(openapi))
    monkeypatch.setattr("infra.publish.FOLDER", tmp_path)
    bucket = Bucket()
    properties = {
        "Bucket": "b",
        "Environment": "qa",
        "Service": "predictions",
        "Release": "7",
        "BaseUrl": "https://x.example.com/v1",
        "Keys": "ssm:/k/",
    }
    publish(bucket, {"RequestType": "Create", "ResourceProperties": properties})
    assert set(bucket.objects) == {CATALOG_PATH, "predictions/qa/service.json", "predictions/qa/openapi.json"}
    assert json.loads(bucket.objects["predictions/qa/service.json"][1])["release"] == "7"
    assert [bucket.objects[name][0] for name in sorted(bucket.objects)] == [
        CATALOG_TYPE,
        OPENAPI_TYPE,
        "application/json",
    ]
    publish(bucket, {"RequestType": "Delete", "ResourceProperties": properties})
    assert set(bucket.objects) == {CATALOG_PATH}


def test_failure_is_reported_to_cloudformation(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is reported to CloudFormation, which would otherwise wait for an hour."""
    requests: list[tuple[str, Any]] = []

    def urlopen(request: Any, timeout: float) -> Any:
        requests.append((request.get_method(), json.loads(request.data)))
        return nullcontext()

    monkeypatch.setattr("boto3.client", lambda _: None)
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    named = {"StackId": "s", "RequestId": "r", "LogicalResourceId": "Discovery"}
    properties = {"Environment": "qa", "Service": "predictions"}
    event = {
        **named,
        "RequestType": "Create",
        "ResponseURL": "https://x.example.com/",
        "ResourceProperties": properties,
    }
    handler(event, None)
    ((method, answer),) = requests
    assert (method, answer["Status"]) == ("PUT", "FAILED")
    assert answer["Reason"]
    assert {name: answer[name] for name in named} == named
