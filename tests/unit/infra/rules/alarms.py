"""Rules on what alarms watch and which topics they notify, and on metric filters."""

from __future__ import annotations

import re
from collections.abc import Iterator

from infra.dashboards.filters import matches
from infra.translate import ROOT, Template
from tests.unit.infra.rules.template import Rule, by_type, get

WATCHED = {  # alarm -> the resource in its dimensions
    "ServeCrashes": "ServeFunction",
    "ServeThrottled": "ServeFunction",
    "ScoreCrashes": "ScoreFunction",
    "EnrichCrashes": "EnrichFunction",
    "KeepCrashes": "KeepFunction",
    "KeptDeadLettersWait": "KeptDeadLetters",
    "ReadsThrottled": "Table",
    "RankedReadsThrottled": "Table",
    "WritesThrottled": "Table",
    "RankedWritesThrottled": "Table",
    "DeadLettersWait": "DeadLetters",
    "QueueOld": "Queue",
    "JobDies": "JobDiedRule",
}
CLOSED_LISTS = {"$.Environment", "$.dataset", "$.use_case", "$.code"}
TOPICS = {"A page.": [{"Ref": "Pages"}], "A ticket.": [{"Ref": "Tickets"}]}
RUNBOOK = ROOT / "docs" / "runbook.md"


def alarms_notify_as_the_runbook_says(template: Template) -> Iterator[str]:
    """An alarm notifies the topic that its runbook section names, or feeds a composite alarm."""
    sections = dict(
        re.findall(r"^### (\w+)\n\*\*Means\.\*\* (A page\.|A ticket\.)?", RUNBOOK.read_text(), re.MULTILINE)
    )
    alarms = by_type(template, "AWS::CloudWatch::Alarm")
    composites = by_type(template, "AWS::CloudWatch::CompositeAlarm")
    fed = {one for alarm in composites.values() for one in re.findall(r"\$\{(\w+)\}", str(alarm["AlarmRule"]))}
    shift = template["Resources"]["ServeFunction"]["Properties"]["DeploymentPreference"]
    guards = {one["Ref"] for one in shift["Alarms"]}
    for name, alarm in {**alarms, **composites}.items():
        wanted = TOPICS.get(sections.get(name, ""), [])
        if alarm.get("AlarmActions", []) != wanted:
            yield f"{name}: notifies {alarm.get('AlarmActions', [])}, and the runbook says {wanted}"
        if alarm.get("OKActions", wanted) != wanted:
            yield f"{name}: notifies other topics when it ends than when it begins"
        if not wanted and name not in fed | guards:
            yield f"{name}: notifies nobody, feeds no composite alarm and guards no deployment"
        if not str(alarm.get("AlarmDescription", "")).endswith(f"; docs/runbook.md#{name.lower()}"):
            yield f"{name}: its description does not end in docs/runbook.md#{name.lower()}"
        if alarm.get("ActionsEnabled") is False:
            yield f"{name}: is disabled"
    yield from (f"a composite alarm names {name}, which is no alarm" for name in fed - set(alarms))
    for name, alarm in composites.items():
        if " AND " not in str(alarm["AlarmRule"]):
            yield f"{name}: needs both a long and a short window"
    for topic in ("Pages", "Tickets"):
        if get(template["Resources"][f"{topic}ByMail"], "Properties", "TopicArn", "Ref") != topic:
            yield f"{topic}ByMail: subscribes to another topic"


def alarms_watch_their_resource(template: Template) -> Iterator[str]:
    """Dimensions name the API's stage, the alarm's own resource, this environment, and serve's alias."""
    api = template["Resources"]["Api"]["Properties"]
    alias = template["Resources"]["ServeFunction"]["Properties"].get("AutoPublishAlias")
    for name, alarm in by_type(template, "AWS::CloudWatch::Alarm").items():
        values = {one["Name"]: one["Value"] for one in alarm.get("Dimensions", [])}
        if alarm.get("Namespace") == "AWS/ApiGateway" and values != {"ApiName": api["Name"], "Stage": api["StageName"]}:
            yield f"{name}: does not watch the API's stage"
        if name in WATCHED and f"'{WATCHED[name]}'" not in str(list(values.values())):
            yield f"{name}: does not watch {WATCHED[name]}"
        if alarm.get("Namespace") == "Larder" and values.get("Environment") != {"Ref": "Environment"}:
            yield f"{name}: watches another environment"
        if alarm.get("Namespace") == "Larder" and set(values) != {"Service", "Environment"}:
            yield f"{name}: watches only a part of the service"
        if not str(get(values, "Resource", "Fn::Sub") or f":{alias}").endswith(f":{alias}"):
            yield f"{name}: watches another alias than consumers reach"
    acl = template["Resources"]["WebAcl"]["Properties"]
    values = {one["Name"]: one["Value"] for one in template["Resources"]["WafBlocksMany"]["Properties"]["Dimensions"]}
    # The dimension is the ACL's metric name (AWS WAF developer guide, waf-metrics), not its name or id.
    if values.get("WebACL") != acl["VisibilityConfig"]["MetricName"]:
        yield "WafBlocksMany: does not watch WebAcl"
    if acl["VisibilityConfig"].get("CloudWatchMetricsEnabled") is not True:
        yield "WafBlocksMany: WebAcl has no metrics"
    for name, alarm in by_type(template, "AWS::CloudWatch::Alarm").items():
        bands = [one["Id"] for one in alarm.get("Metrics", []) if "ANOMALY_DETECTION_BAND" in one.get("Expression", "")]
        if "Metrics" in alarm and [alarm.get("ThresholdMetricId")] != bands:
            yield f"{name}: does not compare with the anomaly band"


def filters_are_valid(template: Template) -> Iterator[str]:
    """Filters count serve's lines; each dimension is a member with a closed list of values, as each value is billed."""
    for name, one in by_type(template, "AWS::Logs::MetricFilter").items():
        try:
            matches(one["FilterPattern"], {})
        except ValueError as error:
            yield f"{name}: {error}"
        if get(one, "LogGroupName", "Ref") != "ServeLogs":
            yield f"{name}: reads other lines than serve's"
        for made in one["MetricTransformations"]:
            if not {each["Value"] for each in made.get("Dimensions", [])} <= CLOSED_LISTS:
                yield f"{name}: a dimension has an open list of values"
            if made.get("MetricValue") != "1":
                yield f"{name}: does not count lines"


RULES: tuple[Rule, ...] = (
    alarms_notify_as_the_runbook_says,
    alarms_watch_their_resource,
    filters_are_valid,
)
