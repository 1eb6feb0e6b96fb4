"""Requests that write a chunk's items: in which order, gzipped where that is cheaper, as JSON bytes. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from enrich.write.item_size import UNIT_BYTES, gzip, item_bytes
from serve.item import BODY, EXPIRES_AT, ORDER, PK, SK, Order

BATCH = "DynamoDB_20120810.BatchWriteItem"
PUT = "DynamoDB_20120810.PutItem"
CONDITION = f"attribute_not_exists({PK}) OR {ORDER} < :o"

BATCH_ITEMS = 25  # DynamoDB's quota for one BatchWriteItem
# DynamoDB's quota is 16 MB. We stay far below: memory is this times the requests in flight, and escaping may
# make a payload larger than the items in it (never more than sixfold).
BATCH_BYTES = 256 * 1024
GOLDEN = (5**0.5 - 1) / 2
# Rows turned into Python objects at a time: as many as stay in a core's cache (250 rows of 500 B took 28 us per batch,
# 4,000 took 67), and less than these bytes.
BLOCK_ROWS = 250
BLOCK_BYTES = 8 * 1024 * 1024


class Request(NamedTuple):
    """One request and what it stands for.

    `units` is what DynamoDB will charge for it; `row` is the row number of a single put.
    """

    target: str
    payload: bytes
    items: int
    units: int
    row: int = -1


def interleave(pks: pa.ChunkedArray) -> pa.Array:
    """Order a chunk's rows so that each subject is spread evenly: a partition key takes 1,000 units/s only.

    The n-th of a subject's m rows gets the place (n + u) / m of the way: a subject with half of the rows has every
    second place, and the others do not wait until it is done. u is the subject's own share of 1 (multiples of the
    golden ratio lie evenly), lest all subjects of one row meet in one place.
    """
    codes = pc.dictionary_encode(pks).combine_chunks().indices
    rows = len(codes)
    by_subject = pc.sort_indices(codes)  # stable
    codes = codes.take(by_subject)
    counts = pc.value_counts(codes).field("counts").cast(pa.int64())  # in order of first occurrence, i.e. of code
    starts = pc.subtract(pc.cumulative_sum(counts), counts)
    rank = pc.subtract(pa.array(range(rows), pa.int64()), starts.take(codes))
    turns = pc.multiply(codes.cast(pa.float64()), GOLDEN)
    place = pc.divide(pc.add(rank.cast(pa.float64()), pc.subtract(turns, pc.floor(turns))), counts.take(codes))
    return by_subject.take(pc.sort_indices(place))


def build_batches(chunk: pa.Table, table: str, order: Order, expires_at: int) -> Iterator[Request]:
    """Build unconditional writes of up to 25 items, as large as the quotas and our memory allow."""
    opening, closing = b'{"RequestItems":{%b:[' % orjson.dumps(table), b"]}}"
    frame = _Frame(b'{"PutRequest":{"Item":', order, expires_at, b"}},")
    for pieces, sizes, units, _ in _blocks(chunk, frame):
        start = 0
        while start < len(sizes):
            end = min(start + BATCH_ITEMS, len(sizes))
            while end > start + 1 and sum(sizes[start:end]) > BATCH_BYTES:
                end -= 1
            items = b"".join(pieces[start * _PIECES : end * _PIECES])[:-1]
            yield Request(BATCH, opening + items + closing, end - start, sum(units[start:end]))
            start = end


def build_puts(chunk: pa.Table, table: str, order: Order, expires_at: int) -> Iterator[Request]:
    """Build one conditional write per item, which an item of a newer run refuses and shows itself."""
    rules = {
        "TableName": table,
        "ConditionExpression": CONDITION,
        "ExpressionAttributeValues": {":o": {"S": order.text}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    frame = _Frame(orjson.dumps(rules)[:-1] + b',"Item":', order, expires_at, b"}")
    for pieces, _, units, rows in _blocks(chunk, frame):
        for at, row in enumerate(rows):
            yield Request(PUT, b"".join(pieces[at * _PIECES : (at + 1) * _PIECES]), 1, units[at], row)


class _Frame:
    """The pieces of JSON between one item's values. serve.item.encode says the same; a test holds the two together."""

    def __init__(self, before: bytes, order: Order, expires_at: int, after: bytes) -> None:
        self.pk = before + f'{{"{PK}":{{"S":'.encode()
        self.sk = f'}},"{SK}":{{"S":'.encode()
        self.text = f'}},"{BODY}":{{"S":'.encode()
        self.binary = f'}},"{BODY}":{{"B":'.encode()
        self.rest = f'}},"{ORDER}":{{"S":"{order.text}"}},"{EXPIRES_AT}":{{"N":"{expires_at}"}}}}'.encode() + after


_PIECES = 7  # frame.pk, pk, frame.sk, sk, frame.text, body, frame.rest


def _blocks(chunk: pa.Table, frame: _Frame) -> Iterator[tuple[list[bytes], list[int], list[int], list[int]]]:
    """Turn a chunk into the pieces of its items, in one flat list, with sizes, write units and row numbers, bit by bit.

    Flat lists of bytes, since a dict per attribute would keep the garbage collector busier than the making itself.
    """
    if not len(chunk):
        return
    sized = chunk.select(["pk", "sk", "body", "row"]).append_column("size", item_bytes(chunk))
    rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // pc.max(sized["size"]).as_py()))
    for start in range(0, len(sized), rows):
        block = sized.slice(start, rows)
        bodies, sizes = block["body"].to_pylist(), block["size"].to_pylist()
        pieces = [frame.pk, b"", frame.sk, b"", frame.text, b"", frame.rest] * len(sizes)
        pieces[1::_PIECES] = map(orjson.dumps, block["pk"].to_pylist())
        pieces[3::_PIECES] = map(orjson.dumps, block["sk"].to_pylist())
        pieces[5::_PIECES] = map(orjson.dumps, bodies)
        if block["body"].null_count or max(sizes) > UNIT_BYTES:
            _pack(pieces, bodies, sizes, frame)
        yield pieces, sizes, [-(-size // UNIT_BYTES) for size in sizes], block["row"].to_pylist()


def _pack(pieces: list[bytes], bodies: list[str | None], sizes: list[int], frame: _Frame) -> None:
    """Leave out the body of tombstones, and gzip those that cost fewer write units then."""
    for at, body in enumerate(bodies):
        if body is None:
            pieces[at * _PIECES + 4 : at * _PIECES + 6] = (b"", b"")
        elif sizes[at] > UNIT_BYTES:
            packed = gzip(body)
            size = sizes[at] - len(body.encode()) + len(packed)
            if -(-size // UNIT_BYTES) < -(-sizes[at] // UNIT_BYTES):
                pieces[at * _PIECES + 4 : at * _PIECES + 6] = (frame.binary, b'"%b"' % base64.b64encode(packed))
                sizes[at] = size
