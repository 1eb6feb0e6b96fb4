"""Build one log line per request, which also carries its metrics (CloudWatch embedded metric format).

A line never has a token, body, path or query, nor any text that a caller chose: codes and reasons come from closed
lists, the kid is that of a known key, and the subject is hashed.
"""

import json
import sys
from collections.abc import Mapping
from hashlib import sha256

from serve.web.problems import Problem

NAMESPACE = "Larder"
SERVICE = "serve"
METRICS = {"Requests": "Count", "Latency": "Milliseconds", "ClientErrors": "Count", "ServerErrors": "Count"}
KEY_METRICS = {"KeyFailures": "Count"}
_encode = json.JSONEncoder().encode  # what `json.dumps` calls


def build_request_line(
    environment: str, now: float, use_case: str, status: int, latency_ms: float, fields: Mapping[str, object]
) -> str:
    """Build the line of one request.

    Args:
        environment: the deployment's name, a dimension of the metrics.
        now: epoch seconds.
        use_case: a `serve.web.route.UseCase`.
        status: HTTP status of the response.
        latency_ms: time spent in the handler.
        fields: those that are known of request_id, dataset, kid, subject (hashed), asked, found, code, reason, places.
    """
    return _render(describe_request(use_case, status, latency_ms, fields), environment, now, _METRICS, use_case)


def describe_request(use_case: str, status: int, latency_ms: float, fields: Mapping[str, object]) -> dict[str, object]:
    """Return the members of a request's line, including `METRICS`; for the arguments see `build_request_line`."""
    latency_ms = round(latency_ms, 3)
    return {
        "level": "ERROR" if status >= 500 else "INFO",
        "use_case": use_case,
        "status": status,
        "latency_ms": latency_ms,
        **fields,
        "Requests": 1,
        "Latency": latency_ms,
        "ClientErrors": int(400 <= status < 500),
        "ServerErrors": int(status >= 500),
    }


def note_problem(problem: Problem, seen: dict[str, object]) -> Problem:
    """Add a problem's code and reason to the fields of the line, and return it."""
    seen["code"] = problem.code
    if problem.reason:
        seen["reason"] = problem.reason
    return problem


def note_fault(error: Exception, seen: dict[str, object]) -> Problem:
    """Add an unexpected error's type and places to the fields, not its data; return the problem to respond with."""
    places, frame = [], error.__traceback__  # `traceback` is slow to import, and reads the sources as well
    while frame:
        places.append(f"{frame.tb_frame.f_code.co_name}:{frame.tb_lineno}")
        frame = frame.tb_next
    seen |= {"code": "internal_error", "reason": type(error).__name__, "places": places}
    return Problem("internal_error")


def build_key_line(environment: str, now: float, event: str, details: Mapping[str, object]) -> str:
    """Build the line of a problem with an issuer's keys. `now` is in epoch seconds."""
    line = {"level": "ERROR", "event": event, **details, "KeyFailures": 1}
    return _render(line, environment, now, _KEY_METRICS, None)


def hash_subject(partition: str) -> str:
    """Return a hash that groups the lines of a subject without naming it."""
    return sha256(partition.encode()).hexdigest()[:16]


def write(line: str) -> None:
    """Write a line to standard output, which Lambda logs."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _render(line: Mapping[str, object], environment: str, now: float, metrics: str, use_case: str | None) -> str:
    dimensions: dict[str, object] = {"Service": SERVICE, "Environment": environment}
    if use_case is not None:
        dimensions["UseCase"] = use_case
    members = _encode({**line, **dimensions})
    return f'{{"_aws":{{"Timestamp":{int(now * 1000)},"CloudWatchMetrics":{metrics}}},{members[1:]}'


def _build_metrics(metrics: Mapping[str, str], dimensions: list[list[str]]) -> str:
    named = [{"Name": name, "Unit": unit} for name, unit in metrics.items()]
    return json.dumps([{"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": named}])


_METRICS = _build_metrics(METRICS, [["Service", "Environment"], ["Service", "Environment", "UseCase"]])
_KEY_METRICS = _build_metrics(KEY_METRICS, [["Service", "Environment"]])
