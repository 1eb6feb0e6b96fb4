"""Sign requests with Signature Version 4. The signing key is cached; it changes once a day.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from hmac import digest
from typing import NamedTuple
from urllib.parse import quote

Headers = list[tuple[str, str]]


class Credentials(NamedTuple):
    """AWS credentials; `token` is the session token of temporary credentials."""

    access_key_id: str
    secret: str
    token: str | None = None


class Signer:
    """Signs for one service in one region."""

    def __init__(self, service: str, region: str) -> None:
        self.service = service
        self.region = region

    def sign(
        self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes, keys: Credentials, now: float
    ) -> Headers:
        """Return the headers with those of the signature added.

        `target` is the percent-encoded path and query as sent, with parameters sorted by name. Header names are in
        lower case, unique, and include `host`; all are signed. `now` is in epoch seconds.
        """
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        digested = sha256(body).hexdigest()
        signed = [*headers, ("x-amz-date", moment)]
        if keys.token:
            signed.append(("x-amz-security-token", keys.token))
        if self.service == "s3":
            signed.append(("x-amz-content-sha256", digested))
        signed.sort()
        path, _, query = target.partition("?")
        if self.service != "s3":  # all services but S3 encode the path once more
            path = quote(path, safe="/~")
        names = ";".join([name for name, _ in signed])
        fields = "".join([f"{name}:{' '.join(value.split())}\n" for name, value in signed])
        canonical = f"{method}\n{path}\n{query}\n{fields}\n{names}\n{digested}"
        scope = f"{moment[:8]}/{self.region}/{self.service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        key = _derive_key(keys.secret, moment[:8], self.region, self.service)
        signature = digest(key, text.encode(), "sha256").hex()
        credential = f"Credential={keys.access_key_id}/{scope}"
        value = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
        return [*signed, ("authorization", value)]


@lru_cache(8)
def _derive_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (day, region, service, "aws4_request"):
        key = digest(key, part.encode(), "sha256")
    return key
