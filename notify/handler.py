"""The notify Lambda: send an event for each item that changed in the table, in order per item.

`event` is a batch of records of one shard of the table's stream. The response has the first record that was not sent:
Lambda retries from that record on, until all are sent or are older than the event source mapping allows. A record that
can't be read goes to the dead-letter queue at once, so that it does not block other items.
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
    """Everything outside the process: boto3's clients, names, and the settings of each dataset's events."""

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
    """Send the events of a batch; return the sequence number of the first record that was not sent, for a retry."""
    found: list[tuple[str, Event]] = []
    dead = 0
    for record in event["Records"]:
        try:
            built = build_event(record, services.watched, services.environment)
        except BadRecord as error:
            _send_dead_letter(services, record, str(error))
            dead += 1
            continue
        if built is not None:
            found.append((record["dynamodb"]["SequenceNumber"], built))
    sent, why = _send(services, [built for _, built in found])
    _log(services, sent, dead, why)
    failed = [{"itemIdentifier": found[sent][0]}] if why else []
    return {"batchItemFailures": failed}


def _send(services: Services, events: list[Event]) -> tuple[int, str]:
    """Send events until one is not accepted; return how many were accepted, and why the next one was not."""
    from botocore.exceptions import BotoCoreError, ClientError

    sent = 0
    for batch in split_batches(events):
        try:
            refused = put_events(services.events, services.bus, batch)
        except (ClientError, BotoCoreError) as error:
            return sent, str(error)
        for why in refused:
            if why:  # later events of the request are sent again, also accepted ones: a consumer gets those twice
                return sent, why
            sent += 1
    return sent, ""


def _send_dead_letter(services: Services, record: Any, why: str) -> None:
    """Send the item key of a record that can't be read to the dead-letter queue, without the item's body."""
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
    """Open the services, once per process. Time-outs are a few seconds, since Lambda retries the batch."""
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
    """Parse the text of `render_watched`."""
    return {
        name: Watched(tuple(one["subject"]), bool(one["bodies"]), bool(one["renewals"]))
        for name, one in json.loads(text).items()
    }


def render_watched(watched: Mapping[str, Watched]) -> str:
    """Render the settings of each dataset's events as JSON, for the bundle."""
    return json.dumps({name: one._asdict() for name, one in watched.items()}, indent=1) + "\n"
