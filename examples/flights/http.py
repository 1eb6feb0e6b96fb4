"""Ask over HTTP as any consumer does: a URL and a bearer token, the standard library. An edge."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the laptop is behind no proxy


@dataclass(frozen=True)
class Answer:
    """What came back."""

    url: str
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)


def get(url: str, token: str | None, timeout: float = 30) -> Answer:
    """Send a GET with or without a token; every status is an answer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with _opener.open(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:  # noqa: S310
            return Answer(url, answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        return Answer(url, error.code, dict(error.headers), error.read())
