"""Send events to an EventBridge bus, in batches that preserve the order of events with the same `about`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

SOURCE = "larder"
MAX_ENTRIES = 10  # in one PutEvents request (AWS's quota)
# Details and names of all events in a request. AWS's quota for a request was 256 KB for years, and targets such as SQS
# still have it for one message, which includes about 1 KB of EventBridge's envelope.
MAX_BYTES = 250 * 1024
_ENVELOPE_BYTES = 64  # source and time of an entry (EventBridge guide, "Calculating PutEvents event entry size")


class Event(NamedTuple):
    """An event to send.

    Attributes:
        kind: its detail-type.
        detail: JSON text of an object.
        time: time of the change that it reports, in epoch seconds.
        about: events with the same text are sent one after the other, in their order; empty: in any order.
    """

    kind: str
    detail: str
    time: float
    about: str = ""

    @property
    def size(self) -> int:
        """Its share of MAX_BYTES."""
        return len(self.detail.encode()) + len(self.kind) + _ENVELOPE_BYTES


def split_batches(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Yield events in their order, as many at a time as a request can have.

    No two events of a batch have the same `about`: a request can be accepted in part, and the bus could accept the
    second of them without the first.
    """
    first, size, about = 0, 0, set[str]()
    for n, event in enumerate(events):
        full = n - first == MAX_ENTRIES or size + event.size > MAX_BYTES
        if n > first and (full or event.about in about):
            yield events[first:n]
            first, size, about = n, 0, set()
        size += event.size
        about |= {event.about} - {""}
    if events[first:]:
        yield events[first:]


def put_events(client: Any, bus: str, events: Sequence[Event]) -> list[str]:
    """Send a batch; return for each event why the bus did not accept it, or an empty text.

    Args:
        client: boto3's client of EventBridge.
        bus: name of the bus.
        events: one of `split_batches`.

    Raises:
        ClientError, BotoCoreError: the call failed; it is unknown which events the bus accepted.
    """
    entries = [
        {
            "EventBusName": bus,
            "Source": SOURCE,
            "DetailType": event.kind,
            "Detail": event.detail,
            "Time": datetime.fromtimestamp(event.time, UTC),
        }
        for event in events
    ]
    answer: Mapping[str, Any] = client.put_events(Entries=entries)
    return [
        f"{each['ErrorCode']}: {each.get('ErrorMessage', '')}" if each.get("ErrorCode") else ""
        for each in answer["Entries"]
    ]


def render_detail(members: Mapping[str, Any]) -> str:
    """Render a detail without spaces, since each byte counts."""
    return json.dumps(members, ensure_ascii=False, separators=(",", ":"))


def render_time(seconds: float) -> str:
    """Render epoch seconds as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
