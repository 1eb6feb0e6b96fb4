"""Build the event of a changed item from a record of the table's stream, if a consumer would notice the change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from notify.bus import MAX_BYTES, Event, render_detail, render_time
from serve.item import PK, SK, BodyTooLarge, Item, Order, body_text, decode, is_expired

KIND = "Larder Item Change"
_TTL = "dynamodb.amazonaws.com"  # principal of a deletion by TTL (DynamoDB guide, "DynamoDB Streams and Time to Live")
_BODY_ROOM = 4 * 1024  # bytes for the other members of a detail


class Watched(NamedTuple):
    """The settings of a dataset's events.

    Attributes:
        subject: names of the claims that make the subject, in the order of the partition key.
        bodies: events have the item's new body.
        renewals: there is also an event if only the order or the expiry changed.
    """

    subject: tuple[str, ...]
    bodies: bool = False
    renewals: bool = False


class BadRecord(ValueError):
    """A stream record can't be read; the message has its item key, and no body."""


def build_event(record: Mapping[str, Any], watched: Mapping[str, Watched], environment: str) -> Event | None:
    """Build the event of a stream record (view type NEW_AND_OLD_IMAGES).

    Returns:
        None if the dataset has no events, or a consumer would notice no change.

    Raises:
        BadRecord: the record has another form, or an item that this release can't read.
    """
    try:
        return _build(record, watched, environment)
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # a bad record must not block those after it
        raise BadRecord(f"stream record {_name(record)}: {type(error).__name__}: {error}") from error


def find_change(old: Item | None, new: Item | None, *, by_ttl: bool, time: float) -> str | None:
    """Return how an item changed for a reader: created, changed, renewed, removed or expired; None: no change.

    Args:
        old: the item before, or a tombstone; None: there was none.
        new: the item after, or a tombstone; None: it was deleted.
        by_ttl: DynamoDB deleted it, since it had expired.
        time: time of the change, in epoch seconds.
    """
    had_body, has_body = old is not None and old.body is not None, new is not None and new.body is not None
    if old is None or not had_body:
        return "created" if has_body else None
    if new is None or not has_body:
        return "expired" if by_ttl else "removed"
    if is_expired(old.expires_at, time):  # for a reader it was missing
        return "created"
    if not _is_same_body(old, new):
        return "changed"
    return "renewed" if (old.order, old.expires_at) != (new.order, new.expires_at) else None


def _build(record: Mapping[str, Any], watched: Mapping[str, Watched], environment: str) -> Event | None:
    stream = record["dynamodb"]
    pk, prediction_id = stream["Keys"][PK]["S"], stream["Keys"][SK]["S"]
    dataset, *values = pk.split("#")
    asked = watched.get(dataset)
    if asked is None:
        return None
    old, new = (decode(stream[image]) if stream.get(image) else None for image in ("OldImage", "NewImage"))
    if not (old or new) or (record.get("eventName") in {"MODIFY", "REMOVE"} and not old):
        raise ValueError(
            "one of the two images is missing; set the view type of the table's stream to NEW_AND_OLD_IMAGES"
        )
    time = float(stream["ApproximateCreationDateTime"])
    by_ttl = (record.get("userIdentity") or {}).get("principalId") == _TTL
    change = find_change(old, new, by_ttl=by_ttl, time=time)
    if change is None or (change == "renewed" and not asked.renewals):
        return None
    item = new or old
    if item is None or len(values) != len(asked.subject):
        raise ValueError(
            f"found {len(values)} values of the subject in the partition key, expected {len(asked.subject)}"
        )
    order = Order.parse(item.order)
    members = {
        "id": record["eventID"],
        "environment": environment,
        "dataset": dataset,
        "subject": dict(zip(asked.subject, map(unquote, values), strict=True)),
        "prediction_id": prediction_id,
        "change": change,
        "order": item.order,
        "sequence": stream["SequenceNumber"].rjust(40, "0"),  # so that texts compare like numbers
        "run": order.run,
        "as_of": render_time(order.as_of_ms / 1000),
        "expires_at": render_time(item.expires_at),
        "time": render_time(time),
    }
    detail = _add_body(members, new) if asked.bodies else render_detail(members)
    return Event(KIND, detail, time, f"{pk}#{prediction_id}")


def _add_body(members: Mapping[str, Any], new: Item | None) -> str:
    """Render the detail with the stored body, without parsing its numbers. A body that is too long is omitted."""
    if new is None or new.body is None:
        return render_detail(members)
    try:
        text = body_text(new.body, MAX_BYTES - _BODY_ROOM)
    except BodyTooLarge:
        text = ""
    if not text or len(text.encode()) > MAX_BYTES - _BODY_ROOM:
        return render_detail({**members, "body_omitted": True})
    return f'{render_detail(members)[:-1]},"body":{text}}}'


def _is_same_body(old: Item, new: Item) -> bool:
    if old.body == new.body:
        return True
    if old.body is None or new.body is None or type(old.body) is type(new.body) is str:
        return False
    try:  # the same text can be stored with or without gzip, and compressed by different releases of zlib
        return body_text(old.body) == body_text(new.body)
    except BodyTooLarge:
        return False


def _name(record: Any) -> str:
    try:
        stream = record["dynamodb"]
        return f"{stream.get('SequenceNumber')}, item {stream['Keys'][PK]['S']} {stream['Keys'][SK]['S']}"
    except (LookupError, TypeError, AttributeError):
        return "without item key"
