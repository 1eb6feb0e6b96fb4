"""An answer: whether it is whole, and what an error in it means: retry, fewer requests, or never. Pure."""

from __future__ import annotations

import json
import re
import zlib
from typing import NamedTuple

from wire.errors import Refused, Throttled, TransportError, Unavailable, WireError


class Response(NamedTuple):
    """An answer as it came: header names keep their case, the body its coding."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the first value of a header; `name` in lower case."""
        for header, value in self.headers:
            if header.lower() == name:
                return value
        return None


# Names under which services ask for fewer requests, whatever the status (400, 429 and 503 all occur).
THROTTLES = frozenset(
    {
        "BandwidthLimitExceeded",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
    }
)
# Names of 400 answers that a second try may well turn into 200; an expired token is replaced by the provider.
TRANSIENTS = frozenset(
    {
        "RequestTimeout",
        "RequestTimeoutException",
        "InternalError",
        "InternalServerError",
        "TransactionConflictException",
        "ReplicatedWriteConflictException",
        "ExpiredTokenException",
    }
)


def parse_error(response: Response) -> tuple[str, str]:
    """Parse code and message out of an error, from JSON (DynamoDB, SSM) or XML (S3)."""
    text = response.body.decode("utf-8", "replace")
    if text.startswith("{"):
        try:
            members = json.loads(text)
        except ValueError:
            members = {}
        code = str(members.get("__type") or members.get("code") or "")
        message = str(members.get("message") or members.get("Message") or "")
    else:
        found = re.search(r"<Code>([^<]*)", text)
        code = found[1] if found else ""
        found = re.search(r"<Message>([^<]*)", text)
        message = found[1] if found else ""
    code = code or response.header("x-amzn-errortype") or ""
    return code.rpartition("#")[2].partition(":")[0], message


def parse_failure(response: Response) -> WireError | None:
    """Tell what an answer means: None when it is good, else the error it stands for."""
    if response.status < 300 or response.status == 304:
        return None
    code, message = parse_error(response)
    if code in THROTTLES or response.status == 429:
        return Throttled(f"{response.status} {code}: {message}")
    if response.status >= 500 or code in TRANSIENTS or response.status == 408:
        return Unavailable(f"{response.status} {code}: {message}")
    return Refused(response.status, code, message)


def check_whole(response: Response, method: str) -> None:
    """Check that the body is all that was sent.

    Raises:
        TransportError: no length was given (awscrt takes a body that ends with the connection for an empty one), or
            DynamoDB's checksum is another.
    """
    if method != "HEAD" and response.status not in (204, 304):
        headers = {name.lower(): value for name, value in response.headers}
        if "content-length" not in headers and "transfer-encoding" not in headers:
            raise TransportError(f"answer {response.status} does not say how long it is")
        checksum = headers.get("x-amz-crc32")
        if checksum is not None and checksum != str(zlib.crc32(response.body)):
            raise TransportError("answer does not match its checksum")
