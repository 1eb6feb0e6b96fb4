"""Build one log line per request, which also carries its metrics (CloudWatch embedded metric format).

A line never has a token, a body, a feature or a text of the request: the subject is hashed, counts and scores are
numbers, and labels come from the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from serve.log import KEY_METRICS, METRICS, NAMESPACE

SERVICE = "score"
# Of a request with an answer. Missing: number of features without a value; the line has the number for each reason.
MODEL_METRICS = {"Instances": "Count", "Score": "None", "Missing": "Count", "ModelLatency": "Milliseconds"}
LABEL_METRICS = {"Labels": "Count"}
# Labels of a model that have their own metric. The others share one, since AWS charges for each metric.
MAX_LABELS = 50
SHADOW_METRICS = {"ShadowDifference": "None", "ShadowLabelsDiffer": "Count"}
EVENT_METRICS = {
    "model_not_loaded": {"ModelFailures": "Count"},
    "model_loaded": {"ModelLoads": "Count"},
    "not_kept": {"KeepFailures": "Count"},  # instances whose features could not be kept
}
_SERVICE = [["Service", "Environment"]]
_USE_CASE = [*_SERVICE, ["Service", "Environment", "UseCase"]]
_MODEL = [*_SERVICE, ["Service", "Environment", "Model"], ["Service", "Environment", "Model", "Version"]]
_LABEL = [["Service", "Environment", "Model", "Version", "Label"]]
_DIMENSIONS = (("model", "Model"), ("version", "Version"))  # members of a line that are dimensions
_EVENT = [*_SERVICE, ["Service", "Environment", "Model"]]  # if the version is unknown; else _MODEL


def build_request_line(
    environment: str, now: float, use_case: str, status: int, latency_ms: float, fields: Mapping[str, object]
) -> str:
    """Build the line of one request.

    `fields` has those that are known: request_id, kid, subject, code, reason; for a score also model, version, role,
    scores, labels, Label and Labels (as in `build_label_line`), missing, stored, shadow, ShadowDifference and
    ShadowLabelsDiffer.
    """
    latency_ms = round(latency_ms, 3)
    line: dict[str, object] = {
        "level": "ERROR" if status >= 500 else "INFO",
        "use_case": use_case,
        "status": status,
        "latency_ms": latency_ms,
        **fields,
        "Requests": 1,
        "Latency": latency_ms,
        "ClientErrors": int(400 <= status < 500),
        "ServerErrors": int(status >= 500),
        "UseCase": use_case,
    }
    directives = _REQUEST
    scores = line.pop("scores", None)
    if isinstance(scores, list) and scores:
        missing = line.get("missing")
        line |= {
            "Instances": len(scores),
            "Score": scores,  # up to 100 values, as the format allows
            "Missing": sum(missing.values()) if isinstance(missing, dict) else 0,
            "ModelLatency": line["Latency"],
        }
        directives += _SCORED
        if "ShadowDifference" in line:
            directives += _SHADOWED
        if "Labels" in line:
            directives += _LABELS
    for name, dimension in _DIMENSIONS:
        if name in line:
            line[dimension] = line.pop(name)
    return _render(line, environment, now, directives)


def build_event_line(environment: str, now: float, event: str, details: Mapping[str, object]) -> str:
    """Build the line of an event of a model or of an issuer's keys."""
    metrics = EVENT_METRICS.get(event, KEY_METRICS)
    line: dict[str, object] = {"level": "INFO" if event == "model_loaded" else "ERROR", "event": event}
    line |= {name.capitalize() if name in ("model", "version") else name: value for name, value in details.items()}
    line |= dict.fromkeys(metrics, details.get("instances", 1))
    directives = _VERSION_EVENTS if "version" in details else _EVENTS
    return _render(line, environment, now, directives.get(event, _KEYS))


def build_label_line(environment: str, now: float, model: str, version: str, label: str, number: int) -> str:
    """Build a line that only counts the predictions with one label: a line has one value of each dimension."""
    line = {"Model": model, "Version": version, "Label": label, "Labels": number}
    return _render(line, environment, now, _LABELS)


def name_label(label: str, known: Sequence[str]) -> str:
    """Return a label as the value of a metric's dimension: in ASCII; `(other)` if it has no metric of its own."""
    return label.encode("ascii", "backslashreplace").decode()[:250] if label in known[:MAX_LABELS] else "(other)"


def count(values: Sequence[str]) -> dict[str, int]:
    """Count equal texts."""
    return {value: values.count(value) for value in dict.fromkeys(values)}


def _build_directive(dimensions: list[list[str]], metrics: Mapping[str, str]) -> str:
    """Build a directive, which begins with a comma: `_render` joins those of a line."""
    named = [{"Name": name, "Unit": unit} for name, unit in metrics.items()]
    return "," + json.dumps({"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": named})


def _render(line: Mapping[str, object], environment: str, now: float, directives: str) -> str:
    members = json.dumps({**line, "Service": SERVICE, "Environment": environment})
    return f'{{"_aws":{{"Timestamp":{int(now * 1000)},"CloudWatchMetrics":[{directives[1:]}]}},{members[1:]}'


_REQUEST = _build_directive(_USE_CASE, METRICS)
_SCORED = _build_directive(_MODEL, MODEL_METRICS)
_SHADOWED = _build_directive(_MODEL, SHADOW_METRICS)
_LABELS = _build_directive(_LABEL, LABEL_METRICS)
_EVENTS = {event: _build_directive(_EVENT, metrics) for event, metrics in EVENT_METRICS.items()}
_VERSION_EVENTS = {event: _build_directive(_MODEL, metrics) for event, metrics in EVENT_METRICS.items()}
_KEYS = _build_directive(_SERVICE, KEY_METRICS)
