"""Sign requests with Signature Version 4. The common part of similar requests is prepared once a day.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hmac
import time
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from _hashlib import HASH

Headers = Sequence[tuple[str, str]]


class Credentials(NamedTuple):
    """AWS credentials; `token` is the session token of temporary credentials."""

    access_key_id: str
    secret: str
    token: str | None = None


class _Form(NamedTuple):
    """The common part of similar requests of one day: templates with `%(moment)s` and `%(digested)s`."""

    canonical: str
    lines: str  # the header lines, up to the signature
    scope: str
    # HMAC (RFC 2104): both hashes when they have read the signing key. Copies of `hmac.HMAC` take twice as long.
    inner: "HASH"
    outer: "HASH"


class Signer:
    """Signs for one service in one region."""

    def __init__(self, service: str, region: str) -> None:
        self.service = service
        self.region = region

    def sign(self, method: str, target: str, headers: Headers, body: bytes, keys: Credentials, now: float) -> str:
        """Return the header lines to send, including those of the signature.

        `target` is the percent-encoded path and query as sent, with parameters sorted by name. Header names are in
        lower case, unique, and include `host`; all are signed. `now` is in epoch seconds.
        """
        moment = _render_moment(int(now))
        form = _prepare(self.service, self.region, method, target, tuple(headers), keys, moment[:8])
        varying = {"moment": moment, "digested": sha256(body).hexdigest()}
        canonical = sha256((form.canonical % varying).encode()).hexdigest()
        inner, outer = form.inner.copy(), form.outer.copy()
        inner.update(f"AWS4-HMAC-SHA256\n{moment}\n{form.scope}\n{canonical}".encode())
        outer.update(inner.digest())
        return f"{form.lines % varying}{outer.hexdigest()}\r\n"


@lru_cache(2)  # many requests are of one second
def _render_moment(second: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


@lru_cache(64)  # serve has five kinds of requests, the writer three; those of S3 objects evict each other
def _prepare(
    service: str,
    region: str,
    method: str,
    target: str,
    headers: tuple[tuple[str, str], ...],
    keys: Credentials,
    day: str,
) -> _Form:
    signed = [(name, value.replace("%", "%%")) for name, value in headers]
    signed.append(("x-amz-date", "%(moment)s"))
    if keys.token:
        signed.append(("x-amz-security-token", keys.token.replace("%", "%%")))
    if service == "s3":
        signed.append(("x-amz-content-sha256", "%(digested)s"))
    signed.sort()
    path, _, query = target.partition("?")
    if service != "s3":  # all services but S3 encode the path once more
        path = quote(path, safe="/~")
    names = ";".join([name for name, _ in signed])
    fields = "".join([f"{name}:{' '.join(value.split())}\n" for name, value in signed])
    place = f"{path}\n{query}".replace("%", "%%")
    scope = f"{day}/{region}/{service}/aws4_request"
    lines = "".join([f"{name}: {value}\r\n" for name, value in signed])
    begin = f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope}, SignedHeaders={names}, Signature="
    key = b"AWS4" + keys.secret.encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return _Form(
        canonical=f"{method}\n{place}\n{fields}\n{names}\n%(digested)s",
        lines=f"{lines}authorization: {begin.replace('%', '%%')}",
        scope=scope,
        inner=sha256(bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0"))),
        outer=sha256(bytes(byte ^ 0x5C for byte in key.ljust(64, b"\0"))),
    )
