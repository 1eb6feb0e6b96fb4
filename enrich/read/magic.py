"""Recognize the format of a file that its dataset does not expect, by its first bytes, and give the remedy."""

from __future__ import annotations

import re

HEAD_BYTES = 512  # enough of a file: tar has its magic bytes at 257

_COMPRESS = "compress it with gzip or zstd, or not at all"
_EXTRACT = "take the file out of it, and compress that with gzip or zstd, or not at all"
_TEXT = 'write CSV, JSON lines or Parquet, and set the dataset\'s format to "csv", "jsonl" or "parquet"'
_UTF_8 = "write it as UTF-8"
_MAGIC = (
    (rb"PK\x03\x04|PK\x05\x06", "is a zip file (or Excel's)", _EXTRACT),
    (rb"7z\xbc\xaf\x27\x1c", "is a 7-Zip file", _EXTRACT),
    (rb"Rar!\x1a\x07", "is a RAR file", _EXTRACT),
    (rb"[\s\S]{257}ustar", "is a tar file", _EXTRACT),
    (rb"\x1f\x8b", "is compressed with gzip", ""),
    (rb"\x28\xb5\x2f\xfd", "is compressed with zstd", ""),
    (rb"\xff\x06\x00\x00sNaPpY", "is compressed with snappy", ""),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "is compressed with bzip2", _COMPRESS),
    (rb"\xfd7zXZ\x00", "is compressed with xz", _COMPRESS),
    (rb"\x5d\x00\x00[\s\S]{3}(?:\xff{6}|[\s\S]{3}\x00{4})", "is compressed with LZMA", _COMPRESS),
    (rb"LZIP\x01", "is compressed with lzip", _COMPRESS),
    (rb"\x04\x22\x4d\x18|\x02\x21\x4c\x18", "is compressed with lz4", _COMPRESS),
    (rb"\x89LZO\x00", "is compressed with lzop", _COMPRESS),
    (rb"\x1f[\x9d\xa0]", "is compressed with compress (.Z)", _COMPRESS),
    (rb"x(?:\x9c|\xda(?![\x80-\xbf]))", "is compressed with deflate (zlib)", _COMPRESS),
    (rb"PAR1[\x00-\x08\x0e-\x1f]", "is a Parquet file", 'set the dataset\'s format to "parquet"'),
    (rb"Obj\x01", "is an Avro file", _TEXT),
    (rb"ORC[\s\S]{0,2}[\x00-\x08\x0e-\x1f]", "is an ORC file", _TEXT),
    (rb"ARROW1\x00\x00|\xff{4}[\s\S]{2}\x00\x00", "is an Arrow file", _TEXT),
    (rb"\x89HDF\r\n\x1a\n", "is an HDF5 file", _TEXT),
    (rb"\x93NUMPY", "is a NumPy file", _TEXT),
    (rb"\x80[\x02-\x05]", "is a Python pickle", _TEXT),
    (rb"SQLite format 3\x00", "is a SQLite file", _TEXT),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Excel file", _TEXT),
    (rb"%PDF-", "is a PDF file", _TEXT),
    (rb"(?i)\s*<(?:\?xml|!doctype|html|error>)", "is XML or HTML, an error page perhaps", _TEXT),
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "is UTF-32", _UTF_8),
    (rb"\xff\xfe|\xfe\xff|(?:[^\x00]\x00){2}|(?:\x00[^\x00]){2}", "is UTF-16", _UTF_8),
)
_PATTERNS = [(re.compile(magic), what, remedy) for magic, what, remedy in _MAGIC]
# Hadoop's codecs have formats of their own without magic bytes.
_NAMES = {".bz2": "bzip2", ".xz": "xz", ".lz4": "lz4", ".lzo": "lzo", ".deflate": "deflate", ".br": "brotli"}


class OtherFormat(ValueError):
    """The file has another format than its dataset defines; the message has the format and the remedy."""


def recognize(head: bytes) -> tuple[str, str] | None:
    """Return what a file is, such as "is a zip file", and the remedy; None if it can be text.

    gzip, zstd and snappy have no remedy here: it depends on the expected format.
    """
    return next(((what, remedy) for pattern, what, remedy in _PATTERNS if pattern.match(head)), None)


def refuse_other(head: bytes, name: str = "") -> None:
    """Check that a file is text, or can be decompressed to text.

    Args:
        head: the first bytes.
        name: the object key, for compression without magic bytes; empty for decompressed content.

    Raises:
        OtherFormat: it is something else.
    """
    found = recognize(head)
    if found and found[1]:
        raise OtherFormat(f"it {found[0]}; {found[1]}")
    if found and not name:
        raise OtherFormat(f"it {found[0]} twice; compress it once")
    for suffix, codec in _NAMES.items():
        if head and name.endswith(suffix):
            raise OtherFormat(f"its name ends with {suffix}: it seems to be compressed with {codec}; {_COMPRESS}")
