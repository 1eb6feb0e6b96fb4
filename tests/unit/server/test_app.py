"""The ASGI application: events as the client sent them, probes, and bounds on what a client can send."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from base64 import b64decode
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from server import app as module
from server import body as bodies
from server.app import Application, build_event, find_id
from server.body import DISCARD_BYTES, MAX_BODIES, MAX_BODY
from server.messages import PART
from tests.unit.serve.kit import App, item, sign
from tests.unit.server.kit import Answer, ask, build, echo, scope, send


def test_an_event_has_what_the_client_sent() -> None:
    """Path and query are not decoded, a repeated header keeps its values, a body is complete."""
    headers = [(b"accept", b"a"), (b"accept", b"b"), (b"content-length", b"4")]
    found = ask(build(), b"/v1/a%2Fb/../%C3%A9", "POST", b"x=%41&x=2", headers, parts=[b"\xffa", b"bc"]).json
    assert found["rawPath"] == "/v1/a%2Fb/../%C3%A9"
    assert found["rawQueryString"] == "x=%41&x=2"
    assert found["multiValueHeaders"]["accept"] == ["a", "b"]
    assert found["requestContext"]["http"]["method"] == "POST"
    assert (b64decode(found["body"]), found["isBase64Encoded"]) == (b"\xffabc", True)


def test_bytes_that_are_no_text_are_no_error() -> None:
    """A path, a query or a header can have any byte."""
    found = build_event(scope(b"/\xff", query=b"\xfe", headers=[(b"x", b"\xfd")]), b"", "id")
    assert json.dumps(found)


def test_the_handler_answers_through_it() -> None:
    """The read API: an item, its encoded slash, HEAD, two Authorization headers."""
    app = build(App(item("a", '{"x":1}')).handler)
    good = (b"authorization", f"Bearer {sign()}".encode())
    found = ask(app, b"/v1/flight-delays/a", headers=[good])
    assert (found.status, found.json, found.headers["content-type"]) == (200, {"x": 1}, "application/json")
    assert ask(app, b"/v1/flight-delays%2Fa", headers=[good]).status == 404
    assert ask(app, b"/v1/flight-delays/a", "HEAD", headers=[good])[::2] == (200, b"")
    assert ask(app, b"/v1/flight-delays/a", headers=[good, good]).json["detail"].startswith("there is more than one")


def test_the_id_is_that_of_the_door() -> None:
    """A load balancer's trace, or a gateway's request id; anything else gets a new one."""
    trace = "Root=1-67891233-abcdef012345678912345678"
    assert find_id(scope(headers=[(b"x-amzn-trace-id", f"Self=1;{trace}".encode())])) == trace
    assert find_id(scope(headers=[(b"x-request-id", b"5f1e-a")])) == "5f1e-a"
    for bad in (b"a b", b"", b"x" * 200, b'"', b"a\n"):
        assert len(find_id(scope(headers=[(b"x-request-id", bad)]))) == 36


def test_liveness_does_not_ask_storage_and_readiness_does() -> None:
    """With storage down, /readyz says so, and the log says why, once; /livez and the process are well."""
    asked: list[int] = []
    lines: list[str] = []

    def check() -> None:
        asked.append(1)
        raise ConnectionError("no table at 10.0.0.1")

    app = build(check=check, log=lines.append)
    assert ask(app, b"/livez")[::2] == (200, b'{"status": "pass"}')
    assert asked == []
    found = ask(app, b"/readyz")
    assert (found.status, found.json) == (503, {"status": "fail", "reason": "storage"})
    app._look()
    expected = {"level": "WARNING", "event": "not_ready", "error": "ConnectionError: no table at 10.0.0.1"}
    assert [json.loads(line) for line in lines] == [expected]
    assert found.headers["cache-control"] == "no-store"
    assert ask(build(), b"/readyz").json == {"status": "pass"}
    assert ask(build(), b"/readyz/").json["rawPath"] == "/readyz/"


def test_readiness_waits_a_bounded_time_and_asks_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that hangs is reported before the probe gives up; many probes are one look."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.05)
    asked, ends = [], Event()

    def check() -> None:
        asked.append(1)
        ends.wait(60)

    async def run() -> list[Answer]:
        app = build(check=check)
        found = await asyncio.gather(*(send(app, scope(b"/readyz")) for _ in range(5)))
        ends.set()
        monkeypatch.setattr(module, "CHECK_SECONDS", 60)
        return [*found, await send(app, scope(b"/readyz"))]

    found = asyncio.run(run())
    assert {one.status for one in found[:5]} == {503}
    assert found[0].json["reason"] == "storage"
    assert found[5].status == 200
    assert len(asked) == 1


def test_a_server_that_drains_answers_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the file exists, /readyz is 503, requests are still answered, and their connections end."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    stopped = []

    async def run() -> tuple[Answer, Answer, Answer]:
        app = build(drains=tmp_path / "drains", stop=lambda: stopped.append(1))
        await app.start()
        before = await send(app, scope())
        (tmp_path / "drains").touch()
        while (await send(app, scope(b"/readyz"))).status == 200:
            await asyncio.sleep(0.01)
        found = before, await send(app, scope()), await send(app, scope(b"/readyz"))
        assert not stopped
        await app.stop()
        return found

    before, during, readiness = asyncio.run(run())
    assert (before.status, before.headers.get("connection")) == (200, None)
    assert (during.status, during.headers["connection"]) == (200, "close")
    assert (readiness.status, readiness.json["reason"]) == (503, "draining")
    assert stopped == [1]


def test_a_function_that_cannot_start_ends_the_process() -> None:
    """The process gets the reason."""

    def start() -> None:
        raise ValueError("no models")

    with pytest.raises(ValueError, match="no models"):
        asyncio.run(build(start=start).start())


class Client:
    """A client that sends a body in parts of 64 KB, without end or up to a number of parts, and counts its reads."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.got: list[Any] = []
        self.reads = 0
        self.reads_at_answer: int | None = None

    async def receive(self) -> Any:
        if self.got and self.reads_at_answer is None:
            self.reads_at_answer = self.reads
        self.reads += 1
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"x" * 65536, "more_body": self.reads != self.most}


TOO_LONG = {
    "declared": (b"content-length", str(MAX_BODY + 1).encode()),
    "chunked": (b"transfer-encoding", b"chunked"),
}


@pytest.mark.parametrize("kind", TOO_LONG)
def test_a_body_is_bounded(kind: str) -> None:
    """A declared length that is too large is answered before it is read, a body without end at the bound.

    Then what still comes is discarded, up to a bound: a proxy that is still sending must get the answer, not a reset.
    """
    reasons: list[str] = []
    client = Client()
    app = build(report=reasons.append)
    headers = [TOO_LONG[kind]]
    found = ask(app, b"/v1/models/iris/score", "POST", headers=headers, receive=client.receive, got=client.got)
    assert (found.status, found.json["code"], found.headers["connection"]) == (413, "content_too_large", "close")
    assert client.reads_at_answer == (0 if kind == "declared" else MAX_BODY // 65536 + 1)
    assert client.reads - client.reads_at_answer == DISCARD_BYTES // 65536
    assert reasons == ["content-too-large"]
    whole = [(b"content-length", str(MAX_BODY).encode())]
    assert len(b64decode(ask(app, headers=whole, parts=[b"x" * MAX_BODY]).json["body"])) == MAX_BODY
    assert app._bodies.take(MAX_BODIES), "nothing is held any more"


@pytest.mark.parametrize("path", [b"/v1/models/iris/score", b"/livez", b"/readyz"])
def test_a_body_that_no_answer_needs_is_read_to_its_end(path: bytes) -> None:
    """Of a refused request, and of a probe that has one: the connection is not reset."""
    client = Client(20)
    ask(build(), path, "POST", headers=[TOO_LONG["declared"]], receive=client.receive, got=client.got)
    assert (client.reads_at_answer, client.reads) == (0, 20)


def test_a_refused_client_that_sends_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its answer; one that sends slowly, waits for "100 Continue", or is gone, keeps nothing for longer."""
    monkeypatch.setattr(bodies, "DISCARD_SECONDS", 0.05)
    ended = []

    async def slow() -> Any:
        try:
            await asyncio.sleep(5)
        finally:
            ended.append(1)

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    for receive in (slow, gone):
        assert ask(build(), b"/", "POST", headers=[TOO_LONG["declared"]], receive=receive).status == 413
    assert ended == [1]


def large(event: Any, context: Any) -> dict[str, Any]:
    """Answer with four parts and a half."""
    return {"statusCode": 200, "headers": {}, "body": "x" * (PART * 4 + PART // 2)}


def test_a_large_answer_is_sent_in_parts() -> None:
    """With its length; a smaller one in one message."""
    got: list[Any] = []
    found = ask(build(large), got=got)
    assert len(found.body) == int(found.headers["content-length"]) == PART * 4 + PART // 2
    assert len(got) == 6
    assert "content-length" not in ask(build()).headers, "the server adds it"


def test_a_client_that_does_not_read_its_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time its connection is broken off; until then large answers to others have what room is left."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(module, "MAX_ANSWERS", PART * 6)
    reasons: list[str] = []
    got: list[Any] = []

    async def stop_reading(message: Any) -> None:
        got.append(message)
        if len(got) == 3:
            await asyncio.sleep(60)

    async def run() -> tuple[Answer, Answer, Answer]:
        app = build(large, report=reasons.append)
        slow = asyncio.create_task(app(scope(), Client().receive, stop_reading))
        while len(got) < 3:
            await asyncio.sleep(0.01)
        others = await send(app, scope()), await send(app, scope(b"/livez"))
        await slow
        return *others, await send(app, scope())

    refused, small, after = asyncio.run(run())
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert (small.status, after.status, len(after.body)) == (200, 200, PART * 4 + PART // 2)
    assert got[-1]["more_body"], "the answer is not complete"
    assert reasons == ["too-many-answers", "slow-reader"]


def test_a_body_that_never_ends_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow body is refused after a time, an interrupted one at once."""
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(bodies, "DISCARD_SECONDS", 0.05)
    reasons: list[str] = []

    async def slow() -> Any:
        await asyncio.sleep(5)

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    app = build(report=reasons.append)
    for receive, detail in ((slow, "the body did not arrive within"), (gone, "the body is not complete")):
        found = ask(app, b"/", "POST", headers=[(b"content-length", b"5")], receive=receive)
        assert (found.status, found.json["code"]) == (400, "invalid_request")
        assert found.json["detail"].startswith(detail)
    assert reasons == ["slow-body", "disconnected"]


def test_bodies_of_all_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many large bodies at a time are refused, and their bytes are given back."""
    monkeypatch.setattr(module, "MAX_BODIES", 100)
    header = [(b"content-length", b"80")]

    async def run() -> tuple[list[int], int]:
        app = build()
        release = asyncio.Event()

        async def wait() -> Any:
            if not release.is_set():
                release.set()
                return {"type": "http.request", "body": b"x" * 80, "more_body": True}
            await asyncio.sleep(0.05)
            return {"type": "http.request", "body": b"", "more_body": False}

        first = asyncio.create_task(send(app, scope(headers=header), receive=wait))
        await release.wait()
        second = await send(app, scope(headers=header), b"x" * 80)
        return [(await first).status, second.status], (await send(app, scope(headers=header), b"x" * 80)).status

    assert asyncio.run(run()) == ([200, 503], 200)


def test_a_crowd_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """More requests than threads and places to wait: 503 with Retry-After, and the others are answered."""
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    go = Event()

    def handle(event: Any, context: Any) -> Any:
        go.wait(5)
        return echo(event, context)

    async def run() -> list[Answer]:
        app = build(handle, threads=2)
        tasks = [asyncio.create_task(send(app, scope())) for _ in range(7)]
        await asyncio.sleep(0.05)
        assert sum(task.done() for task in tasks) == 2
        assert (await send(app, scope(b"/livez"))).status == 200
        go.set()
        return list(await asyncio.gather(*tasks))

    found = asyncio.run(run())
    assert sorted(one.status for one in found) == [200] * 5 + [503] * 2
    refused = next(one for one in found if one.status == 503)
    assert (refused.json["code"], refused.headers["retry-after"]) == ("unavailable", "1")


def test_time_in_the_queue_counts() -> None:
    """The handler is told how much of the request's time is left."""
    left = []

    def handle(event: Any, context: Any) -> Any:
        left.append(context.get_remaining_time_in_millis())
        time.sleep(0.1)
        return echo(event, context)

    async def run() -> None:
        app = build(handle, threads=1, seconds=5.0)
        await asyncio.gather(*(send(app, scope()) for _ in range(3)))

    asyncio.run(run())
    assert 4_500 < left[0] <= 5_000
    assert left[0] - left[2] >= 100


def test_a_request_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """503, whatever the handler does; what still runs or waits counts as waiting, and what is late is not begun."""
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    reasons: list[str] = []
    begun: list[str] = []
    go = Event()

    def handle(event: Any, context: Any) -> Any:
        begun.append(event["rawPath"])
        go.wait(5)
        return echo(event, context)

    async def run() -> tuple[tuple[Answer, Answer], Answer, Answer]:
        app = build(handle, threads=1, seconds=0.2, report=reasons.append)
        late = await asyncio.gather(send(app, scope(b"/runs")), send(app, scope(b"/waits")))
        crowd = await send(app, scope(b"/crowd"))
        go.set()
        while app._running:
            await asyncio.sleep(0.01)
        return late, crowd, await send(app, scope(b"/after"))

    began = time.monotonic()
    late, crowd, after = asyncio.run(run())
    assert time.monotonic() - began < 3
    assert [(one.status, one.json["code"], one.headers["retry-after"]) for one in (*late, crowd)] == [
        (503, "unavailable", "1")
    ] * 3
    assert after.status == 200
    assert reasons == ["too-slow", "too-slow", "overloaded"]
    assert begun == ["/runs", "/after"]


def test_an_answer_is_not_kept_once_it_is_sent() -> None:
    """Not until the next search for garbage either: a crowd with large answers would fill the memory."""
    answers: list[weakref.ref[Any]] = []

    class Body(str):
        """A text that can be referred to weakly."""

    def handle(event: Any, context: Any) -> Any:
        time.sleep(0.02)  # the server waits for it
        body = Body("x")
        answers.append(weakref.ref(body))
        return {"statusCode": 200, "headers": {}, "body": body}

    async def run() -> list[bool]:
        app = build(handle)
        await send(app, scope())
        await asyncio.sleep(0.05)
        return [answer() is None for answer in answers]

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(run()) == [True]
    finally:
        gc.enable()


def test_a_refused_request_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the id that the client gets, and that the handler's line has if there is one; probes have none."""
    lines: list[tuple[int, dict[str, Any]]] = []
    ids: list[str] = []

    def handle(event: Any, context: Any) -> Any:
        ids.append(event["requestContext"]["requestId"])
        time.sleep(0.3)
        return echo(event, context)

    def write_line(status: int, latency_ms: float, fields: Any) -> None:
        assert 0 <= latency_ms < 5000
        lines.append((status, dict(fields)))

    app = build(handle, seconds=0.1, write_line=write_line)
    large = ask(app, b"/", "POST", headers=[TOO_LONG["declared"], (b"x-request-id", b"one")], receive=Client(1).receive)
    late = ask(app)
    ask(app, b"/livez")
    assert lines == [
        (413, {"request_id": "one", "code": "content_too_large", "reason": "content-too-large"}),
        (503, {"request_id": late.json["requestId"], "code": "unavailable", "reason": "too-slow"}),
    ]
    assert (large.json["requestId"], ids) == ("one", [late.json["requestId"]])


def test_head_has_no_body_even_if_the_server_refuses() -> None:
    """As the handler does."""
    app: Application = build()
    found = ask(app, b"/", "HEAD", headers=[(b"content-length", str(MAX_BODY + 1).encode())])
    assert (found.status, found.body) == (413, b"")


def test_a_body_ends_with_its_declared_length() -> None:
    """The server's message that nothing follows is not waited for: it comes from another thread."""
    asked: list[int] = []

    async def receive() -> Any:
        asked.append(1)
        return {"type": "http.request", "body": b"abcd", "more_body": True}

    request = scope(b"/", "POST", headers=[(b"content-length", b"4")])
    found = asyncio.run(send(build(), request, receive=receive))
    assert (b64decode(found.json["body"]), len(asked)) == (b"abcd", 1)


def test_an_empty_part_is_not_the_end_of_a_chunked_body() -> None:
    """Its end is not declared: only the server says it."""
    found = ask(build(), b"/v1/a", "POST", headers=[(b"transfer-encoding", b"chunked")], parts=[b"", b"ab", b"", b"c"])
    assert b64decode(found.json["body"]) == b"abc"
