"""Raw requests to a door, and what comes back, in a form that can be compared."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.doors.kit import LOOPBACK

HERE = Path(__file__).parent
REQUESTS: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load((HERE / "requests.yaml").read_text())
DIFFERENCES: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "differences.yaml").read_text())
CANARIES = {"C1": "canary-of-c1-1d8f", "C2": "canary-of-c2-77c2"}  # what only this subject's items have
KEPT = (
    *("content-type", "content-encoding", "etag", "cache-control", "vary", "allow", "www-authenticate", "link"),
    *("retry-after", "last-modified", "larder-as-of", "larder-run", "larder-model-version", "x-content-type-options"),
)


class Raw(NamedTuple):
    """A request: its method, target, headers and body."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    is_chunked: bool


class Seen(NamedTuple):
    """A response: status, headers that are the API's, body without the request's id."""

    status: int
    headers: dict[str, str]
    body: Any


Door = Callable[[str, Raw], Seen | None]  # of a function, for a request


def build_raw(asked: Mapping[str, Any], sign: Callable[[str], str]) -> Raw:
    """Build a request of `requests.yaml`; `sign` makes a token of a carrier."""
    method, _, target = str(asked["line"]).partition(" ")
    headers = [tuple(part.strip() for part in header.split(":", 1)) for header in asked.get("headers", [])]
    found: list[tuple[str, str]] = [(name, value) for name, value in headers]
    kind = asked.get("token", "good")
    good = sign("AA" if kind == "other" else "B6")
    tokens = {"none": [], "upper": [f"BEARER {good}"], "twice": [f"Bearer {good}"] * 2}.get(kind, [f"Bearer {good}"])
    found += [("Authorization", token) for token in tokens]
    if "size" in asked:
        found.append(("X-Large", "x" * asked["size"]))
    body = str(asked.get("body", "")).encode("latin-1")
    if "json" in asked:
        body = json.dumps(asked["json"]).encode()
        found.append(("Content-Type", "application/json"))
    if "body_size" in asked:
        body = b'"' + b"x" * (asked["body_size"] - 2) + b'"'
    return Raw(method, target, found, body, bool(asked.get("chunked")))


def call_handler(handler: Any, raw: Raw) -> Seen:
    """Call the handler with the event of a function URL that AWS documents: what each door must agree with."""
    path, _, query = raw.target.partition("?")
    headers: dict[str, str] = {}
    for name, value in raw.headers:
        key = name.lower()
        headers[key] = f"{headers[key]},{value}" if key in headers else value
    event = {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {"requestId": "1", "http": {"method": raw.method, "path": path}},
        "body": base64.b64encode(raw.body).decode() if raw.body else None,
        "isBase64Encoded": bool(raw.body),
    }
    result = handler(event, None)
    body = base64.b64decode(result["body"]) if result["isBase64Encoded"] else result["body"].encode()
    return _see(result["statusCode"], result["headers"], body)


def send_raw(port: int, raw: Raw, prefix: str = "", host: str = "predictions.api.example.com") -> Seen | None:
    """Send a request to a door; None if the connection ends without a response."""
    lines = [f"{raw.method} {prefix}{raw.target} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in raw.headers]
    body = raw.body
    if raw.is_chunked:
        lines.append("Transfer-Encoding: chunked")
        half = len(body) // 2
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:])) + b"0\r\n\r\n"
    elif body:
        lines.append(f"Content-Length: {len(body)}")
    with socket.create_connection((LOOPBACK, port), 30) as connection:
        with suppress(OSError):  # refused before it was sent whole; the answer is there
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        answer = http.client.HTTPResponse(connection, method=raw.method)
        try:
            answer.begin()
            return _see(answer.status, dict(answer.getheaders()), answer.read())
        except (http.client.HTTPException, ConnectionError):
            return None


def _see(status: int, headers: Mapping[str, str], body: bytes) -> Seen:
    kept = {name.lower(): value for name, value in headers.items() if name.lower() in KEPT}
    try:
        document = json.loads(body)
        if isinstance(document, dict):
            document.pop("requestId", None)
    except ValueError:
        document = body.hex() if body[:2] == b"\x1f\x8b" else body.decode("latin-1")[:60]
    return Seen(status, kept, document)


def describe(expected: Seen | None, found: Seen | None) -> str:
    """Say how an answer differs, in a word or two; an empty text if it does not."""
    assert expected is not None
    if found is None:
        return "no answer"
    if found.status != expected.status:
        return str(found.status)
    if found.body != expected.body:
        return "another body"
    changed = sorted(name for name in KEPT if expected.headers.get(name) != found.headers.get(name))
    return ", ".join(changed)


def read_differences(door: str, names: Iterable[str]) -> dict[str, str]:
    """Return what `differences.yaml` says of a door, for the requests of these names."""
    known = set(names)
    return {
        name: doors[door]
        for one in DIFFERENCES.values()
        for name, doors in one["requests"].items()
        if door in doors and name in known
    }


def render_differences() -> str:
    """Render `differences.yaml` as the table of docs/front-doors.md."""
    lines = ["| request | answer instead of the handler's | why |", "|---|---|---|"]
    for one in DIFFERENCES.values():
        for name, doors in one["requests"].items():
            grouped: dict[str, list[str]] = {}
            for door, answer in doors.items():
                grouped.setdefault(answer, []).append(door)
            answers = "; ".join(f"{answer}: {', '.join(names)}" for answer, names in grouped.items())
            lines.append(f"| {name.replace('-', ' ')} | {answers} | {one['reason']} |")
    return "\n".join(lines)
