"""Decompress a text part as a stream: gzip, zstd or snappy, recognized by its first bytes and its name.

A gzip or zstd file can consist of several members; a zstd file can begin with skippable frames (RFC 8878, 3.1.2), as
pzstd writes them. Snappy has no file format of its own; two are in use: Google's framing (`.sz`, python-snappy) and
Hadoop's blocks (`.snappy`, written by Spark and Hive). A bare snappy block would have to be held in memory as a whole
and is refused, as is all other compression (`enrich.read.magic`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from enrich.read.magic import HEAD_BYTES, refuse_other

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # after a byte from 0x50 to 0x5f; lz4 uses the same ones
_FRAMED = b"\xff\x06\x00\x00sNaPpY"
_MAX_BLOCK = 64 * 1024 * 1024  # a snappy block that declares more is refused; writers use 64 KB to 1 MB


class Damaged(ValueError):
    """The compressed stream is truncated, or does not match its name or first bytes; the message has the remedy."""


def unpack(name: str, file: Any, block_size: int) -> Iterator[bytes]:
    """Yield the decompressed content in blocks of `block_size` bytes or somewhat more; the last can be shorter.

    Args:
        name: the object key; `.snappy` identifies Hadoop's blocks, which have no magic bytes.
        file: a seekable binary file.
        block_size: in bytes.

    Raises:
        Damaged: the stream can't be decompressed.
        OtherFormat: the file has another format.
    """
    head = _read_head(file)
    refuse_other(head, name)
    if not head:
        return iter(())
    if head.startswith(_FRAMED):
        return _gather(_read_framed(file), block_size)
    if name.endswith((".snappy", ".sz")):
        return _gather(_read_hadoop(file), block_size)
    codec = "gzip" if head.startswith(_GZIP) else "zstd" if head.startswith(_ZSTD) else None
    for suffix in (".gz", ".zst", ".zstd"):
        if codec is None and name.endswith(suffix):
            raise Damaged(f"its name ends with {suffix}, but it is not compressed; remove the suffix, or compress it")
    return _read_stream(file, codec, block_size)


def _read_head(file: Any) -> bytes:
    """Read the first bytes, after skippable frames, and leave the file at its start."""
    at = 0
    while True:
        head: bytes = file.read(HEAD_BYTES)
        if head[1:4] != _SKIPPABLE or head[0] >> 4 != 5 or len(head) < 8:
            file.seek(0)
            return head
        at += 8 + int.from_bytes(head[4:8], "little")
        file.seek(at)


def _read_stream(file: Any, codec: str | None, block_size: int) -> Iterator[bytes]:
    stream = pa.PythonFile(file, "r")
    if codec:
        stream = pa.CompressedInputStream(stream, codec)
    while True:
        try:
            block = stream.read(block_size)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"its compression is damaged ({error}); write it again") from error
        if not block:
            return
        yield block


def _gather(pieces: Iterator[bytes], block_size: int) -> Iterator[bytes]:
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= block_size:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _read_framed(file: Any) -> Iterator[bytes]:
    """Read the format of google/snappy's framing_format.txt; checksums are ignored, as the object store has its own."""
    while header := file.read(4):
        kind, length = header[0], int.from_bytes(header[1:4], "little")
        content = _exactly(file, length)
        if kind == 0x00:
            yield _decompress(content[4:])
        elif kind == 0x01:
            yield content[4:]
        elif 0x02 <= kind <= 0x7F:
            raise Damaged(f"it has a chunk of unknown kind {kind:#x}; write it again, or compress it with gzip")


def _read_hadoop(file: Any) -> Iterator[bytes]:
    """Read blocks: the decompressed length, then pieces with their compressed lengths until it is reached."""
    while header := file.read(4):
        left = int.from_bytes(header, "big")
        while left > 0:
            length = int.from_bytes(_exactly(file, 4), "big")
            piece = _decompress(_exactly(file, length))
            left -= len(piece)
            yield piece
        if left < 0:
            raise Damaged("a block has more than it declares; a bare snappy block can't be read, frame it or use gzip")


def _decompress(block: bytes) -> bytes:
    length, shift = 0, 0
    for byte in block[:5]:  # the preamble: the decompressed length as a varint
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    if length > _MAX_BLOCK:
        raise Damaged("a block declares more than 64 MB; a bare snappy block can't be read, frame it or use gzip")
    try:
        return bytes(pa.Codec("snappy").decompress(block, decompressed_size=length, asbytes=True))
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"its compression is damaged ({error}); write it again") from error


def _exactly(file: Any, length: int) -> bytes:
    if length > _MAX_BLOCK:
        raise Damaged("a block declares a length above 64 MB; a bare snappy block can't be read, frame it or use gzip")
    content = file.read(length)
    if len(content) < length:
        raise Damaged("it ends in the middle of a block; write it again")
    return bytes(content)
