"""Read the dashboards' widgets from the template, and find the data points of each line that they show."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from infra.dashboards.points import Key, Point, Points, summarise
from infra.translate import Template

SEARCH = re.compile(r"SEARCH\('\{([^}]*)\} MetricName=\"(\w+)\"([^']*)', '(\w+)', \d+\)")


class Line(NamedTuple):
    """One line of a widget."""

    label: str
    points: list[Point]
    is_right: bool  # on the axis to the right


class Widget(NamedTuple):
    """A widget and its lines; it has no lines if only AWS reports its metrics."""

    title: str
    width: int  # of 24
    lines: list[Line]


def read_dashboards(template: Template) -> dict[str, dict[str, Any] | str]:
    """Return the body of each dashboard, with references unresolved; or an error message if it is not JSON."""
    bodies: dict[str, dict[str, Any] | str] = {}
    for name, one in template["Resources"].items():
        if one["Type"] == "AWS::CloudWatch::Dashboard":
            try:
                bodies[name] = json.loads(one["Properties"]["DashboardBody"]["Fn::Sub"])
            except ValueError as error:
                bodies[name] = f"its body is not JSON: {error}"
    return bodies


def expand_rows(rows: Iterable[list[Any]]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Expand a widget's metric rows: `...` repeats the previous row, `.` one word of it.

    Yields:
        A row's words (namespace, name, then names and values of dimensions; none for an expression) and its options.
    """
    before: list[str] = []
    for row in rows:
        options = row[-1] if isinstance(row[-1], dict) else {}
        words = [word for word in row if not isinstance(word, dict)]
        if words:
            words = before if words == ["..."] else words
            words = [before[place] if word == "." else word for place, word in enumerate(words)]
            before = words
        yield words, options


def read_widgets(template: Template, environment: str, points: Points, period: float) -> dict[str, list[Widget]]:
    """Read each dashboard's metric widgets, from the top left, with a data point per period (seconds).

    Raises:
        ValueError: a dashboard is not JSON, or a search expression is not supported.
    """
    found = {}
    for name, body in read_dashboards(template).items():
        if isinstance(body, str):
            raise ValueError(f"{name}: {body}")
        widgets = json.loads(json.dumps(body["widgets"]).replace("${Environment}", environment))
        found[name] = [
            Widget(one["properties"]["title"], one["width"], _lines(one["properties"], points, period))
            for one in sorted(widgets, key=lambda one: (one["y"], one["x"]))
            if one["type"] == "metric"
        ]
    return found


def _lines(properties: Mapping[str, Any], points: Points, period: float) -> list[Line]:
    lines = []
    for words, options in expand_rows(properties["metrics"]):
        if not words:
            lines += _search(options["expression"], points, period)
            continue
        key = Key(words[0], words[1], frozenset(zip(words[2::2], words[3::2], strict=True)))
        if key in points:
            shown = summarise(points[key], options.get("stat", properties["stat"]), period)
            lines.append(Line(options.get("label", words[1]), shown, options.get("yAxis") == "right"))
    return lines


def _search(expression: str, points: Points, period: float) -> list[Line]:
    """Find the metrics of a search expression; the values of dimensions that it does not fix become labels."""
    found = SEARCH.fullmatch(expression)
    if found is None:
        raise ValueError(f"{expression} is not a search expression of the supported form")
    namespace, *names = found[1].split(",")
    fixed = dict(re.findall(r"(\w+)=\\?\"([^\"\\]*)\\?\"", found[3]))
    lines = []
    for key, values in points.items():
        dimensions = dict(key.dimensions)
        if (key.namespace, key.name) != (namespace, found[2]) or set(dimensions) != set(names):
            continue
        if all(dimensions[name] == value for name, value in fixed.items()):
            free = [dimensions[name] for name in names if name not in fixed and name != "Service"]
            lines.append(Line(" ".join(free), summarise(values, found[4], period), False))
    return sorted(lines, key=lambda line: -sum(value for _, value in line.points))


def end_of_axis(lines: Iterable[Line]) -> float:
    """Return the end of an axis from 0: the next of 1, 2, 4, 6, 8 times a power of ten, so that quarters are round."""
    highest = max((value for line in lines for _, value in line.points), default=0.0)
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= highest)
