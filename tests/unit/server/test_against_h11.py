"""What the server reads from a connection, beside what h11 reads: it may refuse more, and must read nothing otherwise.

A door in front of the server has a parser of its own. A request that both accept must be the same one for both, and
must end at the same byte: otherwise a body could hold a request that only the server sees.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import h11
from hypothesis import example, given
from hypothesis import strategies as st

from server.connection import Connection, HttpServer
from server.messages import Reply


class Read(NamedTuple):
    """A request with its whole body."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Recorder:
    """An application that records its requests, and answers them at once or after it has waited for them."""

    def __init__(self, *, is_quick: bool) -> None:
        self.found: list[Read] = []
        self._is_quick = is_quick

    def answer_at_once(self, scope: Any, body: bytes) -> Reply | None:
        if not self._is_quick:
            return None
        self._record(scope, body)
        return Reply(200, [], b"")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, is_more = b"", True
        while is_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, is_more = body + message["body"], message["more_body"]
        self._record(scope, body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _record(self, scope: Any, body: bytes) -> None:
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        self.found.append(Read(scope["method"].encode(), target, scope["headers"], body))


class Wire(asyncio.Transport):
    """Where answers go."""

    is_closed = False

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = write_eof = close

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


def read_ours(parts: list[bytes], *, is_quick: bool) -> list[Read]:
    """Return the requests that the server passes on."""
    app = Recorder(is_quick=is_quick)

    async def run() -> None:
        connection, wire = Connection(HttpServer(app)), Wire()
        connection.connection_made(wire)
        for part in parts:
            if not wire.is_closed and part:
                connection.get_buffer(0)[: len(part)] = part
                connection.buffer_updated(len(part))
            for _ in range(20):  # the application's turns
                await asyncio.sleep(0)
        connection.connection_lost(None)

    asyncio.run(run())
    return app.found


def read_h11(data: bytes) -> list[Read]:
    """Return the requests that h11 reads. It takes no empty line before a request."""
    found = list[Read]()
    try:
        while data := data.removeprefix(b"\r\n"):
            connection, body = h11.Connection(h11.SERVER), b""
            connection.receive_data(data)
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                break
            while isinstance(event := connection.next_event(), h11.Data):
                body += event.data
            if not isinstance(event, h11.EndOfMessage):
                break
            found.append(Read(request.method, _strip(request.target), list(request.headers), body))
            data = connection.trailing_data[0] if connection.their_state is h11.DONE else b""
    except h11.ProtocolError:
        pass
    return found


def _strip(target: bytes) -> bytes:
    return target.partition(b"#")[0].removesuffix(b"?")


LINES = st.sampled_from([
    b"GET /a HTTP/1.1",
    b"POST /a?b=c HTTP/1.1",
    b"HEAD / HTTP/1.0",
    b"Host: x",
    b"Content-Length: 0",
    b"Content-Length: 3",
    b"Content-Length: 28",
    b"Content-Length: 3, 3",
    b"content-length:\t3 ",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: Chunked ",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Connection: close",
    b"Connection: keep-alive, Close",
    b"Expect: 100-continue",
    b"X: y",
    b" folded",
    b"3",
    b"003;a=b",
    b"1c",
    b"0",
    b"abc",
    b"",
    b"",
])  # fmt: skip
REQUESTS = st.sampled_from([
    b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 32\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r",
    b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n1B;x\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
])  # fmt: skip
BLOCKS = st.one_of(REQUESTS, REQUESTS, st.lists(LINES, max_size=8).map(lambda lines: b"\r\n".join([*lines, b""])))
BYTES = st.sampled_from([b"", *(bytes([byte]) for byte in b"\r\n \t:;,0159aF/?#%\0\x0b\x7f")])
CHANGES = st.lists(st.tuples(st.integers(0, 400), BYTES), max_size=2)
STREAMS = st.tuples(st.lists(BLOCKS, min_size=1, max_size=4).map(b"".join), CHANGES, st.booleans())


def change(data: bytes, changes: list[tuple[int, bytes]], *, is_put_in: bool) -> bytes:
    """Replace bytes by others or by none, or put them in."""
    for place, new in changes:
        at = place % (len(data) + 1)
        data = data[:at] + new + data[at + (not is_put_in) :]
    return data


@example((b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x0bb\r\n\r\n", [], False), 60, False)
@given(STREAMS, st.integers(1, 60), st.booleans())
def test_the_server_reads_what_h11_reads_or_less(
    stream: tuple[bytes, list[tuple[int, bytes]], bool], size: int, is_quick: bool
) -> None:
    """However it is cut: each request has the same method, target, headers and body, and none is in another's body."""
    data = change(*stream[:2], is_put_in=stream[2])
    found = read_ours([data[at : at + size] for at in range(0, len(data), size)], is_quick=is_quick)
    assert found == read_h11(data)[: len(found)]
    assert found == read_ours([data], is_quick=is_quick)


@given(st.lists(REQUESTS, min_size=1, max_size=4).map(b"".join), st.integers(1, 60), st.booleans())
def test_the_server_reads_each_good_request(data: bytes, size: int, is_quick: bool) -> None:
    """However they are cut."""
    found = read_ours([data[at : at + size] for at in range(0, len(data), size)], is_quick=is_quick)
    assert found == read_h11(data) != []
