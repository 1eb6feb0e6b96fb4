"""Parse an HTTP/1.1 response incrementally, for blocking and non-blocking connections alike."""

from collections.abc import Generator

from wire.errors import TooLarge, TransportError
from wire.head import MAX_CHUNK_LINE, MAX_HEAD, parse_chunk_size, parse_head
from wire.response import Response, check_whole


class ResponseParser:
    """Parses one response from its bytes as they arrive.

    `response` is set when `feed` has returned True; then `keeps_open` is true if the connection can be used again.
    """

    __slots__ = ("_data", "_largest", "_method", "_parsing", "keeps_open", "response")

    response: Response

    def __init__(self, method: str, largest: int) -> None:
        self._method = method
        self._largest = largest
        self._data = b""  # received and not parsed yet
        self._parsing: Generator[None, None, None] | None = None
        self.keeps_open = False

    @property
    def has_begun(self) -> bool:
        """Return whether any byte was received."""
        return self._parsing is not None

    def feed(self, data: bytes) -> bool:
        """Parse bytes that were received; return whether the response is complete.

        Raises:
            TransportError: the response is malformed.
            TooLarge: its body has more than `largest` bytes.
        """
        self._data += data
        if self._parsing is None:
            self._parsing = self._parse()
        return next(self._parsing, True) is True

    def _parse(self) -> Generator[None, None, None]:
        head = parse_head((yield from self._until(b"\r\n\r\n", MAX_HEAD)), self._method)
        while head.status < 200:  # 100, 103: interim responses
            head = parse_head((yield from self._until(b"\r\n\r\n", MAX_HEAD)), self._method)
        if head.is_chunked:
            body = yield from self._chunks()
        elif (length := head.length or 0) > self._largest:
            raise TooLarge(f"response is larger than {self._largest} bytes")
        else:
            body = yield from self._exactly(length)
        self.response = Response(head.status, head.headers, body)
        check_whole(self.response, self._method)
        self.keeps_open = head.keeps_open and not self._data  # bytes that are left belong to no request

    def _chunks(self) -> Generator[None, None, bytes]:
        parts, total = [], 0
        while size := parse_chunk_size((yield from self._until(b"\r\n", MAX_CHUNK_LINE))):
            total += size
            if total > self._largest:
                raise TooLarge(f"response is larger than {self._largest} bytes")
            parts.append((yield from self._exactly(size)))
            if (yield from self._exactly(2)) != b"\r\n":
                raise TransportError("response has a malformed chunk")
        while (yield from self._until(b"\r\n", MAX_HEAD)):
            pass  # trailers are ignored
        return b"".join(parts)

    def _until(self, mark: bytes, largest: int) -> Generator[None, None, bytes]:
        while (end := self._data.find(mark)) < 0:
            if len(self._data) > largest:
                raise TransportError(f"response has a line or head of more than {largest} bytes")
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
