"""The requests to DynamoDB, member by member, and how its responses are read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve.item import FORMAT, Item, encode
from serve.storage import Storage, StorageUnavailable
from tests.unit.serve.kit import item
from wire.errors import NoCredentials, Throttled, TooLarge, TransportError, Unavailable

NAMES = {"#e": "e", "#b": "b"}
FILTER = "#e > :now and attribute_exists(#b)"


class Service:
    """Gives every request the same `answer`, and records the requests."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, Any]] = []

    def send(self, target: str, payload: bytes) -> bytes:
        """Respond."""
        self.asked.append((target, json.loads(payload)))
        if isinstance(self.answer, Exception):
            raise self.answer
        return json.dumps(self.answer).encode()


@pytest.mark.parametrize("key", ["a", 'a"b', "\u00e9", "a\\b"])
def test_one_item_is_requested_by_its_key(key: str) -> None:
    """Eventually consistent, all attributes, nothing else; a missing item is None."""
    stored = item("p", pk=key)
    service = Service({"Item": encode(stored)})
    assert Storage(service.send, "ta-ble").get_item(key, "p") == stored
    asked = {"TableName": "ta-ble", "Key": {"pk": {"S": key}, "sk": {"S": "p"}}}
    assert service.asked == [("DynamoDB_20120810.GetItem", asked)]
    service.answer = {}
    assert Storage(service.send, "ta-ble").get_item(key, "p") is None


QUERIES: tuple[tuple[dict[str, Any], str, dict[str, Any], dict[str, Any]], ...] = (
    ({}, "pk = :p", {}, {}),
    ({"prefix": "a."}, "pk = :p and begins_with(sk, :prefix)", {":prefix": {"S": "a."}}, {}),
    ({"after": "a"}, "pk = :p", {}, {"ExclusiveStartKey": {"pk": {"S": "d#s"}, "sk": {"S": "a"}}}),
)


@pytest.mark.parametrize(("arguments", "condition", "values", "more"), QUERIES)
def test_a_query_asks_for_live_items_of_one_partition(
    arguments: dict[str, Any], condition: str, values: dict[str, Any], more: dict[str, Any]
) -> None:
    """The current second decides what is live, as in `is_expired`; the limit is the caller's."""
    rows: list[Item] = [item("b"), item("c")]
    service = Service(
        {"Items": [encode(row) for row in rows], "LastEvaluatedKey": {"pk": {"S": "x"}, "sk": {"S": "c"}}}
    )
    found = Storage(service.send, "table").query(
        "d#s", arguments.get("prefix", ""), 17.9, arguments.get("after", ""), 21
    )
    assert (found.items, found.last) == (rows, "c")
    expected = {
        "TableName": "table", "KeyConditionExpression": condition, "FilterExpression": FILTER, "Limit": 21,
        "ExpressionAttributeNames": NAMES,
        "ExpressionAttributeValues": {":p": {"S": "d#s"}, ":now": {"N": "17"}, **values}, **more,
    }  # fmt: skip
    assert service.asked == [("DynamoDB_20120810.Query", expected)]
    service.answer = {"Items": []}
    end = Storage(service.send, "table").query("d#s", "", 17.0, "", 1)
    assert (end.items, end.last) == ([], None)


@pytest.mark.parametrize(
    "error", [Unavailable("x"), Throttled("x"), TransportError("x"), NoCredentials("x"), TooLarge("x")]
)
def test_a_storage_failure_has_its_kind(error: Exception) -> None:
    """Only its kind is logged: its text can contain data."""
    storage = Storage(Service(error).send, "table")
    with pytest.raises(StorageUnavailable, match=f"^{type(error).__name__}$"):
        storage.get_item("d#s", "p")
    with pytest.raises(StorageUnavailable, match=f"^{type(error).__name__}$"):
        storage.query("d#s", "", 0, "", 1)
    with pytest.raises(StorageUnavailable, match=f"^{type(error).__name__}$"):
        next(storage.get_items("d#s", ["p"]))


def test_an_item_of_a_newer_release_is_unavailable() -> None:
    """After a rollback, with each way to read it: 503, and neither 500 nor 404."""
    newer = encode(item("p", "{}")) | {FORMAT: {"N": "2"}}
    service = Service({"Item": newer, "Items": [newer], "Responses": {"table": [newer]}})
    storage = Storage(service.send, "table")
    with pytest.raises(StorageUnavailable, match=r"^NewerItem$"):
        storage.get_item("d#s", "p")
    with pytest.raises(StorageUnavailable, match=r"^NewerItem$"):
        storage.query("d#s", "", 0, "", 1)
    with pytest.raises(StorageUnavailable, match=r"^NewerItem$"):
        next(storage.get_items("d#s", ["p"]))
