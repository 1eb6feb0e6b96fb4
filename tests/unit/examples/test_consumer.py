"""The consumer finds the production address from only the catalog, and reads with its token."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import yaml

from examples.consumer.__main__ import NotFoundInCatalog, find_api, read
from infra.discovery import build_catalog, build_files
from infra.environments import read_environments
from infra.translate import ROOT

ENVIRONMENTS = read_environments(ROOT / "examples/flights/infra/environments.yaml")
DISCOVERY = ENVIRONMENTS["discovery"]["base_url"]


def publish() -> dict[str, str]:
    """Return what the five stacks publish, by URL."""
    openapi = yaml.safe_load((ROOT / "examples" / "flights" / "openapi.yaml").read_text())
    return {
        f"{DISCOVERY}/{object_key}": text
        for name in ENVIRONMENTS["environments"]
        for object_key, (_, text) in build_files(ENVIRONMENTS, openapi, name, release="1").items()
    }


def test_consumer_reads_from_prod() -> None:
    """From only the discovery address it finds prod's own domain, and sends its token and the required API key."""
    published, asked = publish(), {}

    def get(url: str, headers: Mapping[str, str]) -> bytes:
        asked[url] = headers
        return (published.get(url) or json.dumps({"items": ["ours"]})).encode()

    answer = read(get, DISCOVERY, "prod", "/flight-delays", "a-token", "a-key")
    domain = ENVIRONMENTS["environments"]["prod"]["domain"]
    headers = asked[f"https://{domain}/v1/flight-delays"]
    assert answer == {"items": ["ours"]}
    assert headers["Authorization"] == "Bearer a-token"
    assert headers["x-api-key"] == "a-key"
    assert not [url for url, sent in asked.items() if "Authorization" in sent and domain not in url]


@pytest.mark.parametrize("environment", ENVIRONMENTS["environments"])
def test_each_environment_is_found(environment: str) -> None:
    """Each environment has its own address, contract and metadata."""
    api = find_api(build_catalog(ENVIRONMENTS), environment)
    assert ENVIRONMENTS["environments"][environment]["domain"] in api.base_url
    assert f"/{environment}/openapi.json" in api.openapi_url


def test_unknown_environment_is_reported() -> None:
    """The message lists the known environments."""
    with pytest.raises(NotFoundInCatalog, match="pre-prod"):
        find_api(build_catalog(ENVIRONMENTS), "staging")
