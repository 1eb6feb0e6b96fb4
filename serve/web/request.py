"""Parse an event of a REST API, an HTTP API, a load balancer or a function URL into one request.

Every member of an event is checked to exist and to have its type: who can invoke the function can send any JSON.

| form | path | query | repeated headers |
|---|---|---|---|
| REST API (payload 1.0) | without the stage, encoded | decoded | a list each |
| HTTP API (2.0) | with the stage if it has a name, decoded | one string, encoded | joined by commas |
| function URL (2.0) | encoded | one string, encoded | joined by commas |
| load balancer | encoded | encoded | the last one; a list each if the target group has multi-value headers |
"""

import re
from collections.abc import Mapping
from enum import IntEnum, auto
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, unquote_plus

from serve.web.problems import Problem

# Ids that are logged and returned; the caller of a load balancer controls the trace header.
_NAME = re.compile(r"[A-Za-z0-9$=_.:-]{1,128}\Z")
MAX_FIELDS = 150  # parameters of a query: 100 ids, and more than enough for all others
_SLASH = re.compile("%2F", re.IGNORECASE)
_ROOT = re.compile(r"Root=[0-9a-f-]{1,64}")


class Form(IntEnum):  # a key of tables, and only hashing an integer is fast
    """Event forms, which decide the form of the result."""

    REST = auto()
    HTTP = auto()
    ALB = auto()
    ALB_MULTI = auto()


class MalformedEvent(Exception):
    """The event has none of the four forms."""


class HttpRequest(NamedTuple):
    """One request. Header names are in lower case; each header and query parameter has a list of values."""

    form: Form
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, list[str]]
    request_id: str

    def header(self, name: str) -> str | None:
        """Return a header as one string, its values joined per RFC 9110 section 5.3."""
        values = self.headers.get(name)
        return ", ".join(values) if values else None


def parse_request(event: object) -> HttpRequest:
    """Parse an event.

    Raises:
        MalformedEvent: it has none of the four forms, or a member has the wrong type.
        Problem: invalid_request, if its query has too many parameters.
    """
    if not isinstance(event, dict):
        raise MalformedEvent
    context = _member(event, "requestContext")
    form = parse_form(event)
    if form is Form.HTTP:
        return _parse_http(event, context)
    method, path = event.get("httpMethod"), event.get("path")
    if not isinstance(method, str) or not isinstance(path, str):
        raise MalformedEvent
    query = _pairs(event, "multiValueQueryStringParameters", "queryStringParameters")
    headers = _headers(event)
    if form is not Form.REST:
        decoded: dict[str, list[str]] = {}
        for name, values in query.items():
            decoded.setdefault(unquote_plus(name), []).extend(unquote_plus(value) for value in values)
        trace = find_trace(headers.get("x-amzn-trace-id", [""])[-1])
        return HttpRequest(form, method, _decode(path), decoded, headers, trace)
    path = _without_stage(_decode(path), context)
    return HttpRequest(Form.REST, method, path, query, headers, _text(context, "requestId"))


def find_trace(header: str) -> str:
    """Return the root of a load balancer's X-Amzn-Trace-Id, which is its id of the request; empty if there is none."""
    found = _ROOT.search(header)
    return found[0] if found else ""


def check_repeatable(request: HttpRequest) -> None:
    """Check that the sender of the event passes on all values of a repeated parameter.

    Raises:
        Problem: invalid_request, for a load balancer whose target group does not have multi-value headers: it drops all
            values but the last.
    """
    if request.form is Form.ALB:
        detail = "the load balancer in front of this API passes one id only: ask for one item at a time by its path"
        raise Problem("invalid_request", detail, reason="no-multi-value-headers")


def parse_form(event: object) -> Form:
    """Return the form of an event; for a malformed one the best guess, since the form of the response depends on it."""
    if not isinstance(event, dict):
        return Form.REST
    if event.get("version") == "2.0":
        return Form.HTTP
    context = event.get("requestContext")
    if not isinstance(context, dict) or "elb" not in context:
        return Form.REST
    return Form.ALB_MULTI if isinstance(event.get("multiValueHeaders"), dict) else Form.ALB


def _parse_http(event: Mapping[str, Any], context: Mapping[str, Any]) -> HttpRequest:
    method, path = _member(context, "http").get("method"), event.get("rawPath")
    raw_query = event.get("rawQueryString") or ""
    if not (isinstance(method, str) and isinstance(path, str) and isinstance(raw_query, str)):
        raise MalformedEvent
    query: dict[str, list[str]] = {}
    try:
        for name, value in parse_qsl(raw_query, keep_blank_values=True, max_num_fields=MAX_FIELDS):
            query.setdefault(name, []).append(value)
    except ValueError as error:
        detail = f"the query has more than {MAX_FIELDS} parameters; ask for at most 100 ids at a time"
        raise Problem("invalid_request", detail, reason="malformed-event") from error
    path = _without_stage(_decode(path), context)
    return HttpRequest(Form.HTTP, method, path, query, _headers(event), _text(context, "requestId"))


def _decode(path: str) -> str:
    """Decode a path except for encoded slashes: `a%2Fb` is one segment, not two (RFC 3986 section 2.2).

    An HTTP API has already decoded it. Decoding twice is safe: a decoded valid path contains no percent sign.
    """
    return unquote(_SLASH.sub("%252F", path)) if "%" in path else path


def _without_stage(path: str, context: Mapping[str, Any]) -> str:
    stage = context.get("stage")
    return path[len(stage) + 1 :] if isinstance(stage, str) and path.startswith(f"/{stage}/v1/") else path


def _headers(event: Mapping[str, Any]) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, values in _pairs(event, "multiValueHeaders", "headers").items():
        known = name.lower()
        headers[known] = headers[known] + values if known in headers else values
    return headers


def _pairs(event: Mapping[str, Any], many: str, one: str) -> dict[str, list[str]]:
    """Return the values of each name, from the multi-value member if it exists."""
    if event.get(many) is not None:
        # A name without values is ignored: a load balancer can send empty lists.
        pairs = {name: values for name, values in _member(event, many).items() if values is not None and values != []}
    elif event.get(one) is not None:
        pairs = {name: [value] for name, value in _member(event, one).items() if value is not None}
    else:
        return {}
    for name, values in pairs.items():
        if not isinstance(name, str) or not isinstance(values, list):
            raise MalformedEvent
        for value in values:
            if not isinstance(value, str):
                raise MalformedEvent
    return pairs


def _member(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedEvent
    return value


def _text(context: Mapping[str, Any], name: str) -> str:
    value = context.get(name)
    return value if isinstance(value, str) and _NAME.match(value) else ""
