"""A model of one DynamoDB table behind a transport: with a clock, capacity per table and partition key, and faults."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from serve.item import Item, decode
from wire.errors import TransportError
from wire.response import Response

UNIT = 1024


class Bucket:
    """Write units that come at a rate; up to a second's worth is saved."""

    def __init__(self, rate: float) -> None:
        self.rate, self.units, self.at = rate, rate, 0.0

    def take(self, units: int, now: float) -> bool:
        self.units = min(self.rate, self.units + (now - self.at) * self.rate)
        self.at = now
        if self.units < units:
            return False
        self.units -= units
        return True


def ok(body: object) -> Response:
    return Response(200, [], json.dumps(body).encode())


def refuse(code: str, status: int = 400, **more: object) -> Response:
    return Response(status, [], json.dumps({"__type": f"x#{code}", "message": "because", **more}).encode())


class ModelledTable:
    """Transport and table in one. `fault(number)` may name what goes wrong with the number-th request."""

    def __init__(
        self,
        *,
        units_per_second: float = 1e9,
        units_per_pk: float = 1e9,
        latency: float = 0.005,
        fault: Callable[[int], str | Response | None] = lambda _: None,
    ) -> None:
        self.now = 1000.0
        self.items: dict[tuple[str, str], Item] = {}
        self.puts: Counter[tuple[str, str]] = Counter()
        self.sent: list[tuple[float, str, bytes]] = []
        self.units = 0
        self.most_in_flight = 0
        self.landed: list[tuple[float, str]] = []
        self._latency = latency
        self._fault = fault
        self._table = Bucket(units_per_second)
        self._per_pk = units_per_pk
        self._pks: dict[str, Bucket] = {}
        self._flying: list[tuple[float, int, Response | TransportError]] = []

    def clock(self) -> float:
        return self.now

    def send(self, target: str, payload: bytes) -> int:
        handle = len(self.sent)
        self.sent.append((self.now, target, payload))
        latency = self._latency * (1 + handle % 7 / 10)  # answers overtake each other
        heapq.heappush(self._flying, (self.now + latency, handle, self._answer(handle, target, payload)))
        self.most_in_flight = max(self.most_in_flight, len(self._flying))
        return handle

    def wait(self, timeout: float) -> list[tuple[int, Response | TransportError]]:
        assert timeout >= 0
        ends = self.now + timeout
        if not self._flying or self._flying[0][0] > ends:
            self.now = ends
            return []
        self.now = max(self.now, self._flying[0][0])
        answered = []
        while self._flying and self._flying[0][0] <= self.now:
            _, handle, answer = heapq.heappop(self._flying)
            answered.append((handle, answer))
        return answered

    def _answer(self, handle: int, target: str, payload: bytes) -> Response | TransportError:
        fault = self._fault(handle)
        if isinstance(fault, Response):
            return fault
        if fault == "lost":
            return TransportError("reset")
        assert len(payload) < 16 * 1024 * 1024
        request = json.loads(payload)
        answer = self._batch(request) if target.endswith("BatchWriteItem") else self._put(request)
        if fault == "applied, then lost":
            return TransportError("no answer in time")
        return answer

    def _batch(self, request: dict[str, Any]) -> Response:
        ((table, writes),) = request["RequestItems"].items()
        assert 1 <= len(writes) <= 25
        keys = [(write["PutRequest"]["Item"]["pk"]["S"], write["PutRequest"]["Item"]["sk"]["S"]) for write in writes]
        assert len(set(keys)) == len(keys)
        left = [write for write in writes if not self._store(write["PutRequest"]["Item"])]
        if len(left) == len(writes):
            return refuse("ProvisionedThroughputExceededException")
        return ok({"UnprocessedItems": {table: left} if left else {}})

    def _put(self, request: dict[str, Any]) -> Response:
        item = decode(request["Item"])
        stored = self.items.get((item.pk, item.sk))
        assert request["ConditionExpression"] == "attribute_not_exists(pk) OR o < :o"
        if stored is not None and not stored.order < request["ExpressionAttributeValues"][":o"]["S"]:
            old = {"pk": {"S": stored.pk}, "sk": {"S": stored.sk}, "o": {"S": stored.order}, "e": {"N": "1"}}
            return refuse("ConditionalCheckFailedException", Item=old)
        return ok({}) if self._store(request["Item"]) else refuse("ThrottlingException")

    def _store(self, attributes: dict[str, Any]) -> bool:
        item = decode(attributes)
        size = sum(len(name) + len(next(iter(value.values()))) for name, value in attributes.items())
        units = -(-size // UNIT)
        per_pk = self._pks.setdefault(item.pk, Bucket(self._per_pk))
        if not per_pk.take(units, self.now) or not self._table.take(units, self.now):
            return False
        self.items[item.pk, item.sk] = item
        self.puts[item.pk, item.sk] += 1
        self.units += units
        self.landed.append((self.now, item.pk))
        return True
