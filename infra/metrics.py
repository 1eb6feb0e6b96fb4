"""Read which metrics the template watches and which a log line tells, so that the two can be compared. Pure."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from infra.translate import Template

TERM = re.compile(r"\(?\s*\$\.(\w+)\s*(=|!=|<|<=|>|>=)\s*(\"[^\"]*\"|-?\d+(?:\.\d+)?)\s*\)?")
PATTERN = re.compile(rf"\{{\s*{TERM.pattern}(?:\s*(?:&&|\|\|)\s*{TERM.pattern})*\s*\}}")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Metric(NamedTuple):
    """A metric as CloudWatch tells metrics apart: namespace, name, the names of its dimensions, and whose it is.

    `service` is the value of the dimension Service; empty without one, and for a search, which takes any.
    """

    namespace: str
    name: str
    dimensions: frozenset[str]
    service: str = ""


def matches(pattern: str, line: Mapping[str, Any]) -> bool:
    """Tell whether a JSON filter pattern takes a log line.

    Raises:
        ValueError: it is no pattern of the form that we use, `{ ($.a = "x*") && ($.b < 1) }`, `&&` or `||` throughout.
    """
    if (
        not PATTERN.fullmatch(pattern)
        or pattern.count("(") != pattern.count(")")
        or ("&&" in pattern and "||" in pattern)
    ):
        raise ValueError(f"{pattern!r} is no filter pattern")
    terms = [_term(line.get(name), sign, json.loads(value)) for name, sign, value in TERM.findall(pattern)]
    return any(terms) if "||" in pattern else all(terms)


def _term(found: Any, sign: str, wanted: str | float) -> bool:
    """Compare as CloudWatch does: a text with `*` in it is a pattern, and what is of another type is not equal."""
    if isinstance(wanted, str):
        return isinstance(found, str) and fnmatchcase(found, wanted) is (sign == "=")
    return isinstance(found, int | float) and COMPARE[sign](found, wanted)


def read_dashboards(template: Template) -> dict[str, dict[str, Any] | str]:
    """Return each dashboard's body, references still in it; or, in words, why it has none."""
    bodies: dict[str, dict[str, Any] | str] = {}
    for name, one in template["Resources"].items():
        if one["Type"] == "AWS::CloudWatch::Dashboard":
            try:
                bodies[name] = json.loads(one["Properties"]["DashboardBody"]["Fn::Sub"])
            except ValueError as error:
                bodies[name] = f"its body is not JSON: {error}"
    return bodies


def watched(template: Template) -> set[Metric]:
    """Return every metric that an alarm or a dashboard names."""
    found: set[Metric] = set()
    for one in template["Resources"].values():
        if one["Type"] == "AWS::CloudWatch::Alarm":
            for metric in [one["Properties"], *(m["MetricStat"]["Metric"] for m in _stats(one["Properties"]))]:
                if "MetricName" in metric:
                    values = {each["Name"]: each["Value"] for each in metric.get("Dimensions", [])}
                    found.add(_named(metric["Namespace"], metric["MetricName"], values))
    for body in read_dashboards(template).values():
        for widget in body["widgets"] if isinstance(body, dict) else []:
            found |= _of_widget(widget["properties"].get("metrics", []))
    return found


def told(lines: Iterable[str]) -> set[Metric]:
    """Return every metric that log lines tell in the embedded metric format, if its value and dimensions are there."""
    found: set[Metric] = set()
    for line in lines:
        document = json.loads(line)
        for directive in document.get("_aws", {}).get("CloudWatchMetrics", []):
            for metric in directive["Metrics"]:
                for names in directive["Dimensions"]:
                    if {metric["Name"], *names} <= set(document):
                        one = _named(directive["Namespace"], metric["Name"], {name: document[name] for name in names})
                        found |= {one, one._replace(service="")}  # a search finds it too
    return found


def filtered(template: Template, lines: Iterable[str]) -> set[Metric]:
    """Return every metric that a filter makes of log lines: of lines that it takes and that have its dimensions."""
    documents = [json.loads(line) for line in lines]
    found: set[Metric] = set()
    for one in template["Resources"].values():
        if one["Type"] == "AWS::Logs::MetricFilter":
            for made in one["Properties"]["MetricTransformations"]:
                taken = [line for line in documents if matches(one["Properties"]["FilterPattern"], line)]
                fields = {each["Value"].removeprefix("$.") for each in made.get("Dimensions", [])}
                if any(fields <= set(line) for line in taken):
                    names = frozenset(each["Key"] for each in made.get("Dimensions", []))
                    found.add(Metric(made["MetricNamespace"], made["MetricName"], names))
    return found


def _named(namespace: str, name: str, dimensions: Mapping[str, Any]) -> Metric:
    return Metric(namespace, name, frozenset(dimensions), dimensions.get("Service", ""))


def _stats(alarm: Mapping[str, Any]) -> list[Any]:
    return [one for one in alarm.get("Metrics", []) if "MetricStat" in one]


def _of_widget(rows: list[list[Any]]) -> set[Metric]:
    """Spell out a widget's rows: `...` repeats the row before, `.` one word of it."""
    found: set[Metric] = set()
    before: list[Any] = []
    for row in rows:
        words = [word for word in row if not isinstance(word, dict)]
        if not words:
            for schema, name in re.findall(r"SEARCH\('\{([^}]*)\} MetricName=\"(\w+)\"", row[-1].get("expression", "")):
                namespace, *names = schema.split(",")
                found.add(Metric(namespace, name, frozenset(names)))
            continue
        if words == ["..."]:
            words = before
        words = [before[place] if word == "." else word for place, word in enumerate(words)]
        found.add(_named(words[0], words[1], dict(zip(words[2::2], words[3::2], strict=True))))
        before = words
    return found
