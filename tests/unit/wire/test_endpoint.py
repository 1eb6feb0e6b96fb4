"""Where requests go: the environment's endpoints, AWS's own, and object paths."""

from typing import Any

import pytest

from wire.endpoint import Endpoint, object_path, parse_endpoint, resolve

RESOLVED = [
    # environment, service, region, expected URL parts: tls, authority, prefix
    ({}, "dynamodb", "eu-west-1", (True, "dynamodb.eu-west-1.amazonaws.com", "")),
    ({}, "s3", "us-east-1", (True, "s3.us-east-1.amazonaws.com", "")),
    ({}, "ssm", "cn-north-1", (True, "ssm.cn-north-1.amazonaws.com.cn", "")),
    ({"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"}, "ssm", "eu-west-1", (False, "127.0.0.1:4566", "")),
    ({"AWS_ENDPOINT_URL": "http://[::1]:4566/"}, "ssm", "eu-west-1", (False, "[::1]:4566", "")),
    (
        {"AWS_ENDPOINT_URL": "http://all:1", "AWS_ENDPOINT_URL_S3": "https://only-s3/base/"},
        "s3",
        "eu-west-1",
        (True, "only-s3", "/base"),
    ),
    (
        {"AWS_ENDPOINT_URL": "http://all:1", "AWS_ENDPOINT_URL_S3": "https://only-s3"},
        "dynamodb",
        "eu-west-1",
        (False, "all:1", ""),
    ),
    (
        {"AWS_ENDPOINT_URL": "http://all:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
        "s3",
        "eu-west-1",
        (True, "s3.eu-west-1.amazonaws.com", ""),
    ),
]


@pytest.mark.parametrize(("env", "service", "region", "expected"), RESOLVED)
def test_endpoint_follows_the_environment(env: Any, service: Any, region: Any, expected: Any) -> None:
    """The service's own variable takes precedence over the common one; the port is shown unless it is the default."""
    endpoint = resolve(service, region, env)
    assert (endpoint.tls, endpoint.authority, endpoint.prefix) == expected
    assert (endpoint.service, endpoint.region) == (service, region)


@pytest.mark.parametrize("url", ["ftp://host", "host:80", "https://", ""])
def test_anything_but_an_http_url_is_refused(url: Any) -> None:
    """A URL to which no request could be sent is an error that names the service."""
    with pytest.raises(ValueError, match="dynamodb"):
        parse_endpoint(url, "dynamodb", "eu-west-1")


def test_an_endpoint_without_a_region_is_one_for_unsigned_requests() -> None:
    """Every member has its default."""
    assert parse_endpoint("https://a.example/b/") == Endpoint("https", "", "a.example", 443, tls=True, prefix="/b")
    assert parse_endpoint("http://a.example:81") == Endpoint("https", "", "a.example", 81, tls=False, prefix="")


def test_object_path_is_encoded_as_s3_signs_it() -> None:
    """Slashes and unreserved characters are kept, everything else is percent-encoded once."""
    assert object_path("b", "a/x=1/ä b~+%.jwks") == "/b/a/x%3D1/%C3%A4%20b~%2B%25.jwks"
