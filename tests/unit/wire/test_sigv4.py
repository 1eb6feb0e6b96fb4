"""Our signatures are those of botocore, byte for byte."""

import time
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from wire.endpoint import object_path
from wire.sigv4 import Credentials, Signer

HOST = "service.eu-west-1.amazonaws.com"
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.strip).filter(bool)
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
TOKENS = st.none() | SECRETS
KEYS = st.builds(Credentials, st.just("AKIDEXAMPLE"), SECRETS, TOKENS)
NOWS = st.floats(1.6e9, 2.0e9)


def sign_with_botocore(
    service: str, method: str, target: str, headers: Any, body: bytes, keys: Credentials, monkeypatch: Any, now: float
) -> str:
    """Return the Authorization that botocore would send."""
    sent = {name: value for name, value in headers if name != "host"}
    request = AWSRequest(method, f"https://{HOST}{target}", sent, body)
    boto = BotoCredentials(keys.access_key_id, keys.secret, keys.token)
    signer = S3SigV4Auth if service == "s3" else SigV4Auth
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    with monkeypatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda: _Moment(moment))
        signer(boto, service, "eu-west-1").add_auth(request)
    return str(request.headers["Authorization"])


class _Moment:
    def __init__(self, text: str) -> None:
        self.text = text

    def strftime(self, _: str) -> str:
        return self.text


def check(service: str, method: str, target: str, extra: Any, body: bytes, keys: Credentials, now: float) -> None:
    """Compare our Authorization with botocore's."""
    headers = [("host", HOST), *extra]
    with pytest.MonkeyPatch.context() as patch:
        theirs = sign_with_botocore(service, method, target, headers, body, keys, patch, now)
    lines = Signer(service, "eu-west-1").sign(method, target, headers, body, keys, now).split("\r\n")
    assert lines.pop() == ""
    ours = dict(line.split(": ", 1) for line in lines)
    assert ours.pop("authorization") == theirs
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    expected = {**dict(headers), "x-amz-date": moment}
    expected |= {"x-amz-security-token": keys.token} if keys.token else {}
    expected |= {"x-amz-content-sha256": sha256(body).hexdigest()} if service == "s3" else {}
    assert ours == expected


@given(st.binary(max_size=200), VALUES, KEYS, NOWS)
def test_operations_are_signed_as_botocore_signs_them(body: bytes, value: str, keys: Credentials, now: float) -> None:
    """A JSON operation, with any body, headers, credentials and time."""
    extra = [("content-type", "application/x-amz-json-1.0"), ("x-amz-target", value)]
    check("dynamodb", "POST", "/", extra, body, keys, now)


@given(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()), KEYS, NOWS)
def test_objects_are_signed_as_botocore_signs_them(object_key: str, keys: Credentials, now: float) -> None:
    """An object of any name, and the list of those under it."""
    check("s3", "GET", object_path("bucket", object_key), [], b"", keys, now)
    query = f"encoding-type=url&list-type=2&max-keys=100&prefix={quote(object_key, safe='')}"
    check("s3", "GET", f"/bucket?{query}", [], b"", keys, now)


def test_signing_key_follows_day_and_secret() -> None:
    """One signer works across days and changes of credentials."""
    signer = Signer("dynamodb", "eu-west-1")
    for secret in ("one", "two", "one"):
        for now in (1.7e9, 1.7e9 + 86400, 1.7e9):
            keys, headers = Credentials("AKIDEXAMPLE", secret), [("host", HOST)]
            fresh = Signer("dynamodb", "eu-west-1").sign("POST", "/", headers, b"{}", keys, now)
            assert signer.sign("POST", "/", headers, b"{}", keys, now) == fresh
