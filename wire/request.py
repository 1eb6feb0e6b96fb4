"""Build signed requests as the bytes that are sent."""

import time
from collections.abc import Callable, Sequence
from functools import cache

from wire.endpoint import Endpoint
from wire.sigv4 import Credentials, Signer


@cache  # the code has only a few operations
def operation_headers(service: str, target: str) -> tuple[tuple[str, str], ...]:
    """Return the headers of an operation with a JSON payload, e.g. `dynamodb`, `DynamoDB_20120810.GetItem`."""
    version = "1.0" if service in ("dynamodb", "sqs") else "1.1"
    return (("content-type", f"application/x-amz-json-{version}"), ("x-amz-target", target))


class RequestBuilder:
    """Builds requests to one endpoint.

    `credentials` is called for every request and returns the current ones; without it requests are not signed.
    """

    def __init__(self, endpoint: Endpoint, credentials: Callable[[], Credentials] | None) -> None:
        self._prefix = endpoint.prefix
        self._host = ("host", endpoint.authority)
        self._credentials = credentials
        self._signer = Signer(endpoint.service, endpoint.region)

    def build(self, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
        """Build a request. A retry needs a new one, because signatures expire.

        Raises:
            NoCredentials: none were found, or refreshing them failed.
        """
        target = self._prefix + path
        fields = (self._host, *headers)
        if self._credentials is not None:
            lines = self._signer.sign(method, target, fields, body, self._credentials(), time.time())
        else:
            lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
        if body or method not in ("GET", "HEAD"):
            lines += f"content-length: {len(body)}\r\n"
        return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body
