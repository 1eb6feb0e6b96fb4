"""Read items from DynamoDB, through `wire.client.Client.send` or a stand-in for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from serve.item import BODY, EXPIRES_AT, PK, SK, Item, NewerItem, decode
from serve.web.page import QueryResult
from wire.errors import NoCredentials, Refused, TooLarge, Unavailable

Send = Callable[[str, bytes], bytes]


class StorageUnavailable(Exception):
    """DynamoDB throttles or does not respond in time, or has items of a newer release; what exists is unknown (H9)."""


class Storage:
    """The table of items, read only."""

    def __init__(self, send: Send, table: str) -> None:
        self._send = send
        self._table = json.dumps(table)

    def get_item(self, pk: str, sk: str) -> Item | None:
        """Get one item, expired or not; None if there is none.

        Raises:
            StorageUnavailable: DynamoDB did not respond, or a newer release wrote the item.
        """
        item_key = f'{{"{PK}":{{"S":{json.dumps(pk)}}},"{SK}":{{"S":{json.dumps(sk)}}}}}'
        answer = self._call("GetItem", f'{{"TableName":{self._table},"Key":{item_key}}}')
        return _decode(answer["Item"]) if "Item" in answer else None

    def query(self, pk: str, prefix: str, now: float, after: str, limit: int) -> QueryResult:
        """Query one partition after `after`; DynamoDB evaluates up to `limit` items or 1 MB.

        DynamoDB filters out expired items and tombstones to save their transfer; the caller checks again.

        Raises:
            StorageUnavailable: DynamoDB did not respond, or a newer release wrote one of the items.
        """
        values = {":p": {"S": pk}, ":now": {"N": str(int(now))}}
        condition = f"{PK} = :p"
        if prefix:
            condition += f" and begins_with({SK}, :prefix)"
            values[":prefix"] = {"S": prefix}
        request: dict[str, Any] = {
            "KeyConditionExpression": condition,
            "FilterExpression": "#e > :now and attribute_exists(#b)",
            "ExpressionAttributeNames": {"#e": EXPIRES_AT, "#b": BODY},
            "ExpressionAttributeValues": values,
            "Limit": limit,
        }
        if after:
            request["ExclusiveStartKey"] = {PK: {"S": pk}, SK: {"S": after}}
        answer = self._call("Query", f'{{"TableName":{self._table},{json.dumps(request)[1:]}')
        last = answer.get("LastEvaluatedKey")
        return QueryResult([_decode(one) for one in answer["Items"]], last[SK]["S"] if last else None)

    def _call(self, operation: str, payload: str) -> Any:
        try:
            answer = self._send(f"DynamoDB_20120810.{operation}", payload.encode())
        except (Unavailable, NoCredentials, TooLarge) as error:
            raise StorageUnavailable(type(error).__name__) from error
        except Refused as error:  # no table, no permission, no key: AWS's code says what an operator must fix
            code = error.code if error.code.isascii() and error.code.isalpha() else f"Refused {error.status}"
            raise StorageUnavailable(code[:80]) from error
        try:
            return json.loads(answer)
        except ValueError as error:
            raise StorageUnavailable("NotJson") from error


def _decode(attributes: Any) -> Item:
    try:
        return decode(attributes)
    except NewerItem as error:  # a deploy that was rolled back: a retry after the next one can succeed
        raise StorageUnavailable("NewerItem") from error
