"""The laptop server responds over HTTP like the handler, serves its documentation, and listens only on loopback."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from serve.dev.docs import ASSETS, read_document, read_pages
from serve.dev.server import open_server
from tests.contract.serve.conftest import Laptop
from tests.unit.serve.kit import SERVED, App, sign

ROOT = Path(__file__).parents[3]


def _ask(
    laptop: Laptop, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(laptop.url).netloc, timeout=5)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


SERVICE = yaml.safe_load((ROOT / "infra/environments.yaml").read_text())["service"]
GOOD = {"Authorization": f"Bearer {sign()}"}


def test_it_answers_as_the_handler_does(laptop: Laptop) -> None:
    """List, item, link, HEAD, OPTIONS, 304, 401, 404, 405, over a real connection."""
    status, headers, body = _ask(laptop, "GET", "/v1/flight-delays?limit=1", GOOD)
    assert (status, headers["link"]) == (200, '<?limit=1&after=2024-01-02.JFK.B6100>; rel="next"')
    name = json.loads(body)["items"][0]["prediction_id"]
    status, headers, body = _ask(laptop, "GET", f"/v1/flight-delays/{name}", GOOD)
    assert (status, json.loads(body)["flight"]) == (200, "B6123")
    assert _ask(laptop, "HEAD", f"/v1/flight-delays/{name}", GOOD)[::2] == (200, b"")
    again = _ask(laptop, "GET", f"/v1/flight-delays/{name}", GOOD | {"If-None-Match": headers["etag"]})
    assert again[::2] == (304, b"")
    assert _ask(laptop, "OPTIONS", "/v1/flight-delays")[0] == 204
    assert _ask(laptop, "GET", "/v1/flight-delays")[1]["www-authenticate"] == 'Bearer realm="larder"'
    assert _ask(laptop, "GET", "/v1/flight-delays/a%2fb", GOOD)[0] == 404
    assert _ask(laptop, "GET", "/v1/flight-delays/%2541", GOOD)[0] == 404
    assert _ask(laptop, "GET", "/v1/flight-delays/%41", GOOD)[0] == 404
    assert laptop.app.table.asked[-1][1]["Key"]["sk"] == {"S": "A"}
    assert _ask(laptop, "DELETE", "/v1/flight-delays")[1]["allow"] == "GET, HEAD, OPTIONS"
    assert _ask(laptop, "GET", "/v1/health")[0] == 200


def test_it_stays_on_loopback() -> None:
    """There is no TLS, so no other address is accepted."""
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(ValueError, match="loopback"):
            open_server(App().handler, host, 0)


def test_it_shows_its_documentation(laptop: Laptop) -> None:
    """The page, its script and its style come from this server; nothing in it names another host."""
    assert _ask(laptop, "GET", "/docs")[1]["location"] == "/docs/"
    assert _ask(laptop, "GET", "/")[:2][0] == 307  # a browser keeps a permanent one
    assert _ask(laptop, "GET", "/")[1]["location"] == "/docs/"
    status, headers, page = _ask(laptop, "GET", "/docs/")
    assert f"<title>{SERVICE}</title>".encode() in page
    assert read_document()["info"]["title"] == SERVICE
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"http" not in page
    assert "connect-src 'self'" in headers["content-security-policy"]
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js"):
        assert name.encode() in page or name in ASSETS
        assert _ask(laptop, "GET", f"/docs/{name}")[0] == 200
    assert _ask(laptop, "HEAD", "/docs/start.js")[::2] == (200, b"")
    status, headers, document = _ask(laptop, "GET", "/openapi.json")
    assert headers["content-type"].startswith("application/vnd.oai.openapi+json")
    assert json.loads(document) == read_document()


def test_consumers_get_the_document_without_what_only_aws_reads() -> None:
    """No x-amazon extension, no Fn::Sub, no empty path; an environment's servers instead of ours."""
    servers = [{"url": "https://predictions.api.example.com"}]
    document = read_document(servers)
    assert document["servers"] == servers
    text = json.dumps(document)
    assert "x-amazon" not in text
    assert "Fn::Sub" not in text
    paths = [path for name in SERVED for path in (f"/v1/{name}", f"/v1/{name}/{{prediction_id}}")]
    assert sorted(document["paths"]) == sorted([*paths, "/v1/health"])


def test_the_pages_can_be_published_elsewhere() -> None:
    """The same files, with another document, for the discovery artifacts; with Swagger UI's licence."""
    pages = read_pages("../openapi.json")
    assert {"index.html", "start.js", "swagger-ui-bundle.js", "swagger-ui.css", "LICENSE"} <= pages.keys()
    assert b"Apache License" in pages["LICENSE"][1]
    assert b'url: "../openapi.json"' in pages["start.js"][1]
