"""Send requests like a consumer: a URL and a bearer token, with the standard library."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to the laptop's API


@dataclass(frozen=True)
class Answer:
    """A response of any status."""

    url: str
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)


def get(url: str, token: str | None, timeout: float = 30) -> Answer:
    """Send a GET with or without a token and return the response, whatever its status."""
    return _send(urllib.request.Request(url), token, timeout)  # noqa: S310


def post(url: str, token: str | None, body: str, timeout: float = 60) -> Answer:
    """Send a POST of JSON text, as `get` does."""
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})  # noqa: S310
    return _send(request, token, timeout)


def _send(request: urllib.request.Request, token: str | None, timeout: float) -> Answer:
    url = request.full_url
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with _opener.open(request, timeout=timeout) as answer:
            return Answer(url, answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        return Answer(url, error.code, dict(error.headers), error.read())
