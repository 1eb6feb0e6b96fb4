"""An ASGI client in memory: it sends a request to an application as a server would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple

from server.app import Application, Function

Message = MutableMapping[str, Any]


class Answer(NamedTuple):
    """A response: its status, headers in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def echo(event: Any, context: Any) -> dict[str, Any]:
    """Answer with the event."""
    return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(event)}


def ready() -> None:
    """Do nothing: storage answers."""


def build(handle: Callable[[Any, Any], Any] = echo, threads: int = 2, **parts: Any) -> Application:
    """Build an application over a handler."""
    options = {name: parts.pop(name) for name in ("drains", "report", "log") if name in parts}
    return Application(Function(handle, **{"check": ready, "seconds": 10.0, **parts}), threads, **options)


def scope(path: bytes = b"/", method: str = "GET", query: bytes = b"", headers: Sequence[Any] = ()) -> Message:
    """Build the scope of a request."""
    return {"type": "http", "method": method, "raw_path": path, "query_string": query, "headers": list(headers)}


async def send(
    app: Application, asked: Message, *parts: bytes, receive: Any = None, got: list[Message] | None = None
) -> Answer:
    """Send a request with a body in parts; `got` takes the messages of the answer as they come."""
    waiting = [
        {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]
    got = [] if got is None else got

    async def get() -> Message:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def put(message: Message) -> None:
        got.append(message)

    taken: Callable[[], Awaitable[Message]] = receive or get
    await app(asked, taken, put)
    start, *bodies = got
    assert [body.get("more_body", False) for body in bodies] == [True] * (len(bodies) - 1) + [False]
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], headers, b"".join(body["body"] for body in bodies))


def ask(
    app: Application,
    *args: Any,
    parts: Sequence[bytes] = (),
    receive: Any = None,
    got: list[Message] | None = None,
    **named: Any,
) -> Answer:
    """Send one request; the arguments are those of `scope`."""
    return asyncio.run(send(app, scope(*args, **named), *parts, receive=receive, got=got))
