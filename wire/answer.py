"""An answer, taken apart as it comes in: one parser for those who wait for each and those who serve many. Pure."""

from __future__ import annotations

from collections.abc import Generator

from wire.errors import TooLarge, TransportError
from wire.head import MAX_CHUNK_LINE, MAX_HEAD, parse_chunk_size, parse_head
from wire.response import Response, check_whole


class Answer:
    """One answer, fed with what is received.

    `response` is there once `feed` has returned True; `keeps_open` then tells whether the connection may be used again.
    """

    __slots__ = ("_data", "_largest", "_method", "_parsing", "keeps_open", "response")

    response: Response

    def __init__(self, method: str, largest: int) -> None:
        self._method = method
        self._largest = largest
        self._data = b""  # received and not yet used
        self._parsing: Generator[None, None, None] | None = None
        self.keeps_open = False

    @property
    def has_begun(self) -> bool:
        """Return whether anything of the answer has come."""
        return self._parsing is not None

    def feed(self, data: bytes) -> bool:
        """Take what was received; return whether the answer is whole.

        Raises:
            TransportError: it is damaged.
            TooLarge: its body has more than `largest` bytes.
        """
        self._data += data
        if self._parsing is None:
            self._parsing = self._parse()
        return next(self._parsing, True) is True

    def _parse(self) -> Generator[None, None, None]:
        head = parse_head((yield from self._until(b"\r\n\r\n", MAX_HEAD)), self._method)
        while head.status < 200:  # 100, 103: more is to come
            head = parse_head((yield from self._until(b"\r\n\r\n", MAX_HEAD)), self._method)
        if head.is_chunked:
            body = yield from self._chunks()
        elif (head.length or 0) > self._largest:
            raise TooLarge(f"answer is larger than {self._largest} bytes")
        else:
            body = yield from self._exactly(head.length or 0)
        self.response = Response(head.status, head.headers, body)
        check_whole(self.response, self._method)
        self.keeps_open = head.keeps_open and not self._data  # what is left belongs to no request

    def _chunks(self) -> Generator[None, None, bytes]:
        parts, total = [], 0
        while size := parse_chunk_size((yield from self._until(b"\r\n", MAX_CHUNK_LINE))):
            total += size
            if total > self._largest:
                raise TooLarge(f"answer is larger than {self._largest} bytes")
            parts.append((yield from self._exactly(size)))
            if (yield from self._exactly(2)) != b"\r\n":
                raise TransportError("answer has a malformed chunk")
        while (yield from self._until(b"\r\n", MAX_HEAD)):
            pass  # trailers, of which nothing here asks
        return b"".join(parts)

    def _until(self, mark: bytes, largest: int) -> Generator[None, None, bytes]:
        while (end := self._data.find(mark)) < 0:
            if len(self._data) > largest:
                raise TransportError("answer has a head without end")
            yield
        found, self._data = self._data[:end], self._data[end + len(mark) :]
        return found

    def _exactly(self, size: int) -> Generator[None, None, bytes]:
        if len(self._data) < size:
            parts, missing = [self._data], size - len(self._data)
            while missing > 0:
                self._data = b""
                yield
                parts.append(self._data)
                missing -= len(self._data)
            self._data = b"".join(parts)
        found, self._data = self._data[:size], self._data[size:]
        return found
