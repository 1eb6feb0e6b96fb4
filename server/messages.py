"""A request and a response of HTTP/1.1; parse the head of a request, and determine where its body ends.

What two parsers could read differently is refused (RFC 9112): a door in front of the server could see another request.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from wire.errors import TransportError
from wire.head import delimit, parse_fields

# Bytes that are read, or wait to be written or taken, before no more are. The system's buffers hold a smaller answer.
PART = 64 * 1024
MAX_HEADERS = 100
_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([^\x00-\x20\x7f]+) HTTP/1\.([01])(?=\r\n|\Z)")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")  # of a target in absolute form

_ONCE = (b"host", b"content-length", b"transfer-encoding")


class Malformed(Exception):
    """A request that cannot be read; `status` is that of the answer."""

    def __init__(self, status: int = 400) -> None:
        self.status = status


class Request(NamedTuple):
    """A request without its body. Path and query are as sent, names of headers in lower case.

    `length` is that of the body in bytes; None: it is chunked.
    """

    method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    length: int | None
    keeps_open: bool
    expects_continue: bool


class Reply(NamedTuple):
    """A response: status, headers as ASGI has them, body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    data: bytes

    @property
    def held(self) -> int:
        """Bytes that stay in memory until the client has read them: those of a large answer."""
        return len(self.data) if len(self.data) > PART else 0


def parse_request(data: bytes) -> Request:
    """Parse the bytes before the empty line.

    Raises:
        Malformed: not a request of HTTP/1.1 or 1.0, or the length of its body is ambiguous.
    """
    text = data.decode("latin-1")
    begin = _LINE.match(text)
    if begin is None:
        raise Malformed
    method, target, version = begin.groups()
    try:
        fields, framing = parse_fields(text, begin.end())
        is_chunked, length = delimit(framing["transfer-encoding"], framing["content-length"])
    except TransportError as error:
        raise Malformed from error
    if len(fields) > MAX_HEADERS:
        raise Malformed(431)
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    once = [name for name, _ in headers if name in _ONCE]
    is_old = version == "0"
    if len(once) != len(set(once)) or (b"host" not in once and not is_old) or (is_old and is_chunked):
        raise Malformed
    if not target.startswith("/") and target != "*":
        origin = _ORIGIN.match(target)
        if origin is None:
            raise Malformed
        target = target[origin.end() :]
        target = target if target.startswith("/") else f"/{target}"
    path, _, query = target.partition("#")[0].partition("?")
    tokens = {token.strip() for value in framing["connection"] for token in value.split(",")}
    return Request(
        method,
        path.encode("latin-1"),
        query.encode("latin-1"),
        headers,
        None if is_chunked else length or 0,
        not is_old and "close" not in tokens,
        not is_old and (b"expect", b"100-continue") in headers,
    )
