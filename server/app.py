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
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from serve.web.problems import Problem
from serve.web.request import Form, find_trace
from serve.web.respond import render_response, respond_problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Handle = Callable[[Any, Any], Any]

LIVE, READY = "/livez", "/readyz"
MAX_BODY = 1024 * 1024  # bytes of a request's body: what score accepts
MAX_BODIES = 32 * 1024 * 1024  # bytes of all bodies that a process holds at a time
BODY_SECONDS = 15.0  # for the whole body, however slowly it comes
MAX_WAITING = 256  # requests of a process that wait for a thread; more are refused at once
CHECK_SECONDS = 1.5  # for one look at storage
CHECK_EVERY = 1.0  # seconds that the outcome of a look is used: any pod of the VPC can ask for it
POLL_SECONDS = 0.25  # between two looks at whether the server drains
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
_NO_STORE = {"Content-Type": "application/health+json", "Cache-Control": "no-store"}


class Function(NamedTuple):
    """What a server runs: serve or score.

    Attributes:
        handle: the Lambda handler; threads share it.
        check: raises an exception if requests cannot be answered now; it looks at storage, within `CHECK_SECONDS`.
        seconds: longest time of a request, waiting for a thread included: the time-out of the Lambda function.
        start: is called before the first request, e.g. to load models.
        stop: is called after the last request.
    """

    handle: Handle
    check: Callable[[], None]
    seconds: float
    start: Callable[[], None] = lambda: None
    stop: Callable[[], None] = lambda: None


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
    ) -> None:
        """Create the application; nothing is opened before `start`.

        Args:
            function: what answers requests.
            threads: how many requests are handled at a time.
            drains: a file that exists once the server is asked to end.
            report: takes the reason of a request that the handler never sees, for metrics.
        """
        self._function = function
        self._drains = drains
        self._report = report
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="check")  # a busy server is still ready
        self._most = threads + MAX_WAITING
        self._running = 0
        self._held = 0  # bytes of bodies
        self._is_draining = False
        self._check: asyncio.Future[str | None] | None = None
        self._checked_at = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or follow the life of the process."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        await receive()
        try:
            await loop.run_in_executor(self._pool, self._function.start)
        except Exception as error:  # noqa: BLE001 - whatever it is, the process must not accept requests
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        watch = loop.create_task(self._watch())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watch.cancel()
        await loop.run_in_executor(None, self._function.stop)
        await send({"type": "lifespan.shutdown.complete"})

    async def _watch(self) -> None:
        while self._drains is not None and not self._is_draining:
            self._is_draining = self._drains.exists()
            await asyncio.sleep(POLL_SECONDS)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: bytes = scope["raw_path"]
        if path == LIVE.encode():
            await self._send(send, {"statusCode": 200, "headers": _NO_STORE, "body": '{"status":"pass"}'})
        elif path == READY.encode():
            await self._send(send, await self._find_readiness())
        else:
            await self._send(send, await self._handle(scope, receive), is_closed=self._is_draining)

    async def _find_readiness(self) -> dict[str, Any]:
        """Return the answer of /readyz: 503 with the reason while the server drains, or storage does not answer."""
        why = "draining" if self._is_draining else await self._find_fault()
        body = {"status": "fail", "reason": why} if why else {"status": "pass"}
        return {"statusCode": 503 if why else 200, "headers": _NO_STORE, "body": json.dumps(body)}

    async def _find_fault(self) -> str | None:
        """Look at storage, or take the outcome of a look within the last second; return what is wrong."""
        if self._check is None or (self._check.done() and time.monotonic() - self._checked_at >= CHECK_EVERY):
            self._checked_at = time.monotonic()
            self._check = asyncio.get_running_loop().run_in_executor(self._checker, self._look)
        try:
            return await asyncio.wait_for(asyncio.shield(self._check), CHECK_SECONDS)
        except TimeoutError:
            return f"storage did not answer within {CHECK_SECONDS} s"

    def _look(self) -> str | None:
        try:
            self._function.check()
        except Exception as error:  # noqa: BLE001 - whatever it is, requests could not be answered
            return f"{type(error).__name__}: {error}"[:200]
        return None

    async def _handle(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        ends = time.monotonic() + self._function.seconds
        held = _Held(self)
        try:
            body = await self._read_body(scope, receive, held)
            if self._running >= self._most:
                raise Problem("unavailable", reason="overloaded", headers={"Retry-After": "1"})
            self._running += 1
            try:
                event = build_event(scope, body)
                loop = asyncio.get_running_loop()
                answer: dict[str, Any] = await loop.run_in_executor(
                    self._pool, self._function.handle, event, _Context(ends)
                )
            finally:
                self._running -= 1
            return answer
        except Problem as problem:
            self._report(problem.reason or problem.code)
            is_head = scope["method"] == "HEAD"
            return render_response(respond_problem(problem, find_id(scope)), Form.HTTP, is_head=is_head)
        finally:
            held.release()

    async def _read_body(self, scope: Scope, receive: Receive, held: _Held) -> bytes:
        """Read the body.

        Raises:
            Problem: it is too large, too slow, or there is no room for another one.
        """
        length, is_chunked = _find_length(scope["headers"])
        if not length and not is_chunked:
            return b""
        if length > MAX_BODY:
            raise _too_large()
        parts = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(
                            "invalid_request", "the body is not complete", reason="disconnected", headers=_CLOSE
                        )
                    part: bytes = message.get("body", b"")
                    size += len(part)
                    if size > MAX_BODY:
                        raise _too_large()
                    if not held.take(len(part)):
                        headers = {"Retry-After": "1", **_CLOSE}
                        raise Problem("unavailable", reason="too-many-bodies", headers=headers)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            detail = f"the body did not arrive within {BODY_SECONDS:.0f} s"
            raise Problem("invalid_request", detail, reason="slow-body", headers=_CLOSE) from None

    async def _send(self, send: Send, answer: Mapping[str, Any], *, is_closed: bool = False) -> None:
        body = answer["body"]
        data = b64decode(body) if answer.get("isBase64Encoded") else body.encode()
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer["headers"].items()
        ]
        if is_closed:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer["statusCode"], "headers": headers})
        await send({"type": "http.response.body", "body": data})


class _Held:
    """The bytes of one request's body, which count towards those of all."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._bytes = 0

    def take(self, size: int) -> bool:
        """Add bytes; return whether there is room for them."""
        self._bytes += size
        self._app._held += size
        return self._app._held <= MAX_BODIES

    def release(self) -> None:
        self._app._held -= self._bytes


def build_event(scope: Scope, body: bytes) -> dict[str, Any]:
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
        "requestContext": {"requestId": find_id(scope), "http": {"method": scope["method"], "path": path}},
        **({"body": b64encode(body).decode(), "isBase64Encoded": True} if body else {"isBase64Encoded": False}),
    }


def find_id(scope: Scope) -> str:
    """Return the id that the gateway gave the request, so that its log and ours agree; otherwise a new one."""
    found = dict(scope["headers"])
    if trace := find_trace(found.get(b"x-amzn-trace-id", b"").decode("latin-1")):
        return trace
    given: str = found.get(b"x-request-id", b"").decode("latin-1")
    return given if _ID.match(given) else str(uuid.uuid4())


def _find_length(headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, bool]:
    """Return the declared length of a body, and whether one comes in chunks. The server has checked both."""
    length, is_chunked = 0, False
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            is_chunked = True
    return length, is_chunked


_CLOSE = {"Connection": "close"}


def _too_large() -> Problem:
    return Problem("content_too_large", f"send at most {MAX_BODY} bytes", reason="content-too-large", headers=_CLOSE)
