"""Rules on dashboards. That the metrics exist is tested by test_monitoring_drift.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from infra.dashboards.widgets import read_dashboards
from infra.translate import Template
from tests.unit.infra.rules.template import PERCENTILE, STATISTICS, Rule, by_type

WIDGETS = {"metric": {"metrics", "region", "title"}, "log": {"query", "region", "title"}, "alarm": {"alarms", "title"}}
SEARCH = re.compile(r"SEARCH\('\{[\w/]+(,\w+)+\} MetricName=\"\w+\"[^']*', '[\w.]+', \d+\)")


def dashboards_are_valid(template: Template) -> Iterator[str]:
    """Bodies are JSON; widgets have the members of their type, do not overlap, and fit the grid of 24 columns."""
    for name, body in read_dashboards(template).items():
        if isinstance(body, str):
            yield f"{name}: {body}"
            continue
        taken: set[tuple[int, int]] = set()
        for widget in body.get("widgets", []):
            yield from (f"{name}: {fault}" for fault in _check_widget(widget))
            cells = {
                (x, y)
                for x in range(widget["x"], widget["x"] + widget["width"])
                for y in range(widget["y"], widget["y"] + widget["height"])
            }
            if taken & cells:
                yield f"{name}: {widget['properties'].get('title')!r} overlaps another widget"
            taken |= cells


def dashboards_show_all_alarms(template: Template) -> Iterator[str]:
    """Each alarm that every environment has is on a dashboard."""
    bodies = [one["DashboardBody"]["Fn::Sub"] for one in by_type(template, "AWS::CloudWatch::Dashboard").values()]
    shown = set(re.findall(r"\$\{(\w+)\.Arn\}", "".join(bodies)))
    for name, one in template["Resources"].items():
        if one["Type"] == "AWS::CloudWatch::Alarm" and "Condition" not in one and name not in shown:
            yield f"{name}: is on no dashboard"


def _check_widget(widget: dict[str, Any]) -> Iterator[str]:
    properties = widget["properties"]
    title = properties.get("title")
    if lacking := WIDGETS.get(widget["type"], {"a known type"}) - set(properties):
        yield f"{title!r}: a {widget['type']} widget lacks {sorted(lacking)}"
    if widget["x"] + widget["width"] > 24:
        yield f"{title!r}: is wider than the grid"
    options = [one[-1] for one in properties.get("metrics", []) if isinstance(one[-1], dict)]
    for statistic in [properties.get("stat", "Sum"), *(one["stat"] for one in options if "stat" in one)]:
        if statistic not in STATISTICS and not PERCENTILE.fullmatch(statistic):
            yield f"{title!r}: {statistic!r} is no statistic"
    for row in properties.get("metrics", []):
        if "Environment" in row and row[row.index("Environment") + 1] != "${Environment}":
            yield f"{title!r}: shows another environment"
    for expression in (one["expression"] for one in options if "expression" in one):
        if not SEARCH.fullmatch(expression):
            yield f"{title!r}: {json.dumps(expression)} is no search expression"
        elif "{Larder" in expression and ' Environment="${Environment}"' not in expression:
            yield f"{title!r}: finds the metrics of every environment"


RULES: tuple[Rule, ...] = (dashboards_are_valid, dashboards_show_all_alarms)
