"""`./larder serve`, started as a developer does: over the stand-in, with keys and a token from `./larder keys`."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve.item import Item, encode
from tests.integration.conftest import Aws

ROOT = Path(__file__).resolve().parents[3]


def _run(env: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "serve", *arguments]
    return subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def _served(env: Mapping[str, str], log: Path) -> Iterator[int]:
    with log.open("wb") as output:
        command = [sys.executable, "-m", "serve", "--port", "0"]
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", process.stderr.readline())
            assert found is not None
            yield int(found[1])
        finally:
            process.terminate()
            process.communicate(timeout=60)


def test_a_developer_gets_an_item_from_the_laptop_server(aws: Aws, tmp_path: Path) -> None:
    """Create a key, sign a token, start the server, GET: 200 with the body; without the token 401."""
    table = aws.table(ttl=False)
    item = Item("flight-delays#B6", "2024-01-02.JFK.B6123", '{"flight":"B6123"}', "0001.1.1", int(time.time()) + 600)
    attributes: Any = encode(item)
    aws.client("dynamodb").put_item(TableName=table, Item=attributes)
    issuers = [
        {"issuer": "https://issuer.example.com/", "audience": "larder", "keys": f"file:{tmp_path}/keys/jwks.json"}
    ]
    env = {
        **os.environ, **aws.env, "AWS_REGION": aws.region, "LARDER_TABLE": table, "LARDER_ISSUERS": json.dumps(issuers),
    }  # fmt: skip
    folder = ("--folder", str(tmp_path / "keys"))
    _run(env, "keys", "create", "laptop", *folder)
    assert _run(env, "keys", "check", f"file:{tmp_path}/keys/jwks.json") == "laptop\tES256"
    token = _run(env, "keys", "token", "laptop", *folder, "--claim", "carrier=B6")
    with _served(env, tmp_path / "lines") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        answers = []
        for path, headers in (
            ("/v1/flight-delays/2024-01-02.JFK.B6123", {"Authorization": f"Bearer {token}"}),
            ("/v1/flight-delays/2024-01-02.JFK.B6123", {}),
            ("/v1/health", {}),
            ("/docs/", {}),
        ):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            answers.append((answer.status, answer.read()))
        connection.close()
    assert [status for status, _ in answers] == [200, 401, 200, 200]
    assert answers[0][1] == b'{"flight":"B6123"}'
    lines = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [(line["use_case"], line["status"]) for line in lines] == [
        ("get_item", 200),
        ("get_item", 401),
        ("health", 200),
    ]
    assert token not in (tmp_path / "lines").read_text()
