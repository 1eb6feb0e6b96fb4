"""Rules on when alarms fire: each is evaluated minute by minute on a quiet and on a bad history of its metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from infra.translate import Template
from tests.unit.infra.rules.template import PERCENTILE, STATISTICS, Rule, by_type, default, get

Minute = tuple[float, ...]  # the samples of a minute; empty: no data
History = Sequence[tuple[int, Minute]]  # (number of minutes, samples of each); before the first there is no data

SILENCE: History = [(1, ())]
FAST = (50.0,) * 97  # requests, in ms
# alarm -> its metric, quiet histories, bad ones. Burn rates are those of the SRE Workbook for an error budget of 0.1 %:
# 14.4 times the budget over 1 hour and 5 minutes, the budget itself over 3 days and 6 hours.
HISTORIES: dict[str, tuple[str, list[History], list[History]]] = {
    "ErrorsIn5Minutes": ("AWS/ApiGateway 5XXError", [[(5, (0.014,))], SILENCE], [[(5, (0.015,))]]),
    "ErrorsIn1Hour": ("AWS/ApiGateway 5XXError", [[(60, (0.014,))], SILENCE],
                      [[(60, (0.015,))], [(55, (0.0,)), (5, (0.5,))]]),
    "ErrorsIn6Hours": ("AWS/ApiGateway 5XXError", [[(360, (0.0009,))], SILENCE], [[(360, (0.0011,))]]),
    "ErrorsIn3Days": ("AWS/ApiGateway 5XXError", [[(4320, (0.0009,))], SILENCE], [[(4320, (0.0011,))]]),
    "LatencyHigh": ("AWS/ApiGateway Latency", [[(15, (*FAST, *FAST, 900.0))], SILENCE],
                    [[(15, (*FAST, *[900.0] * 3))]]),
    "CanaryFails": ("AWS/ApiGateway 5XXError", [[(3, (0.014,))], [(1, (0.5,)), (2, (0.0,))], SILENCE],
                    [[(1, (0.0,)), (2, (0.1,))]]),
    "CanarySlow": ("AWS/ApiGateway Latency", [[(3, (*FAST, *FAST, 900.0))], [(2, (900.0,)), (1, FAST)], SILENCE],
                   [[(3, (*FAST, *[900.0] * 3))]]),
    "ServeCrashes": ("AWS/Lambda Errors", [[(5, (0.0,))], [(1, (1.0,)), (4, (0.0,))], SILENCE],
                     [[(3, (0.0,)), (2, (1.0,))]]),
    "ServeThrottled": ("AWS/Lambda Throttles", [[(2, (1.0,)), (3, (0.0,))], SILENCE], [[(5, (1.0,))]]),
    "ReadsThrottled": ("AWS/DynamoDB ReadThrottleEvents", [[(2, (1.0,)), (3, (0.0,))], SILENCE], [[(5, (1.0,))]]),
    "RankedReadsThrottled": ("AWS/DynamoDB ReadThrottleEvents", [[(2, (1.0,)), (3, (0.0,))], SILENCE], [[(5, (1.0,))]]),
    "KeysUnreadable": ("Larder KeyFailures", [[(1, (1.0,))], SILENCE], [[(10, (1.0,))]]),
    "ScoreCrashes": ("AWS/Lambda Errors", [[(5, (0.0,))], [(1, (1.0,)), (4, (0.0,))], SILENCE],
                     [[(3, (0.0,)), (2, (1.0,))]]),
    "ModelNotLoaded": ("Larder ModelFailures", [[(1, (1.0,))], SILENCE], [[(10, (1.0,))]]),
    "ScoreKeysUnreadable": ("Larder KeyFailures", [[(1, (1.0,))], SILENCE], [[(10, (1.0,))]]),
    "FeaturesNotKept": ("Larder KeepFailures", [[(1, (1.0,))], SILENCE], [[(10, (1.0,))]]),
    "KeptDeadLettersWait": ("AWS/SQS ApproximateNumberOfMessagesVisible", [[(5, (0.0,))], SILENCE], [[(5, (1.0,))]]),
    "KeepCrashes": ("AWS/Lambda Errors", [[(30, (0.0,)), (1, (1.0,))], SILENCE],
                    [[(1, (1.0,)), (20, (0.0,)), (1, (1.0,))]]),
    "ModelDrifted": ("Larder Drift", [[(1, (0.05, 0.19))], SILENCE], [[(1, (0.05, 0.21))]]),
    "WafBlocksMany": ("AWS/WAFV2 BlockedRequests", [[(15, (50.0,))], [(5, (900.0,))], SILENCE], [[(15, (200.0,))]]),
    "SyntheticFails": ("Larder SyntheticFailures", [[(15, (0.0,))], [(5, (1.0,)), (10, (0.0,))]],
                       [[(15, (1.0,))], SILENCE]),
    "DeadLettersWait": ("AWS/SQS ApproximateNumberOfMessagesVisible", [[(5, (0.0,))], SILENCE], [[(5, (1.0,))]]),
    "QueueOld": ("AWS/SQS ApproximateAgeOfOldestMessage", [[(15, (1200.0,))], [(5, (2000.0,))], SILENCE],
                 [[(15, (2000.0,))]]),
    "PendingOld": ("Larder OldestPendingSeconds", [[(60, (900.0,))], [(30, (0.0,)), (30, (4000.0,))]],
                   [[(60, (4000.0,))], SILENCE]),
    "OutputsHeld": ("Larder OldestHeldSeconds", [[(30, (0.0,))], SILENCE], [[(15, (0.0,)), (15, (0.0, 2.0))]]),
    "RunsFail": ("Larder RunsFailed", [[(5, (0.0,))], SILENCE], [[(1, (1.0,)), (4, (0.0,))]]),
    "RejectsMany": ("Larder RejectRatio", [[(5, (0.005,))], SILENCE], [[(1, (0.0, 0.02))]]),
    "WritesThrottled": ("AWS/DynamoDB WriteThrottleEvents", [[(5, (9.0,))], SILENCE], [[(12, (1.0,))]]),
    "RankedWritesThrottled": ("AWS/DynamoDB WriteThrottleEvents", [[(5, (9.0,))], SILENCE], [[(12, (1.0,))]]),
    "EnrichCrashes": ("AWS/Lambda Errors", [[(1, (1.0,)), (14, (0.0,))], SILENCE], [[(15, (1.0,))]]),
    "DatasetStale": ("Larder HoursSinceOutput", [[(60, (20.0, 25.0))]], [[(60, (2.0, 30.0))], SILENCE]),
    "EventsUnsent": ("Larder OldestUnsentEventSeconds", [[(30, (0.0,))], [(30, (900.0,))], SILENCE],
                     [[(15, (0.0,)), (15, (1900.0,))]]),
    "ItemEventsLate": ("AWS/Lambda IteratorAge", [[(15, (60_000.0,))], [(10, (2e6,)), (5, (0.0,))], SILENCE],
                       [[(15, (1e6,))]]),
    "JobDies": ("AWS/Events TriggeredRules", [SILENCE], [[(1, (1.0,))]]),
    "ItemEventsDead": ("AWS/SQS ApproximateNumberOfMessagesVisible", [[(5, (0.0,))], SILENCE], [[(5, (1.0,))]]),
}  # fmt: skip


def alarms_fire_for_their_reason(template: Template) -> Iterator[str]:
    """Each alarm watches its metric, is quiet while the service works, and fires when it does not."""
    alarms = by_type(template, "AWS::CloudWatch::Alarm")
    simple = {name: alarm for name, alarm in alarms.items() if "Metrics" not in alarm}  # the others compare with a band
    for name in sorted(set(HISTORIES) ^ set(simple)):
        yield f"{name}: is missing" if name in HISTORIES else f"{name}: has no history that it fires on"
    for name, (metric, quiet, bad) in HISTORIES.items():
        alarm = simple.get(name)
        if alarm is None:
            continue
        if f"{alarm['Namespace']} {alarm['MetricName']}" != metric:
            yield f"{name}: watches {alarm['Namespace']} {alarm['MetricName']}, not {metric}"
        yield from (f"{name}: fires on a quiet history" for history in quiet if _fires(template, alarm, history))
        yield from (f"{name}: does not fire" for history in bad if not _fires(template, alarm, history))


def alarms_can_fire(template: Template) -> Iterator[str]:
    """Statistics are valid for CloudWatch, and the window is not longer than it allows."""
    for name, alarm in by_type(template, "AWS::CloudWatch::Alarm").items():
        metrics = [one["MetricStat"] for one in alarm.get("Metrics", []) if "MetricStat" in one]
        statistic = alarm.get("Statistic") or alarm.get("ExtendedStatistic") or get(*metrics[:1], "Stat")
        if statistic not in STATISTICS and not PERCENTILE.fullmatch(str(statistic)):
            yield f"{name}: {statistic!r} is no statistic"
        if alarm.get("Statistic") and alarm.get("ExtendedStatistic"):
            yield f"{name}: has two statistics"
        period = alarm.get("Period") or get(*metrics[:1], "Period")
        periods = int(default(template, alarm["EvaluationPeriods"]))
        if period * periods > (7 * 86400 if period >= 3600 else 86400):
            yield f"{name}: looks back over {period * periods} s, more than CloudWatch allows"
        if alarm.get("DatapointsToAlarm", 1) > periods:
            yield f"{name}: needs more data points than it evaluates"


def _fires(template: Template, alarm: Mapping[str, Any], history: History) -> bool:
    """Return whether an alarm fires at the end of a history: M of the last N periods are over the threshold."""
    length, periods = alarm["Period"] // 60, int(default(template, alarm["EvaluationPeriods"]))
    minutes = [minute for count, minute in history for _ in range(count)]
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


RULES: tuple[Rule, ...] = (alarms_can_fire, alarms_fire_for_their_reason)
