"""Parse Lambda events of every kind into work requests.

A work request only says where to look. The object's state is read from S3 afterwards, so that a late or repeated event
and the sweep all lead to the same output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus


class UnknownEvent(ValueError):
    """The event is of no supported kind; the message lists the supported ones."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """An object was written."""

    bucket: str
    object_key: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """Find outputs for which no event arrived; of one dataset, or of all."""

    dataset: str | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    """Continue a dataset's runs where an earlier invocation had to stop."""

    dataset: str


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job on Spark ended other than by its own end: its driver was killed, or ran out of time."""

    ended_ms: int


WorkRequest = Arrived | Sweep | Continue | JobEnded


@dataclass(frozen=True, slots=True)
class Message:
    """One SQS record: its id, for the partial batch response, and its body."""

    message_id: str
    text: str


def parse_messages(event: Mapping[str, Any]) -> list[Message] | None:
    """Return the messages of an SQS batch; None when the event is not one."""
    records = event.get("Records")
    if not isinstance(records, list) or not records or not all(_source(record) == "aws:sqs" for record in records):
        return None
    return [Message(str(record["messageId"]), str(record.get("body", ""))) for record in records]


def parse_text(text: str) -> list[WorkRequest]:
    """Parse the body of a message: any event that `parse_event` supports, as JSON.

    Raises:
        UnknownEvent: it is not JSON, or of no supported kind.
    """
    try:
        event = json.loads(text)
    except ValueError as error:
        raise UnknownEvent(f"message is not JSON: {text[:200]!r}; expected an event as JSON") from error
    return parse_event(event)


def parse_event(event: object) -> list[WorkRequest]:
    """Parse one event that is not an SQS batch.

    Kinds: EventBridge "Object Created" and "Glue Job State Change"; an S3 notification (its test event requests
    nothing); the scheduler's `{"sweep": true | "dataset"}`; `{"continue": {"dataset": ...}}`;
    `{"bucket": ..., "object_key": ...}`.

    Raises:
        UnknownEvent: it is none of these.
    """
    if isinstance(event, Mapping):
        if event.get("source") == "aws.s3" and "detail" in event:
            return list(_parse_eventbridge(event))
        if event.get("source") == "aws.glue" and event.get("detail-type") == "Glue Job State Change":
            return [JobEnded(_parse_time(_text(event, "time", event), event))]
        if event.get("Event") == "s3:TestEvent":
            return []
        if isinstance(event.get("Records"), list):
            return [request for record in event["Records"] for request in _parse_notification(record)]
        if "sweep" in event:
            return [_parse_sweep(event["sweep"])]
        if "continue" in event:
            return [Continue(_text(event["continue"], "dataset", event))]
        if "object_key" in event:
            return [Arrived(_text(event, "bucket", event), _text(event, "object_key", event))]
    raise _unknown(event)


def _parse_eventbridge(event: Mapping[str, Any]) -> Iterator[WorkRequest]:
    # EventBridge sends object keys unencoded; only S3's own notifications URL-encode them.
    if event.get("detail-type") == "Object Created":
        detail = event["detail"]
        if not isinstance(detail, Mapping):
            raise _unknown(event)
        yield Arrived(_text(detail.get("bucket"), "name", event), _text(detail.get("object"), "key", event))


def _parse_notification(record: object) -> Iterator[WorkRequest]:
    if _source(record) != "aws:s3" or not isinstance(record, Mapping):
        raise _unknown(record)
    if str(record.get("eventName", "")).removeprefix("s3:").startswith("ObjectCreated:"):
        s3 = record.get("s3")
        if not isinstance(s3, Mapping):
            raise _unknown(record)
        object_key = unquote_plus(_text(s3.get("object"), "key", record), errors="strict")
        yield Arrived(_text(s3.get("bucket"), "name", record), object_key)


def _parse_time(text: str, event: object) -> int:
    """Parse RFC 3339 into epoch milliseconds."""
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError as error:
        raise _unknown(event) from error


def _parse_sweep(value: object) -> Sweep:
    if value is True:
        return Sweep()
    if isinstance(value, str) and value:
        return Sweep(value)
    raise _unknown({"sweep": value})


def _source(record: object) -> object:
    return record.get("eventSource") if isinstance(record, Mapping) else None


def _text(holder: object, name: str, event: object) -> str:
    value = holder.get(name) if isinstance(holder, Mapping) else None
    if not isinstance(value, str) or not value:
        raise _unknown(event)
    return value


def _unknown(event: object) -> UnknownEvent:
    return UnknownEvent(
        f'unknown event {json.dumps(event, default=str)[:500]}; expected EventBridge "Object Created" or "Glue Job '
        'State Change", an S3 notification, {"sweep": true}, {"sweep": "DATASET"}, {"continue": {"dataset": ...}} or '
        '{"bucket": ..., "object_key": ...}, alone or as the body of an SQS message'
    )
