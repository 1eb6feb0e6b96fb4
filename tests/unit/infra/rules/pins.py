"""Values that no linter and no other rule can compute: pins.yaml repeats them, so that a change is a decision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from infra.dashboards.widgets import expand_rows, read_dashboards
from infra.synthetic import TIMEOUT as CHECK_SECONDS
from infra.translate import Template
from tests.unit.infra.rules.template import Rule, by_type, get

PINS: dict[str, Any] = yaml.load(Path(__file__).parents[1].joinpath("pins.yaml").read_text(), yaml.CSafeLoader)
BOUNDS = ("Default", "MinValue", "MaxValue", "AllowedValues")
ALARM = ("Period", "EvaluationPeriods", "DatapointsToAlarm", "Threshold", "TreatMissingData", "Unit", "Metrics")


def parameters_are_as_decided(template: Template) -> Iterator[str]:
    """Defaults, bounds and lists of the parameters."""
    for name, pinned in PINS["parameters"].items():
        found = [template["Parameters"][name].get(member) for member in BOUNDS]
        if found != (wanted := pinned + [None] * (len(BOUNDS) - len(pinned))):
            yield f"{name}: {dict(zip(BOUNDS, found, strict=True))}, and pins.yaml has {wanted}"


def resources_are_as_decided(template: Template) -> Iterator[str]:
    """The properties in pins.yaml, as a whole: additions are reported, too."""
    for name, properties in PINS["resources"].items():
        for path, wanted in properties.items():
            found = get(template["Resources"][name]["Properties"], *path.split(".")) if path != "all" else None
            found = template["Resources"][name]["Properties"] if path == "all" else found
            if found != wanted:
                yield f"{name}: {path} is {json.dumps(found)}, and pins.yaml has {json.dumps(wanted)}"
    where = {name: one["Condition"] for name, one in template["Resources"].items() if "Condition" in one}
    for name in sorted(set(where) | set(PINS["conditions"])):
        if where.get(name) != PINS["conditions"].get(name):
            yield f"{name}: exists with {where.get(name)}, and pins.yaml has {PINS['conditions'].get(name)}"
    if template["Outputs"] != PINS["outputs"]:
        yield "Outputs: are not those of pins.yaml"


def alarms_are_as_decided(template: Template) -> Iterator[str]:
    """Statistic, periods, threshold and dimensions of each alarm."""
    for name, alarm in by_type(template, "AWS::CloudWatch::Alarm").items():
        found = describe_alarm(alarm)
        if found != PINS["alarms"].get(name):
            yield f"{name}: {found}, and pins.yaml has {PINS['alarms'].get(name)}"


def describe_alarm(alarm: dict[str, Any]) -> list[Any]:
    """Describe an alarm as pins.yaml does: statistic, what ALARM lists, values of its dimensions."""
    values = {one["Name"]: one["Value"] for one in alarm.get("Dimensions", [])}
    return [alarm.get("Statistic") or alarm.get("ExtendedStatistic"), *map(alarm.get, ALARM), values]


def widgets_are_as_decided(template: Template) -> Iterator[str]:
    """Each line of a dashboard: metric, values of its dimensions, statistic, period, axis; queries and alarms."""
    for name, body in read_dashboards(template).items():
        if isinstance(body, dict) and (found := describe_dashboard(body)) != PINS["dashboards"][name]:
            different = [one for one in found if one not in PINS["dashboards"][name]]
            yield f"{name}: {different or 'a line is missing'} is not in pins.yaml"


def describe_dashboard(body: dict[str, Any]) -> list[str]:
    """Describe a dashboard, a line of text for each line that it shows."""
    lines = []
    for widget in body["widgets"]:
        given = {member: value for member, value in widget["properties"].items() if member != "metrics"}
        lines.append(" | ".join(f"{member}: {value}" for member, value in {"type": widget["type"], **given}.items()))
        for words, options in expand_rows(widget["properties"].get("metrics", [])):
            lines.append("  " + " ".join([*words, *(f"{name}={value}" for name, value in options.items())]))
    return lines


def denies_are_whole(template: Template) -> Iterator[str]:
    """The only denials are of requests without TLS, for every caller and every action of the service."""
    policies = by_type(template, "AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy")
    for name, policy in policies.items():
        stated = [one["Fn::If"][1] if "Fn::If" in one else one for one in policy["PolicyDocument"]["Statement"]]
        service = "sqs" if "Queues" in policy else "s3"
        target = policy["Queues"][0]["Ref"] if service == "sqs" else policy["Bucket"]["Ref"]
        arn = {"Fn::GetAtt": [target, "Arn"]}
        wanted = {
            "Sid": "TlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": f"{service}:*",
            "Resource": arn if service == "sqs" else [arn, {"Fn::Sub": f"${{{target}.Arn}}/*"}],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
        if [one for one in stated if one["Effect"] != "Allow"] != [wanted]:
            yield f"{name}: does not deny all of {service} to everybody without TLS"


def times_fit_together(template: Template) -> Iterator[str]:
    """A caller of a function waits longer than it can run; a function that is repeated ends before the next time."""
    resources = {name: one.get("Properties", {}) for name, one in template["Resources"].items()}
    visible, enrich = resources["Queue"]["VisibilityTimeout"], resources["EnrichFunction"]["Timeout"]
    if not enrich + 60 <= visible <= enrich + 300:
        yield f"Queue: a message of a dead invocation is invisible for {visible} s, and enrich runs for {enrich} s"
    publish, waits = resources["PublishFunction"]["Timeout"], resources["Discovery"]["ServiceTimeout"]
    if not publish < waits <= 300:
        yield f"Discovery: CloudFormation waits for {waits} s, and the function runs for {publish} s"
    if not 3 * CHECK_SECONDS < resources["SyntheticFunction"]["Timeout"] < 300:
        yield "SyntheticFunction: ends before its three requests do, or runs into the next check"
    alarm = resources["QueueOld"]
    if not alarm["Threshold"] > visible:
        yield "QueueOld: fires for a message that is tried again once"


RULES: tuple[Rule, ...] = (
    parameters_are_as_decided,
    resources_are_as_decided,
    alarms_are_as_decided,
    widgets_are_as_decided,
    denies_are_whole,
    times_fit_together,
)
