"""The notify Lambda: send an event for each item that changed in the table, in order per item.

`event` is a batch of records of one shard of the table's stream. The answer has the first record that was not sent:
Lambda calls again with the records from there on, until they are sent or older than the mapping allows. What can never
be sent goes to the dead-letter queue at once, so that it blocks no other item.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from notify.bus import Event, put_events, render_time, split_batches
from notify.changes import BadRecord, Watched, build_event

WATCHED = Path(__file__).with_name("datasets.json")  # infra/bundle.py makes it from datasets/


class Services(NamedTuple):
    """What a batch needs: boto3's clients, names, and what each dataset asks for."""

    events: Any
    sqs: Any
    bus: str
    dead_letters: str  # URL of the queue
    environment: str
    watched: Mapping[str, Watched]


def handler(event: Mapping[str, Any], _context: Any) -> dict[str, Any]:
    """Handle a batch."""
    return handle(_open(), event)


def handle(services: Services, event: Mapping[str, Any]) -> dict[str, Any]:
    """Send the events of a batch; return the sequence number of the first record that must come again, if any."""
    found: list[tuple[str, Event]] = []
    dead = 0
    for record in event["Records"]:
        try:
            built = build_event(record, services.watched, services.environment)
        except BadRecord as error:
            _bury(services, record, str(error))
            dead += 1
            continue
        if built is not None:
            found.append((record["dynamodb"]["SequenceNumber"], built))
    sent, why = _send(services, [built for _, built in found])
    _log(services, sent, dead, why)
    failed = [{"itemIdentifier": found[sent][0]}] if why else []
    return {"batchItemFailures": failed}


def _send(services: Services, events: list[Event]) -> tuple[int, str]:
    """Send events until one is not accepted; return how many were, and why the next one was not."""
    from botocore.exceptions import BotoCoreError, ClientError

    sent = 0
    for batch in split_batches(events):
        try:
            refused = put_events(services.events, services.bus, batch)
        except (ClientError, BotoCoreError) as error:
            return sent, str(error)
        for why in refused:
            if why:  # what the batch has after it is sent again: a consumer gets it twice
                return sent, why
            sent += 1
    return sent, ""


def _bury(services: Services, record: Any, why: str) -> None:
    """Put the item key of a record that can't be read into the dead-letter queue; its body stays in the table."""
    keys = record.get("dynamodb", {}).get("Keys") if isinstance(record, Mapping) else None
    body = {"environment": services.environment, "time": render_time(time.time()), "keys": keys, "reason": why[:1000]}
    services.sqs.send_message(QueueUrl=services.dead_letters, MessageBody=json.dumps(body, default=str))


def _log(services: Services, sent: int, dead: int, why: str) -> None:
    names = {"ItemEventsSent": sent, "ItemEventsRefused": int(bool(why)), "ItemEventsDead": dead}
    directive = {
        "Namespace": "Larder",
        "Dimensions": [["Service", "Environment"]],
        "Metrics": [{"Name": name, "Unit": "Count"} for name in names],
    }
    line = {
        "service": "notify",
        "environment": services.environment,
        "event": "items reported",
        "level": "error" if why or dead else "info",
        "detail": why,
        "Service": "notify",
        "Environment": services.environment,
        **names,
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]},
    }
    print(json.dumps(line))  # noqa: T201 - a Lambda's log is its standard output


@cache
def _open() -> Services:
    """Open the services, once per process. A request waits for seconds, not for a minute: Lambda calls again."""
    import boto3
    from botocore.config import Config

    config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "max_attempts": 3})
    return Services(
        boto3.client("events", config=config),
        boto3.client("sqs", config=config),
        os.environ["LARDER_BUS"],
        os.environ["LARDER_DEAD_LETTERS"],
        os.environ["LARDER_ENVIRONMENT"],
        parse_watched(WATCHED.read_text(encoding="utf-8")),
    )


def parse_watched(text: str) -> dict[str, Watched]:
    """Parse what `render_watched` rendered."""
    return {
        name: Watched(tuple(one["subject"]), bool(one["bodies"]), bool(one["renewals"]))
        for name, one in json.loads(text).items()
    }


def render_watched(watched: Mapping[str, Watched]) -> str:
    """Render what each dataset asks for as JSON, for the bundle."""
    return json.dumps({name: one._asdict() for name, one in watched.items()}, indent=1) + "\n"
