"""Find an environment's API through the api-catalog, and send an authenticated GET. Standard library only.

LARDER_TOKEN=... python -m examples.consumer https://discovery.example.com --environment prod
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

CATALOG = "/.well-known/api-catalog"  # RFC 9727, section 2
LINKSET = "application/linkset+json"  # RFC 9264, section 4.2

Get = Callable[[str, Mapping[str, str]], bytes]


class Api(NamedTuple):
    """The entry of one environment in the catalog: URLs of the API, of the contract and of service.json."""

    base_url: str
    openapi_url: str
    service_url: str


class NotFoundInCatalog(Exception):
    """The catalog does not have the environment; the message lists its environments."""


def find_api(catalog: Any, environment: str) -> Api:
    """Find an environment in a catalog: the item with its title, and the context with that item's address.

    Raises:
        NotFoundInCatalog: the catalog has no item with that title.
    """
    contexts = {context["anchor"]: context for context in catalog["linkset"]}
    items = [item for context in catalog["linkset"] for item in context.get("item", [])]
    found = next((item["href"] for item in items if item.get("title") == environment), None)
    if found is None:
        raise NotFoundInCatalog(
            f"the catalog does not have the environment {environment!r}; use one of "
            f"{', '.join(item.get('title', '?') for item in items) or 'none'}"
        )
    context = contexts[found]
    return Api(found, context["service-desc"][0]["href"], context["service-meta"][0]["href"])


def read(get: Get, discovery: str, environment: str, path: str, token: str, api_key: str | None = None) -> Any:
    """Read a path of an environment's API, given only the discovery address; return the parsed JSON.

    Raises:
        NotFoundInCatalog: the catalog does not have the environment.
    """
    catalog = json.loads(get(discovery.rstrip("/") + CATALOG, {"Accept": LINKSET}))
    api = find_api(catalog, environment)
    service = json.loads(get(api.service_url, {"Accept": "application/json"}))
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    if service["api_key_required"]:
        headers["x-api-key"] = api_key or ""
    return json.loads(get(api.base_url + path, headers))


def get_over_http(url: str, headers: Mapping[str, str]) -> bytes:
    """Send a GET and return the body.

    Raises:
        urllib.error.URLError: no response, or a status other than 2xx.
    """
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=10) as answer:  # noqa: S310
        content: bytes = answer.read()
    return content


def main() -> int:
    """Print the API's response."""
    parser = argparse.ArgumentParser(description="Find an API through its catalog, and read from it.")
    parser.add_argument("discovery", help="address of the catalog, e.g. https://discovery.example.com")
    parser.add_argument("--environment", default="prod")
    parser.add_argument("--path", default="/flight-delays?limit=3")
    options = parser.parse_args()
    token, api_key = os.environ.get("LARDER_TOKEN", ""), os.environ.get("LARDER_API_KEY")
    try:
        answer = read(get_over_http, options.discovery, options.environment, options.path, token, api_key)
    except (NotFoundInCatalog, urllib.error.URLError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
