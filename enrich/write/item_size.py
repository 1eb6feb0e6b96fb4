"""Compute item sizes and write units as DynamoDB counts them, and gzip bodies."""

from __future__ import annotations

import zlib

import pyarrow as pa
import pyarrow.compute as pc

from serve.item import BODY, EXPIRES_AT, MAX_BODY_BYTES, MAX_ITEM_BYTES, ORDER, PK, RANK, SK, Order

UNIT_BYTES = 1024  # one write unit
# A body is gzipped if that saves a write unit, so never if the item fits into one. Measured for JSON of 900 B to 300 KB
# (tests/bench/gzip_threshold.py): at level 1 the units saved cost 300 to 5,000 times as much as the CPU time spent (30
# to 90 us up to 16 KB). Level 6 takes two to three times as long, and saves 5 % more units above 16 KB, none below.
GZIP_LEVEL = 1


def item_bytes(chunk: pa.Table) -> pa.ChunkedArray:
    """Return each row's item size in bytes as DynamoDB counts it (UTF-8 of names and values), before any gzip."""
    fixed = len(PK + SK + BODY + ORDER + EXPIRES_AT) + len(Order(0, 0, 0).text) + 7  # a number of up to 11 digits
    size = pc.add(pc.binary_length(chunk["pk"]), pc.binary_length(chunk["sk"]))
    size = pc.add(size, pc.fill_null(pc.add(pc.binary_length(chunk["rank"]), len(RANK)), 0))
    return pc.add(pc.add(size, pc.fill_null(pc.binary_length(chunk["body"]), 0)).cast(pa.int64()), fixed)


def count_units(chunk: pa.Table) -> pa.ChunkedArray:
    """Return the write units of each row's item and of its entries in the table's index, before any gzip."""
    units = pc.add(pc.divide(pc.subtract(item_bytes(chunk), 1), UNIT_BYTES), 1)
    return pc.multiply(units, pc.add(chunk["entries"], 1))


def gzip(body: str) -> bytes:
    """Gzip a body; equal texts give equal bytes, since the header has no timestamp."""
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=31)
    return compressor.compress(body.encode()) + compressor.flush()


def find_too_long(chunk: pa.Table) -> list[int]:
    """Return the row numbers of the items whose body is longer than the reader can serve, even as gzip."""
    long = pc.greater(pc.binary_length(chunk["body"]), MAX_BODY_BYTES)
    found: list[int] = chunk.filter(pc.fill_null(long, False))["row"].to_pylist()
    return found


def find_too_large(chunk: pa.Table) -> list[int]:
    """Return the row numbers of the items that exceed DynamoDB's 400 KB even when gzipped."""
    sizes = item_bytes(chunk)
    large = chunk.append_column("size", sizes).filter(pc.greater(sizes, MAX_ITEM_BYTES))
    return [
        row["row"]
        for row in large.select(["row", "body", "size"]).to_pylist()
        if row["size"] - len(row["body"].encode()) + len(gzip(row["body"])) > MAX_ITEM_BYTES
    ]
