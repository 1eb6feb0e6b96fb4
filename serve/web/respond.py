"""Build HTTP responses, and render them in the form that the sender of the event expects."""

import json
import zlib
from base64 import b64encode
from typing import Any, NamedTuple

from serve.item import BodyTooLarge, Item, body_text
from serve.web.fields import cut
from serve.web.freshness import build_headers, describe_freshness
from serve.web.negotiate import accepts_json, build_etag, choose_coding, is_current
from serve.web.page import Page, is_too_old
from serve.web.problems import PROBLEM_TYPES, Problem
from serve.web.request import Form, HttpRequest
from serve.web.route import ALLOW, Wanted
from serve.web.version import find_version

MAX_AGE = 60
# What takes a function's result takes so many bytes of it: Lambda 6 MB, a load balancer 1 MB; 16 KB are for headers.
_LAMBDA, _LOAD_BALANCER = (limit - 16_384 for limit in (6_000_000, 1_000_000))
_LIMITS = {Form.REST: _LAMBDA, Form.HTTP: _LAMBDA, Form.ALB: _LOAD_BALANCER, Form.ALB_MULTI: _LOAD_BALANCER}
# A body of more characters is sent as base64: Lambda's runtime can escape a character to 12 bytes. A shorter one is
# not, since to encode it, and to quote what that makes of it, takes twice as long as to quote the text.
MAX_TEXT = {form: limit // 12 for form, limit in _LIMITS.items()}
# Bytes of a body that fit as base64, which turns three bytes into four. A stored gzip (at most 400 KB) always fits.
MAX_SENT = {form: limit * 3 // 4 for form, limit in _LIMITS.items()}
JSON = "application/json"
PROBLEM_TYPE = "urn:larder:problem:"
# Headers that a page of another origin can read besides the safelisted ones (Fetch, "CORS-safelisted response-header").
EXPOSED = "ETag, Larder-As-Of, Larder-Expires-At, Larder-Model-Version, Larder-Run, Link, WWW-Authenticate"


class HttpResponse(NamedTuple):
    """Status, headers and body; bytes are passed to the gateway as base64, which it decodes."""

    status: int
    headers: dict[str, str]
    body: str | bytes = ""


def check_acceptable(request: HttpRequest) -> None:
    """Check that the caller accepts JSON.

    Raises:
        Problem: not_acceptable.
    """
    if not accepts_json(request.header("accept")):
        raise Problem("not_acceptable", "this API responds with application/json")


def respond_item(request: HttpRequest, item: Item, wanted: Wanted, now: float, ends: float) -> HttpResponse:
    """Respond with an item's body, unchanged if the caller accepts the stored coding; `ends` as in `respond_page`.

    Raises:
        Problem: too_old; not_acceptable, if the caller accepts neither coding, or the body is too large to be sent
            without gzip or to choose members from.
        ValueError: the stored body is damaged.
    """
    freshness = describe_freshness(item.order, item.expires_at)
    until = min(item.expires_at, ends)
    if wanted.max_age is not None:
        if is_too_old(freshness.as_of, wanted.max_age, now):
            age = freshness.age(now)
            detail = f"the item is {age} s old (as_of {freshness.as_of_text}), which is more than max_age"
            raise Problem("too_old", detail, members={"age": age, "as_of": freshness.as_of_text})
        until = min(until, freshness.as_of + wanted.max_age)
    stored = item.body or ""
    dated = build_headers(freshness, now)
    if wanted.selection is not None or wanted.version:
        try:
            text = body_text(stored)
        except BodyTooLarge:  # written by a release that had no limit
            if wanted.selection is not None:
                detail = "the body is too large for fields: get all of it, with Accept-Encoding: gzip"
                raise Problem("not_acceptable", detail, reason="body-too-large") from None
        else:
            if wanted.version and (version := find_version(text, wanted.version).header):
                dated = {**dated, "Larder-Model-Version": version}
            stored = cut(text, wanted.selection) if wanted.selection is not None else stored
    body, coding = _encode(request, stored)
    return _respond(request, body, coding, dated, until, now)


def respond_page(request: HttpRequest, found: Page, now: float, ends: float) -> HttpResponse:
    """Respond with a page of items, and a link to the next page if there can be one.

    The response can be cached until the token expires (`ends`, epoch seconds) or the first of its items expires. It has
    no Last-Modified: a page also changes when an item is removed, and no date of a remaining item shows that.

    Raises:
        Problem: not_acceptable, as in `respond_item`.
    """
    body, coding = _encode(request, found.json, found.link)
    return _respond(request, body, found.link | coding, {}, min(found.expires_at, ends), now)


def respond_health() -> HttpResponse:
    """Respond that the function runs; token and storage are not checked."""
    return HttpResponse(
        200, {"Content-Type": "application/health+json", "Cache-Control": "no-store"}, '{"status":"pass"}'
    )


def respond_options(allow: str = ALLOW) -> HttpResponse:
    """Respond with the allowed methods."""
    return HttpResponse(204, {"Allow": allow, "Cache-Control": "no-store"})


def respond_problem(problem: Problem, request_id: str) -> HttpResponse:
    """Respond with problem details (RFC 9457), which never contain internal details."""
    kind = PROBLEM_TYPES[problem.code]
    members: dict[str, Any] = {"type": PROBLEM_TYPE + problem.code, "title": kind.title, "status": kind.status}
    if problem.detail is not None:
        members["detail"] = problem.detail
    members |= {"code": problem.code, "requestId": request_id, **problem.members}
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store", **problem.headers}
    return HttpResponse(kind.status, headers, json.dumps(members))


def add_cors(
    response: HttpResponse,
    origin: str | None,
    origins: tuple[str, ...],
    *,
    is_preflight: bool,
    methods: str = "GET, HEAD",
    headers: str = "Authorization, If-Modified-Since, If-None-Match, X-Api-Key",
    exposed: str = EXPOSED,
) -> HttpResponse:
    """Add the CORS headers for a browser page of another origin; without `origins` nothing is added.

    `methods` and `headers` are those that a page can send, `exposed` the headers that it can read.
    """
    if not origins:
        return response
    added = dict(response.headers)
    added["Vary"] = f"{added['Vary']}, Origin" if "Vary" in added else "Origin"
    if origin in origins:
        added["Access-Control-Allow-Origin"] = str(origin)
        added["Access-Control-Expose-Headers"] = exposed
        if is_preflight:
            added["Access-Control-Allow-Methods"] = methods
            added["Access-Control-Allow-Headers"] = headers
            added["Access-Control-Max-Age"] = "600"
    return response._replace(headers=added)


def render_response(response: HttpResponse, form: Form, *, is_head: bool) -> dict[str, Any]:
    """Render a response as the function's result. HEAD has the headers of GET and no body."""
    body, is_base64 = response.body, False
    if is_head:
        body = ""
    if isinstance(body, str) and len(body) > MAX_TEXT[form]:
        body = body.encode()
    if isinstance(body, bytes):
        body, is_base64 = b64encode(body).decode(), True
    headers = {**response.headers, "X-Content-Type-Options": "nosniff"}
    result: dict[str, Any] = {"statusCode": response.status, "body": body, "isBase64Encoded": is_base64}
    if form in (Form.ALB, Form.ALB_MULTI):
        from http import HTTPStatus  # slow to import, and only load balancers need the phrase

        result["statusDescription"] = f"{response.status} {HTTPStatus(response.status).phrase}"
    if form is Form.ALB_MULTI:
        result["multiValueHeaders"] = {name: [value] for name, value in headers.items()}
    else:
        result["headers"] = headers
    return result


def _encode(
    request: HttpRequest, body: str | bytes, link: dict[str, str] | None = None
) -> tuple[str | bytes, dict[str, str]]:
    """Return the body (text or its gzip) in a coding that the caller accepts, and the headers for it.

    A problem has the link to the next page, so that a caller without gzip can continue the list.
    """
    largest = MAX_SENT[request.form]
    most = MAX_TEXT[request.form]
    sent = body.encode() if isinstance(body, str) and len(body) > most else body  # once: it is hashed, too
    is_large = isinstance(body, str) and isinstance(sent, bytes) and len(sent) > largest
    coding = choose_coding(request.header("accept-encoding"), is_gzip=is_large or isinstance(body, bytes))
    if coding is None:
        raise Problem("not_acceptable", "this API responds with the codings identity and gzip")
    if coding == "gzip":
        return body if isinstance(body, bytes) else _gzip(body), {"Content-Encoding": "gzip"}
    try:
        if not is_large:
            return sent if isinstance(body, str) else body_text(body, largest), {}
    except BodyTooLarge:
        pass
    detail = f"the body has more than the {largest} bytes that can be sent uncompressed: send Accept-Encoding: gzip"
    raise Problem("not_acceptable", detail, reason="body-too-large", headers=link)


def _respond(
    request: HttpRequest,
    body: str | bytes,
    headers: dict[str, str],
    dated: dict[str, str],
    expires_at: float,
    now: float,
) -> HttpResponse:
    """Respond with the body (200), or without it if the caller has it (304); both have the `dated` headers."""
    etag = build_etag(body.encode() if isinstance(body, str) else body)
    caching = {
        "ETag": etag,
        "Cache-Control": f"private, max-age={max(0, int(min(MAX_AGE, expires_at - now)))}",
        "Vary": "Authorization, Accept-Encoding",
        **dated,
    }
    if "if-none-match" in request.headers or "if-modified-since" in request.headers:
        conditions = request.header("if-none-match"), request.header("if-modified-since")
        if is_current(*conditions, etag, dated.get("Last-Modified")):
            return HttpResponse(304, caching)
    return HttpResponse(200, {"Content-Type": JSON, **caching, **headers}, body)


def _gzip(text: str) -> bytes:
    packer = zlib.compressobj(6, wbits=31)  # has no timestamp, so that the same text has the same bytes
    return packer.compress(text.encode()) + packer.flush()
