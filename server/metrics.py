"""Prometheus metrics from the log lines: each line states its CloudWatch metrics, and becomes the same ones here.

A metric `Requests` (Count) of `Service, Environment, UseCase` is `larder_requests_total{use_case="..."}`; milliseconds
become a histogram in seconds, values without a unit a histogram. Service and environment are labels, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # most values without a unit are shares
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Metrics:
    """The metrics of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Create the metrics that the server itself has; those of the lines are created as they come.

        Args:
            registry: where they are registered; with several processes, nothing reads it (`prometheus_client` then
                keeps the values in files of PROMETHEUS_MULTIPROC_DIR, which the exporter reads).
        """
        self._registry = registry
        self._known: dict[tuple[str, tuple[str, ...]], Counter | Histogram] = {}
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}  # by name and values of the labels
        self._lock = Lock()
        self._refused = Counter(
            "larder_server_refused", "Requests that the server refused or broke off", ["reason"], registry=registry
        )
        self._lost = Counter("larder_server_log_lines_lost", "Log lines that were not written", registry=registry)

    def count_refused(self, reason: str) -> None:
        """Count a request that the server refused itself."""
        self._refused.labels(reason).inc()

    def count_lost(self, number: int) -> None:
        """Count log lines that could not be written."""
        self._lost.inc(number)

    def read_line(self, line: str) -> None:
        """Count what a log line says."""
        document: dict[str, Any] = json.loads(line)
        for name, unit, dimensions in find_metrics(document):
            labels = tuple([str(document[dimension]) for dimension in dimensions])
            child = self._children.get((name, labels))
            if child is None:
                child = self._children[name, labels] = self._find(name, unit, dimensions).labels(*labels)
            value = document[name]
            if unit == "Count":
                if value:  # most errors are 0, and adding that takes as long
                    child.inc(value)
            else:
                scale = 0.001 if unit == "Milliseconds" else 1.0
                for each in value if isinstance(value, list) else [value]:
                    child.observe(each * scale)

    def _find(self, name: str, unit: str, dimensions: tuple[str, ...]) -> Counter | Histogram:
        found = self._known.get((name, dimensions))
        if found is None:
            with self._lock:
                found = self._known.get((name, dimensions)) or self._create(name, unit, dimensions)
                self._known[name, dimensions] = found
        return found

    def _create(self, name: str, unit: str, dimensions: tuple[str, ...]) -> Counter | Histogram:
        labels = [_snake(dimension) for dimension in dimensions]
        full, text = f"larder_{_snake(name)}", f"{name} of the log lines"
        if unit == "Count":
            return Counter(full, text, labels, registry=self._registry)
        if unit == "Milliseconds":
            return Histogram(f"{full}_seconds", text, labels, registry=self._registry, buckets=SECONDS)
        return Histogram(full, text, labels, registry=self._registry, buckets=SHARES)


def find_metrics(document: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield name, unit and finest dimensions of each metric that a line states in CloudWatch's embedded format."""
    for directive in document["_aws"]["CloudWatchMetrics"]:
        finest: tuple[str, ...] = max(map(tuple, directive["Dimensions"]), key=len)
        if all(dimension in document for dimension in finest):
            for metric in directive["Metrics"]:
                if metric["Name"] in document:
                    yield metric["Name"], metric["Unit"], finest


def _snake(name: str) -> str:
    return _WORD.sub("_", name).lower()
