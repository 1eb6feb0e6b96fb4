"""Endpoints of services: AWS_ENDPOINT_URL_<SERVICE>, AWS_ENDPOINT_URL, or the public AWS endpoint."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlsplit


class Endpoint(NamedTuple):
    """One service at one address. `prefix` is put before every path (empty on AWS)."""

    service: str
    region: str
    host: str
    port: int
    tls: bool
    prefix: str = ""

    @property
    def authority(self) -> str:
        """The Host header: with the port only if it is not the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def parse_endpoint(url: str, service: str = "https", region: str = "") -> Endpoint:
    """Parse a URL into an endpoint; without a region it is one for requests that are not signed.

    Raises:
        ValueError: the URL is not http(s), or has no host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"endpoint of {service} is not an http or https URL: {url!r}")
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    return Endpoint(service, region, parts.hostname, port, tls, parts.path.rstrip("/"))


def resolve(service: str, region: str, env: Mapping[str, str]) -> Endpoint:
    """Return the endpoint of `dynamodb`, `s3` or `ssm`, per the AWS SDKs' rules for environment variables.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html

    Raises:
        ValueError: a variable is not an http or https URL.
    """
    url = None
    if env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        url = env.get(f"AWS_ENDPOINT_URL_{service.upper()}") or env.get("AWS_ENDPOINT_URL")
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return parse_endpoint(url or f"https://{service}.{region}.{suffix}", service, region)


def object_path(bucket: str, object_key: str) -> str:
    """Return the path of an S3 object, in path style, which both AWS and local stand-ins accept."""
    return f"/{bucket}/{quote(object_key, safe='/~')}"
