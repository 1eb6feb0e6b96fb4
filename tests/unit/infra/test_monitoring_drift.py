"""Alarms and dashboards name the metrics that the handlers print, and every printed metric is watched."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import enrich.intake.worker
import infra.synthetic
import notify.handler
import score.keep.handler
from enrich.intake.events import Sweep
from enrich.intake.find import Swept
from enrich.ledger.records import Counts, Held, Pending, Run
from enrich.ledger.run_state import Kind, RunState
from enrich.log import log_pending
from enrich.settings import Settings as EnrichSettings
from infra.dashboards.filters import matches
from infra.dashboards.points import read_points
from infra.dashboards.widgets import SEARCH, expand_rows, read_dashboards
from infra.translate import Template, read_template
from score.keep.drift import Drift
from score.store import REFRESH_SECONDS
from serve.handler import Dependencies, build_handler
from serve.item import Item
from serve.log import build_key_line
from serve.settings import Settings as ServeSettings
from serve.tokens.jwks import KeyDocument
from serve.tokens.jwt import Policy
from serve.tokens.key_cache import KeyStore, Unreadable
from serve.tokens.verifier import Issuer, Verifier
from serve.web.page import QueryResult
from tests.unit.score.kit import S3_DOWN, VIRGINICA, App, alias_of, iris_version, share_of
from tests.unit.serve.kit import SERVED

NOW = 1_763_640_000.0
AWS_OWN = {  # metrics of AWS services, named as in the documentation
    "AWS/ApiGateway": {"4XXError", "5XXError", "Count", "Latency"},
    "AWS/DynamoDB": {
        "ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits", "ReadThrottleEvents", "WriteThrottleEvents",
    },
    "AWS/Events": {"TriggeredRules"},
    "AWS/Lambda": {"ConcurrentExecutions", "Duration", "Errors", "IteratorAge", "Throttles"},
    "AWS/SQS": {"ApproximateAgeOfOldestMessage", "ApproximateNumberOfMessagesVisible"},
    "AWS/WAFV2": {"BlockedRequests"},
}  # fmt: skip

QUERY_WORDS = {
    "filter", "ispresent", "and", "stats", "count", "sum", "avg", "max", "pct", "by", "as", "sort", "desc", "limit",
}  # of CloudWatch Logs Insights # fmt: skip


@pytest.fixture(scope="module")
def template() -> Template:
    return read_template()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return every kind of line that the functions print."""
    _print_enrich_lines(monkeypatch)
    notify.handler.handle(notify.handler.Services(None, None, "bus", "url", "dev", {}), {"Records": []})
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return [*_serve_lines(), *_score_lines(), *printed, infra.synthetic.render_line("dev", NOW, 12.5, ["no answer"])]


def _score_lines() -> list[str]:
    app = App()
    version = iris_version(2.0)
    app.bucket.put(version)
    app.bucket.point(alias_of(iris_version(), shadow=share_of(version, 1)))
    app.post({"instance": VIRGINICA})
    app.bucket.point(alias_of(iris_version(), canary=share_of(version, 1)))
    app.now += REFRESH_SECONDS
    app.post({"instance": VIRGINICA})
    app.post({})
    app.bucket.error = S3_DOWN
    app.post(["text"], "news")
    app.report("keys-unreadable", {})
    app.report("not_kept", {"model": "iris", "instances": 1})
    _measure_drift(app.lines)
    return app.lines


def _measure_drift(lines: list[str]) -> None:
    services = score.keep.handler.Services(None, "bucket", "dev", lambda: NOW, lines.append)
    score.keep.handler.handle(services, {"Records": []})
    score.keep.handler.log_drift(services, Drift("iris", "0" * 16, 500, {"petal_width": 0.3}))


def _serve_lines() -> list[str]:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    lines: list[str] = []

    def report(event: str, details: Any) -> None:
        lines.append(build_key_line("dev", NOW, event, details))

    def unreadable(_: float) -> list[KeyDocument]:
        raise Unreadable("gone")

    item = Item("flight-delays#B6", "a", '{"flight": "B61"}', "0001", int(NOW) + 600)
    storage: Any = SimpleNamespace(
        get_item=lambda pk, sk: item if sk == "a" else None,
        query=lambda *_: QueryResult([item], None),
    )
    settings = ServeSettings("items", (), "larder", (), "dev")
    claims = {
        "iss": "i",
        "aud": "a",
        "iat": NOW,
        "exp": NOW + 60,
        "carrier": "B6",
        "scope": SERVED["flight-delays"].scope,
    }
    token = {"Authorization": f"Bearer {jwt.encode(claims, key, 'ES256', {'kid': 'k1'})}"}
    for read in (lambda _: [KeyDocument("k1.pem", pem)], unreadable):
        verifier = Verifier([Issuer(Policy("i", "a"), KeyStore(read, report))])
        handle = build_handler(Dependencies(settings, storage, verifier, SERVED, lambda: NOW, lines.append))
        for path in ("/v1/flight-delays", "/v1/flight-delays/a", "/v1/flight-delays/b", "/v1/health", "/nowhere"):
            for headers in (token, {}):
                event = {"httpMethod": "GET", "path": path, "headers": headers, "requestContext": {"requestId": "r"}}
                handle(event, None)
    return lines


def _print_enrich_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(
        dataset="flight-delays", run=7, bucket="b", object_key="k", identity="i", arrived_ms=0,
        state=RunState.DONE, rows=10, counts=Counts(written=9, rejected=1), started_ms=0, ended_ms=1500,
    )  # fmt: skip
    monkeypatch.setattr(enrich.intake.worker, "run_pending", lambda *_: (each for each in [run]))
    monkeypatch.setattr(enrich.intake.worker, "sweep", lambda *_: Swept([], []))
    monkeypatch.setattr(enrich.intake.worker, "heal", lambda *_: None)
    monkeypatch.setattr(enrich.intake.worker, "prune", lambda *_: 0)
    monkeypatch.setattr(enrich.intake.worker, "send_outbox", lambda *_: None)
    settings = EnrichSettings(
        table="t", ledger="l", bucket="b", outputs="o", queue="q", workgroup="w", environment="dev", bus="bus"
    )
    pending = [Pending(dataset="flight-delays", run=8, queued_ms=int(NOW * 1000) - 90_000)]
    held = [Held(dataset="flight-delays", run=6, held_ms=int(NOW * 1000) - 30_000)]
    monkeypatch.setattr(enrich.intake.worker, "close_expired", lambda *_: [])
    services: Any = SimpleNamespace(
        settings=settings,
        datasets={"flight-delays": None},
        ledger=SimpleNamespace(
            fetch_pending=lambda _: pending,
            fetch_held=lambda _: held,
            fetch_runs=lambda _, newest: [run],
            fetch_outbox=lambda _: [],
        ),
        clock=SimpleNamespace(now=lambda: NOW),
    )
    enrich.intake.worker.handle_requests(services, [Sweep("flight-delays")])


class Metric(NamedTuple):
    """A metric: namespace, name, names of its dimensions, and the value of the dimension Service.

    `service` is empty for a metric without that dimension, and for a search, which finds any service.
    """

    namespace: str
    name: str
    dimensions: frozenset[str]
    service: str = ""


def find_watched(template: Template) -> set[Metric]:
    """Find every metric that an alarm or a dashboard names."""
    found: set[Metric] = set()
    for one in template["Resources"].values():
        if one["Type"] == "AWS::CloudWatch::Alarm":
            alarm = one["Properties"]
            nested = [each["MetricStat"]["Metric"] for each in alarm.get("Metrics", []) if "MetricStat" in each]
            for metric in [alarm, *nested]:
                if "MetricName" in metric:
                    values = {each["Name"]: each["Value"] for each in metric.get("Dimensions", [])}
                    found.add(_build_metric(metric["Namespace"], metric["MetricName"], values))
    for body in read_dashboards(template).values():
        for widget in body["widgets"] if isinstance(body, dict) else []:
            for words, options in expand_rows(widget["properties"].get("metrics", [])):
                if words:
                    values = dict(zip(words[2::2], words[3::2], strict=True))
                    found.add(_build_metric(words[0], words[1], values))
                elif search := SEARCH.match(options["expression"]):
                    namespace, *names = search[1].split(",")
                    found.add(Metric(namespace, search[2], frozenset(names)))
    return found


def find_printed(template: Template, lines: Iterable[str]) -> set[Metric]:
    """Find every metric that lines hold or that a filter counts, with its service and as a search finds it."""
    named = {_build_metric(key.namespace, key.name, dict(key.dimensions)) for key in read_points(template, lines)}
    return named | {metric._replace(service="") for metric in named}


def _build_metric(namespace: str, name: str, dimensions: Mapping[str, Any]) -> Metric:
    return Metric(namespace, name, frozenset(dimensions), dimensions.get("Service", ""))


def find_unprinted(template: Template, lines: list[str]) -> list[Metric]:
    """Return the watched metrics that neither a handler nor AWS reports."""
    printed = find_printed(template, lines)
    return sorted(
        one
        for one in find_watched(template)
        if one not in printed and one.name not in AWS_OWN.get(one.namespace, set())
    )


def find_unwatched(template: Template, lines: list[str]) -> list[str]:
    """Return the printed metrics that neither an alarm nor a dashboard names."""
    seen = {(one.namespace, one.name) for one in find_watched(template)}
    return sorted({one.name for one in find_printed(template, lines) if (one.namespace, one.name) not in seen})


def test_watched_metrics_are_printed(template: Template, lines: list[str]) -> None:
    """Each metric that an alarm or a dashboard names, with its dimensions, is printed by a handler or is AWS's own."""
    assert find_unprinted(template, lines) == []


def test_printed_metrics_are_watched(template: Template, lines: list[str]) -> None:
    """Each metric that a handler prints, or a filter counts, is on a dashboard or in an alarm."""
    assert find_unwatched(template, lines) == []


def find_unknown_names(template: Template, lines: list[str]) -> list[str]:
    """Return the names in the log queries of dashboards that are no member of any line."""
    known = {name for line in lines for name in json.loads(line)} | QUERY_WORDS
    queries = [
        widget["properties"]["query"]
        for body in read_dashboards(template).values()
        for widget in (body["widgets"] if isinstance(body, dict) else [])
        if widget["type"] == "log"
    ]
    assert queries
    named: set[str] = set()
    for query in queries:
        plain = re.sub(r"SOURCE '[^']*'|/[^/|]*/|'[^']*'|\"[^\"]*\"", " ", query)
        known |= set(re.findall(r"\bas (\w+)", plain))
        named |= set(re.findall(r"@?[A-Za-z_]\w*", plain))
    return sorted(named - known)


def test_log_queries_name_members_of_lines(template: Template, lines: list[str]) -> None:
    """Each name in a dashboard's log query is a member of a line; a renamed member is reported."""
    assert find_unknown_names(template, lines) == []
    for name in ("role", "Version", "shadow", "ShadowDifference", "latency_ms"):
        renamed = [line.replace(f'"{name}":', '"other":') for line in lines]
        assert name in find_unknown_names(template, renamed)


def test_live_and_canary_are_two_rows(lines: list[str]) -> None:
    """The lines that the dashboard compares have a role and a version each; those of loads have no status."""
    rows = [line for line in map(json.loads, lines) if "role" in line and "status" in line]
    assert {(row["Model"], row["role"], row["Version"]) for row in rows} >= {
        ("iris", "live", iris_version()[1].version),
        ("iris", "canary", iris_version(2.0)[1].version),
    }


def test_filters_find_their_lines(template: Template, lines: list[str]) -> None:
    """Each metric filter matches at least one line that serve prints."""
    filters = [one for one in template["Resources"].values() if one["Type"] == "AWS::Logs::MetricFilter"]
    names = {made["MetricName"] for one in filters for made in one["Properties"]["MetricTransformations"]}
    assert len(names) == len(filters) == 2
    assert {one.name for one in find_printed(template, lines)} >= names


def test_filters_count_what_their_names_say(template: Template, lines: list[str]) -> None:
    """Answers counts the lines of a dataset that are not errors; Refusals counts each refusal by its code."""
    documents = [json.loads(line) for line in lines]
    patterns = {name: one["Properties"]["FilterPattern"] for name, one in template["Resources"].items()
                if one["Type"] == "AWS::Logs::MetricFilter"}  # fmt: skip
    answers = [one["status"] for one in documents if matches(patterns["AnswersByDataset"], one)]
    refusals = [one["status"] for one in documents if matches(patterns["RefusalsByCode"], one)]
    assert answers
    assert set(answers) == {200}
    assert set(refusals) >= {401, 404, 503}
    assert min(refusals) >= 400


def test_oldest_pending_is_in_seconds(lines: list[str]) -> None:
    """The alarm's threshold is in seconds, and so are the metrics that the sweep prints."""
    documents = [json.loads(line) for line in lines]
    assert [one["OldestHeldSeconds"] for one in documents if "OldestHeldSeconds" in one] == [30.0]
    assert [one["OldestPendingSeconds"] for one in documents if "OldestPendingSeconds" in one] == [90.0]


@pytest.mark.parametrize(
    ("runs", "hours"),
    [
        ([], 0),
        ([("done", "output", 3)], 3),
        ([("failed", "output", 1), ("done", "refresh", 2), ("done", "output", 30), ("done", "output", 54)], 30),
        ([("failed", "output", 2), ("running", "output", 28)], 28),
    ],
    ids=[
        "a new dataset is not stale",
        "the last output",
        "the last published output",
        "none was published: the oldest run",
    ],
)
def test_a_dataset_ages_from_its_last_output(
    runs: list[tuple[str, str, float]], hours: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """HoursSinceOutput, which the alarm compares with FreshnessHours, counts from the last published output."""

    def build(state: RunState, kind: Kind, ago: float) -> Run:
        at = int((NOW - ago * 3600) * 1000)
        common: Any = {"run": 1, "bucket": "b", "object_key": "k", "identity": "i", "arrived_ms": at}
        return Run(dataset="d", state=state, kind=kind, queued_ms=at, ended_ms=at, **common)

    settings: Any = SimpleNamespace(environment="dev")
    log_pending(settings, "d", [], [], [build(RunState(state), Kind(kind), ago) for state, kind, ago in runs], NOW)
    assert json.loads(capsys.readouterr().out)["HoursSinceOutput"] == pytest.approx(hours)


def _drifts(template: Template, lines: list[str]) -> Iterator[tuple[str, Template, list[str]]]:
    def changed(name: str, change: Any) -> Template:
        other = copy.deepcopy(template)
        change(other["Resources"][name]["Properties"])
        return other

    yield "a metric renamed in the code", template, [line.replace("RunsClosed", "RunsDone") for line in lines]
    yield "a member renamed in the log", template, [line.replace('"code":', '"problem":') for line in lines]
    yield "a dimension dropped in the code", template, [line.replace('"Service": "enrich", ', "") for line in lines]
    yield "an alarm on another name", changed("RejectsMany", lambda p: p.update(MetricName="RejectRate")), lines
    yield "an alarm without a dimension", changed("RunsFail", lambda p: p["Dimensions"].pop()), lines
    yield "an alarm on another service", changed("RunsFail", lambda p: p["Dimensions"][0].update(Value="serve")), lines
    yield "an alarm on another namespace", changed("KeysUnreadable", lambda p: p.update(Namespace="larder")), lines
    body = template["Resources"]["PipelineDashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    renamed = {"Fn::Sub": body.replace("PredictionsWritten", "ItemsWritten")}
    yield "a dashboard on another name", changed("PipelineDashboard", lambda p: p.update(DashboardBody=renamed)), lines
    yield (
        "a filter on another member",
        changed("RefusalsByCode", lambda p: p.update(FilterPattern='{ $.kode = "*" }')),
        lines,
    )


def test_any_renamed_metric_or_dimension_is_reported(template: Template, lines: list[str]) -> None:
    """If the name of a metric or of a dimension changes in the code, an alarm or a dashboard misses it."""
    printed = find_printed(template, [line for line in lines if "_aws" in line])
    names = {each.name for each in printed if each.dimensions >= {"Service"}}
    names |= {"Service", "Environment", "UseCase", "Dataset"}
    unseen = []
    for name in sorted(names):
        renamed = [re.sub(rf'"{name}"', '"Other"', line) for line in lines]
        if not find_unprinted(template, renamed) + find_unwatched(template, renamed):
            unseen.append(name)
    assert len(names) > 15
    assert unseen == []


def test_seeded_drift_is_reported(template: Template, lines: list[str]) -> None:
    """A change of the template alone, or of the lines alone, is reported."""
    unseen = [
        what
        for what, other, printed in _drifts(template, lines)
        if not find_unprinted(other, printed) + find_unwatched(other, printed)
    ]
    assert unseen == []
