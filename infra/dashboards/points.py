"""Read data points from log lines as CloudWatch does: embedded metrics, and the template's metric filters."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from infra.dashboards.filters import matches
from infra.translate import Template


class Key(NamedTuple):
    """The identity of a metric in CloudWatch: namespace, name, and dimensions with their values."""

    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]


Point = tuple[float, float]  # epoch seconds, value
Points = Mapping[Key, Sequence[Point]]


def read_points(template: Template, lines: Iterable[str]) -> dict[Key, list[Point]]:
    """Read the data points of all metrics that JSON log lines contain or that the template's filters count.

    A line that lacks the value of a metric, or one of its dimensions, gives no data point.
    """
    filters = [one["Properties"] for one in template["Resources"].values() if one["Type"] == "AWS::Logs::MetricFilter"]
    points: dict[Key, list[Point]] = defaultdict(list)
    for line in lines:
        document = json.loads(line)
        if "_aws" not in document:
            continue
        now = document["_aws"]["Timestamp"] / 1000
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                for metric in directive["Metrics"]:
                    if {metric["Name"], *names} <= set(document):
                        dimensions = frozenset((name, document[name]) for name in names)
                        key = Key(directive["Namespace"], metric["Name"], dimensions)
                        value = document[metric["Name"]]  # or a list of values
                        points[key] += [(now, one) for one in (value if isinstance(value, list) else [value])]
        for one in filters:
            if matches(one["FilterPattern"], document):
                for made in one["MetricTransformations"]:
                    values = {each["Key"]: document.get(each["Value"][2:]) for each in made["Dimensions"]}
                    if None not in values.values():
                        key = Key(made["MetricNamespace"], made["MetricName"], frozenset(values.items()))
                        points[key].append((now, float(made["MetricValue"])))
    return points


def summarise(points: Iterable[Point], stat: str, period: float) -> list[Point]:
    """Summarise data points per period (seconds): Sum, Average, Maximum, Minimum, SampleCount or a percentile (p99)."""
    periods: dict[float, list[float]] = defaultdict(list)
    for now, value in points:
        periods[now // period * period].append(value)
    return [(begin, _summary(values, stat)) for begin, values in sorted(periods.items())]


def _summary(values: list[float], stat: str) -> float:
    if stat.startswith("p"):
        ordered = sorted(values)
        return ordered[max(0, math.ceil(float(stat[1:]) / 100 * len(ordered)) - 1)]
    known = {"Sum": sum(values), "Maximum": max(values), "Minimum": min(values), "SampleCount": float(len(values))}
    return sum(values) / len(values) if stat == "Average" else known[stat]
