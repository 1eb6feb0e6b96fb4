"""An ASGI application over a Lambda handler: a request becomes the event of a function URL, as the client sent it.

The handler is synchronous, so threads run it; the event loop reads bodies, answers probes, and enforces limits.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from serve.log import note_problem
from serve.web.problems import Problem
from serve.web.request import Form, find_trace
from serve.web.respond import render_response, respond_problem
from server.body import MAX_BODIES, Body, Receive, Room
from server.messages import PART, Reply

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handle = Callable[[Any, Any], Any]

LIVE, READY = "/livez", "/readyz"
MAX_ANSWERS = 32 * 1024 * 1024  # bytes of all large answers that a process is sending
ANSWER_SECONDS = 60.0  # for sending a large answer: no door waits longer
MAX_WAITING = 256  # requests of a process that wait for a thread; more are refused at once
CHECK_SECONDS = 1.5  # for one read of storage, and for a probe
CHECK_EVERY = 1.0  # seconds that the outcome of a look is used: any pod of the VPC can ask for it
POLL_SECONDS = 0.25  # between two looks at whether the server drains
STORAGE = "storage"  # what /readyz says; the log says more
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
_NO_STORE = {"Content-Type": "application/health+json", "Cache-Control": "no-store"}


class Function(NamedTuple):
    """What a server runs: serve or score.

    Attributes:
        handle: the Lambda handler; threads share it.
        check: raises an exception if requests cannot be answered now; it looks at storage. A probe waits for it up to
            `CHECK_SECONDS`.
        seconds: longest time of a request, waiting for a thread included: the time-out of the Lambda function.
        is_quick: whether the handler answers an event within milliseconds, without waiting: then no thread is needed.
            None: it never does.
        start: is called before the first request, e.g. to load models.
        stop: is called after the last request.
        write_line: writes the log line of a request that the server refuses: status, milliseconds, fields.
    """

    handle: Handle
    check: Callable[[], None]
    seconds: float
    is_quick: Callable[[Mapping[str, Any]], bool] | None = None
    start: Callable[[], None] = lambda: None
    stop: Callable[[], None] = lambda: None
    write_line: Callable[[int, float, Mapping[str, object]], None] = lambda *_: None


class _Context:
    """What a handler asks Lambda's context for: how long the request can take."""

    def __init__(self, ends: float) -> None:
        self._ends = ends

    def get_remaining_time_in_millis(self) -> int:
        return int((self._ends - time.monotonic()) * 1000)


class Application:
    """The ASGI application of one process."""

    def __init__(
        self,
        function: Function,
        threads: int,
        *,
        drains: Path | None = None,
        report: Callable[[str], None] = lambda _: None,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Create the application; nothing is opened before `start`.

        Args:
            function: what answers requests.
            threads: how many requests are handled at a time.
            drains: a file that exists once the server is asked to end.
            report: takes the reason of a request that is refused or broken off here, for metrics.
            log: takes a line of the log.
        """
        self.threads = threads
        self._function = function
        self._drains = drains
        self._report = report
        self._log = log
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="check")  # a busy server is still ready
        self._most = threads + MAX_WAITING
        self._running = 0
        self._bodies = Room(MAX_BODIES)
        self._answers = Room(MAX_ANSWERS)
        self._is_draining = False
        self._check: asyncio.Future[str | None] | None = None
        self._checked_at = float("-inf")
        self._logged: str | None = None

    async def start(self) -> None:
        """Prepare the function, e.g. load models.

        Raises:
            Exception: it cannot answer requests.
        """
        await asyncio.get_running_loop().run_in_executor(self._pool, self._function.start)
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the function; call it after the last answer."""
        self._watching.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._function.stop)

    async def _watch(self) -> None:
        """Notice that the server drains."""
        while self._drains is not None and not self._is_draining:
            self._is_draining = self._drains.exists()
            await asyncio.sleep(POLL_SECONDS)

    def answer_at_once(self, scope: Scope, body: bytes) -> Reply | None:
        """Answer a request, whose body is complete, if the function is quick; otherwise return None."""
        if self._function.is_quick is None or self._running >= self._most:
            return None
        event = build_event(scope, body, find_id(scope))
        if not self._function.is_quick(event):
            return None
        context = _Context(time.monotonic() + self._function.seconds)
        return _close(_build_reply(self._function.handle(event, context)), self._is_draining)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path: bytes = scope["raw_path"]
        body = Body(scope["headers"], receive, self._bodies)
        if path == LIVE.encode():
            await self._send(send, _build_health())
        elif path == READY.encode():
            await self._send(send, await self._find_readiness())
        else:
            await self._send(send, _close(await self._handle(scope, body), self._is_draining))
        await body.discard()

    async def _find_readiness(self) -> Reply:
        """Return the answer of /readyz: 503 with the reason while the server drains, or storage does not answer."""
        return _build_health("draining" if self._is_draining else await self._find_fault())

    async def _find_fault(self) -> str | None:
        """Look at storage, or take the outcome of a look within the last second; return what is wrong."""
        if self._check is None or (self._check.done() and time.monotonic() - self._checked_at >= CHECK_EVERY):
            self._checked_at = time.monotonic()
            self._check = asyncio.get_running_loop().run_in_executor(self._checker, self._look)
        try:
            return await asyncio.wait_for(asyncio.shield(self._check), CHECK_SECONDS)
        except TimeoutError:
            return STORAGE

    def _look(self) -> str | None:
        """Look at storage; what is wrong is logged when it changes, since a probe must not show internals."""
        error = None
        try:
            self._function.check()
        except Exception as found:  # noqa: BLE001 - whatever it is, requests could not be answered
            error = f"{type(found).__name__}: {found}"[:200]
        if error and error != self._logged:
            self._log(json.dumps({"level": "WARNING", "event": "not_ready", "error": error}))
        self._logged = error
        return STORAGE if error else None

    async def _handle(self, scope: Scope, body: Body) -> Reply:
        began, request_id = time.monotonic(), find_id(scope)
        try:
            sent = await body.read()
            if self._running >= self._most:
                raise Problem("unavailable", reason="overloaded", headers={"Retry-After": "1"})
            event = build_event(scope, sent, request_id)
            reply = _build_reply(await self._call(event, began + self._function.seconds))
            if not self._answers.take(reply.held):
                raise Problem("unavailable", reason="too-many-answers", headers={"Retry-After": "1"})
            return reply
        except Problem as problem:
            self._report(problem.reason or problem.code)
            response = respond_problem(problem, request_id)
            fields: dict[str, object] = {"request_id": request_id}
            note_problem(problem, fields)
            self._function.write_line(response.status, (time.monotonic() - began) * 1000, fields)
            return _build_reply(render_response(response, Form.HTTP, is_head=scope["method"] == "HEAD"))
        finally:
            body.release()

    async def _call(self, event: dict[str, Any], ends: float) -> dict[str, Any]:
        """Call the handler, in a thread unless it is quick: to and from a thread takes longer than a quick answer.

        Raises:
            Problem: it has no answer in time; it counts as running until it ends.
        """
        context = _Context(ends)
        answer: dict[str, Any] | None = None
        if self._function.is_quick and self._function.is_quick(event):
            answer = self._function.handle(event, context)
        else:
            answer = await self._run(event, context, ends)
        if answer is None:
            raise Problem("unavailable", reason="too-slow", headers={"Retry-After": "1"})
        return answer

    async def _run(self, event: dict[str, Any], context: _Context, ends: float) -> dict[str, Any] | None:
        """Return the handler's answer from a thread, or None when the time is over.

        `asyncio.wait` over `run_in_executor` does the same in 8 us more. No callback refers to the answer, which can
        have some MB: a cycle would keep it until the next search for garbage.
        """
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def finish() -> None:
            self._running -= 1
            wake()

        def notify(_: object) -> None:
            with suppress(RuntimeError):  # the server has ended, and waits no longer
                loop.call_soon_threadsafe(finish)

        self._running += 1
        future = self._pool.submit(self._begin, event, context)
        future.add_done_callback(notify)
        timer = loop.call_later(ends - time.monotonic(), wake)
        try:
            await waiter
        finally:
            timer.cancel()
        return future.result() if future.done() else None

    def _begin(self, event: dict[str, Any], context: _Context) -> Any:
        """Call the handler, unless the request has its answer: its time was over before a thread was free."""
        return self._function.handle(event, context) if context.get_remaining_time_in_millis() > 0 else None

    async def _send(self, send: Send, reply: Reply) -> None:
        """Send an answer; a large one in parts, each once there is room for it, so that a slow client is noticed."""
        headers = list(reply.headers)
        if reply.held:
            headers.append((b"content-length", str(len(reply.data)).encode()))
        try:
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            if not reply.held:
                await send({"type": "http.response.body", "body": reply.data})
                return
            async with asyncio.timeout(ANSWER_SECONDS):
                for start in range(0, len(reply.data), PART):
                    end = start + PART
                    part = {"body": reply.data[start:end], "more_body": end < len(reply.data)}
                    await send({"type": "http.response.body", **part})
        except TimeoutError:  # the server breaks the connection, since the answer is not complete
            self._report("slow-reader")
        finally:
            self._answers.release(reply.held)


def _build_reply(answer: Mapping[str, Any]) -> Reply:
    """Build the response from what a handler returns."""
    body = answer["body"]
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer["headers"].items()]
    return Reply(answer["statusCode"], headers, b64decode(body) if answer.get("isBase64Encoded") else body.encode())


def _close(reply: Reply, is_closed: bool) -> Reply:
    """Add the header that ends the connection, if it ends."""
    return reply._replace(headers=[*reply.headers, (b"connection", b"close")]) if is_closed else reply


def _build_health(fault: str | None = None) -> Reply:
    """Build the answer of a probe."""
    body = {"status": "fail", "reason": fault} if fault else {"status": "pass"}
    return _build_reply({"statusCode": 503 if fault else 200, "headers": _NO_STORE, "body": json.dumps(body)})


def build_event(scope: Scope, body: bytes, request_id: str) -> dict[str, Any]:
    """Build the event of a function URL (payload 2.0): path and query as sent, all values of a repeated header."""
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    path = scope["raw_path"].decode("utf-8", "replace")
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": scope["query_string"].decode("utf-8", "replace"),
        "multiValueHeaders": headers,
        "requestContext": {"requestId": request_id, "http": {"method": scope["method"], "path": path}},
        **({"body": b64encode(body).decode(), "isBase64Encoded": True} if body else {"isBase64Encoded": False}),
    }


def find_id(scope: Scope) -> str:
    """Return the id that the gateway gave the request, so that its log and ours agree; otherwise a new one."""
    given = ""
    for name, value in scope["headers"]:
        if name == b"x-amzn-trace-id" and (trace := find_trace(value.decode("latin-1"))):
            return trace
        if name == b"x-request-id":
            given = value.decode("latin-1")
    return given if _ID.match(given) else str(uuid.uuid4())
