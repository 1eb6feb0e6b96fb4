"""Rules on what invokes enrich: the queue, its mapping, EventBridge rules, schedules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from enrich.datasets import load_datasets
from enrich.intake.events import Sweep, UnknownEvent, parse_text
from infra.translate import Template
from tests.unit.infra.rules.evaluate import Stack
from tests.unit.infra.rules.template import Rule, by_type, default, functions, get, statements

DATASETS = load_datasets()
RATE = re.compile(r"rate\((?:1 (?:minute|hour|day)|(?:[2-9]|[1-9]\d+) (?:minutes|hours|days))\)")
CRON = re.compile(r"cron\(\S+ \S+ \S+ \S+ \S+ \S+\)")
SCHEDULES = {"Sweep": ("Queue", "PendingOld"), "SyntheticSchedule": ("SyntheticFunction", "SyntheticFails")}
INVOCATION = {"AWS::SQS::Queue": "sqs:SendMessage", "AWS::Serverless::Function": "lambda:InvokeFunction"}
JOB_RULE = "JobDiedRule"
OUR_RULES = {"Fn::Sub": "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:rule/${AWS::StackName}-*"}


def queue_outlasts_the_function(template: Template) -> Iterator[str]:
    """A message stays invisible while its function runs; a failing one becomes a dead letter before it expires."""
    queue, letters = (template["Resources"][name]["Properties"] for name in ("Queue", "DeadLetters"))
    timeout = functions(template)["EnrichFunction"]["Timeout"]
    if queue["VisibilityTimeout"] < timeout + 60:
        yield f"the visibility time-out is {queue['VisibilityTimeout']} s, and enrich can run for {timeout} s"
    receives = get(queue, "RedrivePolicy", "maxReceiveCount")
    if not isinstance(receives, int) or not 2 <= receives <= 10:
        yield f"maxReceiveCount {receives}: one receive is no retry, many delay the dead-letter alarm"
    if queue["MessageRetentionPeriod"] < 86400:
        yield f"messages expire after {queue['MessageRetentionPeriod']} s, before an operator can act"
    if letters["MessageRetentionPeriod"] <= queue["MessageRetentionPeriod"]:
        yield "a dead letter keeps the age of its message, so dead letters must be retained for longer"


def mapping_loses_no_message(template: Template) -> Iterator[str]:
    """One message per invocation, failures reported per message, concurrency bounded by the mapping."""
    mapping = template["Resources"]["EnrichQueueMapping"]["Properties"]
    if mapping.get("BatchSize") != 1:
        yield f"batch size {mapping.get('BatchSize')}: an invocation has time for one output"
    if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
        yield "without ReportBatchItemFailures SQS deletes the messages that the handler reports as failed"
    if not get(mapping, "ScalingConfig", "MaximumConcurrency"):
        yield "the number of concurrent invocations is not bounded"
    delay = "DelaySeconds" in template["Resources"]["Queue"]["Properties"]
    if delay or {"FilterCriteria", "MaximumBatchingWindowInSeconds"} & set(mapping):
        yield "messages are dropped or delayed"


def long_runs_continue(template: Template) -> Iterator[str]:
    """A run continues itself through the queue (Lambda stops such loops after 16 rounds), and can spill to disk."""
    enrich = functions(template)["EnrichFunction"]
    if enrich.get("RecursiveLoop") != "Allow":
        yield "without RecursiveLoop: Allow a long run is stopped after 16 rounds"
    if (get(enrich, "EphemeralStorage", "Size") or 512) < 4096:
        yield "the join of a large output needs more disk than 512 MB"


def queries_are_bounded(template: Template) -> Iterator[str]:
    """The work group overrides each query's settings: how much it scans, and that results go where enrich can write."""
    group = template["Resources"]["Workgroup"]["Properties"]["WorkGroupConfiguration"]
    if group.get("EnforceWorkGroupConfiguration") is not True:
        yield "Workgroup: a query can override it"
    if not 0 < group.get("BytesScannedCutoffPerQuery", 0) <= 10**12:
        yield "Workgroup: the bytes that a query scans are not bounded"
    place = str(get(group, "ResultConfiguration", "OutputLocation", "Fn::Sub"))
    writable = [
        f"s3://{resource['Fn::Sub'].replace('.Arn', '')}".rstrip("*")
        for role, statement in statements(template)
        if (role, statement["Sid"]) == ("EnrichRole", "KeepOwn")
        for resource in statement["Resource"]
    ]
    if place not in writable:
        yield f"Workgroup: enrich is not allowed to write results to {place}"


def rules_match_every_dataset(template: Template) -> Iterator[str]:
    """An EventBridge rule matches the outputs of each dataset; its pattern has only members that S3 sends."""
    matched: set[str] = set()
    for name, rule in by_type(template, "AWS::Events::Rule").items():
        if name == JOB_RULE:
            continue
        pattern = rule["EventPattern"]
        if pattern.get("source") != ["aws.s3"] or pattern.get("detail-type") != ["Object Created"]:
            yield f"{name}: S3 sends source aws.s3 and detail-type Object Created"
        if set(pattern) - {"source", "detail-type", "detail"} or not set(pattern["detail"]) <= {"bucket", "object"}:
            yield f"{name}: the pattern has members that S3 does not send"
        if not get(pattern, "detail", "bucket", "name"):
            yield f"{name}: matches the objects of every bucket"
        if rule.get("State", "ENABLED") != "ENABLED":
            yield f"{name}: is switched off"
        for given in ({}, {"OutputsBucketName": "theirs"}):
            stack = Stack(template, given)
            reads = stack.value(functions(template)["EnrichFunction"]["Environment"]["Variables"]["LARDER_OUTPUTS"])
            if stack.value(get(pattern, "detail", "bucket", "name")) != [reads]:
                yield f"{name}: matches the objects of another bucket than enrich reads"
        prefixes = [one["prefix"] for one in get(pattern, "detail", "object", "key") or [{"prefix": ""}]]
        matched |= {name for name, dataset in DATASETS.items() if dataset.source.prefix.startswith(tuple(prefixes))}
    for name in sorted(set(DATASETS) - matched):
        yield f"dataset {name}: no rule matches its outputs"


def dead_jobs_are_reported(template: Template) -> Iterator[str]:
    """The job that the stack starts is not retried by Glue; when it dies, and only then, its rule sends a message."""
    stack = Stack(template, {"JobWorkers": "10"})
    started = stack.value(functions(template)["EnrichFunction"]["Environment"]["Variables"]["LARDER_JOB"])
    rule = stack.value(template["Resources"][JOB_RULE]["Properties"])
    wanted = {
        "source": ["aws.glue"],
        "detail-type": ["Glue Job State Change"],
        "detail": {"jobName": [started], "state": ["FAILED", "TIMEOUT", "ERROR"]},
    }
    if rule["EventPattern"] != wanted:
        yield f"{JOB_RULE}: matches {rule['EventPattern']}, and a job that died sends {wanted}"
    if [one["Arn"] for one in rule["Targets"]] != [stack.value({"Fn::GetAtt": ["Queue", "Arn"]})]:
        yield f"{JOB_RULE}: does not send to enrich's queue"
    if rule.get("State", "ENABLED") != "ENABLED":
        yield f"{JOB_RULE}: is switched off"
    job = stack.value(template["Resources"]["Job"]["Properties"])
    if job.get("MaxRetries") != 0:
        yield "Job: Glue retries it, beside enrich"
    given = job["DefaultArguments"]
    variables = json.loads(given["--settings"])
    wanted = stack.value(functions(template)["EnrichFunction"]["Environment"]["Variables"])
    for name in sorted({*variables, *wanted} - {"LARDER_JOB", "AWS_DEFAULT_REGION"}):
        if variables.get(name) != wanted.get(name):
            yield f"Job: {name} is {variables.get(name)}, and enrich's is {wanted.get(name)}"
    if given.get("--workers") != job["NumberOfWorkers"]:
        yield "Job: the write budget is divided by another number of workers than it has"
    if given.get("--python-modules-installer-option") != "--no-index":
        yield "Job: packages are installed from the internet"


def queues_accept_only_our_events(template: Template) -> Iterator[str]:
    """The targets of EventBridge rules accept the stack's own rules and nothing else; all queues require TLS."""
    policies = by_type(template, "AWS::SQS::QueuePolicy")
    senders: dict[str, list[object]] = {}
    for name, policy in policies.items():
        stated = [one["Fn::If"][1] if "Fn::If" in one else one for one in policy["PolicyDocument"]["Statement"]]
        for statement in (one for one in stated if one["Effect"] == "Allow"):
            if get(statement, "Condition", "ArnLike", "aws:SourceArn") != OUR_RULES:
                yield f"{name} {statement.get('Sid')}: accepts messages from rules of other stacks"
            for queue in policy["Queues"]:
                if get(statement, "Resource", "Fn::GetAtt") == [queue["Ref"], "Arn"]:
                    senders.setdefault(queue["Ref"], []).append(statement["Principal"])
        denied = [one for one in stated if one["Effect"] == "Deny"]
        if [get(one, "Condition", "Bool", "aws:SecureTransport") for one in denied] != ["false"]:
            yield f"{name}: accepts requests without TLS"
    for name, rule in by_type(template, "AWS::Events::Rule").items():
        for target in rule["Targets"]:
            if senders.get(target["Arn"]["Fn::GetAtt"][0]) != [{"Service": "events.amazonaws.com"}]:
                yield f"{name}: its target does not accept events, or accepts other senders too"
    for name, one in by_type(template, "AWS::SQS::Queue").items():
        if one.get("SqsManagedSseEnabled") is not True:
            yield f"{name}: is not encrypted"
        if {"Ref": name} not in [queue for policy in policies.values() for queue in policy["Queues"]]:
            yield f"{name}: has no policy"
    for name, bus in by_type(template, "AWS::Events::EventBusPolicy").items():
        if "${OutputsAccount}:root" not in str(get(bus["Statement"], "Principal", "AWS")):
            yield f"{name}: accepts events from other accounts than the outputs' account"


def schedules_are_valid(template: Template) -> Iterator[str]:
    """Expressions are valid for EventBridge (`rate(1 minute)`, `rate(2 minutes)`); enrich parses the sweep's input."""
    for name, schedule in by_type(template, "AWS::Scheduler::Schedule").items():
        expression = default(template, schedule["ScheduleExpression"])
        if not RATE.fullmatch(expression) and not CRON.fullmatch(expression):
            yield f"{name}: {expression!r} is no schedule expression"
    try:
        requests = parse_text(template["Resources"]["Sweep"]["Properties"]["Target"]["Input"])
    except UnknownEvent as error:
        yield f"enrich does not understand the sweep's input: {error}"
    else:
        if requests != [Sweep(None)]:
            yield f"the sweep's input requests {json.dumps(str(requests))}"


def schedules_reach_their_targets(template: Template) -> Iterator[str]:
    """Each schedule is enabled, its role is allowed to invoke its target, and its period fits the alarm on silence."""
    allowed = {(role, str(one["Action"]), str(one["Resource"])) for role, one in statements(template)}
    for name, (target, alarm) in SCHEDULES.items():
        schedule = template["Resources"][name]["Properties"]
        place, role = schedule["Target"]["Arn"], schedule["Target"]["RoleArn"]["Fn::GetAtt"][0]
        if place != {"Fn::GetAtt": [target, "Arn"]}:
            yield f"{name}: does not invoke {target}"
        if (role, INVOCATION[template["Resources"][target]["Type"]], str(place)) not in allowed:
            yield f"{name}: {role} is not allowed to invoke {target}"
        if schedule.get("State", "ENABLED") != "ENABLED" or schedule["FlexibleTimeWindow"] != {"Mode": "OFF"}:
            yield f"{name}: is disabled, or has a flexible time window"
        period = template["Resources"][alarm]["Properties"]["Period"]
        if (_seconds(default(template, schedule["ScheduleExpression"])) or period) > period:
            yield f"{name}: {alarm} would fire between two invocations"


def _seconds(expression: str) -> int | None:
    """Return the seconds between two invocations of a rate expression; None for another expression."""
    found = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", expression)
    return int(found[1]) * {"minute": 60, "hour": 3600, "day": 86400}[found[2]] if found else None


RULES: tuple[Rule, ...] = (
    dead_jobs_are_reported,
    queue_outlasts_the_function,
    mapping_loses_no_message,
    long_runs_continue,
    queries_are_bounded,
    rules_match_every_dataset,
    queues_accept_only_our_events,
    schedules_are_valid,
    schedules_reach_their_targets,
)
