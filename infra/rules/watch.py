"""Rules on whom alarms tell of what, and on filters. Pure. That what they name is really told is the drift test's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from infra.metrics import matches
from infra.rules.look import Rule, by_type, get
from infra.translate import Template

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
}
CLOSED = {"$.Environment", "$.dataset", "$.use_case", "$.code"}
TOPICS = ({"Ref": "Pages"}, {"Ref": "Tickets"})


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
    for name, topic in {"PagesByMail": "Pages", "TicketsByMail": "Tickets"}.items():
        if get(template["Resources"][name], "Properties", "TopicArn", "Ref") != topic:
            yield f"{name}: gets other mail than {topic}"
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
        values = {one["Name"]: one["Value"] for one in dimensions}
        if alarm.get("Namespace") == "Larder" and values.get("Environment") != {"Ref": "Environment"}:
            yield f"{name}: looks at another environment"
        if alarm.get("Namespace") == "Larder" and set(values) != {"Service", "Environment"}:
            yield f"{name}: looks at a part of what there is"
        if not str(get(values, "Resource", "Fn::Sub") or ":live").endswith(":live"):
            yield f"{name}: looks at another alias than consumers reach"
    blocked = {one["Name"]: one["Value"] for one in template["Resources"]["WafBlocksMany"]["Properties"]["Dimensions"]}
    acl = template["Resources"]["WebAcl"]["Properties"]
    # The dimension is the ACL's metric name (AWS WAF developer guide, waf-metrics), which many take for the ACL's own.
    if acl["VisibilityConfig"].get("CloudWatchMetricsEnabled") is not True:
        yield "WafBlocksMany: WebAcl tells nothing"
    if not blocked.get("WebACL") == acl.get("Name") == acl["VisibilityConfig"]["MetricName"]:
        yield "WafBlocksMany: does not look at WebAcl"
    unusual = template["Resources"]["ClientErrorsUnusual"]["Properties"]
    bands = [one["Id"] for one in unusual["Metrics"] if "ANOMALY_DETECTION_BAND" in one.get("Expression", "")]
    if [unusual.get("ThresholdMetricId")] != bands or unusual["ComparisonOperator"] != "GreaterThanUpperThreshold":
        yield "ClientErrorsUnusual: does not compare with what is usual"
    for name, alarm in by_type(template, "AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm").items():
        if alarm.get("AlarmActions") and (alarm["AlarmActions"] == [TOPICS[0]]) != (name in PAGES):
            yield f"{name}: {'wakes nobody' if name in PAGES else 'wakes somebody for a ticket'}"


def filters_are_valid(template: Template) -> Iterator[str]:
    """Patterns are JSON filters; three dimensions at most, each out of the line; the log group is a function's."""
    for name, one in by_type(template, "AWS::Logs::MetricFilter").items():
        try:
            matches(one["FilterPattern"], {})
        except ValueError as error:
            yield f"{name}: {error}"
        if get(one, "LogGroupName", "Ref") != "ServeLogs":
            yield f"{name}: looks at other lines than serve's"
        for made in one["MetricTransformations"]:
            dimensions = made.get("Dimensions", [])
            if len(dimensions) > 3 or not {each["Value"] for each in dimensions} <= CLOSED:
                yield f"{name}: at most three dimensions, each of a closed list: every value is billed as a metric"
            if made.get("MetricValue") != "1":
                yield f"{name}: does not count lines"
            if dimensions and "DefaultValue" in made:
                yield f"{name}: a default value and dimensions exclude each other"


RULES: tuple[Rule, ...] = (
    alarms_reach_somebody,
    alarms_look_at_the_right_thing,
    filters_are_valid,
)
