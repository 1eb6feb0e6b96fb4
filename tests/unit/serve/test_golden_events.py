"""Complete events of the four event forms, as AWS documents them: each is the same request with the same response."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from serve.web.request import Form, parse_request
from tests.unit.serve.kit import Answered, App, event, item, sign

FOLDER = Path(__file__).parent / "events"
FORMS = {
    "rest_api": (Form.REST, "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"),
    "http_api": (Form.HTTP, "JKJaXmPLvHcESHA="),
    "http_api_named_stage": (Form.HTTP, "JKJaXmPLvHcESHA="),
    "function_url": (Form.HTTP, "e1506fd5-9e7b-434f-bd42-4f8fa224b599"),
    "load_balancer": (Form.ALB, "Root=1-6553f100-0123456789abcdef01234567"),
    "load_balancer_multi_value": (Form.ALB_MULTI, "Root=1-6553f100-0123456789abcdef01234567"),
}


def _event(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text().replace("{token}", sign()))


def test_every_event_is_tested() -> None:
    """The folder and the table agree."""
    assert {path.stem for path in FOLDER.glob("*.json")} == FORMS.keys()


@pytest.mark.parametrize("name", FORMS)
def test_an_event_is_parsed(name: str) -> None:
    """Whatever is encoded or repeated: one method, one path, one query, headers in lower case."""
    request = parse_request(_event(name))
    assert (request.form, request.request_id) == FORMS[name]
    assert (request.method, request.path) == ("GET", "/v1/flight-delays")
    assert request.query == {"limit": ["2"], "prefix": ["2024-01-02."]}
    assert request.header("accept-encoding") == "gzip, deflate"
    assert request.header("authorization") == f"Bearer {sign()}"
    assert request.header("x-none") is None


@pytest.mark.parametrize("name", FORMS)
def test_an_answer_has_the_form_of_its_event(name: str) -> None:
    """Members and their types are those that the caller reads, and no others."""
    app = App(item("2024-01-02.a"), item("2024-01-02.b"), item("2024-01-02.c"), item("2024-01-03.a"))
    result = app.handler(_event(name), None)
    form = FORMS[name][0]
    members = {"statusCode", "body", "isBase64Encoded"}
    members |= {"multiValueHeaders" if form is Form.ALB_MULTI else "headers"}
    members |= {"statusDescription"} if form in (Form.ALB, Form.ALB_MULTI) else set()
    assert result.keys() == members
    assert result["statusCode"] == 200
    assert result.get("statusDescription", "200 OK") == "200 OK"
    for value in result.get("headers", {}).values():
        assert isinstance(value, str)
    for values in result.get("multiValueHeaders", {}).values():
        assert len(values) == 1
        assert isinstance(values[0], str)
    answer = Answered(result)
    assert [entry["prediction_id"] for entry in answer.json["items"]] == ["2024-01-02.a", "2024-01-02.b"]
    assert answer.headers["link"] == '<?limit=2&after=2024-01-02.b&prefix=2024-01-02.>; rel="next"'
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize("name", FORMS)
def test_a_parameter_that_is_repeated_keeps_its_values(name: str) -> None:
    """As in each event form: lists, one string, joined by commas; or the last value, which is refused."""
    ids = ["2024-01-02.b", "k=v,w", "user@example.com", "2024-01-02.a"]
    sent = _event(name)
    encoded = [quote(one, safe="") for one in ids]
    if "rawQueryString" in sent:
        sent |= {"rawQueryString": urlencode({"id": ids}, doseq=True), "queryStringParameters": {"id": ",".join(ids)}}
    elif "multiValueQueryStringParameters" in sent:
        values = ids if FORMS[name][0] is Form.REST else encoded
        sent |= {"multiValueQueryStringParameters": {"id": values}}
        sent |= {"queryStringParameters": {"id": ids[-1]}} if "queryStringParameters" in sent else {}
    else:
        sent |= {"queryStringParameters": {"id": encoded[-1]}}
    answer = Answered(App(*(item(one) for one in ids)).handler(sent, None))
    if FORMS[name][0] is Form.ALB:
        assert answer.status == 400
    else:
        assert [entry["prediction_id"] for entry in answer.json["items"]] == ids


@pytest.mark.parametrize(
    ("status", "description"), [(404, "404 Not Found"), (405, "405 Method Not Allowed"), (304, "304 Not Modified")]
)
def test_a_load_balancer_gets_the_phrase(status: int, description: str) -> None:
    """`statusDescription` is the status line."""
    app = App(item("a"))
    arguments: dict[int, dict[str, Any]] = {404: {"path": "/v1/x"}, 405: {"method": "PUT"}, 304: {"if_none_match": "*"}}
    answer = app.call(**{"token": sign(), "form": "alb", **arguments[status]})
    assert answer.result["statusDescription"] == description


LONG = "a" * 128
IDS: tuple[tuple[Any, str], ...] = (
    ("c6af9ac6-7b61-11e6-9a41-93e8deadbeef", "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"),
    ("JKJaXmPLvHcESHA=", "JKJaXmPLvHcESHA="), ("a$=_.:-Z9", "a$=_.:-Z9"),
    ("$context.requestId", "$context.requestId"),
    (LONG, LONG), (LONG + "a", ""), ("", ""), (None, ""), (7, ""), (["a"], ""), ({"a": "b"}, ""), (True, ""),
    ("a b", ""), ("a\n", ""), ("\na", ""), ("a\x00", ""), ("\u00e9", ""), ('a"b', ""), ("a{b", ""), ("<a>", ""),
    ("a/b", ""),
    ("a\\b", ""), ("a%0A", ""), ("a\u2028", ""), ("a+b", ""), ("a,b", ""), ("a;b", ""), ("a@b", ""), ("\u0661", ""),
)  # fmt: skip
TRACES: tuple[tuple[Any, str], ...] = (
    ("Root=1-67891233-abcdef012345678912345678", "Root=1-67891233-abcdef012345678912345678"),
    ("Self=1-6789-aa;Root=1-67891233-abcdef", "Root=1-67891233-abcdef"),
    ("Root=1-67-ab;Parent=53995c3f42cd8ad8;Sampled=1;Lineage=a87bd80c:0", "Root=1-67-ab"),
    ("Root=1-ab canary", "Root=1-ab"), ("Root=1-ab\ncanary", "Root=1-ab"), ("canary;Root=1-ab", "Root=1-ab"),
    ("Root=" + "a" * 65, "Root=" + "a" * 64), ("Root=1-abXYZ", "Root=1-ab"), ("Root=", ""), ("Root=X", ""),
    ("root=1-ab", ""), ("Self=1-ab", ""), ("canary", ""), ("", ""), ("Root:1-ab", ""),
)  # fmt: skip


@pytest.mark.parametrize("form", ["rest", "http", "function-url"])
@pytest.mark.parametrize(("given", "expected"), IDS)
def test_only_an_id_of_harmless_characters_is_copied(form: str, given: Any, expected: str) -> None:
    """Log line and response have the gateway's request id, or an empty one if it has another form."""
    app = App()
    sent = event(form, "GET", "/v1/none", {}, {})
    sent["requestContext"]["requestId"] = given
    answer = Answered(app.handler(sent, None))
    assert answer.json["requestId"] == app.line["request_id"] == expected


@pytest.mark.parametrize("form", ["alb", "alb-multi"])
@pytest.mark.parametrize(("given", "expected"), TRACES)
def test_only_the_root_of_a_trace_is_copied(form: str, given: str, expected: str) -> None:
    """A load balancer passes on what the caller sent in the header: only its hexadecimal digits are used."""
    app = App()
    sent = event(form, "GET", "/v1/none", {}, {})
    if form == "alb":
        sent["headers"]["x-amzn-trace-id"] = given
    else:
        sent["multiValueHeaders"]["x-amzn-trace-id"] = ["Root=1-ffff", given]
    answer = Answered(app.handler(sent, None))
    assert answer.json["requestId"] == app.line["request_id"] == expected
    assert "canary" not in app.lines[-1] + answer.body.decode()


EMPTY = ["authorization", "accept", "accept-encoding", "if-none-match", "origin", "x-amzn-trace-id", "x-other"]


@pytest.mark.parametrize("form", ["rest", "alb-multi"])
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_list_of_values_is_no_header(form: str, name: str) -> None:
    """A name without values is ignored: the response is the same as without it."""
    app = App(item("a"), cors_origins=("https://app.example.com",))
    sent = event(form, "GET", "/v1/flight-delays/a", {}, {"Authorization": f"Bearer {sign()}"})
    headers = {each: values for each, values in sent["multiValueHeaders"].items() if each.lower() != name}
    without = app.handler({**sent, "multiValueHeaders": headers}, None)
    assert app.handler({**sent, "multiValueHeaders": {**headers, name: []}}, None) == without
    assert without["statusCode"] == (401 if name == "authorization" else 200)


@pytest.mark.parametrize("form", ["rest", "alb-multi"])
@pytest.mark.parametrize("name", ["limit", "after", "prefix", "other"])
def test_an_empty_list_of_values_is_no_parameter(form: str, name: str) -> None:
    """The same in a query."""
    sent = event(form, "GET", "/v1/flight-delays", {}, {"Authorization": f"Bearer {sign()}"})
    assert App().handler(sent | {"multiValueQueryStringParameters": {name: []}}, None)["statusCode"] == 200


@pytest.mark.parametrize("form", ["rest", "http", "alb", "alb-multi"])
@pytest.mark.parametrize("odd", [{"path": 1, "rawPath": 1}, {"headers": {"a": 1}, "multiValueHeaders": {"a": [1]}}])
def test_a_malformed_event_is_answered_in_its_form(form: str, odd: dict[str, Any]) -> None:
    """400 with the members that its sender reads."""
    sent = event(form, "GET", "/v1/health", {}, {})
    result = App().handler(sent | {name: value for name, value in odd.items() if name in sent}, None)
    assert result["statusCode"] == 400
    assert ("statusDescription" in result) == form.startswith("alb")
    assert ("multiValueHeaders" in result) == (form == "alb-multi")


def test_a_single_value_load_balancer_keeps_its_form_without_headers() -> None:
    """An event without any headers gets a response with `headers`."""
    result = App().handler({"requestContext": {"elb": {}}, "httpMethod": "GET", "path": "/v1/health"}, None)
    assert result["headers"]["Content-Type"] == "application/health+json"


@pytest.mark.parametrize("slash", ["%2F", "%2f"])
def test_an_encoded_slash_stays_encoded(slash: str) -> None:
    """In capitals; whatever else is decoded."""
    for form in ("rest", "http"):
        assert parse_request(event(form, "GET", f"/v1/%61{slash}b", {}, {})).path == "/v1/a%2Fb", form
