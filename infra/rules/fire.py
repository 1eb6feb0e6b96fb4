"""Rules on when alarms fire: each is told a quiet story and a bad one, minute by minute. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from infra.rules.look import PERCENTILE, STATISTICS, Rule, by_type, default, get
from infra.translate import Template

Minute = tuple[float, ...]  # the samples of a minute; none: nothing was told
Story = Sequence[tuple[int, Minute]]  # minutes of one kind after another; before them nothing was told

SILENCE: Story = [(1, ())]
FAST = (50.0,) * 97  # requests, in ms
STORIES: dict[str, tuple[str, list[Story], list[Story]]] = {  # alarm -> its metric, quiet stories, bad ones
    "ErrorsIn5Minutes": ("AWS/ApiGateway 5XXError", [[(5, (0.01,))], SILENCE], [[(5, (0.02,))]]),
    "ErrorsIn1Hour": ("AWS/ApiGateway 5XXError", [[(60, (0.01,))]], [[(60, (0.02,))], [(55, (0.0,)), (5, (0.5,))]]),
    "ErrorsIn6Hours": ("AWS/ApiGateway 5XXError", [[(360, (0.0005,))]], [[(360, (0.002,))]]),
    "ErrorsIn3Days": ("AWS/ApiGateway 5XXError", [[(4320, (0.0005,))]], [[(4320, (0.002,))]]),
    "LatencyHigh": ("AWS/ApiGateway Latency", [[(15, (*FAST, *FAST, 900.0))], SILENCE],
                    [[(15, (*FAST, *[900.0] * 3))]]),
    "ServeCrashes": ("AWS/Lambda Errors", [[(5, (0.0,))], [(1, (1.0,)), (4, (0.0,))]], [[(3, (0.0,)), (2, (1.0,))]]),
    "ServeThrottled": ("AWS/Lambda Throttles", [[(2, (1.0,)), (3, (0.0,))]], [[(5, (1.0,))]]),
    "ReadsThrottled": ("AWS/DynamoDB ReadThrottleEvents", [[(2, (1.0,)), (3, (0.0,))], SILENCE], [[(5, (1.0,))]]),
    "KeysUnreadable": ("Larder KeyFailures", [[(1, (1.0,))], SILENCE], [[(10, (1.0,))]]),
    "WafBlocksMany": ("AWS/WAFV2 BlockedRequests", [[(15, (50.0,))], [(5, (900.0,))]], [[(15, (200.0,))]]),
    "SyntheticFails": ("Larder SyntheticFailures", [[(15, (0.0,))], [(5, (1.0,)), (10, (0.0,))]],
                       [[(15, (1.0,))], SILENCE]),
    "DeadLettersWait": ("AWS/SQS ApproximateNumberOfMessagesVisible", [[(5, (0.0,))], SILENCE], [[(5, (1.0,))]]),
    "QueueOld": ("AWS/SQS ApproximateAgeOfOldestMessage", [[(15, (1200.0,))], [(5, (2000.0,))]], [[(15, (2000.0,))]]),
    "PendingOld": ("Larder OldestPendingSeconds", [[(60, (900.0,))], [(30, (0.0,)), (30, (4000.0,))]],
                   [[(60, (4000.0,))], SILENCE]),
    "RunsFail": ("Larder RunsFailed", [[(5, (0.0,))], SILENCE], [[(1, (1.0,)), (4, (0.0,))]]),
    "RejectsMany": ("Larder RejectRatio", [[(5, (0.005,))], SILENCE], [[(1, (0.0, 0.02))]]),
    "WritesThrottled": ("AWS/DynamoDB WriteThrottleEvents", [[(5, (9.0,))], SILENCE], [[(12, (1.0,))]]),
    "EnrichCrashes": ("AWS/Lambda Errors", [[(1, (1.0,)), (14, (0.0,))]], [[(15, (1.0,))]]),
    "DatasetStale": ("Larder HoursSinceOutput", [[(60, (20.0, 25.0))]], [[(60, (2.0, 30.0))], SILENCE]),
}  # fmt: skip


def alarms_fire_for_their_reason(template: Template) -> Iterator[str]:
    """Each alarm looks at its metric, is silent while all is well, and fires when it is not."""
    alarms = by_type(template, "AWS::CloudWatch::Alarm")
    simple = {name: alarm for name, alarm in alarms.items() if "Metrics" not in alarm}  # the others are a band, learnt
    for name in sorted(set(STORIES) ^ set(simple)):
        yield f"{name}: is not there" if name in STORIES else f"{name}: nobody knows when it fires"
    for name, (metric, quiet, bad) in STORIES.items():
        alarm = simple.get(name)
        if alarm is None:
            continue
        if f"{alarm['Namespace']} {alarm['MetricName']}" != metric:
            yield f"{name}: looks at {alarm['Namespace']} {alarm['MetricName']}, and {metric} was meant"
        yield from (f"{name}: fires while all is well" for story in quiet if _fires(template, alarm, story))
        yield from (f"{name}: does not fire" for story in bad if not _fires(template, alarm, story))


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


def _fires(template: Template, alarm: Mapping[str, Any], story: Story) -> bool:
    """Tell whether an alarm fires at a story's end: M of the last N periods are over the threshold."""
    length, periods = alarm["Period"] // 60, int(default(template, alarm["EvaluationPeriods"]))
    minutes = [minute for count, minute in story for _ in range(count)]
    minutes = [()] * (length * periods - len(minutes)) + minutes[-length * periods :]
    threshold, breaching = float(default(template, alarm["Threshold"])), 0
    for start in range(0, len(minutes), length):
        samples = [sample for minute in minutes[start : start + length] for sample in minute]
        if samples:
            breaching += _compare(alarm["ComparisonOperator"], _measure(alarm, samples), threshold)
        else:
            breaching += alarm.get("TreatMissingData") == "breaching"
    return breaching >= int(alarm.get("DatapointsToAlarm", periods))


def _measure(alarm: Mapping[str, Any], samples: list[float]) -> float:
    match alarm.get("Statistic") or alarm.get("ExtendedStatistic"):
        case "Average":
            return fmean(samples)
        case "Sum":
            return sum(samples)
        case "Maximum":
            return max(samples)
        case "Minimum":
            return min(samples)
        case "SampleCount":
            return len(samples)
        case percentile:
            return sorted(samples)[min(int(len(samples) * float(str(percentile)[1:]) / 100), len(samples) - 1)]


def _compare(operator: str, value: float, threshold: float) -> bool:
    if operator.endswith("OrEqualToThreshold") and value == threshold:
        return True
    return value > threshold if operator.startswith("GreaterThan") else value < threshold


RULES: tuple[Rule, ...] = (alarms_can_fire, alarms_fire_for_their_reason, burn_rates_are_the_workbooks)
