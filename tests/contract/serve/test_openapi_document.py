"""openapi.yaml is valid, complete for the datasets, and within the limits of API Gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest
import yaml
from jsonschema import Draft4Validator

from serve.item import PREDICTION_ID
from serve.web.problems import PROBLEM_TYPES
from serve.web.respond import PROBLEM_TYPE
from serve.web.route import ALLOW, DEFAULT_LIMIT, MAX_LIMIT
from tests.unit.serve.kit import SERVED

PATH = Path(__file__).parents[3] / "examples/flights/openapi.yaml"
DOCUMENT: dict[str, Any] = yaml.load(PATH.read_text(), yaml.CSafeLoader)
INTEGRATION = "x-amazon-apigateway-integration"
ANY = "x-amazon-apigateway-any-method"


def _walk(node: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield place, name, value
            yield from _walk(value, f"{place}/{name}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _walk(value, f"{place}/{number}")


def test_it_is_valid() -> None:
    """It is an OpenAPI 3.0.3 document."""
    assert DOCUMENT["openapi"] == "3.0.3"
    openapi_spec_validator.validate(DOCUMENT)


def test_no_model_uses_what_api_gateway_does_not_take() -> None:
    """API Gateway drops or refuses these, which no stand-in detects."""
    for name in DOCUMENT["components"]["schemas"]:
        assert re.fullmatch("[A-Za-z0-9]+", name), name
    forbidden = {
        "oneOf",
        "anyOf",
        "discriminator",
        "additionalProperties",
        "readOnly",
        "exclusiveMinimum",
        "deprecated",
    }
    for place, name, value in _walk(DOCUMENT):
        assert name not in forbidden, place
        assert not (name == "format" and value in ("int32", "int64")), place


def test_cloudformation_can_include_it() -> None:
    """CloudFormation does not know YAML aliases; the only function in the document is Fn::Sub."""
    tokens = list(yaml.scan(PATH.read_text()))
    assert not [token for token in tokens if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken)]
    assert {name for _, name, _ in _walk(DOCUMENT) if name.startswith("Fn::")} == {"Fn::Sub"}
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT, "a date or a number key that JSON does not have"


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_every_method_reaches_the_function(path: str) -> None:
    """A REST API responds to unknown methods and paths with its own 403, so each path sends ANY to the function."""
    operations = DOCUMENT["paths"][path]
    integrations = [operations[ANY][INTEGRATION]]
    integrations += [operations[name][INTEGRATION] for name in ("get", "head", "options") if name in operations]
    assert len(integrations) == (1 if path == "/{proxy+}" else 4)
    for integration in integrations:
        assert integration["type"] == "aws_proxy"
        assert integration["httpMethod"] == "POST"
        assert integration["uri"]["Fn::Sub"].endswith("/functions/${ServeFunction.Alias}/invocations")
    assert DOCUMENT["x-amazon-apigateway-binary-media-types"] == ["*/*"]


def test_only_preflights_and_health_need_no_token() -> None:
    """Every operation requires the bearer token, except OPTIONS and /v1/health."""
    assert DOCUMENT["security"] == [{"bearerAuth": []}]
    bearer = DOCUMENT["components"]["securitySchemes"]
    assert {name: (one["type"], one["scheme"], one["bearerFormat"]) for name, one in bearer.items()} == {
        "bearerAuth": ("http", "bearer", "JWT")
    }
    operations = {
        (path, method): operation.get("security")
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
        if isinstance(operation, dict)
    }
    free = {place for place in operations if place[1] == "options"} | {("/v1/health", "get"), ("/v1/health", "head")}
    assert operations == {place: [] if place in free else None for place in operations}


GATEWAY_STATUSES = {  # AWS's response types, with the status that each has here ("Gateway response types" of its guide)
    "ACCESS_DENIED": 403, "BAD_REQUEST_BODY": 400, "BAD_REQUEST_PARAMETERS": 400, "EXPIRED_TOKEN": 403,
    "INTEGRATION_FAILURE": 503, "INTEGRATION_TIMEOUT": 503, "INVALID_API_KEY": 403, "INVALID_SIGNATURE": 403,
    "MISSING_AUTHENTICATION_TOKEN": 404, "QUOTA_EXCEEDED": 429, "REQUEST_TOO_LARGE": 413, "RESOURCE_NOT_FOUND": 404,
    "THROTTLED": 429, "UNSUPPORTED_MEDIA_TYPE": 415, "WAF_FILTERED": 403, "API_CONFIGURATION_ERROR": 500,
    "DEFAULT_4XX": 400, "DEFAULT_5XX": 500,
}  # fmt: skip


@pytest.mark.parametrize(("name", "status"), GATEWAY_STATUSES.items())
def test_gateway_keeps_the_status_of_its_refusals(name: str, status: int) -> None:
    """A type without its own response gets the status of DEFAULT_4XX or DEFAULT_5XX, whatever AWS's status is."""
    responses = DOCUMENT["x-amazon-apigateway-gateway-responses"]
    default = "DEFAULT_5XX" if status == 500 else "DEFAULT_4XX"
    assert responses.get(name, responses[default])["statusCode"] == str(status)
    assert responses.keys() <= GATEWAY_STATUSES.keys()


@pytest.mark.parametrize("name", SERVED)
def test_every_dataset_has_its_paths_and_its_body(name: str) -> None:
    """A dataset is a list and an item, each with GET, HEAD and OPTIONS, and a schema with an example that fits it."""
    page = DOCUMENT["paths"][f"/v1/{name}"]
    one = DOCUMENT["paths"][f"/v1/{name}/{{prediction_id}}"]
    for operations in (page, one):
        assert {"get", "head", "options"} <= operations.keys()
        assert {"200", "304", "400", "401", "403", "406", "429", "500", "503"} <= operations["get"]["responses"].keys()
        assert operations["head"]["responses"].keys() == operations["get"]["responses"].keys()
    assert "404" in one["get"]["responses"]
    reference = one["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    schema = DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]
    assert schema["type"] == "object"
    listed = page["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    entry = DOCUMENT["components"]["schemas"][listed.rpartition("/")[2]]["properties"]["items"]["items"]
    assert entry["properties"]["body"]["$ref"] == reference
    assert any(tag["name"] == name and SERVED[name].scope in tag["description"] for tag in DOCUMENT["tags"])


def test_it_says_what_the_code_does() -> None:
    """Limits, names and the codes of problems are the same in the document and the code."""
    limit = DOCUMENT["components"]["parameters"]["Limit"]["schema"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, MAX_LIMIT, DEFAULT_LIMIT)
    prediction_id = DOCUMENT["components"]["schemas"]["PredictionId"]["pattern"]
    assert prediction_id.strip("^$") == PREDICTION_ID.pattern.removesuffix("\\Z")
    codes = set(DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"])
    assert codes == PROBLEM_TYPES.keys() | {"forbidden", "too_many_requests"}, "the last two are the gateway's own"
    assert DOCUMENT["components"]["headers"]["Allow"]["example"] == ALLOW


def test_what_datasets_share_names_no_item_of_one() -> None:
    """An example of a shared parameter would prefill the forms of all datasets in /docs with one dataset's id."""
    for name, parameter in DOCUMENT["components"]["parameters"].items():
        assert "example" not in parameter or name == "Limit", name
    assert DOCUMENT["components"]["headers"]["Link"]["example"] == '<?limit=2&after=A1>; rel="next"'


def test_the_examples_of_problems_are_what_is_sent() -> None:
    """Each example has the status and title that the code sends."""
    for response in DOCUMENT["components"]["responses"].values():
        for content in response.get("content", {}).values():
            example = content["example"]
            assert example["type"] == PROBLEM_TYPE + example["code"]
            if example["code"] in PROBLEM_TYPES:
                assert (example["status"], example["title"]) == PROBLEM_TYPES[example["code"]]


def test_what_the_gateway_says_alone_is_a_problem_too() -> None:
    """The gateway's own responses (throttled, blocked, unknown, broken) are problems like ours, and keep the status."""
    schema = DOCUMENT["components"]["schemas"]["Problem"]
    responses = DOCUMENT["x-amazon-apigateway-gateway-responses"]
    assert {
        "DEFAULT_4XX",
        "DEFAULT_5XX",
        "THROTTLED",
        "WAF_FILTERED",
        "MISSING_AUTHENTICATION_TOKEN",
    } <= responses.keys()
    for name, response in responses.items():
        problem = json.loads(response["responseTemplates"]["application/json"])
        Draft4Validator(schema).validate(problem)
        assert str(problem["status"]) == response["statusCode"], name
        assert problem["type"] == PROBLEM_TYPE + problem["code"]
        assert problem["requestId"] == "$context.requestId"
        headers = response["responseParameters"]
        assert headers["gatewayresponse.header.Content-Type"] == "'application/problem+json'"
        assert headers["gatewayresponse.header.Cache-Control"] == "'no-store'"
        assert ("gatewayresponse.header.Retry-After" in headers) == (problem["status"] in (429, 503)), name
