"""The deployed REST API responds like the handler, as far as the stand-in's gateway is faithful.

It does not rename WWW-Authenticate, and when it imports openapi.yaml it passes over two extensions:
x-amazon-apigateway-any-method is done here by hand, so that unknown paths and methods reach the function; without
x-amazon-apigateway-binary-media-types a gzip arrives in the base64 that the function answered with. What the gateway
says alone is checked in tests/contract/serve/test_openapi_document.py.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.integration.infra.deployed import Deployed, deploy_larder, run_stand_in

LIST = "/flight-delays"


@pytest.fixture(scope="module")
def larder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A deployed stack whose table holds three items of B6 and one of AA."""
    folder: Path = tmp_path_factory.mktemp("rest")
    with run_stand_in(folder / "ministack.log") as (client, endpoint):
        found = deploy_larder(client, endpoint, "rest")
        expires_at = {"N": str(int(time.time()) + 3600)}
        packer = zlib.compressobj(wbits=31)
        packed = packer.compress(b'{"n":"zip"}') + packer.flush()
        bodies: dict[tuple[str, str], Any] = {
            ("B6", "a"): {"S": '{"n":"a"}'}, ("B6", "b"): {"S": '{"n":"b"}'}, ("B6", "zip"): {"B": packed},
            ("AA", "theirs"): {"S": '{"n":"AA"}'},
        }  # fmt: skip
        for (carrier, sk), body in bodies.items():
            item = {
                "pk": {"S": f"flight-delays#{carrier}"},
                "sk": {"S": sk},
                "o": {"S": "0001.1.1"},
                "e": expires_at,
                "b": body,
            }
            client("dynamodb").put_item(TableName=found.stack["TableName"], Item=item)
        _add_any(client("apigateway"), found.stack["ApiId"])
        yield found


def _add_any(client: Any, api: str) -> None:
    """Give each resource the ANY that openapi.yaml requires."""
    document = yaml.safe_load((Path(__file__).parents[3] / "examples/flights/openapi.yaml").read_text())
    resources = {resource["path"]: resource for resource in client.get_resources(restApiId=api, limit=500)["items"]}
    health = {"restApiId": api, "resourceId": resources["/v1/health"]["id"], "httpMethod": "GET"}
    uri = client.get_integration(**health)["uri"]
    for path, operations in document["paths"].items():
        assert "x-amazon-apigateway-any-method" in operations
        method = {"restApiId": api, "resourceId": resources[path]["id"], "httpMethod": "ANY"}
        client.put_method(**method, authorizationType="NONE")
        client.put_integration(**method, type="AWS_PROXY", integrationHttpMethod="POST", uri=uri)
    client.create_deployment(restApiId=api, stageName="live")


def _ask(
    larder: Deployed, path: str, method: str = "GET", *, carrier: str | None = "B6", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    base = urlsplit(larder.stack.base_url)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if carrier:
        sent["Authorization"] = f"Bearer {larder.issuer.sign(carrier, time.time())}"
    connection = http.client.HTTPConnection(base.netloc, timeout=20)
    connection.request(method, base.path + path, headers=sent)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def test_items_and_lists(larder: Deployed) -> None:
    """An item, with gzip for clients that accept it and without, pages by their links, a prefix."""
    status, headers, body = _ask(larder, f"{LIST}/a")
    assert (status, json.loads(body), headers["content-type"]) == (200, {"n": "a"}, "application/json")
    assert json.loads(_ask(larder, f"{LIST}/zip")[2]) == {"n": "zip"}
    status, headers, body = _ask(larder, f"{LIST}/zip", Accept_Encoding="gzip", Accept="*/*")
    packed = body if body.startswith(b"\x1f\x8b") else base64.b64decode(body)
    assert (headers["content-encoding"], zlib.decompress(packed, wbits=31)) == ("gzip", b'{"n":"zip"}')
    status, headers, body = _ask(larder, f"{LIST}?limit=2")
    assert [entry["prediction_id"] for entry in json.loads(body)["items"]] == ["a", "b"]
    target = headers["link"].partition(">")[0].removeprefix("<")
    status, headers, body = _ask(larder, LIST + target)
    assert [entry["prediction_id"] for entry in json.loads(body)["items"]] == ["zip"]
    assert "link" not in headers
    assert len(json.loads(_ask(larder, f"{LIST}?prefix=z")[2])["items"]) == 1


def test_several_items_come_through_a_query(larder: Deployed) -> None:
    """Each id of the query reaches the function; another's are missing; also with `fields` and `max_age`."""
    status, headers, body = _ask(larder, f"{LIST}?id=zip&id=theirs&id=a&id=none")
    found = json.loads(body)
    assert (status, [entry["body"] for entry in found["items"]]) == (200, [{"n": "zip"}, {"n": "a"}])
    assert (found["missing"], found["remaining"]) == (["theirs", "none"], [])
    assert _ask(larder, f"{LIST}?id=zip&id=theirs&id=a&id=none", If_None_Match=headers["etag"])[0] == 304
    old = json.loads(_ask(larder, f"{LIST}?id=b&id=a&max_age=60")[2])
    assert [entry["prediction_id"] for entry in old["too_old"]] == ["b", "a"]
    assert _ask(larder, f"{LIST}?id=a&id=a")[0] == 400
    status, _, body = _ask(larder, f"{LIST}/a?fields=n")
    assert (status, json.loads(body)["detail"].startswith("fields has the unknown member 'n'; known are flight")) == (
        400, True,
    )  # fmt: skip


def test_etags(larder: Deployed) -> None:
    """304 with the headers that RFC 9110 requires."""
    _, full, _ = _ask(larder, f"{LIST}/a")
    status, headers, body = _ask(larder, f"{LIST}/a", If_None_Match=full["etag"])
    assert (status, body) == (304, b"")
    assert (headers["etag"], headers["cache-control"], headers["vary"]) == (
        full["etag"],
        full["cache-control"],
        full["vary"],
    )


@pytest.mark.parametrize(
    ("path", "method", "carrier", "status", "code"),
    [
        (f"{LIST}/a", "GET", None, 401, "token_required"),
        (LIST, "GET", None, 401, "token_required"),
        (f"{LIST}/theirs", "GET", "B6", 404, "not_found"),
        (f"{LIST}/none", "GET", "B6", 404, "not_found"),
        ("/none", "GET", None, 404, "not_found"),
        ("/none/a/b/c", "POST", None, 404, "not_found"),
        (f"{LIST}/a/b", "GET", None, 404, "not_found"),
        (LIST, "POST", None, 405, "method_not_allowed"),
        (f"{LIST}/a", "DELETE", None, 405, "method_not_allowed"),
        ("/health", "PUT", None, 405, "method_not_allowed"),
        (f"{LIST}?limit=0", "GET", "B6", 400, "invalid_request"),
        (f"{LIST}?limit=null", "GET", "B6", 400, "invalid_request"),
    ],
)
def test_errors(larder: Deployed, path: str, method: str, carrier: str | None, status: int, code: str) -> None:
    """Unknown paths and methods reach the function through {proxy+} and ANY, and all errors are problems."""
    found, headers, body = _ask(larder, path, method, carrier=carrier)
    assert (found, json.loads(body)["code"]) == (status, code)
    assert headers["content-type"] == "application/problem+json"
    assert ("allow" in headers) == (status == 405)
    assert any(name.endswith("www-authenticate") for name in headers) == (status == 401)


def test_head_options_and_health(larder: Deployed) -> None:
    """The other methods, and the path that needs no token."""
    status, headers, body = _ask(larder, f"{LIST}/a", "HEAD")
    assert (status, body, headers["etag"]) == (200, b"", _ask(larder, f"{LIST}/a")[1]["etag"])
    assert _ask(larder, LIST, "OPTIONS", carrier=None)[::2] == (204, b"")
    status, headers, body = _ask(larder, "/health", carrier=None)
    assert (status, json.loads(body), headers["content-type"]) == (200, {"status": "pass"}, "application/health+json")
