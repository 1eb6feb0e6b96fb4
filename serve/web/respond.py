"""Build answers, and render them as the sender of the event wants them. Pure."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from typing import Any, NamedTuple

from serve.item import Item, body_text
from serve.web.negotiate import accepts_json, build_etag, choose_coding, is_fresh
from serve.web.page import Found
from serve.web.problems import KINDS, Problem
from serve.web.request import Form, Request
from serve.web.route import ALLOW, Page

MAX_AGE = 60
# Characters of a body that is sent as text. Lambda's runtime may escape a character to 12 bytes, and a load balancer
# takes 1 MB; as base64 a body has 4/3 of its bytes, so that the largest that is stored fits into Lambda's 6 MB too.
MAX_TEXT = 80_000
JSON = "application/json"
PROBLEM_TYPE = "urn:larder:problem:"


class Answer(NamedTuple):
    """Status, headers and body; bytes are sent as base64, which the gateway decodes."""

    status: int
    headers: dict[str, str]
    body: str | bytes = ""


def check_acceptable(request: Request) -> None:
    """Check that the caller takes JSON.

    Raises:
        Problem: not_acceptable.
    """
    if not accepts_json(request.header("accept")):
        raise Problem("not_acceptable", "this API answers application/json")


def respond_item(request: Request, item: Item, now: float) -> Answer:
    """Answer with an item's body: as it is stored if the caller takes that.

    Raises:
        Problem: not_acceptable, if the caller takes neither the stored coding nor the other.
        ValueError: the stored body is damaged.
    """
    body, headers = _encode(request, item.body or "")
    return _respond(request, body, headers, item.expires_at, now)


def respond_list(request: Request, page: Page, found: Found, now: float) -> Answer:
    """Answer with a page of items, and a link to the next one if there may be more.

    Raises:
        Problem: not_acceptable, as `respond_item`.
    """
    headers = {}
    if found.next_after is not None:
        # Relative, since the function does not know under which host, stage and base path it is reached.
        prefix = f"&prefix={page.prefix}" if page.prefix else ""
        headers["Link"] = f'<?limit={page.limit}&after={found.next_after}{prefix}>; rel="next"'
    body, coding = _encode(request, found.json)
    return _respond(request, body, headers | coding, found.expires_at, now)


def respond_health() -> Answer:
    """Answer that the function runs; neither token nor storage is asked."""
    return Answer(200, {"Content-Type": "application/health+json", "Cache-Control": "no-store"}, '{"status":"pass"}')


def respond_options() -> Answer:
    """Answer which methods there are."""
    return Answer(204, {"Allow": ALLOW, "Cache-Control": "no-store"})


def respond_problem(problem: Problem, request_id: str) -> Answer:
    """Answer with what is wrong (RFC 9457), never with what happened inside."""
    kind = KINDS[problem.code]
    members: dict[str, Any] = {"type": PROBLEM_TYPE + problem.code, "title": kind.title, "status": kind.status}
    if problem.detail is not None:
        members["detail"] = problem.detail
    members |= {"code": problem.code, "requestId": request_id}
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store", **problem.headers}
    return Answer(kind.status, headers, json.dumps(members))


def add_cors(answer: Answer, origin: str | None, origins: tuple[str, ...], *, is_preflight: bool) -> Answer:
    """Add what a browser needs to show the answer to a page of another origin; nothing without a list of origins."""
    if not origins:
        return answer
    headers = dict(answer.headers)
    headers["Vary"] = f"{headers['Vary']}, Origin" if "Vary" in headers else "Origin"
    if origin in origins:
        headers["Access-Control-Allow-Origin"] = str(origin)
        headers["Access-Control-Expose-Headers"] = "ETag, Link, WWW-Authenticate"
        if is_preflight:
            headers["Access-Control-Allow-Methods"] = "GET, HEAD"
            headers["Access-Control-Allow-Headers"] = "Authorization, If-None-Match"
            headers["Access-Control-Max-Age"] = "600"
    return answer._replace(headers=headers)


def render(answer: Answer, form: Form, *, is_head: bool = False) -> dict[str, Any]:
    """Render an answer for whoever sent the event. HEAD has the headers of GET and no body."""
    body, is_base64 = answer.body, False
    if is_head:
        body = ""
    if isinstance(body, str) and len(body) > MAX_TEXT:
        body = body.encode()
    if isinstance(body, bytes):
        body, is_base64 = b64encode(body).decode(), True
    headers = {**answer.headers, "X-Content-Type-Options": "nosniff"}
    result: dict[str, Any] = {"statusCode": answer.status, "body": body, "isBase64Encoded": is_base64}
    if form in (Form.ALB, Form.ALB_MULTI):
        from http import HTTPStatus  # slow to import, and only load balancers want the phrase

        result["statusDescription"] = f"{answer.status} {HTTPStatus(answer.status).phrase}"
    if form is Form.ALB_MULTI:
        result["multiValueHeaders"] = {name: [value] for name, value in headers.items()}
    else:
        result["headers"] = headers
    return result


def _encode(request: Request, body: str | bytes) -> tuple[str | bytes, dict[str, str]]:
    """Give a body the coding that the caller prefers: text or its gzip, whichever of the two it is."""
    coding = choose_coding(request.header("accept-encoding"), is_gzip=isinstance(body, bytes))
    if coding is None:
        raise Problem("not_acceptable", "this API answers in the codings identity and gzip")
    if coding == "identity":
        return body_text(body), {}
    return body if isinstance(body, bytes) else _gzip(body), {"Content-Encoding": "gzip"}


def _respond(request: Request, body: str | bytes, headers: dict[str, str], expires_at: float, now: float) -> Answer:
    etag = build_etag(body.encode() if isinstance(body, str) else body)
    caching = {
        "ETag": etag,
        "Cache-Control": f"private, max-age={max(0, int(min(MAX_AGE, expires_at - now)))}",
        "Vary": "Authorization, Accept-Encoding",
    }
    if is_fresh(request.header("if-none-match"), etag):
        return Answer(304, caching)
    return Answer(200, {"Content-Type": JSON, **caching, **headers}, body)


def _gzip(text: str) -> bytes:
    packer = zlib.compressobj(6, wbits=31)  # writes no time, so that the same text has the same bytes
    return packer.compress(text.encode()) + packer.flush()
