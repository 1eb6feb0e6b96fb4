"""The handler with its real services, over the stand-in: DynamoDB, SSM and S3 through `wire`; boto3 is the oracle."""

from __future__ import annotations

import json
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from serve.handler import Handler, build_dependencies, build_handler
from serve.item import Item, decode, encode
from serve.storage import Storage
from serve.tokens.jwks import parse_keys
from serve.tokens.key_cache import Unreadable
from serve.tokens.key_sources import open_source
from tests.integration.conftest import Aws
from tests.unit.serve.kit import (
    AUDIENCE,
    ISSUER,
    RANK_TAG,
    REPEATING,
    SERVED,
    Answered,
    claims,
    event,
    jwks,
    private_key,
    public_jwk,
    sign,
)
from wire.client import Client
from wire.credentials import find_source
from wire.endpoint import resolve

NAMES = [f"2024-01-02.JFK.B6{number}" for number in range(100, 107)]


def _token(**changes: Any) -> str:
    now = int(time.time())
    return sign(claims(iat=now, exp=now + 600, **changes), algorithm="ES256")


def _env(aws: Aws, table: str, keys: str) -> dict[str, str]:
    issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "keys": keys}]
    return {**aws.env, "AWS_REGION": aws.region, "LARDER_TABLE": table, "LARDER_ISSUERS": json.dumps(issuers)}


@pytest.fixture
def table(aws: Aws) -> str:
    """A table with seven flights of B6, one of AA, an expired one, a tombstone and a gzip."""
    name = aws.table(ttl=False)
    now = int(time.time())
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b'{"n":"packed"}') + packer.flush()
    order = "0001.1700000000000.00000001"
    items = [Item("flight-delays#B6", sk, f'{{"n":"{sk}"}}', order, now + 600) for sk in NAMES]
    items += [
        Item("flight-delays#AA", "theirs", '{"n":"AA"}', order, now + 600),
        Item("flight-delays#B6", "expired", "{}", order, now - 1),
        Item("flight-delays#B6", "tombstone", None, order, now + 600),
        Item("flight-delays#B6", "zip", packed, order, now + 600),
    ]
    for item in items:
        attributes: Any = encode(item)
        if isinstance(item.body, bytes):
            attributes["b"] = {"B": item.body}  # boto3 encodes it itself
        aws.client("dynamodb").put_item(TableName=name, Item=attributes)
    return name


@pytest.fixture
def handler(aws: Aws, table: str) -> Handler:
    """The deployed handler, its key in SSM."""
    path = f"/{aws.name('larder')}/keys"
    key = jwks(public_jwk("ES256"))
    aws.client("ssm").put_parameter(Name=f"{path}/jwks.json", Value=key, Type="String")
    return build_handler(build_dependencies(_env(aws, table, f"ssm:{path}"), SERVED))


def _get(handler: Handler, path: str, token: str | None, **query: str) -> Answered:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Answered(handler(event("rest", "GET", path, query, headers), None))


def test_an_item_is_read(handler: Handler) -> None:
    """Text and gzip are sent as stored; expired, removed, another's and unknown items give the same 404."""
    token = _token()
    assert _get(handler, f"/v1/flight-delays/{NAMES[3]}", token).json == {"n": NAMES[3]}
    assert _get(handler, "/v1/flight-delays/zip", token).json == {"n": "packed"}
    missing = [
        _get(handler, f"/v1/flight-delays/{name}", token) for name in ("expired", "tombstone", "theirs", "unknown")
    ]
    assert {answer.status for answer in missing} == {404}
    assert len({answer.body for answer in missing}) == 1
    assert _get(handler, "/v1/flight-delays/theirs", _token(carrier="AA")).json == {"n": "AA"}
    assert _get(handler, "/v1/flight-delays/theirs", None).status == 401


def test_a_list_is_read_in_pages(handler: Handler) -> None:
    """Page by page with the links, with a prefix, and with an `after` outside of it."""
    token = _token()
    seen: list[str] = []
    after: dict[str, str] = {}
    for _ in range(10):
        answer = _get(handler, "/v1/flight-delays", token, limit="3", **after)
        seen += [entry["prediction_id"] for entry in answer.json["items"]]
        if "link" not in answer.headers:
            break
        after = {"after": seen[-1]}
    assert seen == [*NAMES, "zip"]
    found = _get(handler, "/v1/flight-delays", token, prefix="2024-01-02.JFK.B610", limit="100")
    assert [entry["prediction_id"] for entry in found.json["items"]] == NAMES
    assert _get(handler, "/v1/flight-delays", token, prefix="2024", after="1").json == found.json
    assert _get(handler, "/v1/flight-delays", token, prefix="2024", after="zip").json == {"items": []}


def test_a_ranked_list_is_read_in_pages(aws: Aws, table: str, handler: Handler) -> None:
    """From the table's index, by the links; a rank that changes, a removal and a former rank change the list."""
    client, now = aws.client("dynamodb"), int(time.time())

    def put(name: str, place: str | None, body: str | None = "{}", expires_at: int = now + 600) -> None:
        rank = place and f"{RANK_TAG}:{place}:{name}"
        item: Any = encode(Item("flight-delays#B6", name, body, "0001.1700000000000.00000002", expires_at, rank))
        client.put_item(TableName=table, Item=item)

    def read(**query: str) -> list[list[str]]:
        pages = []
        while query:
            answer = _get(handler, "/v1/flight-delays", _token(), **query)
            assert answer.status == 200, answer.body
            pages.append([entry["prediction_id"] for entry in answer.json["items"]])
            query = dict(parse_qsl(answer.headers.get("link", "").partition("<?")[2].partition(">")[0]))
        return pages

    for n, name in enumerate(NAMES):
        put(name, f"1{9 - n // 2}")
    put("expired", "10", expires_at=now - 1)
    expected = [NAMES[6], NAMES[4], NAMES[5], NAMES[2], NAMES[3], NAMES[0], NAMES[1]]
    assert read(top="100") == [expected]
    assert read(top="5", limit="2") == [expected[:2], expected[2:4], expected[4:5]]
    put(NAMES[0], "10")
    put(NAMES[6], None, None)
    put(NAMES[4], None)
    assert read(top="3") == [[NAMES[0], NAMES[5], NAMES[2]]]
    assert _get(handler, "/v1/flight-delays", _token(carrier="AA"), top="3").json == {"items": []}


@pytest.mark.parametrize("form", REPEATING)
def test_several_items_are_read_at_once(handler: Handler, form: str) -> None:
    """In the requested order, from one batch; expired, removed and another's items are missing like unknown ones."""
    asked = ["zip", NAMES[6], "theirs", "expired", NAMES[0], "tombstone", "unknown"]
    sent = event(form, "GET", "/v1/flight-delays", {"id": asked}, {"Authorization": f"Bearer {_token()}"})
    answer = Answered(handler(sent, None))
    assert answer.status == 200
    assert [entry["body"]["n"] for entry in answer.json["items"]] == ["packed", NAMES[6], NAMES[0]]
    assert answer.json["missing"] == ["theirs", "expired", "tombstone", "unknown"]
    theirs = event(form, "GET", "/v1/flight-delays", {"id": asked}, {"Authorization": f"Bearer {_token(carrier='AA')}"})
    assert [entry["body"]["n"] for entry in Answered(handler(theirs, None)).json["items"]] == ["AA"]


def test_items_of_many_megabytes_are_read_to_their_end(aws: Aws, table: str, handler: Handler) -> None:
    """If one response can't hold them, each page has as many as fit, and each item comes once."""
    names = [f"large-{number:02d}" for number in range(30)]
    body = json.dumps({"n": "x" * 330_000})
    for name in names:
        stored: Any = encode(
            Item("flight-delays#B6", name, body, "0001.1700000000000.00000001", int(time.time()) + 600)
        )
        aws.client("dynamodb").put_item(TableName=table, Item=stored)
    seen, left = [], names
    while left:
        sent = event("http", "GET", "/v1/flight-delays", {"id": left}, {"Authorization": f"Bearer {_token()}"})
        answer = Answered(handler(sent, None)).json
        seen += [entry["prediction_id"] for entry in answer["items"]]
        assert len(answer["items"]) == min(2, len(left))
        left = answer["remaining"] if len(seen) < 6 else []
    assert seen == names[:6]


def test_storage_reads_what_boto3_reads(aws: Aws, table: str) -> None:
    """Each item is the same through both."""
    client = Client(resolve("dynamodb", aws.region, aws.env), find_source(aws.env))
    storage = Storage(client.send, table)
    for name in (*NAMES, "expired", "tombstone", "zip", "unknown"):
        item_key: Any = {"pk": {"S": "flight-delays#B6"}, "sk": {"S": name}}
        oracle = aws.client("dynamodb").get_item(TableName=table, Key=item_key).get("Item")
        assert storage.get_item("flight-delays#B6", name) == (decode(oracle) if oracle else None)


def test_a_missing_table_and_an_unreachable_one_are_503(aws: Aws) -> None:
    """Neither is a mistake of the caller, nor of the code."""
    path = f"/{aws.name('larder')}/keys"
    aws.client("ssm").put_parameter(Name=f"{path}/jwks.json", Value=jwks(public_jwk("ES256")), Type="String")
    env = _env(aws, "no-such-table", f"ssm:{path}")
    assert _get(build_handler(build_dependencies(env, SERVED)), "/v1/flight-delays/a", _token()).status == 503
    env["AWS_ENDPOINT_URL_DYNAMODB"] = "http://127.0.0.1:9"
    answer = _get(build_handler(build_dependencies(env, SERVED)), "/v1/flight-delays/a", _token())
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def _pem(algorithm: str) -> str:
    public = private_key(algorithm).public_key()
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def test_keys_are_read_from_ssm(aws: Aws) -> None:
    """Every parameter directly under the path, over several pages; a PEM is named by its parameter."""
    path = f"/{aws.name('larder')}/keys"
    for number in range(12):
        aws.client("ssm").put_parameter(Name=f"{path}/kid-{number:02d}", Value=_pem("ES256"), Type="String")
    aws.client("ssm").put_parameter(Name=f"{path}/jwks", Value=jwks(public_jwk("RS256")), Type="String")
    for location in (f"ssm:{path}", f"ssm:{path}/"):
        found = parse_keys(open_source(location, aws.env)())
        assert found.keys.keys() == {"RS256-0", *(f"kid-{number:02d}" for number in range(12))}
    with pytest.raises(Unreadable, match="no parameter under it"):
        open_source("ssm:/no/such/path", aws.env)()


def test_keys_are_read_from_s3(aws: Aws) -> None:
    """One object, or every object under a prefix, also with names that need quoting."""
    bucket = aws.bucket()
    aws.client("s3").put_object(Bucket=bucket, Key="issuer a/jwks.json", Body=jwks(public_jwk("RS256")).encode())
    aws.client("s3").put_object(Bucket=bucket, Key="issuer a/pem/k1+x.pem", Body=_pem("ES256").encode())
    aws.client("s3").put_object(Bucket=bucket, Key="issuer a/pem/k2.pem", Body=_pem("ES384").encode())
    assert list(parse_keys(open_source(f"s3://{bucket}/issuer a/jwks.json", aws.env)()).keys) == ["RS256-0"]
    assert set(parse_keys(open_source(f"s3://{bucket}/issuer a/pem/", aws.env)()).keys) == {"k1+x", "k2"}
    for number in range(101):
        aws.client("s3").put_object(Bucket=bucket, Key=f"many/{number}.pem", Body=b"x")
    with pytest.raises(Unreadable, match="more than 100 documents"):
        open_source(f"s3://{bucket}/many/", aws.env)()
    for location in (f"s3://{bucket}/none.json", f"s3://{bucket}/none/", "s3://no-such-bucket-0/x"):
        with pytest.raises(Unreadable):
            open_source(location, aws.env)()


def test_keys_that_cannot_be_had_are_unreadable(aws: Aws, tmp_path: Path) -> None:
    """In any location, missing keys are one error, within a few seconds."""
    env = {**aws.env, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    begin = time.monotonic()
    for location in ("ssm:/a", "s3://b/c", "s3://b/c/", "https://127.0.0.1:9/jwks.json", f"file:{tmp_path}/none"):
        with pytest.raises(Unreadable):
            open_source(location, env)()
    assert time.monotonic() - begin < 60
