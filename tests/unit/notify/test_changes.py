"""What of a stream record a consumer is told, and what not."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from notify.bus import MAX_BYTES
from notify.changes import BadRecord, Watched, build_event
from serve.item import Item, Order, build_pk, encode
from tests.unit.enrich.telling_shop import ITEM_EVENT

NOW = 1_800_000_000
BODY = '{"units":1.50,"large":12345678901234567890,"text":"a\\u00e9\U0001f377"}'
WATCHED = {"stock": Watched(("shop", "country")), "bodies": Watched(("shop",), bodies=True, renewals=True)}
TTL = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}


def image(body: str | bytes | None = BODY, *, run: int = 1, lives: int = 600, dataset: str = "stock") -> Any:
    subject = ("x", "a/b") if dataset == "stock" else ("x",)
    order = Order(1, NOW * 1000, run).text
    return encode(Item(build_pk(dataset, subject), "p1", body, order, NOW + lives))


def record(old: Any = None, new: Any = None, *, sequence: int = 7, **more: Any) -> dict[str, Any]:
    keys = {name: (new or old)[name] for name in ("pk", "sk")}
    images = {name: each for name, each in (("OldImage", old), ("NewImage", new)) if each}
    stream = {"Keys": keys, **images, "SequenceNumber": str(sequence), "ApproximateCreationDateTime": NOW}
    return {"eventID": "e1", "eventSource": "aws:dynamodb", "dynamodb": stream, **more}


def told(one: Any) -> Any:
    event = build_event(one, WATCHED, "test")
    if event is None:
        return None
    detail = json.loads(event.detail)
    ITEM_EVENT.validate(detail)
    return detail


ZIPPED = gzip.compress(BODY.encode(), 9)
CHANGES: dict[str, tuple[Any, Any, dict[str, Any], str | None]] = {
    "the first item": (None, image(), {}, "created"),
    "another body": (image('{"units":2}'), image(run=2), {}, "changed"),
    "the same body, zipped now": (image(), image(ZIPPED), {}, None),
    "the same body, zipped otherwise": (image(gzip.compress(BODY.encode(), 1)), image(ZIPPED, run=2), {}, None),
    "another body, zipped": (image(gzip.compress(b'{"units":2}')), image(ZIPPED, run=2), {}, "changed"),
    "order and expiry alone": (image(), image(run=2, lives=900), {}, None),
    "a tombstone": (image(), image(None, run=2), {}, "removed"),
    "a tombstone over an expired item": (image(lives=-1), image(None, run=2), {}, "removed"),
    "a tombstone of nothing": (None, image(None), {}, None),
    "a tombstone again": (image(None), image(None, run=2), {}, None),
    "an item after a tombstone": (image(None), image(run=2), {}, "created"),
    "the same body after it had expired": (image(lives=0), image(run=2), {}, "created"),
    "deleted by TTL": (image(lives=-100), None, {"userIdentity": TTL}, "expired"),
    "a tombstone deleted by TTL": (image(None), None, {"userIdentity": TTL}, None),
    "deleted by hand": (image(), None, {}, "removed"),
    "of a dataset that does not ask": (None, image(dataset="silent"), {}, None),
}


@pytest.mark.parametrize("case", CHANGES)
def test_only_what_a_reader_notices_is_told(case: str) -> None:
    """A change of the body, and an item that comes or goes; not how it is stored, its order or its expiry."""
    old, new, more, change = CHANGES[case]
    detail = told(record(old, new, **more))
    assert (detail and detail["change"]) == change


def test_event_names_the_item() -> None:
    """Subject by claim, percent-decoded; no body unless asked for; a sequence that compares as text."""
    assert told(record(None, image(run=12), sequence=99)) == {
        "id": "e1",
        "environment": "test",
        "dataset": "stock",
        "subject": {"shop": "x", "country": "a/b"},
        "prediction_id": "p1",
        "change": "created",
        "order": f"0001.{NOW}000.00000012",
        "sequence": f"{99:040d}",
        "run": 12,
        "as_of": "2027-01-15T08:00:00.000Z",
        "expires_at": "2027-01-15T08:10:00.000Z",
        "time": "2027-01-15T08:00:00.000Z",
    }


@pytest.mark.parametrize("stored", [BODY, ZIPPED], ids=["text", "gzip"])
def test_body_is_the_stored_text(stored: str | bytes) -> None:
    """No digit of a number changes on its way."""
    event = build_event(record(None, image(stored, dataset="bodies")), WATCHED, "test")
    assert event is not None
    assert event.detail.endswith(f',"body":{BODY}}}')
    assert json.loads(event.detail)["body"] == json.loads(BODY)


def test_renewals_are_told_if_asked_for() -> None:
    """A consumer that discards what expires must know that an item lives longer."""
    detail = told(record(image(dataset="bodies"), image(run=2, lives=900, dataset="bodies")))
    assert (detail["change"], detail["expires_at"]) == ("renewed", "2027-01-15T08:15:00.000Z")


@pytest.mark.parametrize("zipped", [False, True])
def test_body_that_does_not_fit_is_left_out(zipped: bool) -> None:
    """The event then says so; one that just fits is in it."""
    for length, fits in ((MAX_BYTES - 5_000, True), (MAX_BYTES, False)):
        text = json.dumps({"a": "é" * (length // 2)}, ensure_ascii=False)
        stored = gzip.compress(text.encode()) if zipped else text
        detail = told(record(None, image(stored, dataset="bodies")))
        assert ("body" in detail, "body_omitted" in detail) == (fits, not fits)


BROKEN: dict[str, Any] = {
    "a newer format": record(None, {**image(), "f": {"N": "2"}}),
    "another subject": record(None, {**image(), "pk": {"S": "stock#x"}}),
    "no order": record(None, {name: each for name, each in image().items() if name != "o"}),
    "a bad order": record(None, {**image(), "o": {"S": "secret"}}),
    "a damaged gzip": record(None, {**image(dataset="bodies"), "b": {"B": base64.b64encode(b"secret").decode()}}),
    "no images": {"eventID": "e1", "dynamodb": {**record(None, image())["dynamodb"], "NewImage": None}},
    "no old image": record(None, image(), eventName="MODIFY"),
    "no keys": {"eventID": "e1", "dynamodb": {}},
    "another event": {"Sns": {}},
    "no record": None,
}


@pytest.mark.parametrize("case", BROKEN)
def test_record_that_cannot_be_read(case: str) -> None:
    """It is named by its item key, and no body is in the message."""
    with pytest.raises(BadRecord, match=r"^stream record (\d+, item (stock|bodies)#x|without item key)") as raised:
        build_event(BROKEN[case], WATCHED, "test")
    assert BODY not in str(raised.value)
