"""How responses are classified."""

import zlib
from typing import Any

import pytest

from wire.errors import Refused, Throttled, TransportError, Unavailable
from wire.response import Response, check_whole, parse_error, parse_failure

JSON = '{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"why"}'
XML = "<?xml version='1.0'?><Error><Code>%s</Code><Message>why</Message></Error>"
MEANINGS = [
    # status, body, class
    (200, "{}", None),
    (304, "", None),
    (301, XML % "PermanentRedirect", Refused),
    (400, JSON % "ValidationException", Refused),
    (400, JSON % "ProvisionedThroughputExceededException", Throttled),
    (400, JSON % "ThrottlingException", Throttled),
    (400, JSON % "RequestLimitExceeded", Throttled),
    (400, JSON % "ExpiredTokenException", Unavailable),
    (400, XML % "RequestTimeout", Unavailable),
    (403, XML % "AccessDenied", Refused),
    (404, XML % "NoSuchKey", Refused),
    (429, "slow", Throttled),
    (500, JSON % "InternalServerError", Unavailable),
    (503, XML % "SlowDown", Throttled),
    (503, "", Unavailable),
    (502, "<html>", Unavailable),
]


@pytest.mark.parametrize(("status", "body", "meaning"), MEANINGS)
def test_response_is_good_throttled_unavailable_or_refused(status: Any, body: Any, meaning: Any) -> None:
    """Every response has one class, whatever status a service uses for throttling."""
    failure = parse_failure(Response(status, {}, body.encode()))
    assert type(failure) is (meaning or type(None))


SEVERAL = [
    # codes for which a retry can help, whatever the status, and similar ones for which it can't
    (Throttled, "BandwidthLimitExceeded ProvisionedThroughputExceededException RequestLimitExceeded RequestThrottled"),
    (Throttled, "RequestThrottledException SlowDown Throttling ThrottlingException ThrottledException"),
    (Throttled, "TooManyRequestsException"),
    (Unavailable, "RequestTimeout RequestTimeoutException InternalError InternalServerError ExpiredTokenException"),
    (Unavailable, "TransactionConflictException ReplicatedWriteConflictException"),
    (Refused, "ConditionalCheckFailedException ResourceNotFoundException UnrecognizedClientException Slow Throttle"),
]


@pytest.mark.parametrize("form", [JSON, XML])
@pytest.mark.parametrize(("kind", "codes"), SEVERAL)
def test_each_code_has_one_class(kind: Any, codes: str, form: str) -> None:
    """In JSON and in XML; its message has status, code and the service's own words."""
    for code in codes.split():
        failure = parse_failure(Response(400, {}, (form % code).encode()))
        assert type(failure) is kind
        assert str(failure) == f"400 {code}: why"


STATUSES = [(200, None), (299, None), (300, Refused), (303, Refused), (304, None), (305, Refused), (399, Refused),
            (400, Refused), (407, Refused), (408, Unavailable), (409, Refused), (428, Refused), (429, Throttled),
            (430, Refused), (499, Refused), (500, Unavailable), (501, Unavailable), (599, Unavailable)]  # fmt: skip


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_each_status_has_one_class(status: int, kind: Any) -> None:
    """If there is no code."""
    assert type(parse_failure(Response(status, {}, b""))) is (kind or type(None))


ERRORS = [
    (b'{"code":"A","message":"why"}', [], ("A", "why")),
    (b'{"__type":"B","code":"A","Message":"Why"}', [("x-amzn-errortype", "C")], ("B", "Why")),
    (b'{"__type":"com.x#A:http://y/","message":"why","Message":"Why"}', [], ("A", "why")),
    (b"<Error><Code>A</Code></Error>", [], ("A", "")),
    (b"<Error><Message>why</Message></Error>", [("x-amzn-errortype", "A")], ("A", "why")),
    ((JSON % "ThrottlingException").encode(), [], ("ThrottlingException", "why")),
    ((XML % "NoSuchKey").encode(), [], ("NoSuchKey", "why")),
    (b'{"Message":"denied"}', [("x-amzn-errortype", "AccessDenied:http://x/")], ("AccessDenied", "denied")),
    (b"{broken", [], ("", "")),
    (b"[]", [], ("", "")),
    (b"\xff\xfe", [], ("", "")),
    (b"", [], ("", "")),
]


@pytest.mark.parametrize(("body", "headers", "expected"), ERRORS)
def test_code_and_message_are_found(body: Any, headers: Any, expected: Any) -> None:
    """Code and message come from JSON, XML or the header; otherwise they are empty, without an exception."""
    assert parse_error(Response(400, dict(headers), body)) == expected


def test_refusal_shows_status_code_and_message() -> None:
    """The error has AWS's own words, for the operator."""
    failure = parse_failure(Response(400, {}, (JSON % "ResourceNotFoundException").encode()))
    assert isinstance(failure, Refused)
    assert (failure.status, failure.code, failure.message) == (400, "ResourceNotFoundException", "why")


BODY = b'{"Item":{}}'
LENGTH = ("content-length", str(len(BODY)))
WHOLE = [
    ("POST", 200, [LENGTH]),
    ("POST", 200, [("transfer-encoding", "chunked")]),
    ("POST", 200, [LENGTH, ("x-amz-crc32", str(zlib.crc32(BODY)))]),
    ("HEAD", 200, []),
    ("GET", 304, []),
    ("POST", 204, []),
]
DAMAGED = [
    ("POST", 200, []),
    ("POST", 200, [LENGTH, ("x-amz-crc32", "1")]),
]


@pytest.mark.parametrize(("method", "status", "headers"), WHOLE)
def test_complete_response_passes(method: Any, status: Any, headers: Any) -> None:
    """A response with a length and the right checksum, or one that has no body by definition, is complete."""
    check_whole(Response(status, dict(headers), BODY), method)


@pytest.mark.parametrize(("method", "status", "headers"), DAMAGED)
def test_damaged_response_is_an_error(method: Any, status: Any, headers: Any) -> None:
    """Without a length it is unknown whether the body is complete; a wrong checksum shows that it is damaged."""
    with pytest.raises(TransportError):
        check_whole(Response(status, dict(headers), BODY), method)
