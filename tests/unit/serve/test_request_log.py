"""One line per request, which is its metrics too; nothing in it that a caller chose (see also test_isolation)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve.log import METRICS, NAMESPACE, build_key_line
from serve.web.problems import PROBLEM_TYPES
from serve.web.route import UseCase
from tests.unit.serve.kit import NOW, App, claims, item, sign
from wire.errors import Throttled

TOKEN = sign()
CASES: tuple[tuple[str, dict[str, Any], str, int], ...] = (
    ("/v1/flight-delays/a", {"token": TOKEN}, "get_item", 200),
    ("/v1/flight-delays/a", {"token": TOKEN, "method": "HEAD"}, "get_item", 200),
    ("/v1/flight-delays/none", {"token": TOKEN}, "get_item", 404),
    ("/v1/flight-delays/a", {}, "get_item", 401),
    ("/v1/flight-delays", {"token": TOKEN}, "list_items", 200),
    ("/v1/flight-delays", {"token": sign(claims(scope="x"))}, "list_items", 403),
    ("/v1/health", {}, "health", 200),
    ("/v1/health", {"method": "OPTIONS"}, "options", 204),
    ("/v1/flight-delays", {"method": "OPTIONS"}, "options", 204),
    ("/v1/none", {}, "unrouted", 404),
    ("/v1/flight-delays", {"method": "POST"}, "unrouted", 405),
)


@pytest.mark.parametrize(("path", "arguments", "use_case", "status"), CASES)
def test_each_request_has_one_line(path: str, arguments: dict[str, Any], use_case: str, status: int) -> None:
    """With its use case of a closed list, its status and latency, and a metric for each alarm."""
    app = App(item("a"))
    app.call(path, **arguments)
    assert len(app.lines) == 1
    line = app.line
    assert line["use_case"] == line["UseCase"] == use_case
    assert use_case in set(UseCase)
    assert line["status"] == status
    assert line["request_id"] == "request-1"
    assert 0 < line["latency_ms"] == line["Latency"] < 1000
    assert (line["Requests"], line["ClientErrors"], line["ServerErrors"]) == (1, int(400 <= status < 500), 0)
    assert (line["Service"], line["Environment"]) == ("serve", "test")
    assert line.get("code") in {*PROBLEM_TYPES, None}
    assert ("code" in line) == (status >= 400)
    assert ("kid" in line) == ("token" in arguments)
    assert ("subject" in line) == ("token" in arguments and status != 403)


def test_the_metrics_are_in_the_embedded_format() -> None:
    """CloudWatch reads them from the line: namespace, dimensions, and names that the line has values for."""
    app = App(item("a"))
    app.call(token=TOKEN)
    line = app.line
    assert line["_aws"]["Timestamp"] == int(NOW * 1000)
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == NAMESPACE == "Larder"
    assert directive["Dimensions"] == [["Service", "Environment"], ["Service", "Environment", "UseCase"]]
    assert {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]} == METRICS
    for name in [metric["Name"] for metric in directive["Metrics"]]:
        assert isinstance(line[name], int | float)
    for name in {name for names in directive["Dimensions"] for name in names}:
        assert isinstance(line[name], str)


def test_faults_are_errors_in_the_log() -> None:
    """5xx is level ERROR and counts as ServerErrors; a refusal of ours is INFO."""
    app = App(item("a"))
    app.call()
    assert app.line["level"] == "INFO"
    app.table.error = Throttled("x")
    app.call(token=TOKEN)
    line = app.line
    assert (line["level"], line["ServerErrors"], line["ClientErrors"]) == ("ERROR", 1, 0)
    assert line["reason"] == "storage: Throttled"
    app.table.error = ValueError("x")
    app.call(token=TOKEN)
    assert (app.line["status"], app.line["level"]) == (500, "ERROR")


def test_the_subject_is_a_hash() -> None:
    """The same subject has the same hash, another has another."""
    app = App(item("a"))
    hashes = []
    for carrier in ("B6", "AA", "B6"):
        app.call(token=sign(claims(carrier=carrier)))
        hashes.append(app.line["subject"])
    assert hashes[0] == hashes[2] != hashes[1]
    assert len(hashes[0]) == 16


def test_trouble_with_keys_has_a_line_and_a_metric() -> None:
    """Whoever runs this can alarm on keys that cannot be read or are refused."""
    line = json.loads(build_key_line("test", NOW, "key-refused", {"kid": "weak", "detail": "use is not sig"}))
    assert (line["event"], line["kid"], line["KeyFailures"], line["level"]) == ("key-refused", "weak", 1, "ERROR")
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["Service", "Environment"]]
    assert [metric["Name"] for metric in directive["Metrics"]] == ["KeyFailures"]
