"""Keys from SSM and S3: which requests are sent, page by page and object by object, and how responses are read."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from serve.tokens.key_cache import Unreadable
from serve.tokens.key_sources import LIMITS, MAX_DOCUMENTS, open_source
from tests.unit.wire.faulty_server import Behaviour, FaultyServer, answer, error

ENV = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "eu-west-1"}


def _page(*names: str, token: str | None = None) -> Behaviour:
    parameters = [{"Name": name, "Value": f"value of {name}", "Type": "String"} for name in names]
    more = {} if token is None else {"NextToken": token}
    return answer(body=json.dumps({"Parameters": parameters, **more}).encode())


def _read(location: str, *script: Behaviour) -> tuple[list[tuple[str, bytes]], FaultyServer]:
    with FaultyServer(*script) as server:
        read = open_source(location, {**ENV, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"})
        documents = [(document.name, document.data) for document in read()]
        assert all(peer.closed_by_client.wait(10) for peer in server.peers), "its connection would be stale next time"
        return documents, server


@pytest.mark.parametrize(
    ("location", "path"),
    [("ssm:/larder/keys", "/larder/keys"), ("ssm:/larder/keys/", "/larder/keys"), ("ssm:/", "/")],
)
def test_every_page_of_parameters_is_read(location: str, path: str) -> None:
    """Three pages, one of them empty, in order, each with the token of the page before."""
    pages = (_page("/k/1", "/k/2", token="t1"), _page(token="t2"), _page("/k/3"))
    documents, server = _read(location, *pages, _page("/k/never"))
    assert documents == [(f"/k/{number}", f"value of /k/{number}".encode()) for number in (1, 2, 3)]
    asked = [json.loads(seen.body) for seen in server.seen]
    assert asked == [{"Path": path}, {"Path": path, "NextToken": "t1"}, {"Path": path, "NextToken": "t2"}]
    for seen in server.seen:
        assert seen.headers["x-amz-target"] == "AmazonSSM.GetParametersByPath"
        assert seen.headers["content-type"] == "application/x-amz-json-1.1"
        assert "/eu-west-1/ssm/aws4_request" in seen.headers["authorization"]
    assert {seen.connection for seen in server.seen} == {0}


@pytest.mark.parametrize("pages", [MAX_DOCUMENTS, MAX_DOCUMENTS + 1])
def test_there_can_be_as_many_pages_as_documents(pages: int) -> None:
    """All but one can be empty, which is common if SSM filters what a role cannot see."""
    script = [_page(token=f"t{number}") for number in range(pages - 1)]
    if pages == MAX_DOCUMENTS:
        assert _read("ssm:/k", *script, _page("/k/1"))[0] == [("/k/1", b"value of /k/1")]
    else:
        with pytest.raises(Unreadable, match="the list of parameters has no end"):
            _read("ssm:/k", *script, _page("/k/1"))


@pytest.mark.parametrize("end", [{}, {"NextToken": ""}, {"NextToken": None}])
def test_the_last_page_has_no_token(end: dict[str, object]) -> None:
    """Missing, empty or null: no more requests are sent."""
    body = json.dumps({"Parameters": [{"Name": "/k/1", "Value": "v"}], **end}).encode()
    documents, server = _read("ssm:/k", answer(body=body))
    assert documents == [("/k/1", b"v")]
    assert len(server.seen) == 1


LISTED = (
    b"<ListBucketResult><Name>keys</Name><Prefix>a%2Fb+c%2F</Prefix><Contents><Key>a/b+c/</Key></Contents>"
    b"<Contents><Key>a/b+c/one.pem</Key></Contents><Contents><Key>a/b+c/t%2Bwo.json</Key></Contents></ListBucketResult>"
)


def test_every_object_under_a_prefix_is_read() -> None:
    """Folder objects are skipped; names are decoded once, and encoded as S3 requires."""
    documents, server = _read("s3://keys/a/b%20c/", answer(body=LISTED), answer(body=b"1"), answer(body=b"2"))
    assert documents == [("a/b c/one.pem", b"1"), ("a/b c/t+wo.json", b"2")]
    asked = urlsplit(server.seen[0].path)
    assert asked.path == "/keys"
    query = parse_qs(asked.query, strict_parsing=True)
    assert (query["list-type"], query["encoding-type"]) == (["2"], ["url"])
    assert query["prefix"] == ["a/b%20c/"], "a location is not a URL: nothing in it is decoded"
    assert query["max-keys"] == [str(MAX_DOCUMENTS + 1)], "one more than there can be"
    assert [seen.path for seen in server.seen[1:]] == ["/keys/a/b%20c/one.pem", "/keys/a/b%20c/t%2Bwo.json"]
    assert {(seen.method, seen.connection) for seen in server.seen} == {("GET", 0)}
    assert "/eu-west-1/s3/aws4_request" in server.seen[0].headers["authorization"]


def test_one_object_is_read() -> None:
    """A location that does not end with a slash names an object; nothing is listed."""
    documents, server = _read("s3://keys/jwks.json", answer(body=b"1"))
    assert documents == [("jwks.json", b"1")]
    assert [seen.path for seen in server.seen] == ["/keys/jwks.json"]


BUCKET = b"<ListBucketResult>%s</ListBucketResult>"
NOTHING: dict[str, tuple[str, Behaviour, str]] = {
    "an empty path": ("ssm:/k", _page(), "ssm:/k: no parameter"),
    "an empty prefix": ("s3://keys/a/", answer(body=BUCKET % b""), "s3://keys/a/: no object"),
    "only a folder": ("s3://keys/a/", answer(body=BUCKET % b"<Key>a/</Key>"), "s3://keys/a/: no object"),
    "SSM refuses": ("ssm:/k", error("AccessDeniedException"), "ssm:/k: 400 AccessDeniedException"),
    "S3 refuses": ("s3://keys/a", answer(404, b"<Error><Code>NoSuchKey</Code></Error>"), "s3://keys/a: 404 NoSuchKey"),
    "an object past the limit": ("s3://keys/a", answer(body=b"x" * (LIMITS.largest + 1)), "s3://keys/a: .*larger"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_a_location_without_keys_is_named(name: str) -> None:
    """Empty, refused or too large: an error with the location and the reason, and no connection is left open."""
    location, behaviour, message = NOTHING[name]
    with FaultyServer(behaviour) as server:
        read = open_source(location, {**ENV, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"})
        with pytest.raises(Unreadable, match=message):
            read()
        assert all(peer.closed_by_client.wait(10) for peer in server.peers)


@pytest.mark.parametrize(
    ("env", "region"),
    [({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "x"}, "eu-central-1"), ({"AWS_DEFAULT_REGION": "eu-west-3"},
     "eu-west-3"), ({}, "us-east-1")],
)  # fmt: skip
def test_the_region_is_the_functions(env: dict[str, str], region: str) -> None:
    """AWS_REGION is set in Lambda, AWS_DEFAULT_REGION on laptops."""
    with FaultyServer(_page("/k/1")) as server:
        where = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}
        open_source("ssm:/k", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", **where, **env})()
        assert f"/{region}/ssm/aws4_request" in server.seen[0].headers["authorization"]
