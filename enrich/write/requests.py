"""Build the requests that write a chunk's items, as JSON bytes, with subjects interleaved and large bodies gzipped."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from enrich.write.item_size import UNIT_BYTES, gzip, item_bytes
from serve.item import BODY, EXPIRES_AT, ORDER, PK, RANK, SK, Order

BATCH = "DynamoDB_20120810.BatchWriteItem"
PUT = "DynamoDB_20120810.PutItem"
# Equal: an earlier write of this run, which can have had another body if its dataset was changed meanwhile.
CONDITION = f"attribute_not_exists({PK}) OR {ORDER} <= :o"

BATCH_ITEMS = 25  # DynamoDB's quota for one BatchWriteItem
# DynamoDB's quota is 16 MB. This is far below, because memory is this times the requests in flight, and JSON escapes
# can make a payload up to six times as large as its items.
BATCH_BYTES = 256 * 1024
_Json = dict[str, Any]
GOLDEN_RATIO = (5**0.5 - 1) / 2
# Limits of the rows converted to Python objects at a time: few enough to stay in a core's cache (250 rows of 500 B took
# 28 us per batch, 4,000 took 67).
BLOCK_ROWS = 250
BLOCK_BYTES = 8 * 1024 * 1024


class WriteRequest(NamedTuple):
    """One request to DynamoDB that writes items."""

    target: str
    payload: bytes
    items: int
    units: int  # write units that DynamoDB charges for it
    row: int = -1  # row number of a single put


def interleave(pks: pa.ChunkedArray) -> pa.Array:
    """Return the order of a chunk's rows in which each subject is spread evenly.

    DynamoDB accepts 1,000 write units/s for one partition key. The n-th of a subject's m rows is placed at (n + u) / m:
    a subject with half of the rows gets every second place, and the others do not wait for it. The offset u in [0, 1)
    differs by subject (multiples of the golden ratio are spread evenly), so that subjects with one row do not collide.
    """
    codes = pc.dictionary_encode(pks).combine_chunks().indices
    rows = len(codes)
    by_subject = pc.sort_indices(codes)  # stable
    codes = codes.take(by_subject)
    counts = pc.value_counts(codes).field("counts").cast(pa.int64())  # in order of first occurrence, i.e. of code
    starts = pc.subtract(pc.cumulative_sum(counts), counts)
    rank = pc.subtract(pa.arange(0, rows), starts.take(codes))
    turns = pc.multiply(codes.cast(pa.float64()), GOLDEN_RATIO)
    place = pc.divide(pc.add(rank.cast(pa.float64()), pc.subtract(turns, pc.floor(turns))), counts.take(codes))
    return by_subject.take(pc.sort_indices(place))


def build_batches(chunk: pa.Table, table: str, order: Order, expires_at: int) -> Iterator[WriteRequest]:
    """Build unconditional writes of up to `BATCH_ITEMS` items and `BATCH_BYTES`."""
    encoder = _Encoder(order, expires_at)
    for block in _blocks(chunk):
        sizes, start = block.sizes, 0
        while start < len(sizes):
            end = min(start + BATCH_ITEMS, len(sizes))
            while end > start + 1 and sum(sizes[start:end]) > BATCH_BYTES:
                end -= 1
            payload = orjson.dumps({"RequestItems": {table: encoder.build_writes(block, start, end)}})
            yield WriteRequest(BATCH, payload, end - start, sum(block.units[start:end]))
            start = end


def build_puts(chunk: pa.Table, table: str, order: Order, expires_at: int) -> Iterator[WriteRequest]:
    """Build one conditional write per item; if a newer run's item is stored, the response returns it."""
    rules = {
        "TableName": table,
        "ConditionExpression": CONDITION,
        "ExpressionAttributeValues": {":o": {"S": order.text}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    encoder = _Encoder(order, expires_at)
    for block in _blocks(chunk):
        for at, row in enumerate(block.rows):
            (write,) = encoder.build_writes(block, at, at + 1)
            yield WriteRequest(PUT, orjson.dumps({**rules, **write["PutRequest"]}), 1, block.units[at], row)


class _Block(NamedTuple):
    """Rows of a chunk: the texts of their items' attributes by name, sizes, write units and row numbers.

    `plain`: each item has all these attributes, and all are strings. Otherwise a body can be None, or the Base64 of its
    gzip as bytes, and a rank can be None.
    """

    texts: dict[str, list[Any]]
    plain: bool
    sizes: list[int]
    units: list[int]
    rows: list[int]


class _Encoder:
    """Builds items as `serve.item.encode` does; a test compares the two."""

    def __init__(self, order: Order, expires_at: int) -> None:
        self._rest = {ORDER: {"S": order.text}, EXPIRES_AT: {"N": str(expires_at)}}
        self._names: list[str] = []
        self._writes: list[_Json] = []
        self._values: list[list[dict[str, str]]] = []

    def build_writes(self, block: _Block, start: int, end: int) -> list[_Json]:
        """Return at most `BATCH_ITEMS` puts of a batch, for some rows of a block; they are valid until the next call.

        The dicts of plain items are filled again and again: new ones would take as long as encoding them.
        """
        if not block.plain:
            rows = zip(*(column[start:end] for column in block.texts.values()), strict=True)
            return [self._build(*texts) for texts in rows]
        if list(block.texts) != self._names:
            self._names = list(block.texts)
            self._writes = [self._build(*[""] * len(self._names)) for _ in range(BATCH_ITEMS)]
            self._values = [[write["PutRequest"]["Item"][name] for write in self._writes] for name in self._names]
        for values, texts in zip(self._values, block.texts.values(), strict=True):
            for value, text in zip(values, texts[start:end], strict=False):
                value["S"] = text
        return self._writes[: end - start]

    def _build(self, pk: str, sk: str, body: str | bytes | None, rank: str | None = None) -> _Json:
        item: _Json = {PK: {"S": pk}, SK: {"S": sk}}
        if body is not None:
            item[BODY] = {"S": body} if isinstance(body, str) else {"B": body.decode()}
        item |= self._rest
        if rank is not None:
            item[RANK] = {"S": rank}
        return {"PutRequest": {"Item": item}}


def _blocks(chunk: pa.Table) -> Iterator[_Block]:
    """Yield a chunk in blocks."""
    if not len(chunk):
        return
    sized = chunk.select(["pk", "sk", "body", "row", "rank", "entries"]).append_column("size", item_bytes(chunk))
    rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // pc.max(sized["size"]).as_py()))
    for start in range(0, len(sized), rows):
        block = sized.slice(start, rows)
        bodies, sizes = block["body"].to_pylist(), block["size"].to_pylist()
        texts = {PK: block["pk"].to_pylist(), SK: block["sk"].to_pylist(), BODY: bodies}
        if block["rank"].null_count < len(sizes):
            texts[RANK] = block["rank"].to_pylist()
        is_large = max(sizes) > UNIT_BYTES
        units = pc.add(block["entries"], 1).to_pylist()  # an entry of the index is as large as the item
        if is_large:
            _compress(bodies, sizes)
            units = [-(-size // UNIT_BYTES) * each for size, each in zip(sizes, units, strict=True)]
        plain = not is_large and not block["body"].null_count and (RANK not in texts or not block["rank"].null_count)
        yield _Block(texts, plain, sizes, units, block["row"].to_pylist())


def _compress(bodies: list[str | bytes | None], sizes: list[int]) -> None:
    """Replace bodies by the Base64 of their gzip if that saves write units."""
    for at, body in enumerate(bodies):
        if isinstance(body, str) and sizes[at] > UNIT_BYTES:
            compressed = gzip(body)
            size = sizes[at] - len(body.encode()) + len(compressed)
            if -(-size // UNIT_BYTES) < -(-sizes[at] // UNIT_BYTES):
                bodies[at], sizes[at] = base64.b64encode(compressed), size
