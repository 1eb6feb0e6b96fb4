"""A fault in a location of keys is a 503 with its reason in the log, whatever the fault, and never a 401."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from serve.handler import build_dependencies, build_handler
from serve.storage import Storage
from serve.tokens.jwks import KeyDocument
from serve.tokens.key_cache import FRESHNESS, KeyStore, KeysUnavailable, Unreadable
from serve.tokens.key_sources import LIMITS, MAX_DOCUMENTS, open_source
from tests.unit.serve.kit import AUDIENCE, ISSUER, NOW, SERVED, Answered, Table, event, item, jwks, public_jwk, sign
from tests.unit.wire.faulty_server import FaultyServer, answer, silence

GOOD = jwks(public_jwk("RS256")).encode()
ENV = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "LARDER_TABLE": "table"}


class Fault(NamedTuple):
    """A location of keys, the responses of its server in turn, and a part of the detail."""

    location: str
    answers: tuple[bytes, ...]
    detail: str


def _listing(count: int, *, is_truncated: bool) -> bytes:
    keys = "".join(f"<Contents><Key>keys/{number}.pem</Key></Contents>" for number in range(count))
    truncated = f"<IsTruncated>{str(is_truncated).lower()}</IsTruncated>"
    return f"<?xml version='1.0'?><ListBucketResult>{truncated}{keys}</ListBucketResult>".encode()


def _page(count: int, **members: Any) -> bytes:
    return json.dumps({"Parameters": [{"Name": f"/k/{n}", "Value": "x"} for n in range(count)], **members}).encode()


FAULTS = {
    "a port past the last": Fault("https://127.0.0.1:99999/jwks.json", (), "Port out of range"),
    "a port that is no number": Fault("https://127.0.0.1:https/jwks.json", (), "Port could not be cast"),
    "a host that is none": Fault(f"https://{'x' * 64}.example/jwks.json", (), "https://xxx"),
    "a path that is not ASCII": Fault("https://127.0.0.1:9/\u00e4", (), "https://127.0.0.1:9"),
    "SSM {}": Fault("ssm:/k", (b"{}",), "the response has no list of parameters"),
    "SSM []": Fault("ssm:/k", (b"[]",), "the response has no list of parameters"),
    "SSM null": Fault("ssm:/k", (b"null",), "the response has no list of parameters"),
    "SSM HTML": Fault("ssm:/k", (b"<html>",), "the response has no list of parameters"),
    "SSM no text": Fault("ssm:/k", (b"\xff\xfe",), "the response has no list of parameters"),
    "SSM a number": Fault("ssm:/k", (b'{"Parameters": [{"Name": "a", "Value": 1}]}',), "the response has no list"),
    "SSM a parameter without a value": Fault("ssm:/k", (b'{"Parameters": [{"Name": "a"}]}',), "has no list"),
    "SSM a later page": Fault("ssm:/k", (_page(1, NextToken="t"), b"[]"), "the response has no list of parameters"),
    "SSM nothing": Fault("ssm:/k", (_page(0),), "no parameter under it"),
    "SSM without end": Fault("ssm:/k", (_page(0, NextToken="t"),), "has no end"),
    "SSM too many": Fault("ssm:/k", (_page(60, NextToken="t"),), f"more than {MAX_DOCUMENTS} documents"),
    "S3 too many": Fault("s3://b/keys/", (_listing(MAX_DOCUMENTS + 1, is_truncated=False),), "more than 100"),
    "S3 more than listed": Fault("s3://b/keys/", (_listing(5, is_truncated=True),), "more than 100 documents"),
    "S3 nothing": Fault("s3://b/keys/", (_listing(0, is_truncated=False),), "no object with this prefix"),
    "S3 no listing": Fault("s3://b/keys/", (b"<html>secret</html>",), "the response is not a bucket listing"),
    "S3 listing is no text": Fault("s3://b/keys/", (b"\xff\xfe",), "the response is not a bucket listing"),
    "byte order mark": Fault("s3://b/jwks.json", (b"\xef\xbb\xbf" + GOOD,), "byte order mark"),
    "byte order mark before PEM": Fault("s3://b/k.pem", (b"\xef\xbb\xbf-----BEGIN X-----",), "byte order mark"),
    "UTF-16": Fault("s3://b/jwks.json", (GOOD.decode().encode("utf-16"),), "is UTF-16"),
    "UTF-32": Fault("s3://b/jwks.json", (GOOD.decode().encode("utf-32"),), "is UTF-32"),
    "UTF-16, the other order": Fault(
        "s3://b/jwks.json", (b"\xfe\xff" + GOOD.decode().encode("utf-16-be"),), "is UTF-16"
    ),
    "UTF-32, the other order": Fault(
        "s3://b/jwks.json", (b"\x00\x00\xfe\xff" + GOOD.decode().encode("utf-32-be"),), "is UTF-32"
    ),
    "HTML after a blank line": Fault("s3://b/jwks.json", (b"\r\n <html>secret",), "is HTML or XML"),
    "gzip unasked": Fault("s3://b/jwks.json", (gzip.compress(GOOD),), "is gzip"),
    "HTML": Fault("s3://b/jwks.json", (b"<!doctype html>secret",), "is HTML or XML"),
    "nothing": Fault("s3://b/jwks.json", (b"",), "neither a JWKS document nor PEM"),
    "JSON that is no key set": Fault("s3://b/jwks.json", (b'"keys"',), "neither a JWKS document nor PEM"),
    "nested too deeply": Fault("s3://b/jwks.json", (b"[" * 20_000,), "neither a JWKS document nor PEM"),
}


def _ask(location: str, endpoint: str, capsys: pytest.CaptureFixture[str]) -> tuple[Answered, list[dict[str, Any]]]:
    issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "keys": location}]
    env = ENV | {"LARDER_ISSUERS": json.dumps(issuers), "AWS_ENDPOINT_URL": endpoint}
    parts = build_dependencies(env, SERVED)._replace(storage=Storage(Table(item("a")).send, "table"), now=lambda: NOW)
    headers = {"Authorization": f"Bearer {sign()}"}
    answered = Answered(build_handler(parts)(event("rest", "GET", "/v1/flight-delays/a", {}, headers), None))
    return answered, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_a_503_with_its_reason(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The response says to retry; the event names the location and what is wrong there, but nothing of the content."""
    fault = FAULTS[name]
    with FaultyServer(*(answer(body=body) for body in fault.answers or (b"",))) as server:
        answered, lines = _ask(fault.location, f"http://127.0.0.1:{server.port}", capsys)
    assert (answered.status, answered.headers["retry-after"]) == (503, "1")
    failure, request = lines
    assert (failure["event"], failure["KeyFailures"]) == ("keys-unreadable", 1)
    assert fault.detail in failure["detail"]
    assert "secret" not in failure["detail"]
    assert request["reason"] == "keys"


@pytest.mark.parametrize("location", ["s3://b/jwks.json", "ssm:/k"])
def test_a_place_that_hangs_later_delays_one_request(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `REFRESH_SECONDS`, although one reading can take longer; the next requests do not wait, and all are a 200."""
    monkeypatch.setattr("serve.tokens.key_cache.REFRESH_SECONDS", 0.3)
    monkeypatch.setattr("serve.tokens.key_sources.LIMITS", LIMITS._replace(attempt=6, budget=6))
    now = NOW
    listed = json.dumps({"Parameters": [{"Name": "/k/a", "Value": GOOD.decode()}]}).encode()
    with FaultyServer(answer(body=GOOD if location.startswith("s3") else listed), silence) as server:
        issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "keys": location}]
        env = {"LARDER_ISSUERS": json.dumps(issuers), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}
        parts = build_dependencies(ENV | env, SERVED, lambda _: None)
        handler = build_handler(parts._replace(storage=Storage(Table(item("a")).send, "table"), now=lambda: now))
        headers = {"Authorization": f"Bearer {sign()}"}
        took = []
        for later in (0, FRESHNESS.max_age, 0, FRESHNESS.cool_down - 1):
            now += later
            begin = time.monotonic()
            answered = handler(event("rest", "GET", "/v1/flight-delays/a", {}, headers), None)
            assert answered["statusCode"] == 200
            took.append(time.monotonic() - begin)
        assert len(server.seen) == 2
    assert 0.25 < took[1] < 3


def test_places_at_their_bound_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hundred documents, without folders; one more file is refused."""
    listing = _listing(MAX_DOCUMENTS, is_truncated=False).replace(b"</ListB", b"<Key>keys/a/</Key></ListB")
    bodies = [public_jwk("RS256", kid=f"RS256-{number}") for number in range(MAX_DOCUMENTS)]
    with FaultyServer(answer(body=listing), *(answer(body=jwks(body).encode()) for body in bodies)) as server:
        answered, _ = _ask("s3://b/keys/", f"http://127.0.0.1:{server.port}", capsys)
    assert answered.status == 200
    for number in range(MAX_DOCUMENTS + 1):
        (tmp_path / f"{number}.pem").write_text("x")
    with pytest.raises(Unreadable, match="more than 100 documents"):
        open_source(f"file:{tmp_path}/", {})()


def test_a_folder_has_keys_and_other_files(tmp_path: Path) -> None:
    """In the order of their names; a folder without keys, and a place without a file, are faults that say so."""
    read = open_source(f"file:{tmp_path}", {})
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(Unreadable, match=rf"^file:{tmp_path}: no .pem or .json file in it$"):
        read()
    (tmp_path / "b.json").write_text("1")
    (tmp_path / "a.pem").write_text("2")
    assert read() == open_source(f"file:{tmp_path}/", {})() == [KeyDocument("a.pem", b"2"), KeyDocument("b.json", b"1")]
    assert open_source(f"file:{tmp_path}/b.json", {})() == [KeyDocument("b.json", b"1")]
    for missing in ("c.json", "c/"):
        with pytest.raises(Unreadable, match=rf"^file:{tmp_path}/c(.json)?: No such file or directory$"):
            open_source(f"file:{tmp_path}/{missing}", {})()


@pytest.mark.parametrize("error", [KeyError("secret"), OSError("secret"), RecursionError(), UnicodeError("secret")])
def test_whatever_a_location_raises_the_keys_are_unavailable(error: Exception) -> None:
    """An unexpected error is reported by its type, and retried like any other."""
    reports = []

    def read(_: float) -> list[KeyDocument]:
        raise error

    store = KeyStore(read, lambda event, details: reports.append((event, details)))
    with pytest.raises(KeysUnavailable):
        store.current(NOW)
    assert reports == [("keys-unreadable", {"detail": f"{type(error).__name__} while the keys were read"})]
