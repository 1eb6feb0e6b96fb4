"""Rules on alarms, filters and dashboards. Pure. That what they name is really told is the drift test's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from infra.metrics import read_dashboards, read_filter_fields
from infra.rules.look import Rule, by_type, default, get
from infra.translate import Template

PERCENTILE = re.compile(r"p(?:100|\d{1,2}(?:\.\d{1,10})?)")
STATISTICS = {"Average", "Sum", "Minimum", "Maximum", "SampleCount"}
WIDGETS = {"metric": {"metrics", "region", "title"}, "log": {"query", "region", "title"}, "alarm": {"alarms", "title"}}
SEARCH = re.compile(r"SEARCH\('\{[\w/]+(,\w+)+\} MetricName=\"\w+\"[^']*', '[\w.]+', \d+\)")
MISSING_IS_BREACHING = {"DatasetStale", "PendingOld", "SyntheticFails"}  # silence is a fault there
PAGES = {
    "ErrorBudgetBurnsFast", "ServeCrashes", "ServeThrottled", "ReadsThrottled", "KeysUnreadable", "SyntheticFails",
}  # fmt: skip
LOOKS_AT = {  # alarm -> the resource in its dimensions
    "ServeCrashes": "ServeFunction",
    "ServeThrottled": "ServeFunction",
    "EnrichCrashes": "EnrichFunction",
    "ReadsThrottled": "Table",
    "WritesThrottled": "Table",
    "DeadLettersWait": "DeadLetters",
    "QueueOld": "Queue",
    "WafBlocksMany": "WebAcl",
}
TOPICS = ({"Ref": "Pages"}, {"Ref": "Tickets"})


def alarms_can_fire(template: Template) -> Iterator[str]:
    """Statistics and periods are those that CloudWatch takes, and the window is one that it can hold."""
    for name, alarm in by_type(template, "AWS::CloudWatch::Alarm").items():
        metrics = [one["MetricStat"] for one in alarm.get("Metrics", []) if "MetricStat" in one]
        statistic = alarm.get("Statistic") or alarm.get("ExtendedStatistic") or get(*metrics[:1], "Stat")
        if statistic not in STATISTICS and not PERCENTILE.fullmatch(str(statistic)):
            yield f"{name}: {statistic!r} is no statistic"
        if alarm.get("Statistic") and alarm.get("ExtendedStatistic"):
            yield f"{name}: has two statistics"
        period = alarm.get("Period") or get(*metrics[:1], "Period")
        periods = int(default(template, alarm["EvaluationPeriods"]))
        if period not in (10, 20, 30) and period % 60:
            yield f"{name}: a period is 10, 20, 30 or a multiple of 60 s"
        if period * periods > (7 * 86400 if period >= 3600 else 86400):
            yield f"{name}: looks back over {period * periods} s, which is too long"
        if alarm.get("DatapointsToAlarm", 1) > periods:
            yield f"{name}: wants more data points than it looks at"


def alarms_reach_somebody(template: Template) -> Iterator[str]:
    """Each alarm tells a topic itself or through a composite, knows what silence means, and has its runbook's place."""
    composites = by_type(template, "AWS::CloudWatch::CompositeAlarm")
    named = {one for alarm in composites.values() for one in re.findall(r"\$\{(\w+)\}", str(alarm["AlarmRule"]))}
    alarms = by_type(template, "AWS::CloudWatch::Alarm")
    for name, alarm in {**alarms, **composites}.items():
        if alarm.get("AlarmActions", []) not in ([TOPICS[0]], [TOPICS[1]]) and name not in named:
            yield f"{name}: tells nobody"
        if not str(alarm.get("AlarmDescription", "")).endswith(f"; docs/runbook.md#{name.lower()}"):
            yield f"{name}: its description does not end in docs/runbook.md#{name.lower()}"
        if alarm.get("ActionsEnabled") is False:
            yield f"{name}: is switched off"
    for name, alarm in alarms.items():
        wanted = "breaching" if name in MISSING_IS_BREACHING else "notBreaching"
        if alarm.get("TreatMissingData") != wanted:
            yield f"{name}: silence should be {wanted}"
    for name in named - set(alarms):
        yield f"a composite names {name}, which is no alarm"
    for name in ("ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly"):
        if " AND " not in str(composites[name]["AlarmRule"]):
            yield f"{name}: a burn is over a long and a short window together"


def alarms_look_at_the_right_thing(template: Template) -> Iterator[str]:
    """Each alarm looks at its own resource or the API's stage; too much fires it."""
    api = template["Resources"]["Api"]["Properties"]
    stage = {"ApiName": api["Name"], "Stage": api["StageName"]}
    for name, alarm in by_type(template, "AWS::CloudWatch::Alarm").items():
        dimensions = alarm.get("Dimensions", [])
        if alarm.get("Namespace") == "AWS/ApiGateway" and {one["Name"]: one["Value"] for one in dimensions} != stage:
            yield f"{name}: does not look at the API's stage"
        if name in LOOKS_AT and f"'{LOOKS_AT[name]}'" not in str([one["Value"] for one in dimensions]):
            yield f"{name}: does not look at {LOOKS_AT[name]}"
        if not alarm["ComparisonOperator"].startswith("GreaterThan"):
            yield f"{name}: fires when there is too little"
    for name, alarm in by_type(template, "AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm").items():
        if alarm.get("AlarmActions") and (alarm["AlarmActions"] == [TOPICS[0]]) != (name in PAGES):
            yield f"{name}: {'wakes nobody' if name in PAGES else 'wakes somebody for a ticket'}"


def burn_rates_are_the_workbooks(template: Template) -> Iterator[str]:
    """An error budget of 0.1 %: 14.4 times over 1 h and 5 min, once over 3 d and 6 h; the average is the error rate."""
    budget = 0.001
    windows = {
        "ErrorsIn5Minutes": (300, 14.4 * budget),
        "ErrorsIn1Hour": (3600, 14.4 * budget),
        "ErrorsIn6Hours": (21600, budget),
        "ErrorsIn3Days": (3 * 86400, budget),
    }
    for name, (window, threshold) in windows.items():
        alarm = template["Resources"][name]["Properties"]
        told = (alarm["Namespace"], alarm["MetricName"], alarm["Statistic"], alarm["ComparisonOperator"])
        if told != ("AWS/ApiGateway", "5XXError", "Average", "GreaterThanThreshold"):
            yield f"{name}: {told} is not the error rate"
        if alarm["Period"] * alarm["EvaluationPeriods"] != window or abs(alarm["Threshold"] - threshold) > 1e-9:
            yield f"{name}: is not {threshold:g} over {window} s"


def filters_are_valid(template: Template) -> Iterator[str]:
    """Patterns are JSON filters; three dimensions at most, each out of the line; the log group is a function's."""
    groups = by_type(template, "AWS::Logs::LogGroup")
    for name, one in by_type(template, "AWS::Logs::MetricFilter").items():
        try:
            read_filter_fields(one["FilterPattern"])
        except ValueError as error:
            yield f"{name}: {error}"
        if get(one, "LogGroupName", "Ref") not in groups:
            yield f"{name}: looks at no log group of ours"
        for made in one["MetricTransformations"]:
            dimensions = made.get("Dimensions", [])
            if len(dimensions) > 3 or any(not re.fullmatch(r"\$\.\w+", str(each["Value"])) for each in dimensions):
                yield f"{name}: at most three dimensions, each $.member"
            if dimensions and "DefaultValue" in made:
                yield f"{name}: a default value and dimensions exclude each other"


def dashboards_are_valid(template: Template) -> Iterator[str]:
    """Bodies are JSON, widgets have what their type needs, lie side by side, and fit the grid of 24."""
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
                yield f"{name}: {widget['properties'].get('title')!r} lies on another widget"
            taken |= cells


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
    for expression in (one["expression"] for one in options if "expression" in one):
        if not SEARCH.fullmatch(expression):
            yield f"{title!r}: {json.dumps(expression)} is no search"


RULES: tuple[Rule, ...] = (
    alarms_can_fire,
    alarms_reach_somebody,
    alarms_look_at_the_right_thing,
    burn_rates_are_the_workbooks,
    filters_are_valid,
    dashboards_are_valid,
)
