"""The credentials endpoint of a container, as of ECS and EKS Pod Identity: each answer has a key that soon expires."""

from __future__ import annotations

import datetime
import json
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar


class CredentialsAgent(BaseHTTPRequestHandler):
    """Subclass it for each test.

    Attributes:
        lives: seconds that the keys of the next answers live.
        tokens: the Authorization header of each request.
    """

    lives: ClassVar[list[float]]
    tokens: ClassVar[list[str | None]]

    def find_life(self) -> float:
        return self.lives.pop(0)

    def do_GET(self) -> None:
        self.tokens.append(self.headers["authorization"])
        number = len(self.tokens)
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.find_life())
        keys = {"AccessKeyId": f"AKID{number}", "SecretAccessKey": "secret", "Token": f"token{number}"}
        body = json.dumps(keys | {"Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
