"""The laptop server: what runs in a container, in this process on loopback, with the documentation page at /docs."""

import asyncio
import json
from ipaddress import ip_address
from threading import Event, Thread

from serve.dev.docs import read_document, read_pages
from serve.handler import Handler
from server.app import Application, Function, Scope, Send
from server.body import Receive
from server.connection import Answering, HttpServer, open_socket
from server.ports import check_port
from server.settings import SCORE_SECONDS

# The page can only run its own scripts and send requests to its own origin.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
# Not permanent for `/`: browsers cache permanent redirects, and other servers can use this port later.
REDIRECTS = {b"/": 307, b"/docs": 308}
THREADS = 8
START_SECONDS = 10.0
END_SECONDS = 1.0  # for the requests that are being answered


class LaptopApp:
    """/docs/ and /openapi.json from files, a redirect from `/`, all else from the handler."""

    def __init__(self, handler: Handler) -> None:
        self._api = Application(Function(handler, lambda: None, SCORE_SECONDS), THREADS)
        files = {f"/docs/{name}".encode(): page for name, page in read_pages().items()}
        files[b"/docs/"] = files.pop(b"/docs/index.html")
        document = json.dumps(read_document()).encode()
        files[b"/openapi.json"] = ("application/vnd.oai.openapi+json;version=3.0", document)
        self._files = files

    def answer_at_once(self, scope: Scope, body: bytes) -> None:
        """Answer no request without a thread."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope["raw_path"]
        if path in REDIRECTS:
            await _send(send, REDIRECTS[path], {"location": "/docs/"}, b"")
        elif path in self._files and scope["method"] in ("GET", "HEAD"):
            kind, content = self._files[path]
            headers = {"content-type": kind, "content-security-policy": POLICY}
            await _send(send, 200, headers, b"" if scope["method"] == "HEAD" else content)
        else:
            await self._api(scope, receive, send)


async def _send(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class LaptopServer:
    """A server that listens, in a thread of its own."""

    def __init__(self, application: Answering, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: the port is in use.
        """
        self._socket = open_socket(host, check_port(host, port))
        self.host, self.port = host, self._socket.getsockname()[1]
        self._is_open = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._serve(application)), name="server", daemon=True)
        self._thread.start()
        if not self._is_open.wait(START_SECONDS):
            raise OSError(f"the server does not listen at {host}:{self.port} after {START_SECONDS:.0f} s")

    def replace(self, application: Answering) -> None:
        """Answer requests from now on by another application."""
        self._server.application = application

    def run(self) -> None:
        """Return when the server is closed."""
        while self._thread.is_alive():
            self._thread.join(0.2)

    def close(self) -> None:
        """Stop listening, and end the connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(START_SECONDS)

    async def _serve(self, application: Answering) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._server = HttpServer(application)
        await self._server.listen(self._socket)
        self._is_open.set()
        await self._end.wait()
        await self._server.close(END_SECONDS)


def open_server(handler: Handler, host: str = "127.0.0.1", port: int = 8080) -> LaptopServer:
    """Open the server, on loopback only; `run()` waits until `close()`. Port 0 chooses a free port.

    Raises:
        ValueError: the address is not on loopback.
        OSError: the port is in use.
    """
    if not ip_address(host).is_loopback:
        raise ValueError(f"{host} is not on loopback; the laptop server has no TLS and is for this machine alone")
    return LaptopServer(LaptopApp(handler), host, port)
