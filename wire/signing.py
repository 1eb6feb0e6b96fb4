"""Requests signed with SigV4 by awscrt, with credentials that its provider refreshes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO

from awscrt.auth import AwsCredentialsProvider, AwsSignedBodyHeaderType, AwsSigningConfig, aws_sign_request
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest

from wire.connection import bootstrap
from wire.endpoint import Endpoint
from wire.errors import NoCredentials

# Fetching credentials from a container's endpoint or a role may take as long as a request.
CREDENTIALS_TIMEOUT = 5.0


def find_credentials(env: Mapping[str, str]) -> AwsCredentialsProvider:
    """Return a provider for the credentials of this process.

    Those of a Lambda environment stay the same for its life, and taking them directly spares a cold start the chain,
    which loads a trust store. Otherwise awscrt's chain: profile, web identity, container, instance; it reads the
    container's URI now, and refreshes what it fetched before it expires.
    """
    if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
        return AwsCredentialsProvider.new_static(
            env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN") or None
        )
    return AwsCredentialsProvider.new_default_chain(bootstrap())


class Signer:
    """Makes requests to one endpoint. Without a provider they go unsigned."""

    def __init__(self, endpoint: Endpoint, provider: AwsCredentialsProvider | None) -> None:
        self.endpoint = endpoint
        self.provider = provider
        is_s3 = endpoint.service == "s3"
        # S3 alone takes paths as they are and wants the body's hash in a header.
        self._rules = {
            "region": endpoint.region,
            "service": endpoint.service,
            "credentials_provider": provider,
            "use_double_uri_encode": not is_s3,
            "should_normalize_uri_path": not is_s3,
            "signed_body_header_type": (
                AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256 if is_s3 else AwsSignedBodyHeaderType.NONE
            ),
        }

    def build(self, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> HttpRequest:
        """Build a request, signed as of now. A retry needs a new one: signatures age, and a body stream is read once.

        Raises:
            NoCredentials: none were found, or refreshing them failed.
        """
        fields = HttpHeaders([("host", self.endpoint.authority), *headers])
        if body or method not in ("GET", "HEAD"):
            fields.add("content-length", str(len(body)))
        request = HttpRequest(method, self.endpoint.prefix + path, fields, BytesIO(body) if body else None)
        if self.provider is None:
            return request
        # awscrt hashes the body: hashlib lets the interpreter lock go for it, which cost a tenth of the rate.
        rules = AwsSigningConfig(date=datetime.now(UTC), **self._rules)
        try:
            # Done at once while credentials are cached; else a thread of awscrt fetches them first.
            signed: HttpRequest = aws_sign_request(request, rules).result(CREDENTIALS_TIMEOUT)
        except (AwsCrtError, RuntimeError, TimeoutError) as error:
            raise NoCredentials(f"no AWS credentials: {error}") from error
        return signed
