"""Rules on what wakes enrich: queue, mapping, rules, schedules. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from enrich.datasets import DATASETS
from enrich.intake.events import Sweep, UnknownEvent, parse_text
from infra.rules.look import Rule, by_type, default, functions, get
from infra.translate import Template

RATE = re.compile(r"rate\((?:1 (?:minute|hour|day)|(?:[2-9]|[1-9]\d+) (?:minutes|hours|days))\)")
SCHEDULES = {"Sweep": ("Queue", "PendingOld"), "SyntheticSchedule": ("SyntheticFunction", "SyntheticFails")}
CRON = re.compile(r"cron\(\S+ \S+ \S+ \S+ \S+ \S+\)")


def queue_outlasts_the_function(template: Template) -> Iterator[str]:
    """A message does not come again while its function runs, and a failing one gets to the dead letters in time."""
    queue, letters = (template["Resources"][name]["Properties"] for name in ("Queue", "DeadLetters"))
    timeout = functions(template)["EnrichFunction"]["Timeout"]
    if queue["VisibilityTimeout"] < timeout + 60:
        yield f"the queue shows a message again after {queue['VisibilityTimeout']} s, enrich may run {timeout} s"
    if timeout != 900:
        yield f"enrich has {timeout} s; a run goes on from its checkpoint, and 900 s is the most that a function has"
    receives = get(queue, "RedrivePolicy", "maxReceiveCount")
    if not isinstance(receives, int) or not 2 <= receives <= 10:
        yield f"maxReceiveCount {receives}: one try is no retry, many keep a bad output from the dead letters"
    if get(queue, "RedrivePolicy", "deadLetterTargetArn") != {"Fn::GetAtt": ["DeadLetters", "Arn"]}:
        yield "the queue's failures do not go to DeadLetters"
    if queue["MessageRetentionPeriod"] < 86400:
        yield f"a message is forgotten after {queue['MessageRetentionPeriod']} s, before anybody can mend anything"
    if "RedrivePolicy" in letters:
        yield "dead letters go on to somewhere"
    if letters["MessageRetentionPeriod"] <= queue["MessageRetentionPeriod"]:
        yield "a dead letter keeps the age of its message, and has to be kept longer"


def mapping_hands_over_one_message(template: Template) -> Iterator[str]:
    """One message a call, failures told singly, concurrency bounded by the mapping and not by the function."""
    mapping = template["Resources"]["EnrichQueueMapping"]["Properties"]
    if mapping.get("BatchSize") != 1:
        yield f"batch size {mapping.get('BatchSize')}: a call has time for one output"
    if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
        yield "without ReportBatchItemFailures a failed message counts as done"
    if not get(mapping, "ScalingConfig", "MaximumConcurrency"):
        yield "nothing bounds how many calls run at once"
    if {"FilterCriteria", "MaximumBatchingWindowInSeconds"} & set(mapping) or "DelaySeconds" in template["Resources"][
        "Queue"
    ]["Properties"]:
        yield "messages are left lying, or wait"
    if mapping.get("Enabled") is False:
        yield "the mapping is switched off"
    ends = (mapping["EventSourceArn"], mapping["FunctionName"])
    if ends != ({"Fn::GetAtt": ["Queue", "Arn"]}, {"Ref": "EnrichFunction"}):
        yield f"the mapping is from and to {ends}"


def long_runs_go_on(template: Template) -> Iterator[str]:
    """A run continues itself through the queue, which Lambda stops after 16 rounds if it is not told; it may spill."""
    enrich = functions(template)["EnrichFunction"]
    if enrich.get("RecursiveLoop") != "Allow":
        yield "without RecursiveLoop: Allow a long run is stopped after 16 rounds"
    if (get(enrich, "EphemeralStorage", "Size") or 512) < 4096:
        yield "the join of a large output spills to disk, for which 512 MB are too little"


def queries_are_bounded(template: Template) -> Iterator[str]:
    """Each query runs as the work group says: how much it may scan, where its results go, encrypted."""
    group = template["Resources"]["Workgroup"]["Properties"]["WorkGroupConfiguration"]
    if group.get("EnforceWorkGroupConfiguration") is not True:
        yield "Workgroup: a query may say otherwise"
    if not 0 < group.get("BytesScannedCutoffPerQuery", 0) <= 10**12:
        yield "Workgroup: nothing bounds what a query scans"
    results = group["ResultConfiguration"]
    if results.get("OutputLocation") != {"Fn::Sub": "s3://${Bucket}/athena/"}:  # where enrich may write, and it expires
        yield f"Workgroup: results go to {results.get('OutputLocation')}"
    if not get(results, "EncryptionConfiguration", "EncryptionOption"):
        yield "Workgroup: results are not encrypted"


def rules_hear_every_dataset(template: Template) -> Iterator[str]:
    """Outputs of each dataset pass a rule; patterns are what S3 sends."""
    heard: set[str] = set()
    for name, rule in by_type(template, "AWS::Events::Rule").items():
        pattern = rule["EventPattern"]
        if pattern.get("source") != ["aws.s3"] or pattern.get("detail-type") != ["Object Created"]:
            yield f"{name}: S3 sends source aws.s3 and detail-type Object Created"
        if set(pattern) - {"source", "detail-type", "detail"} or not set(pattern["detail"]) <= {"bucket", "object"}:
            yield f"{name}: the pattern asks for members that S3 does not send"
        if not get(pattern, "detail", "bucket", "name"):
            yield f"{name}: takes the objects of every bucket"
        if [target["Arn"] for target in rule["Targets"]] != [{"Fn::GetAtt": ["Queue", "Arn"]}]:
            yield f"{name}: its target is not the queue"
        if rule.get("State") == "DISABLED":
            yield f"{name}: is switched off"
        prefixes = [one["prefix"] for one in get(pattern, "detail", "object", "key") or [{"prefix": ""}]]
        heard |= {name for name, dataset in DATASETS.items() if dataset.source.prefix.startswith(tuple(prefixes))}
    for name in sorted(set(DATASETS) - heard):
        yield f"dataset {name}: no rule lets its outputs pass"


def schedules_are_valid(template: Template) -> Iterator[str]:
    """EventBridge takes `rate(1 minute)` and `rate(2 minutes)`, and neither mixed up; stand-ins take anything."""
    for name, schedule in by_type(template, "AWS::Scheduler::Schedule").items():
        expression = default(template, schedule["ScheduleExpression"])
        if not RATE.fullmatch(expression) and not CRON.fullmatch(expression):
            yield f"{name}: {expression!r} is no schedule"
    try:
        requests = parse_text(template["Resources"]["Sweep"]["Properties"]["Target"]["Input"])
    except UnknownEvent as error:
        yield f"enrich does not understand the sweep's input: {error}"
    else:
        if requests != [Sweep(None)]:
            yield f"the sweep's input asks for {json.dumps(str(requests))}"


def schedules_reach_their_targets(template: Template) -> Iterator[str]:
    """Each schedule is switched on, wakes its target with a role of its own, and often enough for its alarm."""
    for name, (target, alarm) in SCHEDULES.items():
        schedule = template["Resources"][name]["Properties"]
        ends = (schedule["Target"]["Arn"], schedule["Target"]["RoleArn"])
        if ends != ({"Fn::GetAtt": [target, "Arn"]}, {"Fn::GetAtt": [f"{name}Role", "Arn"]}):
            yield f"{name}: does not wake {target} with its own role"
        if schedule.get("State", "ENABLED") != "ENABLED" or schedule["FlexibleTimeWindow"] != {"Mode": "OFF"}:
            yield f"{name}: is switched off, or comes when it likes"
        period = template["Resources"][alarm]["Properties"]["Period"]
        if (_seconds(default(template, schedule["ScheduleExpression"])) or period) > period:
            yield f"{name}: {alarm} would take the time between two of its calls for silence"


def _seconds(expression: str) -> int | None:
    """Return the seconds between two calls of a rate; None for what is no rate."""
    found = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", expression)
    return int(found[1]) * {"minute": 60, "hour": 3600, "day": 86400}[found[2]] if found else None


RULES: tuple[Rule, ...] = (
    queue_outlasts_the_function,
    mapping_hands_over_one_message,
    long_runs_go_on,
    queries_are_bounded,
    rules_hear_every_dataset,
    schedules_are_valid,
    schedules_reach_their_targets,
)
