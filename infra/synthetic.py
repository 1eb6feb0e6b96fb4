"""Read like a consumer, every five minutes: a GET without and a GET with a token, reported as metrics.

The event is ignored. Credentials are in Secrets Manager: `{"token_url", "client_id", "client_secret", "scope"}`
for the client credentials grant (RFC 6749, section 4.4), or `{"token"}`; and `api_key`, if the stage requires one.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent  # where the bundle has openapi.json
TIMEOUT = 10.0  # seconds
METRICS = [{"Name": "SyntheticFailures", "Unit": "Count"}, {"Name": "SyntheticLatency", "Unit": "Milliseconds"}]


@dataclass(frozen=True)
class Answer:
    """A response: its status (0 if there was none) and its body."""

    status: int
    body: bytes


Send = Callable[[str, Mapping[str, str], bytes | None], Answer]


def handler(_event: Any, _context: Any) -> None:
    """Check the stage and write one line of metrics."""
    import boto3

    secret = boto3.client("secretsmanager").get_secret_value(SecretId=os.environ["LARDER_SECRET"])["SecretString"]
    started = time.perf_counter()
    url = os.environ["LARDER_URL"]
    if not os.environ["LARDER_PATH"]:
        url += find_path(json.loads((FOLDER / "openapi.json").read_text()))
    faults = check(send, url, json.loads(secret))
    line = render_line(os.environ["LARDER_ENVIRONMENT"], time.time(), (time.perf_counter() - started) * 1000, faults)
    print(line)  # noqa: T201 - the log is where the metrics go


def find_path(openapi: Mapping[str, Any]) -> str:
    """Return the path, below the base URL, that lists one item of the first dataset of the contract.

    Raises:
        ValueError: the contract has no dataset.
    """
    for path, item in openapi["paths"].items():
        if "get" in item and "{" not in path and item["get"].get("security", openapi["security"]):
            return f"/{path.removeprefix('/').partition('/')[2]}?limit=1"
    raise ValueError("openapi.yaml has no dataset to read: set SyntheticPath, or SyntheticSecret to an empty text")


def check(send: Send, url: str, credentials: Mapping[str, str]) -> list[str]:
    """Return the faults as text; none if a request without a token gets 401 and one with a token gets 200 and JSON."""
    extra = {"x-api-key": credentials["api_key"]} if "api_key" in credentials else {}
    faults = []
    refused = send(url, extra, None)
    if refused.status != 401:
        faults.append(f"without a token the status is {refused.status}, not 401")
    token = credentials.get("token") or _fetch_token(send, credentials)
    if not token:
        return [*faults, "the issuer returned no token"]
    answer = send(url, {**extra, "Authorization": f"Bearer {token}"}, None)
    if answer.status != 200:
        return [*faults, f"with a token the status is {answer.status}, not 200"]
    try:
        json.loads(answer.body)
    except ValueError:
        faults.append("the response is not JSON")
    return faults


def render_line(environment: str, now: float, latency_ms: float, faults: list[str]) -> str:
    """Render the check's log line, which contains its metrics (CloudWatch's embedded metric format)."""
    dimensions = {"Service": "synthetic", "Environment": environment}
    directive = {"Namespace": "Larder", "Dimensions": [list(dimensions)], "Metrics": METRICS}
    return json.dumps(
        {
            "_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": [directive]},
            **dimensions,
            "faults": faults,
            "SyntheticFailures": int(bool(faults)),
            "SyntheticLatency": round(latency_ms, 3),
        }
    )


def send(url: str, headers: Mapping[str, str], form: bytes | None) -> Answer:
    """Send a request, as POST if there is a form; without a response the status is 0."""
    request = urllib.request.Request(url, form, dict(headers))  # noqa: S310 - our own configuration
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
            return Answer(response.status, response.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read())
    except OSError:
        return Answer(0, b"")


def _fetch_token(send: Send, credentials: Mapping[str, str]) -> str:
    grant = {name: credentials[name] for name in ("client_id", "client_secret", "scope") if name in credentials}
    form = urllib.parse.urlencode({"grant_type": "client_credentials", **grant}).encode()
    answer = send(credentials["token_url"], {"Content-Type": "application/x-www-form-urlencoded"}, form)
    try:
        return str(json.loads(answer.body)["access_token"]) if answer.status == 200 else ""
    except (ValueError, KeyError):
        return ""
