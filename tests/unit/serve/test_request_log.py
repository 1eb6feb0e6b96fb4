"""One line per request, which also has its metrics; nothing in it that a caller chose (see also test_isolation)."""

from __future__ import annotations

import io
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from serve.handler import build_handler
from serve.log import NAMESPACE, build_key_line, build_request_line, write
from serve.storage import Storage
from serve.web.problems import PROBLEM_TYPES
from serve.web.route import UseCase
from tests.unit.serve.kit import NOW, App, claims, event, item, sign
from wire.errors import Throttled

TOKEN = sign()
CASES: tuple[tuple[str, dict[str, Any], str, int], ...] = (
    ("/v1/flight-delays/a", {"token": TOKEN}, "get_item", 200),
    ("/v1/flight-delays/a", {"token": TOKEN, "method": "HEAD"}, "get_item", 200),
    ("/v1/flight-delays/none", {"token": TOKEN}, "get_item", 404),
    ("/v1/flight-delays/a", {}, "get_item", 401),
    ("/v1/flight-delays", {"token": TOKEN}, "list_items", 200),
    ("/v1/flight-delays", {"token": TOKEN, "query": {"id": ["a", "b"]}}, "get_items", 200),
    ("/v1/flight-delays", {"query": {"id": ["a"]}}, "get_items", 401),
    ("/v1/flight-delays", {"token": sign(claims(scope="x"))}, "list_items", 403),
    ("/v1/health", {}, "health", 200),
    ("/v1/health", {"method": "OPTIONS"}, "options", 204),
    ("/v1/flight-delays", {"method": "OPTIONS"}, "options", 204),
    ("/v1/none", {}, "unrouted", 404),
    ("/v1/flight-delays", {"method": "POST"}, "unrouted", 405),
)


@pytest.mark.parametrize(("path", "arguments", "use_case", "status"), CASES)
def test_each_request_has_one_line(path: str, arguments: dict[str, Any], use_case: str, status: int) -> None:
    """With its dataset from a closed list, its status and latency, and a metric for each alarm."""
    app = App(item("a"))
    app.call(path, **arguments)
    assert len(app.lines) == 1
    line = app.line
    assert line["use_case"] == line["UseCase"] == use_case
    assert use_case in set(UseCase)
    assert line["status"] == status
    assert line["request_id"] == "request-1"
    assert 0 < line["latency_ms"] == line["Latency"] < 20_000
    assert (line["Requests"], line["ClientErrors"], line["ServerErrors"]) == (1, int(400 <= status < 500), 0)
    assert (line["Service"], line["Environment"]) == ("serve", "test")
    assert line.get("code") in {*PROBLEM_TYPES, None}
    assert ("code" in line) == (status >= 400)
    assert ("kid" in line) == ("token" in arguments)
    assert ("subject" in line) == ("token" in arguments and status != 403)


def test_the_metrics_are_in_the_embedded_format() -> None:
    """CloudWatch reads them from the line: namespace, dimensions, and names for which the line has values."""
    app = App(item("a"))
    app.call(token=TOKEN)
    line = app.line
    assert line["_aws"]["Timestamp"] == int(NOW * 1000)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == NAMESPACE == "Larder"
    assert directive["Dimensions"] == [["Service", "Environment"], ["Service", "Environment", "UseCase"]]
    assert {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]} == {
        "Requests": "Count", "Latency": "Milliseconds", "ClientErrors": "Count", "ServerErrors": "Count",
    }  # fmt: skip
    for name in [metric["Name"] for metric in directive["Metrics"]]:
        assert isinstance(line[name], int | float)
    for name in {name for names in directive["Dimensions"] for name in names}:
        assert isinstance(line[name], str)


@pytest.mark.parametrize(
    ("status", "level", "client", "server"),
    [(200, "INFO", 0, 0), (304, "INFO", 0, 0), (399, "INFO", 0, 0), (400, "INFO", 1, 0), (499, "INFO", 1, 0),
     (500, "ERROR", 0, 1), (503, "ERROR", 0, 1)],
)  # fmt: skip
def test_a_line_has_these_members(status: int, level: str, client: int, server: int) -> None:
    """Every member, with its metrics first; a field that the caller chose does not change what the line counts."""
    line = build_request_line("prod", 1_700_000_000.1239, "get_item", status, 12.34567, {"kid": "k", "code": None})
    directive = {
        "Namespace": "Larder",
        "Dimensions": [["Service", "Environment"], ["Service", "Environment", "UseCase"]],
        "Metrics": [
            {"Name": "Requests", "Unit": "Count"},
            {"Name": "Latency", "Unit": "Milliseconds"},
            {"Name": "ClientErrors", "Unit": "Count"},
            {"Name": "ServerErrors", "Unit": "Count"},
        ],
    }
    assert line.startswith('{"_aws":{"Timestamp":')
    assert json.loads(line) == {
        "_aws": {"Timestamp": 1_700_000_000_123, "CloudWatchMetrics": [directive]},
        "level": level, "use_case": "get_item", "status": status, "latency_ms": 12.346, "kid": "k", "code": None,
        "Requests": 1, "Latency": 12.346, "ClientErrors": client, "ServerErrors": server,
        "Service": "serve", "Environment": "prod", "UseCase": "get_item",
    }  # fmt: skip


def test_the_latency_is_that_of_the_request() -> None:
    """In milliseconds; a table that responds after 20 takes 20 of them."""
    app = App(item("a"))
    send = app.table.send

    def slow(target: str, payload: bytes) -> bytes:
        time.sleep(0.02)
        return send(target, payload)

    handler = build_handler(app.parts._replace(storage=Storage(slow, "table")))
    handler(event("rest", "GET", "/v1/flight-delays/a", {}, {"Authorization": f"Bearer {TOKEN}"}), None)
    assert 20 <= app.line["latency_ms"] < 20_000


def test_a_line_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a separate line: Lambda freezes what is not flushed."""
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written))
    write("one")
    write("two")
    assert written.getvalue() == b"one\ntwo\n"


REASONS: tuple[tuple[dict[str, Any], int, str, str | None], ...] = (
    ({}, 401, "token_required", "token_required"),
    ({"authorization": "Basic x"}, 401, "token_required", "token_required"),
    ({"token": "x"}, 401, "invalid_token", "malformed"),
    ({"token": sign(claims(exp=1))}, 401, "invalid_token", "expired"),
    ({"token": sign(claims(scope="x"))}, 403, "insufficient_scope", "insufficient_scope"),
    ({"token": TOKEN, "accept": "text/html"}, 406, "not_acceptable", None),
    ({"token": TOKEN, "path": "/v1/flight-delays/none"}, 404, "not_found", None),
    ({"method": "POST"}, 405, "method_not_allowed", None),
    ({"authorization": f"Bearer {TOKEN}, Bearer x"}, 400, "invalid_request", None),
)


@pytest.mark.parametrize(("arguments", "status", "code", "reason"), REASONS)
def test_a_refusal_has_its_code_and_reason(
    arguments: dict[str, Any], status: int, code: str, reason: str | None
) -> None:
    """Words of closed lists; a reason if the code alone is ambiguous."""
    app = App(item("a"))
    app.call(**arguments)
    assert (app.line["status"], app.line["code"], app.line.get("reason")) == (status, code, reason)


GET = {"httpMethod": "GET", "path": "/v1/health"}
HTTP = {"version": "2.0", "requestContext": {"http": {"method": "GET"}}, "rawPath": "/v1/health"}
ODD: tuple[Any, ...] = (
    None, [], "x", {}, {"httpMethod": "GET"}, {"version": "2.0"}, {**GET, "path": 1}, {**GET, "httpMethod": None},
    {**GET, "requestContext": []}, {**GET, "headers": []}, {**GET, "headers": {"a": 1}}, {**GET, "headers": {1: "a"}},
    {**GET, "multiValueHeaders": {"a": "b"}}, {**GET, "multiValueHeaders": {"a": ["b", 1]}},
    {**GET, "multiValueHeaders": []}, {**GET, "queryStringParameters": "a=b"},
    {**GET, "multiValueQueryStringParameters": {"a": [None]}}, {**HTTP, "rawPath": None}, {**HTTP, "rawPath": 1},
    {**HTTP, "rawQueryString": 1}, {**HTTP, "requestContext": {"http": []}}, {**HTTP, "headers": {"a": ["b"]}},
    {**HTTP, "requestContext": {"http": {"method": 1}}}, {**HTTP, "requestContext": "x"},
)  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_an_invalid_event_has_a_line(odd: Any) -> None:
    """400, without a request id."""
    app = App()
    result = app.handler(odd, None)
    line = app.line
    assert (result["statusCode"], line["status"], line["use_case"]) == (400, 400, "unrouted")
    assert (line["code"], line["reason"], line["request_id"]) == ("invalid_request", "malformed-event", "")
    assert json.loads(result["body"])["requestId"] == ""


@pytest.mark.parametrize("given", [GET, HTTP])
def test_an_event_needs_no_more_than_method_and_path(given: Any) -> None:
    """What it lacks counts as empty."""
    app = App()
    assert (app.handler(given, None)["statusCode"], app.line["use_case"]) == (200, "health")
    for name in ("headers", "queryStringParameters", "multiValueHeaders", "multiValueQueryStringParameters"):
        assert app.handler({**given, name: None}, None)["statusCode"] == 200


def test_the_problems_are_unchanged() -> None:
    """Consumers rely on codes, statuses and titles: a change is deliberate."""
    assert {code: (kind.status, kind.title) for code, kind in PROBLEM_TYPES.items()} == {
        "invalid_request": (400, "The request is malformed"),
        "token_required": (401, "A bearer token is required"),
        "invalid_token": (401, "The bearer token is not valid"),
        "insufficient_scope": (403, "The token does not have the required scope"),
        "not_found": (404, "Not found"),
        "too_old": (404, "The item is older than the request accepts"),
        "method_not_allowed": (405, "Method not allowed"),
        "not_acceptable": (406, "Not acceptable"),
        "content_too_large": (413, "The request is too large"),
        "unsupported_media_type": (415, "The request's content type is not supported"),
        "invalid_instance": (422, "The features do not fit the model"),
        "internal_error": (500, "Internal server error"),
        "unavailable": (503, "Service unavailable"),
        "model_unavailable": (503, "The model is unavailable"),
    }


def test_faults_are_errors_in_the_log() -> None:
    """5xx has level ERROR and counts as ServerErrors; a refusal has INFO."""
    app = App(item("a"))
    app.call()
    assert app.line["level"] == "INFO"
    app.table.error = Throttled("x")
    app.call(token=TOKEN)
    line = app.line
    assert (line["level"], line["ServerErrors"], line["ClientErrors"]) == ("ERROR", 1, 0)
    assert line["reason"] == "storage: Throttled"
    app.table.error = ValueError("x")
    app.call(token=TOKEN)
    assert (app.line["status"], app.line["level"], app.line["code"]) == (500, "ERROR", "internal_error")


def test_the_subject_is_a_hash() -> None:
    """The same subject has the same hash, another has another."""
    app = App(item("a"))
    hashes = []
    for carrier in ("B6", "AA", "B6"):
        app.call(token=sign(claims(carrier=carrier)))
        hashes.append(app.line["subject"])
    assert hashes[0] == hashes[2] != hashes[1]
    assert len(hashes[0]) == 16


def test_unusable_keys_have_a_line_and_a_metric() -> None:
    """An operator can alarm on keys that cannot be read or are refused."""
    line = json.loads(build_key_line("test", NOW, "key-refused", {"kid": "weak", "detail": "use is not sig"}))
    assert (line["event"], line["kid"], line["KeyFailures"], line["level"]) == ("key-refused", "weak", 1, "ERROR")
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["Service", "Environment"]]
    assert directive["Namespace"] == "Larder"
    assert directive["Metrics"] == [{"Name": "KeyFailures", "Unit": "Count"}]


def test_the_latency_is_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the event to its response."""
    readings = iter((10.0, 10.25))
    monkeypatch.setattr("serve.handler.time", SimpleNamespace(perf_counter=lambda: next(readings)))
    app = App(item("a"))
    app.call(token=sign())
    assert (app.line["latency_ms"], app.line["Latency"]) == (250.0, 250.0)
