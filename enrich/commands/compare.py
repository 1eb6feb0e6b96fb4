"""Read each item before it is written, and write only those that differ: for a table with content from elsewhere.

A consistent read costs a fifth of a write, so this is for tables that already have most items: imported or restored.
"""

from __future__ import annotations

from typing import Any

import orjson

from enrich.write.requests import BATCH
from enrich.write.writer import Transport
from serve.item import ORDER, PK, SK
from wire.errors import TransportError
from wire.response import Response, parse_failure

READ = "DynamoDB_20120810.BatchGetItem"


class ComparingTransport:
    """A transport for a `Writer` that reports an item as written if the table already has it.

    The table has an item if all attributes are equal, and its order is not newer. The stored order can be older, as for
    an unchanged item: the fingerprint has the order of the newest run that confirmed it. Conditional writes of single
    items are sent as they are.
    """

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self._reads: dict[int, tuple[int, dict[str, Any]]] = {}  # the request that follows, by the handle of its read
        self._writes: dict[int, int] = {}  # the caller's handle, by that of a request that follows a read
        self.equal = 0  # items that were not written

    def send(self, target: str, payload: bytes) -> int:
        """Send the read of a batch, or a request of another kind; return a handle."""
        if target != BATCH:
            return self._inner.send(target, payload)
        request = orjson.loads(payload)
        ((table, puts),) = request["RequestItems"].items()
        keys = [{name: put["PutRequest"]["Item"][name] for name in (PK, SK)} for put in puts]
        read = {"RequestItems": {table: {"Keys": keys, "ConsistentRead": True}}}
        handle = self._inner.send(READ, orjson.dumps(read))
        self._reads[handle] = handle, request
        return handle

    def wait(self, timeout: float) -> list[tuple[int, Response | TransportError]]:
        """Return responses to writes; a failed read is reported as the response to its write, which was not sent."""
        found: list[tuple[int, Response | TransportError]] = []
        for handle, response in self._inner.wait(timeout):
            if handle not in self._reads:
                found.append((self._writes.pop(handle, handle), response))
                continue
            asked, request = self._reads.pop(handle)
            if isinstance(response, TransportError) or parse_failure(response) is not None:
                found.append((asked, response))
            elif left := self._select(request, response):
                self._writes[self._inner.send(BATCH, orjson.dumps(left))] = asked
            else:
                found.append((asked, Response(200, {}, b"{}")))
        return found

    def _select(self, request: dict[str, Any], response: Response) -> dict[str, Any] | None:
        """Return the request with those items that the table does not have; None if it has all."""
        ((table, puts),) = request["RequestItems"].items()
        try:
            read = orjson.loads(response.body)["Responses"].get(table, [])
        except (orjson.JSONDecodeError, KeyError, AttributeError):  # not DynamoDB's: nothing is known of the table
            read = []
        stored = {(item[PK]["S"], item[SK]["S"]): item for item in read}  # without those that DynamoDB left unread
        left = [put for put in puts if not _is_stored(put["PutRequest"]["Item"], stored)]
        self.equal += len(puts) - len(left)
        return {"RequestItems": {table: left}} if left else None


def _is_stored(item: dict[str, Any], stored: dict[tuple[str, str], dict[str, Any]]) -> bool:
    there = stored.get((item[PK]["S"], item[SK]["S"]))
    return (
        there is not None
        and ORDER in there
        and there[ORDER]["S"] <= item[ORDER]["S"]
        and {**there, ORDER: None} == {**item, ORDER: None}
    )
