"""The laptop server: the handler behind waitress on loopback, with the documentation page at /docs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

from waitress.server import TcpWSGIServer, create_server

from serve.dev.docs import read_document, read_pages
from serve.dev.event import build_app
from serve.handler import Handler

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# The page can only run its own scripts and send requests to its own origin.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)


# Not permanent for `/`: browsers cache permanent redirects, and other servers can use this port later.
REDIRECTS = {"/": "307 Temporary Redirect", "/docs": "308 Permanent Redirect"}


def build_laptop_app(handler: Handler) -> WSGIApplication:
    """Build the application: /docs/ and /openapi.json from files, a redirect from `/`, all else from the handler."""
    api = build_app(handler)
    files = {f"/docs/{name}": page for name, page in read_pages().items()}
    files["/docs/"] = files.pop("/docs/index.html")
    files["/openapi.json"] = ("application/vnd.oai.openapi+json;version=3.0", json.dumps(read_document()).encode())

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path in REDIRECTS:
            start_response(REDIRECTS[path], [("Location", "/docs/"), ("Content-Length", "0")])
            return []
        if path not in files or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return api(environ, start_response)
        kind, content = files[path]
        headers = [("Content-Type", kind), ("Content-Security-Policy", POLICY), ("Content-Length", str(len(content)))]
        start_response("200 OK", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]

    return app


def open_server(handler: Handler, host: str = "127.0.0.1", port: int = 8080) -> TcpWSGIServer:
    """Open the server, on loopback only; `run()` serves until `close()`. Port 0 chooses a free port.

    Raises:
        ValueError: the address is not on loopback.
    """
    if not ip_address(host).is_loopback:
        raise ValueError(f"{host} is not on loopback; the laptop server has no TLS and is only for this machine")
    # One worker thread, because a Lambda also handles one request at a time and the handler is written for that. Other
    # requests wait, and waitress would log a warning about each.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    server = create_server(build_laptop_app(handler), host=host, port=port, ident="larder", threads=1)
    return cast("TcpWSGIServer", server)


def port_of(server: TcpWSGIServer) -> int:
    """Return the port that a server listens on."""
    return int(server.getsockname()[1])
