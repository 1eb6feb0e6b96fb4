"""A response of an AWS service: check that it is complete, and map a failure to an exception."""

import json
import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from wire.errors import Refused, Throttled, TransportError, Unavailable, WireError


class Response(NamedTuple):
    """A response: the names of headers are in lower case, the body keeps its content coding."""

    status: int
    headers: Mapping[str, str]
    body: bytes


# Error codes for throttling, whatever the status (400, 429 and 503 all occur).
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
# Error codes of status 400 for which a retry can succeed; an expired token is replaced by the credential provider.
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
    """Return code and message of an error response in JSON (DynamoDB, SSM) or XML (S3)."""
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
    code = code or response.headers.get("x-amzn-errortype", "")
    return code.rpartition("#")[2].partition(":")[0], message


def parse_failure(response: Response) -> WireError | None:
    """Map a response to the exception to raise; None if it is successful."""
    if response.status < 300 or response.status == 304:
        return None
    code, message = parse_error(response)
    if code in THROTTLES or response.status == 429:
        return Throttled(f"{response.status} {code}: {message}")
    if response.status >= 500 or code in TRANSIENTS or response.status == 408:
        return Unavailable(f"{response.status} {code}: {message}")
    return Refused(response.status, code, message)


def check_whole(response: Response, method: str) -> None:
    """Check that the body is complete.

    Raises:
        TransportError: the response does not state its length, so that a truncated body would look complete, or
            DynamoDB's checksum does not match.
    """
    if method != "HEAD" and response.status not in (204, 304):
        headers = response.headers
        if "content-length" not in headers and "transfer-encoding" not in headers:
            raise TransportError(f"response {response.status} does not state its length")
        checksum = headers.get("x-amz-crc32")
        if checksum is not None and checksum != str(zlib.crc32(response.body)):
            raise TransportError("response does not match its checksum")
