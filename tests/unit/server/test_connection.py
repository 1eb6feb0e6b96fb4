"""HTTP/1.1 over real sockets: heads and bodies however they are cut, what is refused, and when a connection ends."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from server import connection as module
from server.connection import CONNECTIONS, HttpServer, count_connections, open_socket
from server.messages import PART, Malformed, Reply, parse_request

ROOT = Path(__file__).resolve().parents[3]
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a?q HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
Answer = Callable[[Any, Any, Any], Awaitable[None]]


class Echo:
    """An application that answers with method, path, query and body, at once for the path /quick."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.calls: list[str] = []
        self._answer = answer

    def answer_at_once(self, scope: Any, body: bytes) -> Reply | None:
        if scope["raw_path"] != b"/quick":
            return None
        self.calls.append("at once")
        return Reply(200, [(b"x", b"y")], body)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append("called")
        if self._answer:
            await self._answer(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        word = b"%b %b %b %b" % (scope["method"].encode(), scope["raw_path"], scope["query_string"], body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": word})


def talk(app: Any, *parts: bytes, seconds: float = 0.0, is_ended: bool = True) -> bytes:
    """Send bytes over a connection, a time apart, and return all that comes until the server or the client ends it."""

    async def run() -> bytes:
        server = HttpServer(app)
        sock = open_socket("127.0.0.1", 0)
        await server.listen(sock)
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        for part in parts:
            writer.write(part)
            await asyncio.sleep(seconds)
        if is_ended:
            await asyncio.sleep(0.05)
            writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()
            await server.close(1)

    return asyncio.run(run())


def bodies(data: bytes) -> list[bytes]:
    """Return the bodies of answers that state their length."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        found.append(data[:length])
        data = data[length:]
    return found


def read_problem(data: bytes) -> tuple[int, str]:
    """Return status and code of an answer, which is the only one and as openapi.yaml has it for every error."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert (headers["content-type"], headers["cache-control"]) == ("application/problem+json", "no-store")
    assert (headers["connection"], int(headers["content-length"])) == ("close", len(body))
    problem = json.loads(body)
    schema = yaml.safe_load((ROOT / "openapi.yaml").read_text())["components"]["schemas"]["Problem"]
    assert problem.keys() >= set(schema["required"])
    assert problem["code"] in schema["properties"]["code"]["enum"]
    assert status.startswith(f"HTTP/1.1 {problem['status']} ")
    return problem["status"], problem["code"]


def test_requests_of_one_connection_are_answered_in_order() -> None:
    """Sent one by one or at once; what can be answered at once is, and waits for the ones before it."""
    app = Echo()
    quick = b"POST /quick HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nz"
    assert bodies(talk(app, GET + quick + POST + quick, b"GET / HTTP/1.0\r\n\r\n", is_ended=False)) == [
        b"GET /a  ",
        b"z",
        b"POST /a q abc",
        b"z",
        b"GET /  ",
    ]
    assert app.calls == ["called", "at once", "called", "at once", "called"]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_request_can_be_cut_anywhere(size: int) -> None:
    """Into parts of a size: heads, bodies, chunks, their ends, and trailers."""
    sent = POST + CHUNKED + b"3;x=y\r\nab\n\r\n2\r\n\r\n\r\n0\r\nT: 1\r\n\r\n" + GET
    parts = [sent[at : at + size] for at in range(0, len(sent), size)]
    expected = [b"POST /a q abc", b"POST /a  ab\n\r\n", b"GET /a  "]
    assert bodies(talk(Echo(), *parts, seconds=0.0005)) == expected
    assert bodies(talk(Echo(), sent, seconds=0.1)) == expected


def test_a_small_body_is_waited_for_but_not_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes right after its head: then the application can answer at once. Later, it is called without it."""
    app = Echo()
    head = b"POST /quick HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    assert bodies(talk(app, head, b"ab", b"c", seconds=0.01)) == [b"abc"]
    monkeypatch.setattr(module, "SMALL_SECONDS", 0.01)
    assert bodies(talk(app, head, b"ab", b"c", seconds=0.1)) == [b"POST /quick  abc"]
    assert app.calls == ["at once", "called"]


AMBIGUOUS = {
    "length twice": "Content-Length: 1\r\nContent-Length: 1",
    "two lengths": "Content-Length: 1\r\nContent-Length: 2",
    "list of lengths": "Content-Length: 1, 1",
    "signed length": "Content-Length: +1",
    "hexadecimal length": "Content-Length: 0x1",
    "length and chunks": "Content-Length: 1\r\nTransfer-Encoding: chunked",
    "chunks twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "other coding": "Transfer-Encoding: gzip, chunked",
    "no coding": "Transfer-Encoding: identity",
    "blank before the colon": "Content-Length : 1",
    "folded line": "X: a\r\n b",
    "bare line end": "X: a\nContent-Length: 1",
    "bare carriage return": "X: a\rb",
    "NUL": "X: a\0b",
    "vertical tab": "X: a\vb",
    "two hosts": "Host: y",
    "no name": ": a",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_two_servers_could_read_differently_is_refused(name: str) -> None:
    """With 400, and nothing after it is taken for a request."""
    found = talk(app := Echo(), f"POST /a HTTP/1.1\r\nHost: x\r\n{AMBIGUOUS[name]}\r\n\r\n".encode() + GET)
    assert read_problem(found) == (400, "invalid_request")
    assert app.calls == []


@pytest.mark.parametrize(
    "line",
    ["GET /a HTTP/2.0", "GET  /a HTTP/1.1", "GET /a b HTTP/1.1", "GET a HTTP/1.1", "GET /a", "GE(T /a HTTP/1.1", " "],
)
def test_a_malformed_line_is_refused(line: str) -> None:
    """And so is a request of HTTP/1.1 without Host, or one of 1.0 in chunks."""
    with pytest.raises(Malformed):
        parse_request(f"{line}\r\nHost: x".encode())
    for other in (b"GET /a HTTP/1.1", b"GET /a HTTP/1.0\r\nTransfer-Encoding: chunked"):
        with pytest.raises(Malformed):
            parse_request(other)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    """Nothing else is raised."""
    for head in (data, b"GET /" + data + b" HTTP/1.1\r\nHost: x", b"GET / HTTP/1.1\r\nHost: x\r\n" + data):
        try:
            found = parse_request(head)
        except Malformed:
            continue
        assert (found.method, b"?" in found.path) == (found.method, False)
        assert found.length is None or found.length >= 0


def test_a_target_is_passed_on_as_it_is() -> None:
    """But for the origin of its absolute form, and a fragment."""
    for target, path, query in (
        (b"/a%2Fb/../c?x=%20&y", b"/a%2Fb/../c", b"x=%20&y"),
        (b"http://x:80/a?b", b"/a", b"b"),
        (b"http://x?b", b"/", b"b"),
        (b"/a#b?c", b"/a", b""),
        (b"*", b"*", b""),
        (b"//a?", b"//a", b""),
        (b"/\xe9", b"/\xe9", b""),
    ):
        found = parse_request(b"GET " + target + b" HTTP/1.1\r\nHost: x")
        assert (found.path, found.query) == (path, query)


def test_a_head_is_bounded() -> None:
    """431 for more than 64 KB, or for 100 headers; the answer arrives although the client still sends."""
    large = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 300_000
    assert read_problem(talk(Echo(), large)) == (431, "content_too_large")
    assert read_problem(talk(Echo(), large + b"\r\n\r\n" + GET)) == (431, "content_too_large")
    assert talk(Echo(), large[:60_000] + b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    for number, status in ((99, b"200"), (100, b"431")):
        many = GET[:-2] + b"X: y\r\n" * number + b"\r\n"
        assert talk(Echo(), many).startswith(b"HTTP/1.1 " + status)


def test_a_malformed_chunk_breaks_off_the_body() -> None:
    """The application learns that the body is not complete; nothing after it is a request."""
    seen: list[Any] = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive()).get("more_body"):
            seen.append(message["body"])
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    long = b"x" * 2000
    for wrong in (
        b"3\r\nabcd\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"3\nabc\r\n" + long,
        b"1\r\na\n",
        b"1;" + long + b"\r\na\r\n0\r\n\r\n",
        b"0\r\nT: 1\n\n" + GET + b"\r\n",
    ):
        app = Echo(answer)
        found = talk(app, CHUNKED + b"2\r\nok\r\n" + wrong + GET)
        assert found.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" in found
        assert app.calls == ["called"]
    assert seen[0].startswith(b"ok")


def test_an_answer_to_a_malformed_body_is_not_destroyed() -> None:
    """What the client still sends is discarded for a moment, not answered with a reset."""

    async def run() -> bytes:
        loop = asyncio.get_running_loop()
        server = HttpServer(Echo())
        listening = open_socket("127.0.0.1", 0)
        await server.listen(listening)
        with socket.create_connection(listening.getsockname()) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, CHUNKED + b"x\r\n")
            answer = b""
            while part := await loop.sock_recv(client, PART):
                answer += part
            for _ in range(3):  # the first one after the end of the connection would cause a reset
                await loop.sock_sendall(client, b"x")
                await asyncio.sleep(0.02)
        await server.close(1)
        return answer

    assert asyncio.run(run()).startswith(b"HTTP/1.1 200 ")


def test_an_answer_says_where_it_ends() -> None:
    """HEAD, 204 and 304 have no body; a body whose length is not known ends with the connection."""

    def reply(status: int, *parts: bytes) -> Answer:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": status, "headers": []})
            for number, part in enumerate(parts):
                await send({"type": "http.response.body", "body": part, "more_body": number < len(parts) - 1})

        return answer

    head = GET.replace(b"GET", b"HEAD")
    assert re.search(rb"HTTP/1.1 200 OK\r\ndate: [^\r]+ GMT\r\n\r\n\Z", talk(Echo(reply(200, b"a")), head))
    for status in (204, 304):
        assert b"content-length" not in talk(Echo(reply(status, b"")), GET)
    assert bodies(talk(Echo(reply(200, b"")), GET + GET)) == [b"", b""]
    found = talk(Echo(reply(200, b"a", b"b")), GET + GET, is_ended=False)
    assert found.endswith(b"\r\n\r\nab")
    assert b"connection: close" in found


def test_a_client_is_told_to_continue() -> None:
    """Once the application wants the body, and not if it has answered without it."""
    expecting = POST[:-3].replace(b"Host", b"Expect: 100-continue\r\nHost")
    found = talk(Echo(), expecting, b"abc", seconds=0.05)
    assert found.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b""})
        await receive()

    assert b"100" not in talk(Echo(refuse), expecting)


def test_a_fault_is_a_500_and_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    """Its message, which can have data, is not logged. An answer that is not complete is broken off."""

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("secret")

    async def leave(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})

    assert read_problem(talk(Echo(fail), GET)) == (500, "internal_error")
    head = talk(Echo(fail), GET.replace(b"GET", b"HEAD"))
    assert (head[:13], head[-4:]) == (b"HTTP/1.1 500 ", b"\r\n\r\n"), "HEAD has no body"
    logged = capsys.readouterr().err
    assert "ValueError" in logged
    assert "secret" not in logged
    assert talk(Echo(leave), GET, is_ended=False).endswith(b"\r\n\r\na")


def test_a_line_end_in_a_header_is_not_sent() -> None:
    """A value that could begin another header is a fault."""

    async def split(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nset-cookie: b")]})
        await send({"type": "http.response.body", "body": b""})

    at_once = Echo()
    at_once.answer_at_once = lambda scope, body: Reply(200, [(b"x", b"a\r\nset-cookie: b")], b"")  # type: ignore[method-assign]
    for app in (Echo(split), at_once):
        found = talk(app, GET + GET)
        assert read_problem(found) == (500, "internal_error")
        assert b"set-cookie" not in found


def test_idle_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent ones, ones with an unfinished head, and ones after an answer; not those that wait for an answer."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.1)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    for sent in (b"", GET[:-3], b"\r\n"):
        assert talk(Echo(), sent, is_ended=False) == b""
    assert bodies(talk(Echo(), GET, is_ended=False)) == [b"GET /a  "]
    assert bodies(talk(Echo(slow), GET, is_ended=False)) == [b"late"]


def test_a_client_that_does_not_read_is_waited_for() -> None:
    """Parts of an answer wait for room; so do the requests behind it, and no more of them are read."""
    sent: list[int] = []

    async def large(scope: Any, receive: Any, send: Any) -> None:
        head = [(b"content-length", str(PART * 200).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for number in range(200):
            await send({"type": "http.response.body", "body": b"x" * PART, "more_body": number < 199})
            sent.append(number)

    async def run() -> None:
        server = HttpServer(Echo(large))
        sock = open_socket("127.0.0.1", 0)
        await server.listen(sock)
        reader, writer = await asyncio.open_connection(*sock.getsockname(), limit=PART)
        writer.write(GET + GET)
        await asyncio.sleep(0.3)
        (one,) = server.connections
        assert len(sent) < 150
        assert one._transport.get_write_buffer_size() <= 2 * PART
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(PART * 200)
        writer.close()
        await server.close(1)

    asyncio.run(run())
    assert len(sent) == 400


def test_a_server_that_ends_answers_what_it_has() -> None:
    """It closes idle connections, and waits for answers, but not for ever."""
    go = asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def run() -> None:
        server = HttpServer(Echo(wait))
        sock = open_socket("127.0.0.1", 0)
        await server.listen(sock)
        place = sock.getsockname()
        idle, _ = await asyncio.open_connection(*place)
        reader, writer = await asyncio.open_connection(*place)
        writer.write(GET)
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(server.close(5))
        assert await idle.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*place)
        assert not closing.done()
        go.set()
        answer = await reader.read()
        assert b"connection: close" in answer
        assert answer.endswith(b"done")
        await closing

    asyncio.run(run())


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the server accepts is closed at once."""
    monkeypatch.setattr(module, "CONNECTIONS", 0)
    assert talk(Echo(), seconds=0.1, is_ended=False) == b""


def test_open_files_bound_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are left for all else, up to half."""
    for files, most in ((resource.RLIM_INFINITY, CONNECTIONS), (1_048_576, CONNECTIONS), (1024, 928), (100, 50)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert count_connections(threads=8) == most


def test_a_body_that_was_not_read_is_no_request() -> None:
    """The connection ends with the answer."""

    async def ignore(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = Echo(ignore)
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    with suppress(OSError):
        talk(app, head + GET, b"x" * (100_000 - len(GET)) + GET, seconds=0.1)
    assert app.calls == ["called"]


def test_what_is_read_ahead_is_bounded() -> None:
    """Of a body that the application does not take, and of answers that the client does not read."""

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1)

    async def find_held(app: Echo, data: bytes) -> int:
        server = HttpServer(app)
        sock = open_socket("127.0.0.1", 0)
        await server.listen(sock)
        _, writer = await asyncio.open_connection(*sock.getsockname(), limit=PART)
        writer.write(data)
        await asyncio.sleep(0.5)
        (one,) = server.connections
        held = one._held
        writer.transport.abort()
        await server.close(0)
        return held

    body = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 20_000_000
    assert 0 < asyncio.run(find_held(Echo(wait), body)) <= 2 * PART
    app = Echo()
    quick = b"POST /quick HTTP/1.1\r\nHost: x\r\nContent-Length: 8000\r\n\r\n" + b"z" * 8000
    asyncio.run(find_held(app, quick * 2000))
    assert len(app.calls) < 1500
