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
# What `json.dumps` calls: for a text, and for any value.
_quote, _encode = json.encoder.encode_basestring_ascii, json.JSONEncoder().encode


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
    latency = f"{latency_ms:.3f}"
    known = "".join(
        [f'"{name}":{_quote(value) if type(value) is str else _encode(value)},' for name, value in fields.items()]
    )
    return (  # a template: to encode all members takes 5 us more
        f'{{"_aws":{{"Timestamp":{int(now * 1000)},"CloudWatchMetrics":{_METRICS}}},'
        f'"level":"{"ERROR" if status >= 500 else "INFO"}","use_case":"{use_case}","status":{status},'
        f'"latency_ms":{latency},{known}"Requests":1,"Latency":{latency},'
        f'"ClientErrors":{int(400 <= status < 500)},"ServerErrors":{int(status >= 500)},'
        f'"Service":"{SERVICE}","Environment":{_quote(environment)},"UseCase":"{use_case}"}}'
    )


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
    members = _encode({**line, "Service": SERVICE, "Environment": environment})
    return f'{{"_aws":{{"Timestamp":{int(now * 1000)},"CloudWatchMetrics":{_KEY_METRICS}}},{members[1:]}'


def hash_subject(partition: str) -> str:
    """Return a hash that groups the lines of a subject without naming it."""
    return sha256(partition.encode()).hexdigest()[:16]


def write(line: str) -> None:
    """Write a line to standard output, which Lambda logs."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _build_metrics(metrics: Mapping[str, str], dimensions: list[list[str]]) -> str:
    named = [{"Name": name, "Unit": unit} for name, unit in metrics.items()]
    return json.dumps([{"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": named}])


_METRICS = _build_metrics(METRICS, [["Service", "Environment"], ["Service", "Environment", "UseCase"]])
_KEY_METRICS = _build_metrics(KEY_METRICS, [["Service", "Environment"]])
