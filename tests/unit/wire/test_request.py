"""The bytes of a request."""

from __future__ import annotations

import pytest

from wire.endpoint import Endpoint
from wire.request import RequestBuilder, operation_headers
from wire.sigv4 import Credentials

PLAIN = Endpoint("dynamodb", "eu-west-1", "127.0.0.1", 4566, tls=False, prefix="/base")
HOSTS = (
    (Endpoint("s3", "x", "s3.example.com", 443, tls=True), "s3.example.com"),
    (Endpoint("s3", "x", "s3.example.com", 80, tls=False), "s3.example.com"),
    (Endpoint("s3", "x", "s3.example.com", 8443, tls=True), "s3.example.com:8443"),
    (Endpoint("s3", "x", "s3.example.com", 80, tls=True), "s3.example.com:80"),
    (Endpoint("s3", "x", "s3.example.com", 443, tls=False), "s3.example.com:443"),
    (Endpoint("s3", "x", "127.0.0.1", 4566, tls=False), "127.0.0.1:4566"),
    (Endpoint("s3", "x", "::1", 443, tls=True), "[::1]"),
    (Endpoint("s3", "x", "::1", 4566, tls=True), "[::1]:4566"),
)


@pytest.mark.parametrize(("endpoint", "host"), HOSTS)
def test_host_has_its_port_unless_it_is_the_default(endpoint: Endpoint, host: str) -> None:
    """It is sent and signed in the same form: a service computes the signature from what it receives."""
    signed = RequestBuilder(endpoint, lambda: Credentials("AKIDEXAMPLE", "secret")).build("GET", "/", [], b"")
    lines = signed.decode().split("\r\n")
    assert lines[1] == f"host: {host}"
    assert any("SignedHeaders=host;" in line for line in lines)


BUILT: tuple[tuple[str, str, list[tuple[str, str]], bytes, bytes], ...] = (
    ("POST", "/", [("a", "1")], b"xy",
     b"POST /base/ HTTP/1.1\r\nhost: 127.0.0.1:4566\r\na: 1\r\ncontent-length: 2\r\n\r\n"
     b"xy"),
    ("POST", "/", [], b"", b"POST /base/ HTTP/1.1\r\nhost: 127.0.0.1:4566\r\ncontent-length: 0\r\n\r\n"),
    ("DELETE", "/k", [], b"", b"DELETE /base/k HTTP/1.1\r\nhost: 127.0.0.1:4566\r\ncontent-length: 0\r\n\r\n"),
    ("GET", "/k?a=b", [], b"", b"GET /base/k?a=b HTTP/1.1\r\nhost: 127.0.0.1:4566\r\n\r\n"),
    ("HEAD", "/k", [], b"", b"HEAD /base/k HTTP/1.1\r\nhost: 127.0.0.1:4566\r\n\r\n"),
    ("GET", "/k", [], b"z", b"GET /base/k HTTP/1.1\r\nhost: 127.0.0.1:4566\r\ncontent-length: 1\r\n\r\nz"),
)  # fmt: skip


@pytest.mark.parametrize(("method", "path", "headers", "body", "expected"), BUILT)
def test_request_is_these_bytes(
    method: str, path: str, headers: list[tuple[str, str]], body: bytes, expected: bytes
) -> None:
    """Unsigned: the endpoint's prefix, host, the caller's headers, and a length if there can be a body."""
    assert RequestBuilder(PLAIN, None).build(method, path, headers, body) == expected


def test_operations_have_the_json_version_of_their_service() -> None:
    """DynamoDB has version 1.0, SSM and SQS have 1.1."""
    assert operation_headers("dynamodb", "T.Get") == (
        ("content-type", "application/x-amz-json-1.0"),
        ("x-amz-target", "T.Get"),
    )
    assert operation_headers("ssm", "T.Get")[0] == ("content-type", "application/x-amz-json-1.1")
