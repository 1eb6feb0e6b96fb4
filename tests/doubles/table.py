"""A model of the table of items, for the calls of the writer, and the network of the fault simulation in front of it.

`test_fidelity.py` compares the model with moto.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from serve.item import BODY, EXPIRES_AT, ORDER, body_text, decode
from tests.faults.describe import describe_items
from tests.faults.world import World
from wire.errors import TransportError
from wire.response import Response

LANDS_WITHIN = 8.0  # seconds after the client's time-out in which a write can still be applied; less than the margin


def read_body(item: dict[str, Any]) -> str | None:
    """Return the body of a stored item as text; None of a tombstone."""
    body = decode(item).body
    return None if body is None else body_text(body)


class Applied(NamedTuple):
    """A write that the table applied."""

    order: str
    at: tuple[str, str]
    body: str | None  # None: a tombstone
    expires_at: int
    hides_until: int  # when the item with a body expires whose place it took; 0 if there was none


@dataclass
class Items:
    """The table of items, and every write that it has applied."""

    rows: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    applied: list[Applied] = field(default_factory=list)

    def find_newer(self, item: dict[str, Any]) -> dict[str, Any] | None:
        """Return the stored item for which a conditional write of this item is refused."""
        stored = self.rows.get((item["pk"]["S"], item["sk"]["S"]))
        return stored if stored is not None and stored[ORDER]["S"] > item[ORDER]["S"] else None

    def put(self, item: dict[str, Any], *, conditional: bool) -> dict[str, Any] | None:
        """Apply a write; return the stored item that refuses it."""
        newer = self.find_newer(item) if conditional else None
        if newer is not None:
            return newer
        at, order = (item["pk"]["S"], item["sk"]["S"]), item[ORDER]["S"]
        stored = self.rows.get(at)
        self.rows[at] = item
        body = read_body(item)
        hides_until = int(stored[EXPIRES_AT]["N"]) if stored and BODY in stored else 0
        self.applied.append(Applied(order, at, body, int(item[EXPIRES_AT]["N"]), hides_until))
        return None

    def delete_expired(self, now: float) -> None:
        """Do what TTL does, at any time."""
        for at in [at for at, item in self.rows.items() if int(item[EXPIRES_AT]["N"]) <= now]:
            del self.rows[at]


class ModelTransport:
    """Carries writes to the table: applied or not, with a response or not, in any order, some of them late.

    `watch` is called when a request is sent and when it is applied: its items, and whether it has a condition.
    `is_as_late_as_can_be` is asked of a write without a condition that lands though it gets no answer.
    """

    def __init__(
        self,
        world: World,
        items: Items,
        timeout: float,
        watch: Callable[[list[dict[str, Any]], bool, str], None],
        is_as_late_as_can_be: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_as_late_as_can_be = is_as_late_as_can_be
        self._world = world
        self._items = items
        self._timeout = timeout
        self._watch = watch
        self.troubled = 0  # requests that were not simply accepted
        self._handles = itertools.count(1)
        self._due: dict[int, float] = {}
        self._answers: dict[int, Response | TransportError] = {}

    def send(self, target: str, payload: bytes) -> int:
        world, handle, request = self._world, next(self._handles), orjson.loads(payload)
        items, conditional = parse_write(target, request)
        self._watch(items, conditional, "sent")
        self._note("sends a", items, conditional)
        latency = min(world.random.expovariate(world.chances.answers_per_second), self._timeout * 0.9)
        fate = world.random.random() / (world.chances.transport or 1e-9)
        if fate <= 1 and world.random.random() < world.chances.lossy:
            fate = world.random.uniform(0.7, 1)
        at = world.time
        self.troubled += fate <= 1
        if fate > 1:
            self._land(handle, target, request, at + latency, answered=True)
        elif fate < 0.25:
            self._note("will be throttled: the", items, conditional)
            self._answer(handle, at + latency, throttle())
        elif fate < 0.5:
            self._land(handle, target, request, at + latency, answered=True, cut=True)
        elif fate < 0.6:
            self._note("will fail with status 500: the", items, conditional)
            self._answer(handle, at + latency, Response(500, {}, b'{"__type": "InternalServerError"}'))
        elif fate < 0.7:
            self._note("will be applied and answered with status 500: the", items, conditional)
            self._land(handle, target, request, at + latency / 2, answered=False)
            self._answer(handle, at + latency, Response(500, {}, b'{"__type": "InternalServerError"}'))
        else:
            self._note("will get no answer: the", items, conditional)
            gives_up = at + (self._timeout if fate < 0.85 else latency)
            self._answer(handle, gives_up, TransportError("no answer"))
            if world.random.random() < 0.6:
                landing = world.random.uniform(at, gives_up + LANDS_WITHIN)
                if not conditional and self._is_as_late_as_can_be():
                    landing = gives_up + LANDS_WITHIN
                self._land(handle, target, request, landing, answered=False)
        return handle

    def wait(self, timeout: float) -> list[tuple[int, Response | TransportError]]:
        world = self._world
        until = world.time + max(timeout, 0.0)
        if self._due:
            until = min(until, max(world.time, min(self._due.values())))
        world.sleep(max(0.0, until - world.time))
        done = [handle for handle, due in self._due.items() if due <= world.time and handle in self._answers]
        for handle in done:
            del self._due[handle]
        return [(handle, self._answers.pop(handle)) for handle in done]

    def _note(self, what: str, items: list[dict[str, Any]], conditional: bool, actor: str | None = None) -> None:
        if self._world.notes is not None:
            self._world.note("%s %s", what, describe_items(items, conditional), actor=actor)

    def _answer(self, handle: int, at: float, answer: Response | TransportError) -> None:
        self._due[handle] = at
        self._answers[handle] = answer

    def _land(self, handle: int, target: str, request: Any, at: float, *, answered: bool, cut: bool = False) -> None:
        def apply() -> None:
            answer = self._apply(target, request, cut=cut)
            if answered:
                self._answers[handle] = answer

        if answered:
            self._due[handle] = at
        self._world.at(at, apply)

    def _apply(self, target: str, request: Any, *, cut: bool) -> Response:
        items, conditional = parse_write(target, request)
        if conditional and cut:
            return throttle()
        self._watch(items, conditional, "landed")
        if conditional:
            refused = self._items.put(items[0], conditional=True)
            outcome = f"is refused, since the table has order {refused[ORDER]['S']}: the" if refused else "lands: the"
            self._note(outcome, items, conditional, "table")
            return answer_put(refused)
        left = [put for put in items if cut and self._world.random.random() < 0.5]
        for item in items:
            if item not in left:
                self._items.put(item, conditional=False)
        if left:
            self._note("is not processed: the", left, conditional, "table")
        if len(left) < len(items):
            self._note("lands: the", [item for item in items if item not in left], conditional, "table")
        return answer_batch(request, left)


def parse_write(target: str, request: Any) -> tuple[list[dict[str, Any]], bool]:
    """Return the items of a request, and whether it has a condition."""
    if target.endswith("BatchWriteItem"):
        (puts,) = request["RequestItems"].values()
        return [put["PutRequest"]["Item"] for put in puts], False
    assert request["ConditionExpression"] == "attribute_not_exists(pk) OR o <= :o"
    assert request["ExpressionAttributeValues"][":o"] == request["Item"][ORDER]
    return [request["Item"]], True


def answer_put(refused_by: dict[str, Any] | None) -> Response:
    """Build the answer to a conditional put: empty, or the stored item whose order is not older."""
    if refused_by is None:
        return Response(200, {}, b"{}")
    answer = {"__type": "x#ConditionalCheckFailedException", "message": "", "Item": refused_by}
    return Response(400, {}, orjson.dumps(answer))


def answer_batch(request: Any, left: list[dict[str, Any]]) -> Response:
    """Build the answer to a batch of which some items were not processed."""
    puts = [{"PutRequest": {"Item": item}} for item in left]
    unprocessed = dict.fromkeys(request["RequestItems"], puts) if puts else {}
    return Response(200, {}, orjson.dumps({"UnprocessedItems": unprocessed}))


def throttle() -> Response:
    """Build the response of a table that is out of capacity."""
    return Response(400, {}, b'{"__type": "x#ProvisionedThroughputExceededException", "message": "slower"}')
