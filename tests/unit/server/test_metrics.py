"""Prometheus metrics are those that the log lines state for CloudWatch."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="prometheus-client is missing: pip install -r tests/requirements.txt")

from prometheus_client import CollectorRegistry

from score.log import build_event_line, build_label_line
from score.log import build_request_line as build_score_line
from serve.log import build_key_line, build_request_line
from server.metrics import Metrics


def test_each_metric_of_a_line_is_counted() -> None:
    """Counts, a latency in seconds, and the labels of the finest dimensions."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for status, latency in ((200, 12.0), (503, 800.0)):
        metrics.read_line(build_request_line("prod", 1.0, "get_item", status, latency, {"request_id": "1"}))
    metrics.read_line(build_key_line("prod", 1.0, "keys-unreadable", {}))
    labels = {"service": "serve", "environment": "prod"}

    def value(name: str, **more: str) -> Any:
        return registry.get_sample_value(name, labels | more)

    assert value("larder_requests_total", use_case="get_item") == 2
    assert value("larder_server_errors_total", use_case="get_item") == 1
    assert value("larder_client_errors_total", use_case="get_item") == 0
    assert value("larder_latency_seconds_sum", use_case="get_item") == pytest.approx(0.812)
    assert value("larder_latency_seconds_bucket", use_case="get_item", le="0.025") == 1
    assert value("larder_key_failures_total") == 1


def test_each_metric_of_a_model_is_counted() -> None:
    """Instances and scores of a model's version, labels, loads."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    fields = {"model": "iris", "version": "v1", "scores": [0.4, 0.95]}
    metrics.read_line(build_score_line("prod", 1.0, "score", 200, 3.0, fields))
    metrics.read_line(build_label_line("prod", 1.0, "iris", "v1", "setosa", 2))
    metrics.read_line(build_event_line("prod", 1.0, "model_loaded", {"model": "iris", "version": "v1"}))
    labels = {"service": "score", "environment": "prod"}
    version = {"model": "iris", "version": "v1"}

    def value(name: str, **more: str) -> Any:
        return registry.get_sample_value(name, labels | more)

    assert value("larder_instances_total", **version) == 2
    assert value("larder_score_count", **version) == 2
    assert value("larder_score_bucket", **version, le="0.5") == 1
    assert registry.get_sample_value("larder_labels_total", labels | version | {"label": "setosa"}) == 2
    assert value("larder_requests_total", use_case="score") == 1
    names = {sample.name for metric in registry.collect() for sample in metric.samples}
    assert "larder_model_loads_total" in names


def test_what_the_server_refuses_is_counted() -> None:
    """Requests that the handler never saw, and lines that were not written."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.count_refused("overloaded")
    metrics.count_lost(3)
    assert registry.get_sample_value("larder_server_refused_total", {"reason": "overloaded"}) == 1
    assert registry.get_sample_value("larder_server_log_lines_lost_total") == 3
