"""HTTP/1.1 on the event loop: a connection reads one request after the other, and an ASGI application answers.

No other thread takes part, since waking one takes longer than a quick answer. What a client can make the server hold or
wait for is bounded here (heads, what is read ahead, idle connections) and in `server.app` and `server.body`.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Generator, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

from serve.web.freshness import render_http_date
from serve.web.problems import Problem
from serve.web.request import Form
from serve.web.respond import render_response, respond_problem
from server.body import DISCARD_BYTES, DISCARD_SECONDS
from server.logs import report_fault
from server.messages import MAX_HEADERS, PART, Malformed, Reply, Request, parse_request
from wire.errors import TransportError
from wire.head import MAX_CHUNK_LINE, MAX_HEAD, parse_chunk_size

# For the headers of a request, and for a connection without one: longer than doors keep an idle connection (60 s), so
# that they close it and never send a request into its end.
IDLE_SECONDS = 75.0
CONNECTIONS = 16_384  # of a process, if it can open as many files; more are closed at once
RESERVED_FILES = 64  # for all else but threads: sockets that listen, values of metrics, connections to be closed
FILES_OF_A_THREAD = 4  # connections to AWS and to issuers
BACKLOG = 1024  # connections that wait to be accepted
# At a time. If no file can be opened, asyncio reports each of these, and tries again for each; and connections beyond
# the bound stay open until all of these are accepted.
ACCEPTED = 8
# Of an answer on its way; the system's own bound is 4 MB, which counts as the container's memory.
SEND_BYTES = 256 * 1024
# Without progress of a client that reads nothing, or is gone without a word; it is retried for 15 minutes otherwise.
SEND_SECONDS = 60
# A body of this size is waited for a moment, since it comes right after its head: then the application can answer at
# once.
SMALL = 16 * 1024
SMALL_SECONDS = 0.1
_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def _build_problem(problem: Problem) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Build headers and body of an answer to a request whose id is not known."""
    answer = render_response(respond_problem(problem, ""), Form.HTTP, is_head=False)
    headers = [(name.lower().encode(), value.encode()) for name, value in answer["headers"].items()]
    return headers, answer["body"].encode()


_PROBLEMS = {
    400: _build_problem(Problem("invalid_request", "the request is not HTTP/1.1, or the end of its body is ambiguous")),
    431: _build_problem(
        Problem(
            "content_too_large",
            f"send a request line and headers of at most {MAX_HEAD} bytes, and at most {MAX_HEADERS} headers",
            members={"status": 431},
        )
    ),
    500: _build_problem(Problem("internal_error")),
}
_UNREAD = Request("", b"", b"", [], 0, keeps_open=False, expects_continue=False)


class Answering(Protocol):
    """An ASGI application that can also answer some requests without waiting."""

    def answer_at_once(self, scope: MutableMapping[str, Any], body: bytes) -> Reply | None:
        """Answer a request within milliseconds, or return None: then the application is called as by ASGI."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Answer a request."""


def open_socket(host: str, port: int) -> socket.socket:
    """Bind a socket; its connections inherit bounds of what the system holds for them. Processes share the port.

    Raises:
        OSError: the port is in use.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_SECONDS * 1000)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def count_connections(threads: int) -> int:
    """Return how many connections this process can have: each is an open file, and some are needed for all else."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return CONNECTIONS
    return min(CONNECTIONS, files - min(RESERVED_FILES + FILES_OF_A_THREAD * threads, files // 2))


class HttpServer:
    """Serves an application, which can be replaced, on the event loop that runs."""

    def __init__(self, application: Answering, threads: int = 8) -> None:
        """Create the server.

        Args:
            application: what answers requests.
            threads: those of the process that open connections of their own.
        """
        self.application = application
        self.most = count_connections(threads)
        self.connections: set[Connection] = set()
        self.is_closing = False
        self.buffer = memoryview(bytearray(PART))  # of all connections: it is read into and copied in one step
        self._server: asyncio.Server | None = None
        self._date = 0, b""
        self._waiting: set[Connection] = set()  # for small bodies, and some whose body has come meanwhile

    async def listen(self, sock: socket.socket) -> None:
        """Accept the connections of a socket that is bound."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=sock, backlog=ACCEPTED)
        sock.listen(BACKLOG)

    async def close(self, seconds: float) -> None:
        """Stop listening, and return when all requests are answered, or a time has passed."""
        self.is_closing = True
        if self._server:
            self._server.close()
        for each in list(self.connections):
            each.end()
        ends = time.monotonic() + seconds
        while self.connections and time.monotonic() < ends:
            await asyncio.sleep(0.01)
        for each in list(self.connections):
            each.abort()

    def wait_for(self, connection: Connection) -> None:
        """Start a request of the connection later, if its small body has not come by then.

        One timer of all connections takes less time than one of each request.
        """
        if not self._waiting:
            asyncio.get_running_loop().call_later(SMALL_SECONDS, self._start_late)
        self._waiting.add(connection)

    def _start_late(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._waiting = {each for each in list(self._waiting) if each.start_late(now)}
        if self._waiting:
            loop.call_later(SMALL_SECONDS, self._start_late)

    def date(self) -> bytes:
        """Return the header Date."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, f"date: {render_http_date(now)}\r\n".encode()
        return self._date[1]


class Connection(asyncio.BufferedProtocol):
    """One connection. A request is read once the one before is answered."""

    _transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._data = b""  # received; parsed up to `_at`
        self._at = 0
        self._parser = self._parse()
        self._request: Request
        self._parts: list[bytes] = []  # of the body, that the application has not taken
        self._held = 0  # bytes of them
        self._late: tuple[float, MutableMapping[str, Any]] | None = None  # until when a small body is waited for
        self._opening: MutableMapping[str, Any] | None = None  # of an answer whose first part is not sent yet
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None  # the application waits for a part, or for room
        self._since = self._loop.time()  # when the connection was opened, or had its last answer
        self._discarded = -1  # bytes after a request that could not be read
        self._is_busy = False  # the application has the request
        self._is_whole = False  # the body has arrived
        self._is_begun = self._is_answered = False  # the answer is sent in part, or as a whole
        self._has_body = True
        self._is_last = False  # the connection ends with this answer
        self._is_full = False  # the client does not read
        self._is_cut = False  # the client sends nothing any more

    # What the event loop calls.

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport
        if self._server.is_closing or len(self._server.connections) >= self._server.most:
            transport.abort()
        self._server.connections.add(self)
        transport.set_write_buffer_limits(PART)
        self._timer = self._loop.call_later(IDLE_SECONDS, self._check_idle)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return where to read to."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read."""
        if self._discarded >= 0:
            self._discarded += nbytes
            if self._discarded > DISCARD_BYTES:
                self.abort()
            return
        self._data += self._server.buffer[:nbytes]
        self._advance()

    def eof_received(self) -> bool:
        """Leave the connection open for the answer to a request that was read."""
        self._is_cut = self._is_last = True
        self._wake()
        return self._is_busy

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """End: the application gets no more of the body, and what it still sends is dropped."""
        self._server.connections.discard(self)
        self._timer.cancel()
        self._parser.close()
        self._is_cut = self._is_last = True
        self._is_full = False
        self._wake()

    def pause_writing(self) -> None:
        """Wait before more is written."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_full = False
        self._wake()
        self._advance()

    def end(self) -> None:
        """Close the connection, after the answer to its request if it has one."""
        self._is_last = True
        if not self._is_busy and self._late is None:
            self._transport.close()

    def abort(self) -> None:
        """Break off the connection."""
        self._transport.abort()

    def _check_idle(self) -> None:
        left = IDLE_SECONDS if self._is_busy else self._since + IDLE_SECONDS - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_idle)
        elif self._transport.get_write_buffer_size():
            self.abort()
        else:
            self._transport.close()

    # Reading.

    def _advance(self) -> None:
        """Parse as far as it goes; stop reading while what was read is enough."""
        try:
            next(self._parser, None)
        except Malformed as error:
            self._refuse(error.status)
            return
        is_ahead = self._is_busy and self._is_whole and self._at < len(self._data)
        if self._held >= PART or is_ahead or self._is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _parse(self) -> Generator[None, None, None]:
        """Read requests, one after the other, until the connection ends with an answer."""
        while not self._is_last:
            while self._is_full:
                yield
            head = yield from self._until(b"\r\n\r\n", MAX_HEAD, 431)
            request = self._request = parse_request(head.removeprefix(b"\r\n"))  # some clients end a body so
            self._is_whole = self._is_answered = self._is_begun = False
            self._is_last = self._is_last or not request.keeps_open or self._server.is_closing
            scope = {
                "type": "http",
                "method": request.method,
                "raw_path": request.path,
                "query_string": request.query,
                "headers": request.headers,
            }
            length = request.length
            if length is not None and length <= SMALL and not request.expects_continue:
                yield from self._wait_for(length, scope)
                if not self._is_busy:
                    body = self._data[self._at : self._at + length]
                    self._at += length
                    self._is_whole = True
                    if self._answer_at_once(scope, body):
                        continue
                    self._put(body)
                    self._start(scope)
            else:
                self._start(scope)
            if not self._is_whole:
                yield from self._read(length) if length is not None else self._read_chunks()
                self._is_whole = True
                self._wake()
            while self._is_busy:
                yield

    def _wait_for(self, length: int, scope: MutableMapping[str, Any]) -> Generator[None, None, None]:
        """Wait for a small body, or for the moment when the application is called without it."""
        if len(self._data) - self._at >= length:
            return
        self._late = self._loop.time() + SMALL_SECONDS, scope
        self._server.wait_for(self)
        while len(self._data) - self._at < length and not self._is_busy:
            yield
        self._late = None

    def _answer_at_once(self, scope: MutableMapping[str, Any], body: bytes) -> bool:
        """Answer a request if the application can at once; return whether it did."""
        try:
            reply = self._server.application.answer_at_once(scope, body)
            if reply is None:
                return False
            head, data = self._build_head(reply.status, reply.headers, reply.data), reply.data
        except Exception as error:  # noqa: BLE001 - a fault in one request must not end the others
            report_fault(error)
            self._write_problem(500)
        else:
            self._write(head, data)
        self._finish_answer()
        return True

    def _until(self, mark: bytes, most: int, status: int = 400) -> Generator[None, None, bytes]:
        """Read up to a mark, which is at most some bytes away."""
        start = self._at
        while (end := self._data.find(mark, start)) < 0:
            if len(self._data) - self._at > most:
                raise Malformed(status)
            self._data, self._at = self._data[self._at :], 0
            start = max(0, len(self._data) - len(mark) + 1)
            yield
        if end - self._at > most:
            raise Malformed(status)
        found = self._data[self._at : end]
        self._at = end + len(mark)
        return found

    def _read(self, length: int) -> Generator[None, None, None]:
        """Read so many bytes of a body."""
        while length > 0:
            part = self._data[self._at : self._at + length]
            if part:
                self._at += len(part)
                length -= len(part)
                self._put(part)
            else:
                self._data, self._at = b"", 0
                yield

    def _read_chunks(self) -> Generator[None, None, None]:
        try:
            while size := parse_chunk_size((yield from self._until(b"\r\n", MAX_CHUNK_LINE))):
                yield from self._read(size)
                if (yield from self._until(b"\r\n", 1)):
                    raise Malformed
        except TransportError as error:
            raise Malformed from error
        left = MAX_HEAD
        while line := (yield from self._until(b"\r\n", left)):  # trailers are ignored
            if b"\r" in line or b"\n" in line:
                raise Malformed
            left -= len(line)

    def _put(self, part: bytes) -> None:
        self._parts.append(part)
        self._held += len(part)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    # The application.

    def _start(self, scope: MutableMapping[str, Any]) -> None:
        self._is_busy = True
        self._task = self._loop.create_task(self._run(scope))

    def start_late(self, now: float) -> bool:
        """Call the application if the small body is late; return whether it is still waited for."""
        if self._late is None or self._is_cut:
            return False
        until, scope = self._late
        if now < until:
            return True
        self._start(scope)
        self._advance()  # what has come of the body
        return False

    async def _run(self, scope: MutableMapping[str, Any]) -> None:
        try:
            await self._server.application(scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001 - as in `_answer_at_once`
            report_fault(error)
            if not self._is_begun:
                self._write_problem(500)
                self._is_answered = True
        self._is_busy = False
        if not self._is_answered:
            self.abort()
        elif self._discarded >= 0:
            self._linger()
        elif not self._is_whole:
            self._transport.close()
        else:
            self._finish_answer()
            self._advance()

    def _finish_answer(self) -> None:
        self._since = self._loop.time()
        self._parts.clear()
        self._held = 0
        if self._is_last:
            self._transport.close()

    async def receive(self) -> dict[str, Any]:
        """Return a part of the body, as ASGI has it."""
        if self._request.expects_continue and not (self._parts or self._is_whole or self._is_begun):
            self._request = self._request._replace(expects_continue=False)
            self._transport.write(_CONTINUE)
        while not self._parts and not self._is_whole and not self._is_cut:
            await self._wait()
        if self._is_cut and not self._parts and not self._is_whole:
            return {"type": "http.disconnect"}
        body = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        if not self._is_whole:
            self._transport.resume_reading()
        return {"type": "http.request", "body": body, "more_body": not self._is_whole}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send the head or a part of the answer, as ASGI has it; wait until there is room for another part."""
        if message["type"] == "http.response.start":
            self._opening = message
            return
        data, is_more = message.get("body", b""), message.get("more_body", False)
        head = b""
        if self._opening is not None:
            start, self._opening = self._opening, None
            head = self._build_head(start["status"], start["headers"], None if is_more else data)
        self._write(head, data)
        self._is_answered = not is_more
        while is_more and self._is_full:
            await self._wait()

    # Writing.

    def _build_head(self, status: int, headers: Iterable[tuple[bytes, bytes]], data: bytes | None) -> bytes:
        """Build the head of an answer; `data` is its whole body, None if that is sent in parts."""
        lines = [_LINES[status]]
        has_length = is_closed = False
        for name, value in headers:
            lines.append(b"%b: %b\r\n" % (name, value))
            has_length |= name == b"content-length"
            is_closed |= name == b"connection"  # the application says nothing but "close"
        self._has_body = self._request.method != "HEAD" and status not in (204, 304)
        if self._has_body and not has_length:
            if data is None:
                self._is_last = True  # its end is that of the connection
            else:
                lines.append(b"content-length: %d\r\n" % len(data))
        if is_closed:
            self._is_last = True
        elif self._is_last:
            lines.append(b"connection: close\r\n")
        lines.append(self._server.date())
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise ValueError("a header has a line end")
        return head + b"\r\n"

    def _write(self, head: bytes, data: bytes) -> None:
        self._is_begun = True
        if not self._transport.is_closing():
            self._transport.write(head + data if self._has_body else head)

    def _write_problem(self, status: int) -> None:
        """Write the answer to a request that cannot be read or answered; the connection ends with it."""
        self._is_last = True
        headers, data = _PROBLEMS[status]
        self._write(self._build_head(status, headers, data), data)

    def _refuse(self, status: int) -> None:
        """Answer a request that cannot be read, or break off the body that the application waits for."""
        self._discarded = 0
        self._is_last = True
        if self._is_busy:
            self._is_cut = True
            self._wake()
            return
        self._request = _UNREAD
        self._write_problem(status)
        self._linger()

    def _linger(self) -> None:
        """End the connection, but discard for a moment what the client still sends.

        A reset would destroy the answer (RFC 9112, section 9.6).
        """
        self._transport.resume_reading()
        self._transport.write_eof()
        self._loop.call_later(DISCARD_SECONDS, self.abort)
