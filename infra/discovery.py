"""Build the discovery files: the api-catalog (RFC 9727, a linkset of RFC 9264), service.json, openapi.json.

Standard library only: this module is in the bundle of the stack's function that publishes the files (infra/publish.py).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

CATALOG_PATH = ".well-known/api-catalog"  # RFC 9727, section 2
CATALOG_TYPE = 'application/linkset+json; profile="https://www.rfc-editor.org/info/rfc9727"'  # sections 4.2 and 7.2
OPENAPI_TYPE = "application/vnd.oai.openapi+json;version=3.0"
LIMITS = {"max_page_items": 100, "max_token_bytes": 8192, "max_page_bytes": 700_000}
API_GATEWAY = "api-gateway"
Document = Mapping[str, Any]


def find_door(environment: Document) -> str:
    """Return what answers at an environment's domain (docs/front-doors.md)."""
    return str(environment.get("door", API_GATEWAY))


def build_base_url(environments: Document, name: str) -> str:
    """Build the base URL for consumers, at the custom domain, which stays the same for all deployments."""
    return f"https://{environments['environments'][name]['domain']}/{environments['version']}"


def build_catalog(environments: Document) -> dict[str, Any]:
    """Build the api-catalog: one item per environment with a domain, with its contract, service.json and status."""
    base = environments["discovery"]["base_url"]
    service = environments["service"]
    names = [name for name, one in environments["environments"].items() if "domain" in one]  # others have no stable URL
    items = [{"href": build_base_url(environments, name), "title": name} for name in names]
    linkset: list[dict[str, Any]] = [{"anchor": f"{base}/{CATALOG_PATH}", "item": items}]
    for name in names:
        url = build_base_url(environments, name)
        linkset.append(
            {
                "anchor": url,
                "service-desc": [{"href": f"{base}/{service}/{name}/openapi.json", "type": OPENAPI_TYPE}],
                "service-meta": [{"href": f"{base}/{service}/{name}/service.json", "type": "application/json"}],
                "status": [{"href": f"{url}/health", "type": "application/health+json"}],
            }
        )
    return {"linkset": linkset}


def build_service(
    environments: Document, name: str, *, release: str, base_url: str | None = None, keys: str | None = None
) -> dict[str, Any]:
    """Build one environment's service.json: issuers with the locations of their keys, limits, version and release.

    The members `issuer`, `audience` and `keys` are those of the first issuer. The argument `keys` is the location of
    the keys if the environment has a single issuer instead of a list.
    """
    environment = environments["environments"][name]
    given = environment.get("issuers") or [{**environment, "keys": keys}]
    issuers = [
        {
            "issuer": one["issuer"],
            "audience": one["audience"],
            "keys": one.get("keys") or f"ssm:/larder/{name}/keys/",
        }
        for one in given
    ]
    return {
        "service": environments["service"],
        "environment": name,
        "version": environments["version"],
        "release": release,
        "base_url": base_url or build_base_url(environments, name),
        "door": find_door(environment),
        **issuers[0],
        "issuers": issuers,
        "api_key_required": environment.get("parameters", {}).get("ApiKeys") == "required",
        "events": _build_events(environment),
        "limits": LIMITS,
    }


def _build_events(environment: Document) -> dict[str, Any] | None:
    """Return the bus and the events that are sent to it; None if there are none (docs/events.md)."""
    parameters = environment.get("parameters", {})
    if not parameters.get("EventBus"):
        return None
    kinds = ["Larder Run State Change", "OpenLineage Run Event"]
    if parameters.get("ItemEvents") == "true":
        kinds.append("Larder Item Change")
    bus = f"{environment['stack']}-events" if parameters["EventBus"] == "own" else parameters["EventBus"]
    where = {"bus": bus, "region": environment["region"]}
    return {**where, "source": "larder", "detail_types": kinds}


def require_api_keys(openapi: Document) -> dict[str, Any]:
    """Return the contract of an environment with API keys: an operation that requires a token requires a key too.

    A browser's preflight (OPTIONS), /v1/health and the responses to unknown methods and paths require none.
    """
    document: dict[str, Any] = copy.deepcopy(dict(openapi))
    document["components"]["securitySchemes"]["apiKey"] = {"type": "apiKey", "in": "header", "name": "x-api-key"}
    for item in document["paths"].values():
        for method in {"get", "head", "post"} & set(item):
            security = item[method].get("security", document["security"])
            if security:
                item[method]["security"] = [{**one, "apiKey": []} for one in security]
    return document


def build_openapi(openapi: Document, base_url: str, *, api_keys: bool = False) -> dict[str, Any]:
    """Build one environment's openapi.json: the contract with its address, without API Gateway's extensions."""
    # Paths begin with /v1, so the server's URL ends before it.
    public = _without_gateway(require_api_keys(openapi) if api_keys else openapi)
    return {**public, "servers": [{"url": base_url.rpartition("/")[0]}]}


def build_files(environments: Document, openapi: Document, name: str, **service: Any) -> dict[str, tuple[str, str]]:
    """Build one environment's files and the catalog of all environments: object key -> (content type, text)."""
    described = build_service(environments, name, **service)
    folder = f"{environments['service']}/{name}"
    openapi_here = build_openapi(openapi, described["base_url"], api_keys=described["api_key_required"])
    # A catalog contains its own address, so it needs `discovery`.
    catalog = {CATALOG_PATH: (CATALOG_TYPE, _text(build_catalog(environments)))} if "discovery" in environments else {}
    return {
        **catalog,
        f"{folder}/service.json": ("application/json", _text(described)),
        f"{folder}/openapi.json": (OPENAPI_TYPE, _text(openapi_here)),
    }


def _without_gateway(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_gateway(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    return {key: _without_gateway(value) for key, value in node.items() if not str(key).startswith("x-amazon-")}


def _text(document: Document) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
