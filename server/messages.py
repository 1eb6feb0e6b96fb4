"""A request and a response of HTTP/1.1; parse the head of a request, and determine where its body ends.

What two parsers could read differently is refused (RFC 9112): a door in front of the server could see another request.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Bytes that are read, or wait to be written or taken, before no more are. The system's buffers hold a smaller answer.
PART = 64 * 1024
MAX_HEADERS = 100
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([^\x00-\x20\x7f]+) HTTP/1\.([01])(?=\r\n|\Z)")
_FIELD = re.compile(rb"\r\n([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)(?=\r\n|\Z)")
_LENGTH = re.compile(rb"[0-9]{1,15}\Z")
_ORIGIN = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
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
    begin = _LINE.match(data)
    if begin is None:
        raise Malformed
    method, target, version = begin.groups()
    fields = _FIELD.findall(data, begin.end())
    if len(fields) != data.count(b"\r\n"):  # each match is a whole line; a bare CR or LF does not end a line
        raise Malformed
    if len(fields) > MAX_HEADERS:
        raise Malformed(431)
    headers = [(name.lower(), value.rstrip(b" \t")) for name, value in fields]
    found = dict(headers)
    if len(found) < len(headers):
        names = [name for name, _ in headers]
        if any(names.count(name) > 1 for name in _ONCE):
            raise Malformed
    is_old = version == b"0"
    coding, length = found.get(b"transfer-encoding"), found.get(b"content-length", b"0")
    if coding is not None and (coding.lower() != b"chunked" or b"content-length" in found or is_old):
        raise Malformed
    if not _LENGTH.match(length) or (b"host" not in found and not is_old):
        raise Malformed
    keeps_open = not is_old
    if b"connection" in found:
        tokens = b",".join(value for name, value in headers if name == b"connection").lower().split(b",")
        keeps_open = keeps_open and b"close" not in [token.strip() for token in tokens]
    path, _, query = _find_path(target).partition(b"#")[0].partition(b"?")
    expects_continue = not is_old and found.get(b"expect", b"").lower() == b"100-continue"
    size = None if coding else int(length)
    return Request(method.decode("ascii"), path, query, headers, size, keeps_open, expects_continue)


def _find_path(target: bytes) -> bytes:
    """Return a target from its path on; only a proxy's begins with an origin."""
    if target[:1] == b"/" or target == b"*":
        return target
    origin = _ORIGIN.match(target)
    if origin is None:
        raise Malformed
    path = target[origin.end() :]
    return path if path[:1] == b"/" else b"/" + path
