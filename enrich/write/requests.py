"""Build the requests that write a chunk's items, as JSON bytes, with subjects interleaved and large bodies gzipped."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from enrich.write.item_size import UNIT_BYTES, gzip, item_bytes
from serve.item import BODY, EXPIRES_AT, ORDER, PK, RANK, SK, Order

BATCH = "DynamoDB_20120810.BatchWriteItem"
PUT = "DynamoDB_20120810.PutItem"
CONDITION = f"attribute_not_exists({PK}) OR {ORDER} < :o"

BATCH_ITEMS = 25  # DynamoDB's quota for one BatchWriteItem
# DynamoDB's quota is 16 MB. This is far below, because memory is this times the requests in flight, and JSON escapes
# can make a payload up to six times as large as its items.
BATCH_BYTES = 256 * 1024
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
    rank = pc.subtract(pa.array(range(rows), pa.int64()), starts.take(codes))
    turns = pc.multiply(codes.cast(pa.float64()), GOLDEN_RATIO)
    place = pc.divide(pc.add(rank.cast(pa.float64()), pc.subtract(turns, pc.floor(turns))), counts.take(codes))
    return by_subject.take(pc.sort_indices(place))


def build_batches(chunk: pa.Table, table: str, order: Order, expires_at: int) -> Iterator[WriteRequest]:
    """Build unconditional writes of up to `BATCH_ITEMS` items and `BATCH_BYTES`."""
    opening, closing = b'{"RequestItems":{%b:[' % orjson.dumps(table), b"]}}"
    frame = _Frame(b'{"PutRequest":{"Item":', order, expires_at, b"}},")
    for pieces, sizes, units, _ in _blocks(chunk, frame):
        start = 0
        while start < len(sizes):
            end = min(start + BATCH_ITEMS, len(sizes))
            while end > start + 1 and sum(sizes[start:end]) > BATCH_BYTES:
                end -= 1
            items = b"".join(pieces[start * _PIECES : end * _PIECES])[:-1]
            yield WriteRequest(BATCH, opening + items + closing, end - start, sum(units[start:end]))
            start = end


def build_puts(chunk: pa.Table, table: str, order: Order, expires_at: int) -> Iterator[WriteRequest]:
    """Build one conditional write per item; if a newer run's item is stored, the response returns it."""
    rules = {
        "TableName": table,
        "ConditionExpression": CONDITION,
        "ExpressionAttributeValues": {":o": {"S": order.text}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    frame = _Frame(orjson.dumps(rules)[:-1] + b',"Item":', order, expires_at, b"}")
    for pieces, _, units, rows in _blocks(chunk, frame):
        for at, row in enumerate(rows):
            yield WriteRequest(PUT, b"".join(pieces[at * _PIECES : (at + 1) * _PIECES]), 1, units[at], row)


class _Frame:
    """The JSON between one item's values, as `serve.item.encode` writes it; a test compares the two."""

    def __init__(self, before: bytes, order: Order, expires_at: int, after: bytes) -> None:
        self.pk = before + f'{{"{PK}":{{"S":"'.encode()
        self.sk = f'"}},"{SK}":{{"S":"'.encode()
        self.text = f'"}},"{BODY}":{{"S":"'.encode()
        self.binary = f'"}},"{BODY}":{{"B":"'.encode()
        attributes = f'"}},"{ORDER}":{{"S":"{order.text}"}},"{EXPIRES_AT}":{{"N":"{expires_at}"}}'.encode()
        self.rest = attributes + b"}" + after
        self._before_rank = attributes + f',"{RANK}":{{"S":'.encode()
        self._after_rank = b"}}" + after

    def rest_with(self, rank: str | None) -> bytes:
        """Return what follows an item's body, with its rank."""
        return self.rest if rank is None else self._before_rank + orjson.dumps(rank) + self._after_rank


_PIECES = 7  # frame.pk, pk, frame.sk, sk, frame.text, body, frame.rest


_MARK, _MARKED = "\0", b'","\\u0000","'


def _escape(texts: list[str]) -> list[bytes]:
    """Return texts as JSON strings without their quotes.

    One call for many texts takes half the time of one call for each. No text can end early: a quote within one has a
    backslash before it, and behind the quote that ends one always comes the mark.
    """
    marked = [_MARK] * (2 * len(texts) - 1)
    marked[::2] = texts
    return orjson.dumps(marked)[2:-2].split(_MARKED)


def _blocks(chunk: pa.Table, frame: _Frame) -> Iterator[tuple[list[bytes], list[int], list[int], list[int]]]:
    """Yield blocks of a chunk: the JSON pieces of its items in one flat list, their sizes, write units and row numbers.

    Flat lists of bytes: with a dict per attribute the garbage collector takes longer than building the requests.
    """
    if not len(chunk):
        return
    sized = chunk.select(["pk", "sk", "body", "row", "rank", "entries"]).append_column("size", item_bytes(chunk))
    rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // pc.max(sized["size"]).as_py()))
    for start in range(0, len(sized), rows):
        block = sized.slice(start, rows)
        bodies, sizes = block["body"].to_pylist(), block["size"].to_pylist()
        pieces = [frame.pk, b"", frame.sk, b"", frame.text, b"", frame.rest] * len(sizes)
        pieces[1::_PIECES] = _escape(block["pk"].to_pylist())
        pieces[3::_PIECES] = _escape(block["sk"].to_pylist())
        pieces[5::_PIECES] = _escape([body or "" for body in bodies] if block["body"].null_count else bodies)
        if block["rank"].null_count < len(sizes):
            pieces[6::_PIECES] = map(frame.rest_with, block["rank"].to_pylist())
        if block["body"].null_count or max(sizes) > UNIT_BYTES:
            _compress(pieces, bodies, sizes, frame)
        entries = block["entries"].to_pylist()  # each is as large as the item, since the index has all attributes
        units = [-(-size // UNIT_BYTES) * (1 + more) for size, more in zip(sizes, entries, strict=True)]
        yield pieces, sizes, units, block["row"].to_pylist()


def _compress(pieces: list[bytes], bodies: list[str | None], sizes: list[int], frame: _Frame) -> None:
    """Remove the body of tombstones, and gzip bodies if that saves write units."""
    for at, body in enumerate(bodies):
        if body is None:
            pieces[at * _PIECES + 4 : at * _PIECES + 6] = (b"", b"")
        elif sizes[at] > UNIT_BYTES:
            compressed = gzip(body)
            size = sizes[at] - len(body.encode()) + len(compressed)
            if -(-size // UNIT_BYTES) < -(-sizes[at] // UNIT_BYTES):
                pieces[at * _PIECES + 4 : at * _PIECES + 6] = (frame.binary, base64.b64encode(compressed))
                sizes[at] = size
