"""Parse the head of an HTTP/1.1 response, and determine where its body ends.

RFC 9112 allows a parser to be lenient in places. This one rejects what two parsers could read differently.
"""

import re
from typing import NamedTuple

from wire.errors import TransportError

MAX_HEAD = 64 * 1024
MAX_CHUNK_LINE = 1024
_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\x00\r\n]*)?(?=\r\n|\Z)")
_FIELD = re.compile(r"\r\n([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*+([^\x00\r\n]*+)(?=\r\n|\Z)")
_LENGTH = re.compile(r"[0-9]{1,15}\Z")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\x00]*)?\Z")


class Head(NamedTuple):
    """Status, headers, and how the body is delimited.

    Names of headers are in lower case; different values of a repeated one are joined (RFC 9110 section 5.3). `length`
    is in bytes. None: the body is chunked, or, if `is_chunked` is false, has no stated end.
    """

    status: int
    headers: dict[str, str]
    length: int | None
    is_chunked: bool
    keeps_open: bool


def parse_head(data: bytes, method: str) -> Head:
    """Parse the bytes before the empty line of the response to a `method` request.

    Raises:
        TransportError: not a head of HTTP/1.1, or the length of the body is ambiguous.
    """
    text = data.decode("latin-1")
    begin = _STATUS.match(text)
    if begin is None:
        raise TransportError("response is not HTTP/1.1")
    fields = _FIELD.findall(text, begin.end())
    if len(fields) != text.count("\r\n"):  # each match is a whole line; a bare CR or LF does not end a line
        raise TransportError("response has a malformed header")
    headers: dict[str, str] = {}
    for field, raw in fields:
        name, value = field.lower(), raw.rstrip(" \t")
        if headers.setdefault(name, value) != value:
            headers[name] = f"{headers[name]}, {value}"
    status = int(begin[2])
    is_chunked, length = _delimit(headers.get("transfer-encoding"), headers.get("content-length"))
    if method == "HEAD" or status in (204, 304):
        is_chunked, length = False, 0
    return Head(status, headers, length, is_chunked, begin[1] == "1" and not _closes(headers.get("connection", "")))


def parse_chunk_size(line: bytes) -> int:
    """Parse the line before a chunk and return the chunk's size in bytes; 0 marks the last chunk.

    Raises:
        TransportError: the line is malformed.
    """
    found = _CHUNK.match(line)
    if found is None:
        raise TransportError("response has a malformed chunk")
    return int(found[1], 16)


def _delimit(coding: str | None, length: str | None) -> tuple[bool, int | None]:
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise TransportError("response states its length ambiguously")
        return True, None
    if length is None:
        return False, None
    if not _LENGTH.match(length):
        raise TransportError("response states its length ambiguously")
    return False, int(length)


def _closes(connection: str) -> bool:
    return bool(connection) and "close" in [token.strip() for token in connection.lower().split(",")]
