"""Which stream records become events, and what an event has."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from notify import changes
from notify.bus import MAX_BYTES
from notify.changes import BadRecord, Watched, build_event
from serve.item import Item, Order, body_text, build_pk, encode
from tests.unit.enrich.shop_with_bus import ITEM_EVENT

NOW = 1_800_000_000
BODY = '{"units":1.50,"large":12345678901234567890,"text":"a\\u00e9\U0001f377"}'
WATCHED = {"stock": Watched(("shop", "country")), "bodies": Watched(("shop",), bodies=True, renewals=True)}
TTL = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}


def image(body: str | bytes | None = BODY, *, run: int = 1, lives: int = 600, dataset: str = "stock") -> Any:
    subject = ("x", "a/b") if dataset == "stock" else ("x",)
    order = Order(1, NOW * 1000 + 250, run).text
    return encode(Item(build_pk(dataset, subject), "p1", body, order, NOW + lives))


def record(old: Any = None, new: Any = None, *, sequence: int = 7, **more: Any) -> dict[str, Any]:
    keys = {name: (new or old)[name] for name in ("pk", "sk")}
    images = {name: each for name, each in (("OldImage", old), ("NewImage", new)) if each}
    stream = {"Keys": keys, **images, "SequenceNumber": str(sequence), "ApproximateCreationDateTime": NOW}
    return {"eventID": "e1", "eventSource": "aws:dynamodb", "dynamodb": stream, **more}


def build_detail(one: Any) -> Any:
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
    "the same body, no longer zipped": (image(ZIPPED), image(), {}, None),
    "the same body, zipped differently": (image(gzip.compress(BODY.encode(), 1)), image(ZIPPED, run=2), {}, None),
    "another body, zipped": (image(gzip.compress(b'{"units":2}')), image(ZIPPED, run=2), {}, "changed"),
    "a body that is too large to read": (image(gzip.compress(bytes(10**7))), image(ZIPPED, run=2), {}, "changed"),
    "only order and expiry": (image(), image(run=2, lives=900), {}, None),
    "a tombstone": (image(), image(None, run=2), {}, "removed"),
    "a tombstone over an expired item": (image(lives=-1), image(None, run=2), {}, "removed"),
    "a tombstone without an item before it": (None, image(None), {}, None),
    "a tombstone again": (image(None), image(None, run=2), {}, None),
    "an item after a tombstone": (image(None), image(run=2), {}, "created"),
    "the same body after it had expired": (image(lives=0), image(run=2), {}, "created"),
    "deleted by TTL": (image(lives=-100), None, {"userIdentity": TTL}, "expired"),
    "a tombstone deleted by TTL": (image(None), None, {"userIdentity": TTL}, None),
    "deleted by hand": (image(), None, {}, "removed"),
    "of a dataset without events": (None, image(dataset="silent"), {}, None),
}


@pytest.mark.parametrize("case", CHANGES)
def test_only_changes_for_a_reader_become_events(case: str) -> None:
    """A changed body and a created or removed item do; another way of storing, another order or expiry do not."""
    old, new, more, change = CHANGES[case]
    detail = build_detail(record(old, new, **more))
    assert (detail and detail["change"]) == change


def test_event_names_the_item() -> None:
    """It has the subject by claim, percent-decoded, and a sequence that can be compared as text; no body by default."""
    assert build_detail(record(None, image(run=12), sequence=99)) == {
        "id": "e1",
        "environment": "test",
        "dataset": "stock",
        "subject": {"shop": "x", "country": "a/b"},
        "prediction_id": "p1",
        "change": "created",
        "order": f"0001.{NOW}250.00000012",
        "sequence": f"{99:040d}",
        "run": 12,
        "as_of": "2027-01-15T08:00:00.250Z",
        "expires_at": "2027-01-15T08:10:00.000Z",
        "time": "2027-01-15T08:00:00.000Z",
    }


@pytest.mark.parametrize("stored", [BODY, ZIPPED], ids=["text", "gzip"])
def test_body_is_the_stored_text(stored: str | bytes) -> None:
    """No digit of a number changes."""
    event = build_event(record(None, image(stored, dataset="bodies")), WATCHED, "test")
    assert event is not None
    assert event.detail.endswith(f',"body":{BODY}}}')
    assert json.loads(event.detail)["body"] == json.loads(BODY)


def test_renewals_become_events_if_the_dataset_says_so() -> None:
    """A consumer that discards expired items must know that an item has a later expiry."""
    detail = build_detail(record(image(dataset="bodies"), image(run=2, lives=900, dataset="bodies")))
    assert (detail["change"], detail["expires_at"]) == ("renewed", "2027-01-15T08:15:00.000Z")
    detail = build_detail(record(image(dataset="bodies"), image(lives=300, dataset="bodies")))
    assert (detail["change"], detail["expires_at"]) == ("renewed", "2027-01-15T08:05:00.000Z")


def test_a_removed_item_has_no_body() -> None:
    """Its event does not have the former body."""
    for new in (image(None, run=2, dataset="bodies"), None):
        detail = build_detail(record(image(dataset="bodies"), new))
        assert (detail["change"], detail.keys() & {"body", "body_omitted"}) == ("removed", set())


@pytest.mark.parametrize("zipped", [False, True])
def test_a_body_that_is_too_long_is_omitted(zipped: bool) -> None:
    """The event then has `body_omitted`; a body that leaves 4 KB for the other members is in the event."""
    for length, fits in ((MAX_BYTES - 4096, True), (MAX_BYTES - 4095, False), (2 * MAX_BYTES, False)):
        text = f'{{"a":"{"é" * 1000}{"x" * (length - 2008)}"}}'
        assert len(text.encode()) == length
        stored = gzip.compress(text.encode()) if zipped else text
        detail = build_detail(record(None, image(stored, dataset="bodies")))
        assert ("body" in detail, "body_omitted" in detail) == (fits, not fits), length


def test_no_more_of_a_body_is_decompressed_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gzip of a few KB can contain gigabytes."""
    bounds: list[int] = []

    def note(body: str | bytes, most: int) -> str:
        bounds.append(most)
        return body_text(body, most)

    monkeypatch.setattr(changes, "body_text", note)
    build_detail(record(None, image(ZIPPED, dataset="bodies")))
    assert bounds == [MAX_BYTES - 4096]


def test_the_largest_event_can_be_sent() -> None:
    """The longest keys that DynamoDB stores, and the longest body."""
    body = f'{{"a":"{"x" * (MAX_BYTES - 4096 - 8)}"}}'
    item = encode(Item(build_pk("bodies", ["x" * 2000]), "p" * 1024, body, Order(1, NOW * 1000, 1).text, NOW + 600))
    event = build_event(record(None, item), WATCHED, "e" * 64)
    assert event is not None
    assert body in event.detail
    assert event.size <= MAX_BYTES


BROKEN: dict[str, Any] = {
    "a newer format": record(None, {**image(), "f": {"N": "2"}}),
    "another subject": record(None, {**image(), "pk": {"S": "stock#x"}}),
    "a longer subject": record(None, {**image(), "pk": {"S": "stock#x#y#z"}}),
    "no order": record(None, {name: each for name, each in image().items() if name != "o"}),
    "a bad order": record(None, {**image(), "o": {"S": "secret"}}),
    "a damaged gzip": record(None, {**image(dataset="bodies"), "b": {"B": base64.b64encode(b"secret").decode()}}),
    "no images": {"eventID": "e1", "dynamodb": {**record(None, image())["dynamodb"], "NewImage": None}},
    "no old image": record(None, image(), eventName="MODIFY"),
    "no old image of a removed item": record(None, image(), eventName="REMOVE"),
    "no keys": {"eventID": "e1", "dynamodb": {}},
    "another event": {"Sns": {}},
    "no record": None,
}


@pytest.mark.parametrize("case", BROKEN)
def test_record_that_cannot_be_read(case: str) -> None:
    """The message has its item key, and no body."""
    name = (
        "without item key" if case in {"no keys", "another event", "no record"} else r"7, item (stock|bodies)#x\S* p1"
    )
    with pytest.raises(BadRecord, match=f"^stream record {name}: ") as raised:
        build_event(BROKEN[case], WATCHED, "test")
    assert BODY not in str(raised.value)
    if "subject" in case:
        assert "values of the subject in the partition key, expected 2" in str(raised.value)
