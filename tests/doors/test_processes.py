"""The processes of a server: one that dies is replaced, none outlives the main one, and the end loses no request."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doors.kit import (
    LOOPBACK,
    Storage,
    ask,
    build_env,
    build_tree,
    live,
    needs_server,
    run_server,
    token,
    wait_for,
)
from tests.doors.test_hostile import find_workers

pytestmark = [pytest.mark.slow, needs_server]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an image has."""
    return build_tree(tmp_path_factory.mktemp("image") / "app")


@pytest.fixture
def storage() -> Iterator[Storage]:
    """A table with one item."""
    found = Storage(live("a", '{"x":1}'))
    yield found
    found.close()


def test_a_process_that_dies_is_replaced_once_in_seconds(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """If the new one dies at once, the server ends with status 1, and so do the other processes."""
    with run_server(tree, build_env(storage, tmp_path), tmp_path) as server:
        first, other = find_workers(server)
        os.kill(first, signal.SIGKILL)
        errors = tmp_path / "serve.err"
        wait_for(lambda: set(find_workers(server)) - {first, other}, server.process, errors)
        (new,) = set(find_workers(server)) - {first, other}
        os.kill(new, signal.SIGKILL)
        assert server.process.wait(10) == 1
        assert not Path(f"/proc/{other}").exists()
        assert errors.read_text().count("a process ended with -9") == 2


def test_no_process_outlives_the_main_one(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """Also if that is killed."""
    with run_server(tree, build_env(storage, tmp_path), tmp_path) as server:
        workers = find_workers(server)
        server.process.kill()
        server.process.wait()
        ends = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < ends
            time.sleep(0.05)


def test_a_server_that_is_asked_to_end_drains(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """It answers, and closes each connection after its answer; what was asked before the sockets close is answered."""
    good = {"Authorization": f"Bearer {token()}"}
    env = build_env(storage, tmp_path, LARDER_DRAIN_SECONDS="2")
    with run_server(tree, env, tmp_path) as server:
        kept = http.client.HTTPConnection(LOOPBACK, server.port, timeout=10)
        kept.request("GET", "/v1/flight-delays/a", headers=good)
        assert kept.getresponse().read() == b'{"x":1}'
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        assert json.loads(ask(server.port, "GET", "/readyz")[2])["reason"] == "draining"
        status, headers, _ = ask(server.port, "GET", "/v1/flight-delays/a", good)
        assert (status, headers["connection"]) == (200, "close")
        storage.seconds = 0.8
        kept.request("GET", "/v1/flight-delays/a", headers=good)
        late = kept.getresponse()
        assert (late.status, late.read(), late.getheader("connection")) == (200, b'{"x":1}', "close")
        kept.close()
        assert server.process.wait(10) == 0
