"""Requests that write a chunk's items: interleaved, gzipped where that is cheaper, as JSON bytes. Pure."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from serve.item import BODY, EXPIRES_AT, MAX_ITEM_BYTES, ORDER, PK, SK, Order

BATCH = "DynamoDB_20120810.BatchWriteItem"
PUT = "DynamoDB_20120810.PutItem"
CONDITION = f"attribute_not_exists({PK}) OR {ORDER} < :o"

BATCH_ITEMS = 25  # DynamoDB's quota for one BatchWriteItem
# DynamoDB's quota is 16 MB. We stay far below: memory is this times the requests in flight, and escaping may
# make a payload larger than the items in it (never more than sixfold).
BATCH_BYTES = 1024 * 1024
UNIT_BYTES = 1024  # one write unit
# Rows turned into Python objects at a time.
BLOCK_ROWS = 1000
# A body is gzipped where that saves a write unit, so never while the item fits into one. Measured for JSON of 1 to
# 16 KB: 8 to 16 us at level 1, within 10 % of level 6's size for two to three times the time; one unit costs what 20 ms
# of a Lambda cost.
GZIP_LEVEL = 1


class Request(NamedTuple):
    """One request and what it stands for. `units` is what DynamoDB will charge for it."""

    target: str
    payload: bytes
    items: int
    units: int


def interleave(pks: pa.ChunkedArray) -> pa.Array:
    """Order a chunk's rows so that each subject is spread evenly: a partition key takes 1,000 units/s only.

    The n-th of a subject's m rows gets the place (n + 1/2) / m of the way: a subject with half of the rows has
    every second place, and the others do not wait until it is done.
    """
    codes = pc.dictionary_encode(pks).combine_chunks().indices
    rows = len(codes)
    by_subject = pc.sort_indices(codes)  # stable
    codes = codes.take(by_subject)
    counts = pc.value_counts(codes).field("counts").cast(pa.int64())  # in order of first occurrence, i.e. of code
    starts = pc.subtract(pc.cumulative_sum(counts), counts)
    rank = pc.subtract(pa.array(range(rows), pa.int64()), starts.take(codes))
    place = pc.divide(pc.add(rank.cast(pa.float64()), 0.5), counts.take(codes).cast(pa.float64()))
    return by_subject.take(pc.sort_indices(place))


def item_bytes(chunk: pa.Table) -> pa.ChunkedArray:
    """Return each row's item size as DynamoDB counts it, the body ungzipped: UTF-8 bytes of names and values."""
    fixed = len(PK + SK + BODY + ORDER + EXPIRES_AT) + len(Order(0, 0, 0).text) + 7  # a number of up to 11 digits
    size = pc.add(pc.binary_length(chunk["pk"]), pc.binary_length(chunk["sk"]))
    return pc.add(pc.add(size, pc.fill_null(pc.binary_length(chunk["body"]), 0)).cast(pa.int64()), fixed)


def gzip(body: str) -> bytes:
    """Gzip a body; the same text always gives the same bytes (no time of making)."""
    packer = zlib.compressobj(GZIP_LEVEL, wbits=31)
    return packer.compress(body.encode()) + packer.flush()


def too_large(chunk: pa.Table) -> list[int]:
    """Return the row numbers of the items that stay over DynamoDB's 400 KB even when gzipped.

    A body of less than 400 KB gzipped counts as small enough, however large it was.
    """
    sizes = item_bytes(chunk)
    large = chunk.append_column("size", sizes).filter(pc.greater(sizes, MAX_ITEM_BYTES))
    return [
        row["row"]
        for row in large.select(["row", "body", "size"]).to_pylist()
        if row["size"] - len(row["body"].encode()) + len(gzip(row["body"])) > MAX_ITEM_BYTES
    ]


def build_batches(chunk: pa.Table, table: str, order: Order, expires_at: int) -> Iterator[Request]:
    """Build unconditional writes of up to 25 items, as large as the quotas and our memory allow."""
    for items, sizes in _blocks(chunk, order, expires_at):
        start = 0
        while start < len(items):
            end = start + 1
            room = BATCH_BYTES - sizes[start]
            while end < len(items) and end - start < BATCH_ITEMS and sizes[end] <= room:
                room -= sizes[end]
                end += 1
            puts = [{"PutRequest": {"Item": item}} for item in items[start:end]]
            units = sum([-(-size // UNIT_BYTES) for size in sizes[start:end]])
            yield Request(BATCH, orjson.dumps({"RequestItems": {table: puts}}), end - start, units)
            start = end


def build_puts(chunk: pa.Table, table: str, order: Order, expires_at: int) -> Iterator[Request]:
    """Build one conditional write per item, which an item of a newer run refuses and shows itself."""
    frame = {
        "TableName": table,
        "ConditionExpression": CONDITION,
        "ExpressionAttributeValues": {":o": {"S": order.text}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    for items, sizes in _blocks(chunk, order, expires_at):
        for item, size in zip(items, sizes, strict=True):
            yield Request(PUT, orjson.dumps({**frame, "Item": item}), 1, -(-size // UNIT_BYTES))


def _blocks(chunk: pa.Table, order: Order, expires_at: int) -> Iterator[tuple[list[dict[str, Any]], list[int]]]:
    """Turn a chunk into items as DynamoDB's JSON, with their sizes, some rows at a time."""
    chunk = pa.table({"pk": chunk["pk"], "sk": chunk["sk"], "body": chunk["body"], "size": item_bytes(chunk)})
    places = interleave(chunk["pk"])
    for start in range(0, len(places), BLOCK_ROWS):
        block = chunk.take(places.slice(start, BLOCK_ROWS))
        yield _items(block, {"S": order.text}, {"N": str(expires_at)})


def _items(block: pa.Table, order: dict[str, str], expires: dict[str, str]) -> tuple[list[dict[str, Any]], list[int]]:
    bodies = block["body"].to_pylist()
    sizes = block["size"].to_pylist()
    keys = zip(block["pk"].to_pylist(), block["sk"].to_pylist(), bodies, strict=True)
    # serve.item.encode says the same for one item; a test holds the two together.
    items: list[dict[str, Any]] = [
        {PK: {"S": pk}, SK: {"S": sk}, BODY: {"S": body}, ORDER: order, EXPIRES_AT: expires} for pk, sk, body in keys
    ]
    if block["body"].null_count:
        for at, body in enumerate(bodies):
            if body is None:
                del items[at][BODY]
    if pc.max(block["size"]).as_py() > UNIT_BYTES:
        for at, size in enumerate(sizes):
            if size > UNIT_BYTES and bodies[at] is not None:
                packed = gzip(bodies[at])
                smaller = size - len(bodies[at].encode()) + len(packed)
                if -(-smaller // UNIT_BYTES) < -(-size // UNIT_BYTES):
                    items[at][BODY] = {"B": base64.b64encode(packed).decode()}
                    sizes[at] = smaller
    return items, sizes
