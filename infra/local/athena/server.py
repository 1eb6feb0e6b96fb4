"""Serve the local Athena over HTTP (AWS JSON 1.1) on loopback, in threads of this process."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
from botocore.config import Config

from infra.local.athena.api import Api
from infra.local.athena.errors import InvalidRequestError
from infra.local.athena.executions import Executions
from infra.local.ministack import LOOPBACK, client_env

MAX_REQUEST_BYTES = 1024 * 1024  # Athena's quota for a query is 256 KiB
_log = logging.getLogger(__name__)


class AthenaServer:
    """A bound server. It starts after the stand-in, since each needs the other's address."""

    def __init__(self) -> None:
        self._http = _HttpServer((LOOPBACK, 0), _Handler)
        self.endpoint = f"http://{LOOPBACK}:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="athena-http", daemon=True)
        self._executions: Executions | None = None

    def start(self, aws_endpoint: str) -> None:
        """Start to serve, with S3, Glue and the work groups of the stand-in at `aws_endpoint`."""
        self._executions = Executions(_client("s3", aws_endpoint), _client("glue", aws_endpoint))
        self._http.api = Api(self._executions, _client("athena", aws_endpoint))
        self._thread.start()

    def close(self) -> None:
        """Cancel the running queries and stop the server."""
        if self._executions:
            self._http.shutdown()
            self._executions.close()
        self._http.server_close()


@contextmanager
def run_athena(aws_endpoint: str) -> Iterator[AthenaServer]:
    """Run a local Athena with the stand-in at `aws_endpoint` until the block ends."""
    server = AthenaServer()
    try:
        server.start(aws_endpoint)
        yield server
    finally:
        server.close()


def _client(service: Any, endpoint: str) -> Any:
    """Open a client that ignores the credentials and endpoints of the user's environment."""
    env = client_env(endpoint)
    make: Any = boto3.Session(
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_REGION"],
    ).client
    return make(service, endpoint_url=endpoint, config=Config(proxies={}, s3={"addressing_style": "path"}))


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    api: Api


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one segment; otherwise the body would wait 40 ms for an acknowledgement
    server: _HttpServer
    timeout = 120

    def do_POST(self) -> None:
        """Respond to one operation, which its target names: `AmazonAthena.StartQueryExecution`."""
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_REQUEST_BYTES:
            self.close_connection = True
            self._refuse(413, "RequestEntityTooLargeException", {"message": "the request is too large"})
            return
        content = self.rfile.read(length)
        operation = self.headers.get("X-Amz-Target", "").removeprefix("AmazonAthena.")
        try:
            self._send(200, self.server.api.answer(operation, json.loads(content or b"{}")))
        except InvalidRequestError as error:
            self._refuse(400, "InvalidRequestException", {"AthenaErrorCode": error.code, "Message": str(error)})
        except (KeyError, TypeError, ValueError) as error:
            self._refuse(400, "InvalidRequestException", {"Message": f"malformed request: {error!r}"})
        except Exception as error:  # noqa: BLE001 - the client gets a 500, the log has the trace
            _log.exception("local Athena failed in %s", operation)
            self._refuse(500, "InternalServerException", {"Message": repr(error)})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log to the logger instead of standard error."""
        _log.debug(format, *args)

    def _refuse(self, status: int, kind: str, members: dict[str, Any]) -> None:
        self._send(status, {"__type": kind, **members})

    def _send(self, status: int, members: dict[str, Any]) -> None:
        content = json.dumps(members).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
