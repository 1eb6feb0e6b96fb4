"""The model of the table of items behind its own transport: capacity per table and partition key, faults, a clock.

moto has no capacity, throttles nothing and processes every batch whole.
"""

from __future__ import annotations

import heapq
import json
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from serve.item import RANK, Item, decode
from tests.doubles.table import Items, answer_batch, answer_put, parse_write
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


class Partitions:
    """The partitions of one partition key: ranges of sort keys, each with its own rate.

    DynamoDB splits a partition whose traffic exceeds its rate for some minutes, at a sort key that divides the traffic
    ("split for heat"). A range that gets no traffic after its split, because sort keys ascend, has gained nothing.
    """

    def __init__(self, rate: float, splits_after: float) -> None:
        self._rate, self._splits_after = rate, splits_after
        self._first = [""]  # sort key with which each range begins
        self._buckets = [Bucket(rate)]
        self._recent: list[deque[str]] = [deque(maxlen=1000)]
        self._hot_since: list[float | None] = [None]

    def __len__(self) -> int:
        return len(self._first)

    def take(self, units: int, sk: str, now: float) -> bool:
        at = bisect_right(self._first, sk) - 1
        self._recent[at].append(sk)
        if self._buckets[at].take(units, now):
            if self._buckets[at].units > self._rate / 2:
                self._hot_since[at] = None
            return True
        since = self._hot_since[at] = self._hot_since[at] or now
        if now - since >= self._splits_after:
            self._split(at)
        return False

    def _split(self, at: int) -> None:
        middle = sorted(self._recent[at])[len(self._recent[at]) // 2]
        self._hot_since[at] = None
        if middle > self._first[at]:
            self._first.insert(at + 1, middle)
            self._buckets.insert(at + 1, Bucket(self._rate))
            self._recent.insert(at + 1, deque(maxlen=1000))
            self._hot_since.insert(at + 1, None)


def refuse(code: str, status: int = 400, **more: object) -> Response:
    return Response(status, {}, json.dumps({"__type": f"x#{code}", "message": "because", **more}).encode())


class ModelledTable:
    """Transport and table in one. `fault(number)` can name what goes wrong with the number-th request.

    `units_per_pk` is the rate of a partition; one that is refused requests for `splits_after` seconds is split.
    """

    def __init__(
        self,
        *,
        units_per_second: float = 1e9,
        units_per_pk: float = 1e9,
        splits_after: float = float("inf"),
        latency: float = 0.005,
        fault: Callable[[int], str | Response | None] = lambda _: None,
    ) -> None:
        self.now = 1000.0
        self.stored = Items()
        self.puts: Counter[tuple[str, str]] = Counter()
        self.sent: list[tuple[float, str, bytes]] = []
        self.units = 0
        self.most_in_flight = 0
        self.landed: list[tuple[float, str]] = []
        self._latency = latency
        self._fault = fault
        self._table = Bucket(units_per_second)
        self._per_pk = units_per_pk
        self._splits_after = splits_after
        self.partitions: dict[str, Partitions] = {}
        self._flying: list[tuple[float, int, Response | TransportError]] = []

    @property
    def items(self) -> dict[tuple[str, str], Item]:
        """The stored items, decoded as a reader does."""
        return {at: decode(attributes) for at, attributes in self.stored.rows.items()}

    def clock(self) -> float:
        return self.now

    def send(self, target: str, payload: bytes) -> int:
        handle = len(self.sent)
        self.sent.append((self.now, target, payload))
        latency = self._latency * (1 + handle % 7 / 10)  # responses overtake each other
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
        items, conditional = parse_write(target, request)
        answer = self._put(items[0]) if conditional else self._batch(request, items)
        if fault == "applied, then lost":
            return TransportError("no answer in time")
        return answer

    def _batch(self, request: dict[str, Any], items: list[dict[str, Any]]) -> Response:
        assert 1 <= len(items) <= 25
        assert len({(item["pk"]["S"], item["sk"]["S"]) for item in items}) == len(items)
        left = [item for item in items if not self._store(item)]
        return (
            refuse("ProvisionedThroughputExceededException") if len(left) == len(items) else answer_batch(request, left)
        )

    def _put(self, item: dict[str, Any]) -> Response:
        newer = self.stored.find_newer(item)
        if newer is None and not self._store(item):
            return refuse("ThrottlingException")
        return answer_put(newer)

    def _count_entries(self, attributes: dict[str, Any]) -> int:
        """Count the index entries that a write changes: an entry with another rank is removed, a new one is written."""
        old = self.stored.rows.get((attributes["pk"]["S"], attributes["sk"]["S"]), {}).get(RANK)
        new = attributes.get(RANK)
        return int(old is not None and old != new) + int(new is not None)

    def _store(self, attributes: dict[str, Any]) -> bool:
        pk, sk = attributes["pk"]["S"], attributes["sk"]["S"]
        size = sum(len(name) + len(next(iter(value.values()))) for name, value in attributes.items())
        units = -(-size // UNIT) * (1 + self._count_entries(attributes))
        if pk not in self.partitions:
            self.partitions[pk] = Partitions(self._per_pk, self._splits_after)
        if not self.partitions[pk].take(units, sk, self.now) or not self._table.take(units, self.now):
            return False
        self.stored.put(attributes, conditional=False)
        self.puts[pk, sk] += 1
        self.units += units
        self.landed.append((self.now, pk))
        return True
