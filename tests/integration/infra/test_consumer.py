"""The example consumer, as a process: from the discovery address over TLS to the body."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from infra.discovery import CATALOG_TYPE
from infra.environments import read_environments
from infra.translate import ROOT
from tests.certificates import write_certificate
from tests.integration.infra.deployed import Deployed, deploy_larder, object_key, parquet, run_stand_in

pytestmark = pytest.mark.long

DOCUMENT = read_environments(ROOT / "examples/flights/infra/environments.yaml")
DISCOVERY = DOCUMENT["discovery"]["base_url"]
PROD = DOCUMENT["environments"]["prod"]["domain"]
BUCKET = "discovery"


@pytest.fixture(scope="module")
def larder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployed, str]]:
    """A stack with prod's domain and API keys, and its published discovery files."""
    with run_stand_in(tmp_path_factory.mktemp("consumer") / "ministack.log") as (client, endpoint):
        client("s3").create_bucket(Bucket=BUCKET)
        parameters = {"Environment": "prod", "Service": DOCUMENT["service"], "DomainName": PROD, "ApiKeys": "required"}
        found = deploy_larder(client, endpoint, "prod", parameters={**parameters, "DiscoveryBucketName": BUCKET})
        assert found.wait(found.put(object_key(), parquet(3)), 120) == "done"
        yield found, endpoint


@pytest.fixture
def internet(larder: tuple[Deployed, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a process in which the two public names lead to the stand-in, over TLS."""
    found, endpoint = larder
    places = {
        urlsplit(DISCOVERY).netloc: f"{endpoint}/{BUCKET}",
        PROD: found.stack.base_url.removesuffix("/v1"),
    }
    with run_front(places, tmp_path) as proxy:
        certificate = str(tmp_path / "certificate.pem")
        yield {**os.environ, "HTTPS_PROXY": proxy, "NO_PROXY": "", "SSL_CERT_FILE": certificate}


def consume(env: Mapping[str, str], *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.consumer", DISCOVERY, *words]
    return subprocess.run(command, env={**env, **variables}, cwd=ROOT, capture_output=True, text=True, check=False)


def test_consumer_finds_prod_and_reads(larder: tuple[Deployed, str], internet: dict[str, str]) -> None:
    """The published catalog leads to prod's domain, which answers a token with an API key."""
    found, _ = larder
    given = {
        "LARDER_TOKEN": found.issuer.sign("B6", time.time()),
        "LARDER_API_KEY": found.client("apigateway").get_api_keys(includeValues=True)["items"][0]["value"],
    }
    one = consume(internet, "--environment", "prod", "--path", "/flight-delays/2030-03-01.JFK.B61", **given)
    assert one.returncode == 0, one.stderr
    assert json.loads(one.stdout)["carrier"] == {"code": "B6", "name": "JetBlue Airways"}
    page = consume(internet, **given)
    assert len(json.loads(page.stdout)["items"]) == 3


@pytest.mark.parametrize(("missing", "status"), [("LARDER_TOKEN", "401"), ("LARDER_API_KEY", "403")])
def test_missing_credentials_are_reported(
    larder: tuple[Deployed, str], internet: dict[str, str], missing: str, status: str
) -> None:
    """Without its token or its key the consumer ends with the API's status."""
    found, _ = larder
    given = {
        "LARDER_TOKEN": found.issuer.sign("B6", time.time()),
        "LARDER_API_KEY": found.client("apigateway").get_api_keys(includeValues=True)["items"][0]["value"],
    }
    refused = consume(internet, **{**given, missing: ""})
    assert (refused.returncode, status in refused.stderr) == (1, True)


def test_catalog_has_the_content_type_of_the_standard(larder: tuple[Deployed, str]) -> None:
    """It is served as a linkset with the api-catalog's profile (RFC 9727, section 4.2), to GET and to HEAD."""
    for method in ("GET", "HEAD"):
        address = urlsplit(larder[1])
        connection = http.client.HTTPConnection(address.netloc, timeout=20)
        connection.request(method, f"/{BUCKET}/.well-known/api-catalog")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Content-Type")) == (200, CATALOG_TYPE)
        connection.close()


@contextmanager
def run_front(places: Mapping[str, str], directory: Path) -> Iterator[str]:
    """Run a proxy that terminates TLS for each name, with a certificate in the directory; yield its URL."""
    write_certificate(directory, list(places))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")

    class Front(BaseHTTPRequestHandler):
        place = ""

        def do_CONNECT(self) -> None:
            self.place = places[self.path.removesuffix(":443")]
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            self.close_connection = False

        def do_GET(self) -> None:
            address = urlsplit(self.place)
            inner = http.client.HTTPConnection(address.netloc, timeout=20)
            sent = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
            inner.request("GET", address.path + self.path, headers=sent)
            answer = inner.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", ""))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
