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
    """Status, headers as received, and how the body is delimited.

    `length` is in bytes. None: the body is chunked, or, if `is_chunked` is false, has no stated end.
    """

    status: int
    headers: list[tuple[str, str]]
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
    headers = [(name, value.rstrip(" \t")) for name, value in _FIELD.findall(text, begin.end())]
    if len(headers) != text.count("\r\n"):  # each match is a whole line; a bare CR or LF does not end a line
        raise TransportError("response has a malformed header")
    framing: dict[str, set[str]] = {"content-length": set(), "transfer-encoding": set(), "connection": set()}
    for name, value in headers:
        known = framing.get(name.lower())
        if known is not None:
            known.add(value.lower())
    status = int(begin[2])
    is_chunked, length = _delimit(framing["transfer-encoding"], framing["content-length"])
    if method == "HEAD" or status in (204, 304):
        is_chunked, length = False, 0
    tokens = {token.strip() for value in framing["connection"] for token in value.split(",")}
    return Head(status, headers, length, is_chunked, begin[1] == "1" and "close" not in tokens)


def parse_chunk_size(line: bytes) -> int:
    """Parse the line before a chunk and return the chunk's size in bytes; 0 marks the last chunk.

    Raises:
        TransportError: the line is malformed.
    """
    found = _CHUNK.match(line)
    if found is None:
        raise TransportError("response has a malformed chunk")
    return int(found[1], 16)


def _delimit(codings: set[str], lengths: set[str]) -> tuple[bool, int | None]:
    if codings:
        if codings != {"chunked"} or lengths:
            raise TransportError("response states its length ambiguously")
        return True, None
    if not lengths:
        return False, None
    length = lengths.pop()
    if lengths or not _LENGTH.match(length):
        raise TransportError("response states its length ambiguously")
    return False, int(length)
