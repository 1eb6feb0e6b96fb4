"""Read data points out of log lines, as CloudWatch does: embedded metrics, and the template's metric filters. Pure."""

from __future__ import annotations

import json
import math
import operator
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from infra.translate import Template

TERM = re.compile(r"\$\.(\w+)\s*(=|!=|<=|<|>=|>)\s*(\"[^\"]*\"|-?\d+(?:\.\d+)?)")
COMPARE = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Key(NamedTuple):
    """One metric, told apart as CloudWatch does it."""

    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]


Point = tuple[float, float]  # epoch seconds, value
Points = Mapping[Key, Sequence[Point]]


def read_points(template: Template, lines: Iterable[str]) -> dict[Key, list[Point]]:
    """Read every metric's data points from log lines, those that the template's filters make as well."""
    filters = [one["Properties"] for one in template["Resources"].values() if one["Type"] == "AWS::Logs::MetricFilter"]
    points: dict[Key, list[Point]] = defaultdict(list)
    for line in lines:
        document = json.loads(line)
        if "_aws" not in document:
            continue
        now = document["_aws"]["Timestamp"] / 1000
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = frozenset((name, document[name]) for name in names)
                for metric in directive["Metrics"]:
                    points[Key(directive["Namespace"], metric["Name"], dimensions)].append(
                        (now, document[metric["Name"]])
                    )
        for one in filters:
            if matches(one["FilterPattern"], document):
                for made in one["MetricTransformations"]:
                    values = {each["Key"]: document.get(each["Value"][2:]) for each in made["Dimensions"]}
                    if None not in values.values():
                        key = Key(made["MetricNamespace"], made["MetricName"], frozenset(values.items()))
                        points[key].append((now, float(made["MetricValue"])))
    return points


def matches(pattern: str, document: Mapping[str, Any]) -> bool:
    """Tell whether a line matches a filter pattern of the form that we use: terms joined by `&&`, `*` for any text."""
    for name, sign, literal in TERM.findall(pattern):
        value = document.get(name)
        if value is None:
            return False
        wanted = json.loads(literal)
        if wanted == "*":
            continue
        if isinstance(value, str) != isinstance(wanted, str) or not COMPARE[sign](value, wanted):
            return False
    return True


def summarise(points: Iterable[Point], stat: str, period: float) -> list[Point]:
    """Summarise data points per period: Sum, Average, Maximum, Minimum, SampleCount or a percentile such as p99."""
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
