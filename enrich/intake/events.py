"""Understand what wakes enrich: Lambda events of every kind become a list of requests. Pure.

A request says only where to look: the object's state is read from S3 afterwards, so that an event, however old or
often delivered, and the sweep come to the same output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus


class UnknownEvent(ValueError):
    """The event is of no kind that enrich understands; the message says which kinds there are."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """An object was written."""

    bucket: str
    object_key: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """Look for outputs that no event told of; of one dataset, or of all."""

    dataset: str | None = None


@dataclass(frozen=True, slots=True)
class Continue:
    """Go on with a dataset's runs where an earlier invocation had to stop."""

    dataset: str


Request = Arrived | Sweep | Continue


@dataclass(frozen=True, slots=True)
class Message:
    """One SQS record: its id, for the partial batch response, and its text."""

    message_id: str
    text: str


def parse_messages(event: Mapping[str, Any]) -> list[Message] | None:
    """Split an SQS event into its messages; None when the event did not come through SQS."""
    records = event.get("Records")
    if not isinstance(records, list) or not records or not all(_source(record) == "aws:sqs" for record in records):
        return None
    return [Message(str(record["messageId"]), str(record.get("body", ""))) for record in records]


def parse_text(text: str) -> list[Request]:
    """Parse the text of a message, which holds any event that could have come directly.

    Raises:
        UnknownEvent: it is no JSON object, or of no known kind.
    """
    try:
        event = json.loads(text)
    except ValueError as error:
        raise UnknownEvent(f"a message is not JSON: {text[:200]!r}") from error
    return parse_event(event)


def parse_event(event: object) -> list[Request]:
    """Parse one event that is not an SQS batch.

    Kinds: EventBridge "Object Created"; an S3 notification (also its test event, which asks for nothing); the
    scheduler's `{"sweep": true | "dataset"}`; `{"continue": {"dataset": ...}}`; `{"bucket": ..., "object_key": ...}`.

    Raises:
        UnknownEvent: none of these.
    """
    if isinstance(event, Mapping):
        if event.get("source") == "aws.s3" and "detail" in event:
            return list(_parse_eventbridge(event))
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


def _parse_eventbridge(event: Mapping[str, Any]) -> Iterator[Request]:
    # EventBridge gives object keys as they are; only S3's own notifications encode them.
    if event.get("detail-type") == "Object Created":
        detail = event["detail"]
        if not isinstance(detail, Mapping):
            raise _unknown(event)
        yield Arrived(_text(detail.get("bucket"), "name", event), _text(detail.get("object"), "key", event))


def _parse_notification(record: object) -> Iterator[Request]:
    if _source(record) != "aws:s3" or not isinstance(record, Mapping):
        raise _unknown(record)
    if str(record.get("eventName", "")).removeprefix("s3:").startswith("ObjectCreated:"):
        s3 = record.get("s3")
        if not isinstance(s3, Mapping):
            raise _unknown(record)
        object_key = unquote_plus(_text(s3.get("object"), "key", record), errors="strict")
        yield Arrived(_text(s3.get("bucket"), "name", record), object_key)


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
        f"not an event that enrich understands: {json.dumps(event, default=str)[:500]}; it takes EventBridge "
        '"Object Created", S3 notifications, {"sweep": true}, {"sweep": "DATASET"}, {"continue": {"dataset": ...}} and '
        '{"bucket": ..., "object_key": ...}, each also as the text of an SQS message'
    )
