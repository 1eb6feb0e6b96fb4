"""A null DynamoDB on loopback that responds at once; it has its own process, so that readers' CPU excludes it.

It responds to Feast's BatchGetItem with the items that Feast wrote, to Larder's with an item for each key, and to a
Query with as many items as it may evaluate. Each answer is rendered at its first
request. It is a Parameter Store, too: with the key set in the file that `BENCH_JWKS` names.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

BODY = {
    "flight": "B6123",
    "carrier": {"code": "B6", "name": "JetBlue Airways"},
    "prediction": {"delay_minutes": 12.4, "late_probability": 0.183},
    "notes": [{"number": number, "text": "x" * 40, "share": number / 7} for number in range(24)],
}  # about 2 KB of JSON
FAR = 4_000_000_000
DELAY = float(sys.argv[1]) if __name__ == "__main__" and len(sys.argv) > 1 else 0.0  # seconds before an answer


def typed(value: object) -> dict[str, object]:
    """Return a value in DynamoDB's types."""
    if isinstance(value, dict):
        return {"M": {name: typed(member) for name, member in value.items()}}
    if isinstance(value, list):
        return {"L": [typed(member) for member in value]}
    return {"S": value} if isinstance(value, str) else {"N": repr(value)}


def build_item() -> dict[str, object]:
    """Build the item with its body as text."""
    ready: dict[str, object] = {
        "pk": {"S": "flight-delays#B6"},
        "sk": {"S": "a"},
        "o": {"S": "0001.1700000000000.00000001"},
    }
    return ready | {"e": {"N": str(FAR)}, "b": {"S": json.dumps(BODY, separators=(",", ":"))}}


def build_typed_item() -> dict[str, object]:
    """Build the item with its body as typed attributes."""
    return {"pk": {"S": "flight-delays#B6"}, "sk": {"S": "a"}, "e": {"N": str(FAR)}, "body": typed(BODY)}


def _answer(answer: dict[str, object]) -> bytes:
    body = json.dumps(answer).encode()
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
        f"x-amz-crc32: {zlib.crc32(body)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


READY, TYPED = _answer({"Item": build_item()}), _answer({"Item": build_typed_item()})
WRITTEN = _answer({"UnprocessedItems": {}})
_named: dict[bytes, bytes] = {}  # the answer to each batch and query, rendered at its first one
_written: dict[str, dict[str, object]] = {}  # Feast's items by entity_id


class _Peer(asyncio.Protocol):
    """One connection: receives requests and responds to each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write: Callable[[bytes], object] = cast(asyncio.Transport, transport).write
        if DELAY:
            write, loop = self.write, asyncio.get_running_loop()
            self.write = lambda data: loop.call_later(DELAY, write, data)
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            whole = end + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self.data) < whole:
                return
            payload, self.data = self.data[end + 4 : whole], self.data[whole:]
            self.write(_choose(head, payload))


def _choose(head: bytes, payload: bytes) -> bytes:
    if b".getparametersbypath" in head:
        keys = Path(os.environ["BENCH_JWKS"]).read_text()
        return _answer({"Parameters": [{"Name": "/larder/bench/keys/jwks.json", "Value": keys}]})
    if b".query" in head:
        if payload not in _named:
            limit = json.loads(payload)["Limit"]
            items = [{**build_item(), "sk": {"S": f"a{n:02d}"}, "r": {"S": f"tag:1{n:02d}:a"}} for n in range(limit)]
            _named[payload] = _answer({"Items": items, "Count": limit})
        return _named[payload]
    if b".batchgetitem" in head:
        if payload not in _named:
            ((table, asked),) = json.loads(payload)["RequestItems"].items()
            keys = asked["Keys"]
            items = [{**build_item(), **key} if table == "ready" else _written[key["entity_id"]["S"]] for key in keys]
            _named[payload] = _answer({"Responses": {table: items}, "UnprocessedKeys": {}})
        return _named[payload]
    if b".batchwriteitem" in head:
        for puts in json.loads(payload)["RequestItems"].values():
            written = [one["PutRequest"]["Item"] for one in puts]
            _written.update({item["entity_id"]["S"]: item for item in written})
        return WRITTEN
    return TYPED if b'"typed"' in payload else READY


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(_Peer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends with the parent process


if __name__ == "__main__":
    asyncio.run(_main())
