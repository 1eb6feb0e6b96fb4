"""Figures, examples and sentences of openapi.yaml agree with the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from enrich.datasets import load_served
from serve.item import MAX_PREDICTION_ID, RANK_PLACE
from serve.settings import parse_settings
from serve.web.negotiate import build_etag
from serve.web.page import MAX_PAGE_BYTES
from serve.web.problems import challenge, unavailable
from serve.web.request import Form
from serve.web.respond import EXPOSED, MAX_AGE, MAX_SENT
from serve.web.route import MAX_IDS, MAX_LIMIT, MAX_TOP
from tests.unit.serve.kit import SERVED, App, item, sign

ROOT = Path(__file__).parents[3]
DOCUMENT: dict[str, Any] = yaml.load((ROOT / "examples/flights/openapi.yaml").read_text(), yaml.CSafeLoader)
SCHEMAS, PARAMETERS, HEADERS = (DOCUMENT["components"][name] for name in ("schemas", "parameters", "headers"))


def _megabytes(count: float) -> str:
    return f"{int(count / 100_000) / 10} MB"  # rounded down, because it is a guarantee


@pytest.mark.parametrize("name", SERVED)
def test_dataset_is_described_as_it_is_served(name: str) -> None:
    """Its tag names its scope and the claims of its subject; its page has at most as many items as a page can have."""
    (text,) = [tag["description"] for tag in DOCUMENT["tags"] if tag["name"] == name]
    quoted = set(re.findall(r"`([^`]+)`", text))
    assert quoted >= {*SERVED[name].subject, *([SERVED[name].scope] if SERVED[name].scope else [])}
    assert not {one for one in quoted if one.endswith(":read")} - {SERVED[name].scope}
    loaded = load_served(ROOT / "examples/flights/datasets")[name]
    assert (loaded.rank_tag, loaded.version_place) == (SERVED[name].rank_tag, SERVED[name].version_place)
    page = DOCUMENT["paths"][f"/v1/{name}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert SCHEMAS[page.rpartition("/")[2]]["properties"]["items"]["maxItems"] == MAX_LIMIT


def test_prediction_id_has_its_bounds() -> None:
    """Lengths in the schema are those of its pattern and of the code."""
    schema = SCHEMAS["PredictionId"]
    assert (schema["minLength"], schema["maxLength"]) == (1, MAX_PREDICTION_ID)


def test_sizes_and_times_are_those_of_the_code() -> None:
    """The sizes and times in the descriptions of a page, an uncompressed body and caching are those of the code."""
    assert f"ends at {_megabytes(MAX_PAGE_BYTES)}" in PARAMETERS["Limit"]["description"]
    too_large = " ".join(DOCUMENT["components"]["responses"]["NotAcceptable"]["description"].split())
    through = f"{_megabytes(MAX_SENT[Form.REST])}; through a load balancer {_megabytes(MAX_SENT[Form.ALB])}"
    assert f"({through})" in too_large
    assert f"for {MAX_AGE} s or until" in HEADERS["CacheControl"]["description"]
    assert HEADERS["CacheControl"]["example"] == f"private, max-age={MAX_AGE}"


def test_bounds_of_a_request_are_those_of_the_code() -> None:
    """The number of ids and the longest max_age are those of the code, and the headers that other origins can read."""
    ids, seconds = PARAMETERS["Ids"], PARAMETERS["MaxAge"]["schema"]
    assert (ids["schema"]["minItems"], ids["schema"]["maxItems"], ids["schema"]["uniqueItems"]) == (1, MAX_IDS, True)
    assert (ids["style"], ids["explode"]) == ("form", True)
    assert f"ends at {_megabytes(MAX_PAGE_BYTES)}" in ids["description"]
    path, app = "/v1/flight-delays/a", App(item("a"))
    for value, status in ((seconds["minimum"], 200), (seconds["maximum"], 200), (seconds["maximum"] + 1, 400)):
        assert app.call(path, sign(), query={"max_age": str(value)}).status == status
    described = DOCUMENT["paths"]["/v1/flight-delays/{prediction_id}"]["get"]["responses"]["200"]["headers"]
    top, place = PARAMETERS["FlightDelaysTop"]["schema"], PARAMETERS["FlightDelaysAfterRank"]["schema"]["pattern"]
    assert (top["minimum"], top["maximum"]) == (1, MAX_TOP)
    assert place == f"^{RANK_PLACE.pattern.removesuffix(chr(92) + 'Z')}$"
    safelisted = {"Cache-Control", "Last-Modified"}
    assert {*described, "Link", "WWW-Authenticate"} - safelisted - {"Vary"} == set(EXPOSED.split(", "))


def test_headers_have_the_form_that_is_sent() -> None:
    """An entity tag, a challenge with the default realm and Retry-After match their schemas, and so do the examples."""
    settings = parse_settings(
        {"LARDER_TABLE": "t", "LARDER_ISSUERS": '[{"issuer":"i","audience":"a","keys":"ssm:/k"}]'}, SERVED
    )
    sent = {
        "ETag": build_etag(b"a body"),
        "WWWAuthenticate": challenge(settings.realm, "invalid_token").headers["WWW-Authenticate"],
        "RetryAfter": unavailable("storage").headers["Retry-After"],
    }
    answer = App(item("a")).call("/v1/flight-delays/a", sign())
    dated = {name: answer.headers[name] for name in ("last-modified", "larder-as-of", "larder-run")}
    assert HEADERS["LastModified"]["example"] == dated["last-modified"]
    assert HEADERS["LarderAsOf"]["example"] == dated["larder-as-of"]
    sent |= {"LastModified": dated["last-modified"], "LarderRun": dated["larder-run"]}
    for name, value in sent.items():
        for one in (value, HEADERS[name]["example"]):
            assert re.search(HEADERS[name]["schema"]["pattern"], one), (name, one)
    assert HEADERS["WWWAuthenticate"]["example"] == sent["WWWAuthenticate"]
    assert HEADERS["RetryAfter"]["example"] == sent["RetryAfter"]
    responses = DOCUMENT["x-amazon-apigateway-gateway-responses"].values()
    waits = {one["responseParameters"].get("gatewayresponse.header.Retry-After") for one in responses} - {None}
    assert waits == {f"'{sent['RetryAfter']}'"}
