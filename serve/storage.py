"""Read items from DynamoDB, through `wire.client.Client.send` or a stand-in for it."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from serve.item import BODY, EXPIRES_AT, PK, RANK, RANKED, SK, Item, NewerItem, decode
from serve.web.page import QueryResult
from wire.backoff import draw, full_jitter
from wire.deadline import deadline
from wire.errors import NoCredentials, Refused, TooLarge, Unavailable

Send = Callable[[str, bytes], bytes]


class StorageUnavailable(Exception):
    """DynamoDB throttles or does not respond in time, or an item is of a newer release; what exists is unknown (H9)."""


class AnswerTooLarge(StorageUnavailable):
    """The response to one call is larger than the client's limit."""


# Seconds for asking again for the keys that DynamoDB left out of a batch, and the limits of the pauses between tries.
BATCH_SECONDS, BASE, CAP = 4.0, 0.025, 1.0
# What `json.dumps` and `json.loads` call, without looking at their arguments first.
_quote, _decode_json = json.encoder.encode_basestring_ascii, json.JSONDecoder().raw_decode
_LARGE = 32 * 1024  # bytes of an answer


class Storage:
    """The table of items, read only."""

    def __init__(self, send: Send, table: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._send = send
        self._name = table
        self._table = json.dumps(table)
        self._sleep = sleep

    def get_item(self, pk: str, sk: str) -> Item | None:
        """Get one item, expired or not; None if there is none.

        Raises:
            StorageUnavailable: DynamoDB did not respond, or a newer release wrote the item.
        """
        answer = self._call("GetItem", f'{{"TableName":{self._table},"Key":{_render_keys(pk, (sk,))}}}', _parse)
        return _decode(answer["Item"]) if "Item" in answer else None

    def get_items(self, pk: str, sks: Sequence[str]) -> Iterator[tuple[Sequence[str], dict[str, Item]]]:
        """Get items of one partition, expired or not. Yield groups of `sks`, each with the items found, by sk.

        One BatchGetItem gets all of them, unless the items are too large for one response: then a call gets half of
        them. The caller can stop early.

        Raises:
            StorageUnavailable: DynamoDB did not respond, or not for all keys within `BATCH_SECONDS`, or a newer release
                wrote one of the items.
        """
        groups = [sks]
        while groups:
            group = groups.pop(0)
            try:
                found = self._get_batch(pk, group)
            except AnswerTooLarge:
                if len(group) == 1:
                    raise
                groups[:0] = [group[: len(group) // 2], group[len(group) // 2 :]]
                continue
            yield group, found

    def _get_batch(self, pk: str, sks: Sequence[str]) -> dict[str, Item]:
        asked = f'{{"Keys":[{_render_keys(pk, sks)}]}}'
        found: dict[str, Item] = {}
        ends = min(time.monotonic() + BATCH_SECONDS, deadline())
        tries = 0
        while True:
            answer = self._call("BatchGetItem", f'{{"RequestItems":{{{self._table}:{asked}}}}}', _parse_large)
            for attributes in answer["Responses"].get(self._name, []):
                item = _decode(attributes)
                found[item.sk] = item
            # Keys that DynamoDB throttled, or that did not fit into 16 MB. They can exist, so all are asked for again.
            unprocessed = answer.get("UnprocessedKeys", {}).get(self._name)
            if not unprocessed:
                return found
            asked = json.dumps(unprocessed)
            tries += 1
            pause = full_jitter(tries, BASE, CAP, draw())
            if time.monotonic() + pause >= ends:
                raise StorageUnavailable("UnprocessedKeys")
            self._sleep(pause)

    def query(self, pk: str, prefix: str, now: float, after: str, limit: int) -> QueryResult:
        """Query one partition after `after`; DynamoDB evaluates up to `limit` items or 1 MB.

        DynamoDB filters out expired items and tombstones to save their transfer; the caller checks again.

        Raises:
            StorageUnavailable: DynamoDB did not respond, or a newer release wrote one of the items.
        """
        start = {SK: {"S": after}} if after else {}
        return self._query(pk, (SK, prefix), start, now, limit, {})

    def query_ranked(self, pk: str, tag: str, now: float, after: str, limit: int) -> QueryResult:
        """Query the ranked list of one partition after a position; like `query`, but with the table's index.

        Args:
            pk: partition key.
            tag: tag of the dataset's rank. Items that were written with another tag are not in the list.
            now: epoch seconds.
            after: `PLACE:prediction_id` as in `RANK` after the tag; empty to begin with the first item.
            limit: number of items to evaluate.

        Raises:
            StorageUnavailable: see `query`.
        """
        tag += ":"
        start = {SK: {"S": after.partition(":")[2]}, RANK: {"S": tag + after}} if after else {}
        found = self._query(pk, (RANK, tag), start, now, limit, {"IndexName": RANKED})
        return found._replace(last=found.last and found.last.removeprefix(tag))

    def _query(
        self,
        pk: str,
        sort: tuple[str, str],
        start: Mapping[str, Any],
        now: float,
        limit: int,
        more: Mapping[str, Any],
    ) -> QueryResult:
        """Query items whose sort key begins with a text; `sort` has its attribute and the text."""
        attribute, prefix = sort
        values = {":p": {"S": pk}, ":now": {"N": str(int(now))}}
        condition = f"{PK} = :p"
        if prefix:
            condition += f" and begins_with({attribute}, :prefix)"
            values[":prefix"] = {"S": prefix}
        request: dict[str, Any] = {
            **more,
            "KeyConditionExpression": condition,
            "FilterExpression": "#e > :now and attribute_exists(#b)",
            "ExpressionAttributeNames": {"#e": EXPIRES_AT, "#b": BODY},
            "ExpressionAttributeValues": values,
            "Limit": limit,
        }
        if start:
            request["ExclusiveStartKey"] = {PK: {"S": pk}, **start}
        payload = f'{{"TableName":{self._table},{json.dumps(request)[1:]}'
        answer = self._call("Query", payload, _parse_large)
        last = answer.get("LastEvaluatedKey")
        return QueryResult([_decode(one) for one in answer["Items"]], last[attribute]["S"] if last else None)

    def _call(self, operation: str, payload: str, parse: Callable[[bytes], Any]) -> Any:
        try:
            answer = self._send(f"DynamoDB_20120810.{operation}", payload.encode())
        except TooLarge as error:
            raise AnswerTooLarge("TooLarge") from error
        except (Unavailable, NoCredentials) as error:
            raise StorageUnavailable(type(error).__name__) from error
        except Refused as error:  # no table, no permission, no key: AWS's code says what an operator must fix
            code = error.code if error.code.isascii() and error.code.isalpha() else f"Refused {error.status}"
            raise StorageUnavailable(code[:80]) from error
        try:
            return parse(answer)
        except ValueError as error:
            raise StorageUnavailable("NotJson") from error


def _render_keys(pk: str, sks: Iterable[str]) -> str:
    begin = f'{{"{PK}":{{"S":{_quote(pk)}}},"{SK}":{{"S":'
    return ",".join([f"{begin}{_quote(sk)}}}}}" for sk in sks])


def _parse(answer: bytes) -> Any:
    text = answer.decode()
    found, end = _decode_json(text)
    if end < len(text):
        raise ValueError("there is more than one value")
    return found


def _parse_large(answer: bytes) -> Any:
    """Parse an answer with several items: orjson takes a quarter of the time for the escaped quotes of their bodies.

    Importing it takes 8 ms, so the first GET of one item does not wait for it.
    """
    if len(answer) < _LARGE:
        return _parse(answer)
    import orjson

    return orjson.loads(answer)


def _decode(attributes: Any) -> Item:
    try:
        return decode(attributes)
    except NewerItem as error:  # after a rollback; a retry succeeds when the newer release is deployed again
        raise StorageUnavailable("NewerItem") from error
