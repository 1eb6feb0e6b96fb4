"""The Lambda entry point for kept features: write a batch of messages as Parquet; once a day, measure drift.

A batch of a queue (Lambda guide, "Using Lambda with Amazon SQS"):
    {"Records": [{"messageId": "059f36b4-...", "body": MESSAGE}]}, with messages of `score.kept`
The schedule's event: {"drift": true}

SQS redelivers the messages of a batch that failed; after three attempts it moves them to the dead-letter queue.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from score.keep.drift import Drift, measure_all
from score.keep.table import BadMessage, Place, Row, build_key, parse_message, render_rows

METRICS = {"FeaturesKept": "Count", "FeaturesRefused": "Count"}
DRIFT_METRICS = {"Drift": "None"}  # the largest PSI of a model's features and score


class Services(NamedTuple):
    """Everything outside the process: boto3's client of S3, the bucket, the environment's name, the time, the log."""

    s3: Any
    bucket: str
    environment: str
    now: Callable[[], float] = time.time
    write: Callable[[str], None] = print


def handler(event: Mapping[str, Any], _context: Any) -> dict[str, Any]:
    """Handle a batch, or the schedule's event."""
    return handle(_open(), event)


def handle(services: Services, event: Mapping[str, Any]) -> dict[str, Any]:
    """Write a batch and return the ids of failed messages, so that SQS redelivers only those; or measure drift."""
    if event.get("drift"):
        found = measure_all(services.s3, services.bucket, services.now())
        for drift in found:
            log_drift(services, drift)
        return {"drift": {drift.model: drift.largest for drift in found}}
    return {"batchItemFailures": [{"itemIdentifier": one} for one in _keep(services, event["Records"])]}


def _keep(services: Services, records: list[Mapping[str, Any]]) -> list[str]:
    """Write the rows of a batch, one file for each model and day; return the ids of failed messages."""
    from botocore.exceptions import BotoCoreError, ClientError

    rows: dict[Place, list[Row]] = defaultdict(list)
    ids: dict[Place, list[str]] = defaultdict(list)
    failed: dict[str, str] = {}
    for record in records:
        try:
            place, found = parse_message(record["body"])
        except BadMessage as error:
            failed[record["messageId"]] = str(error)
            continue
        rows[place] += found
        ids[place].append(record["messageId"])
    kept = 0
    for place, found in rows.items():
        try:
            body = render_rows(found)
            services.s3.put_object(Bucket=services.bucket, Key=build_key(place, ids[place]), Body=body)
        except (ClientError, BotoCoreError) as error:
            failed |= dict.fromkeys(ids[place], str(error)[:300])
            continue
        kept += len(found)
    line = {"event": "features_kept", "level": "ERROR" if failed else "INFO", "reasons": sorted(set(failed.values()))}
    _log(services, {**line, "FeaturesKept": kept, "FeaturesRefused": len(failed)}, METRICS, [])
    return list(failed)


def log_drift(services: Services, drift: Drift) -> None:
    """Log the drift of a model, with its metric."""
    line = {"event": "drift", "level": "INFO", "rows": drift.rows, "psi": drift.psi, "Version": drift.version}
    line |= {"Model": drift.model, "Drift": drift.largest}
    _log(services, line, DRIFT_METRICS, [["Service", "Environment", "Model"]])


def _log(services: Services, line: dict[str, Any], metrics: Mapping[str, str], more: list[list[str]]) -> None:
    directive = {
        "Namespace": "Larder",
        "Dimensions": [["Service", "Environment"], *more],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit in metrics.items()],
    }
    emf = {"Timestamp": int(services.now() * 1000), "CloudWatchMetrics": [directive]}
    services.write(json.dumps({**line, "Service": "keep", "Environment": services.environment, "_aws": emf}))


@cache
def _open() -> Services:
    import boto3

    return Services(boto3.client("s3"), os.environ["LARDER_BUCKET"], os.environ["LARDER_ENVIRONMENT"])
