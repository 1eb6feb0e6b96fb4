"""The body of a request: read within bounds of size, time and memory; what is refused is discarded after the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from serve.web.problems import Problem

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

MAX_BODY = 1024 * 1024  # bytes of a request's body: what score accepts
MAX_BODIES = 32 * 1024 * 1024  # bytes of all bodies that a process holds at a time
BODY_SECONDS = 15.0  # for the whole body, however slowly it comes
# After an answer that did not need the body: 10 MB is the largest body that API Gateway passes on, and a door on the
# same network sends it in less than a second.
DISCARD_BYTES = 10 * 1024 * 1024
DISCARD_SECONDS = 2.0
_CLOSE = {"Connection": "close"}


class Room:
    """A number of bytes that a process can hold at a time."""

    def __init__(self, most: int) -> None:
        """Create the room, which is empty."""
        self._most = most
        self._taken = 0

    def take(self, size: int) -> bool:
        """Take bytes, if there is room for them."""
        if self._taken + size > self._most:
            return False
        self._taken += size
        return True

    def release(self, size: int) -> None:
        """Give bytes back."""
        self._taken -= size


class Body:
    """The body of one request."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], receive: Receive, room: Room) -> None:
        """Find its declared length; nothing is read yet.

        Args:
            headers: of the request; the server has checked that they agree.
            receive: of ASGI.
            room: where its bytes count, from `read` to `release`.
        """
        self._receive = receive
        self._room = room
        self._taken = 0
        self._length = 0
        is_chunked = False
        for name, value in headers:
            if name == b"content-length":
                self._length = int(value)
            elif name == b"transfer-encoding":
                is_chunked = True
        self._is_over = not self._length and not is_chunked

    def is_over(self) -> bool:
        """Return whether nothing comes any more."""
        return self._is_over

    async def read(self) -> bytes:
        """Read the body.

        Raises:
            Problem: it is too large, too slow or incomplete, or there is no room for another one.
        """
        if self._length > MAX_BODY:
            raise _too_large()
        if self.is_over():
            return b""
        parts = []
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while not self.is_over():
                    part = await self._read_part()
                    if self._taken + len(part) > MAX_BODY:
                        raise _too_large()
                    if not self._room.take(len(part)):
                        headers = {"Retry-After": "1", **_CLOSE}
                        raise Problem("unavailable", reason="too-many-bodies", headers=headers)
                    self._taken += len(part)
                    parts.append(part)
                    if self._taken == self._length > 0:  # whatever the server says
                        self._is_over = True
        except TimeoutError:
            detail = f"the body did not arrive within {BODY_SECONDS:.0f} s"
            raise Problem("invalid_request", detail, reason="slow-body", headers=_CLOSE) from None
        return b"".join(parts)

    def release(self) -> None:
        """Give back the room of what was read."""
        self._room.release(self._taken)
        self._taken = 0

    async def discard(self) -> None:
        """Read and discard what still comes, within bounds; call it after the answer.

        A socket that is closed with unread bytes resets the connection. A client that is still sending, such as a
        proxy, then reports a broken connection instead of the answer (RFC 9112, section 9.6).
        """
        if self.is_over():
            return
        left = DISCARD_BYTES
        with suppress(TimeoutError, Problem):
            async with asyncio.timeout(DISCARD_SECONDS):
                while left > 0 and not self.is_over():
                    left -= len(await self._read_part())

    async def _read_part(self) -> bytes:
        message = await self._receive()
        self._is_over = not message.get("more_body", False)
        if message["type"] == "http.disconnect":
            raise Problem("invalid_request", "the body is not complete", reason="disconnected", headers=_CLOSE)
        part: bytes = message.get("body", b"")
        return part


def _too_large() -> Problem:
    return Problem("content_too_large", f"send at most {MAX_BODY} bytes", reason="content-too-large", headers=_CLOSE)
