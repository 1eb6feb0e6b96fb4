# mypy: ignore-errors
"""The former laptop server: Larder's handler behind WSGI and waitress, one thread."""

import json
import logging
import os
import uuid
from http import HTTPStatus

from waitress.server import create_server

from serve.datasets import load_served
from serve.handler import build_dependencies, build_handler

handler = build_handler(build_dependencies(os.environ, load_served(os.environ["BENCH_SERVED"]), lambda line: None))


def app(environ, start_response):
    """Translate between WSGI and the event of a function URL."""
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    path = environ["PATH_INFO"]
    event = {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": environ.get("QUERY_STRING", ""),
        "headers": headers,
        "requestContext": {"requestId": str(uuid.uuid4()), "http": {"method": environ["REQUEST_METHOD"], "path": path}},
        "isBase64Encoded": False,
    }
    result = handler(event, None)
    status = HTTPStatus(result["statusCode"])
    start_response(f"{status.value} {status.phrase}", list(result["headers"].items()))
    return [result["body"].encode()]


logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # 31 of 32 connections always wait
server = create_server(app, host="127.0.0.1", port=0, threads=1)
print(json.dumps({"port": server.getsockname()[1]}), flush=True)
server.run()
