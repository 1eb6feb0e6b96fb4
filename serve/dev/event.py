"""Translate between WSGI and the event of a function URL, so that the laptop runs the deployed handler."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from serve.handler import Handler

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def build_event(environ: WSGIEnvironment) -> dict[str, Any]:
    """Build the event of a function URL (payload 2.0) from a WSGI request."""
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    if kind := environ.get("CONTENT_TYPE"):
        headers["content-type"] = kind
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) if "wsgi.input" in environ else b""
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
    return {
        "version": "2.0",
        "rawPath": path.replace("%", "%25"),  # WSGI has decoded it; the handler decodes what a function URL sends
        "rawQueryString": environ.get("QUERY_STRING", ""),
        "headers": headers,
        "requestContext": {"requestId": str(uuid.uuid4()), "http": {"method": environ["REQUEST_METHOD"], "path": path}},
        **({"body": base64.b64encode(body).decode()} if body else {}),
        "isBase64Encoded": bool(body),
    }


def build_app(handler: Handler) -> WSGIApplication:
    """Build a WSGI application from the handler."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        result = handler(build_event(environ), None)
        status = HTTPStatus(result["statusCode"])
        body = base64.b64decode(result["body"]) if result["isBase64Encoded"] else result["body"].encode()
        start_response(f"{status.value} {status.phrase}", list(result["headers"].items()))
        return [body] if body else []

    return app
