"""Read the template's widgets, and find the data points of each line that they show. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from infra.dashboards.points import Key, Point, Points, summarise
from infra.metrics import read_dashboards
from infra.translate import Template

SEARCH = re.compile(r"SEARCH\('\{([^}]*)\} MetricName=\"(\w+)\"([^']*)', '(\w+)', \d+\)")


class Line(NamedTuple):
    """One line of a widget."""

    label: str
    points: list[Point]
    is_right: bool  # on the axis to the right


class Widget(NamedTuple):
    """A widget and its lines; none where only AWS tells its metrics."""

    title: str
    width: int  # of 24
    lines: list[Line]


def read_widgets(template: Template, environment: str, points: Points, period: float) -> dict[str, list[Widget]]:
    """Read each dashboard's metric widgets, from the top left on, with a data point per period (seconds)."""
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
    before: list[Any] = []
    for row in properties["metrics"]:
        options = row[-1] if isinstance(row[-1], dict) else {}
        words = [word for word in row if not isinstance(word, dict)]
        if not words:
            lines += _search(options["expression"], points, period)
            continue
        words = before if words == ["..."] else words
        words = [before[place] if word == "." else word for place, word in enumerate(words)]
        before = words
        key = Key(words[0], words[1], frozenset(zip(words[2::2], words[3::2], strict=True)))
        if key in points:
            shown = summarise(points[key], options.get("stat", properties["stat"]), period)
            lines.append(Line(options.get("label", words[1]), shown, options.get("yAxis") == "right"))
    return lines


def _search(expression: str, points: Points, period: float) -> list[Line]:
    """Find what a search finds: metrics of that name with just these dimensions; what it does not fix is the label."""
    found = SEARCH.fullmatch(expression)
    if found is None:
        raise ValueError(f"no search that we know: {expression}")
    namespace, *names = found[1].split(",")
    fixed = dict(re.findall(r"(\w+)=\\?\"([^\"\\]*)\\?\"", found[3]))
    lines = []
    for key, told in points.items():
        dimensions = dict(key.dimensions)
        if (key.namespace, key.name) != (namespace, found[2]) or set(dimensions) != set(names):
            continue
        if all(dimensions[name] == value for name, value in fixed.items()):
            free = [dimensions[name] for name in names if name not in fixed and name != "Service"]
            lines.append(Line(" ".join(free), summarise(told, found[4], period), False))
    return sorted(lines, key=lambda line: -sum(value for _, value in line.points))
