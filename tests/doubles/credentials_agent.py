"""Where a role's credentials come from: the endpoint of ECS and EKS Pod Identity (GET), or STS for IRSA (POST).

Each answer has a key of its own.
"""

from __future__ import annotations

import datetime
import json
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs

_STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{AccessKeyId}</AccessKeyId>
<SecretAccessKey>{SecretAccessKey}</SecretAccessKey><SessionToken>{Token}</SessionToken>
<Expiration>{Expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""
_DENIED = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
<Code>AccessDenied</Code><Message>Not authorized</Message></Error></ErrorResponse>"""


class CredentialsAgent(BaseHTTPRequestHandler):
    """Subclass it for each test.

    Attributes:
        lives: seconds that the keys of the next answers live.
        tokens: what each request proved itself with: its Authorization header, or its web identity token.
        refuses: answer 403 to each request.
    """

    lives: ClassVar[list[float]]
    tokens: ClassVar[list[str | None]]
    refuses: ClassVar[bool] = False

    def find_life(self) -> float:
        return self.lives.pop(0)

    def do_GET(self) -> None:
        if self._note(self.headers["authorization"]):
            self._answer(200, json.dumps(self._build_keys()))
        else:
            self._answer(403, "{}")

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        if self._note(form["WebIdentityToken"][0]):
            self._answer(200, _STS.format_map(self._build_keys()))
        else:
            self._answer(403, _DENIED)

    def _note(self, token: str | None) -> bool:
        """Keep what was sent; return whether it is accepted."""
        if not self.refuses:
            self.tokens.append(token)
        return not self.refuses

    def _build_keys(self) -> dict[str, str]:
        number = len(self.tokens)
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.find_life())
        keys = {"AccessKeyId": f"AKID{number}", "SecretAccessKey": "secret", "Token": f"token{number}"}
        return keys | {"Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass
