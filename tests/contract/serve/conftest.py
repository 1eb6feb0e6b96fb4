"""The laptop server over a table in memory, for tests that send HTTP requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from serve.dev.server import open_server
from tests.unit.serve.kit import App, item

DOCUMENT = yaml.load((Path(__file__).parents[3] / "examples/flights/openapi.yaml").read_text(), yaml.CSafeLoader)


class Laptop(NamedTuple):
    """The running server: its address, and the table and keys behind it."""

    url: str
    app: App


@pytest.fixture
def laptop() -> Iterator[Laptop]:
    """Serve 40 flights of airline B6 on a free port of loopback."""
    body = json.dumps(DOCUMENT["components"]["schemas"]["FlightDelaysBody"]["example"])
    app = App(*(item(f"2024-01-02.JFK.B6{number}", body, place=f"1{number}") for number in range(100, 140)))
    server = open_server(app.handler, port=0)
    yield Laptop(f"http://127.0.0.1:{server.port}", app)
    server.close()
