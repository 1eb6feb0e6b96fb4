"""Slow and hostile clients, a full disk, a wrong clock: the server answers everybody else all the while."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.doors.kit import (
    LOOPBACK,
    Running,
    Storage,
    ask,
    build_env,
    build_tree,
    live,
    needs_server,
    run_server,
    token,
)

pytestmark = [pytest.mark.slow, needs_server]
IDLE = 10_000
HALF = b"GET /v1/flight-delays/a HTTP/1.1\r\nHost: x\r\nX-Y"


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


def is_answered(server: Running) -> bool:
    """Send a good request."""
    return ask(server.port, "GET", "/v1/flight-delays/a", {"Authorization": f"Bearer {token()}"})[0] == 200


def test_ten_thousand_idle_connections(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """Half of them silent, half with an unfinished head: requests are answered, and the memory is bounded."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < IDLE + 1000:
        pytest.skip(f"this machine allows {most} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with run_server(tree, build_env(storage, tmp_path), tmp_path) as server, ExitStack() as stack:
        assert is_answered(server)
        before = read_memory(server)
        for number in range(IDLE):
            # Another address for each 5,000: a pair of addresses has some 28,000 ports.
            source = (f"127.0.0.{2 + number // 5000}", 0)
            connection = stack.enter_context(socket.create_connection((LOOPBACK, server.port), 20, source))
            if number % 2:
                connection.sendall(HALF)
        began = time.monotonic()
        assert all(is_answered(server) for _ in range(20))
        assert time.monotonic() - began < 10
        grown = read_memory(server) - before
        print(f"{IDLE:,} idle connections: {grown / 1e6:.0f} MB")
        assert grown < 300e6


def read_memory(server: Running) -> int:
    """Return the bytes of memory of all processes of a server."""
    pids = [server.process.pid]
    pids += [int(pid) for pid in Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split()]
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_slow_clients_do_not_keep_a_thread(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """200 bodies that come a byte at a time: others are answered at once; the slow ones get 400 after 15 s."""
    with run_server(tree, build_env(storage, tmp_path), tmp_path, "score") as server, ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((LOOPBACK, server.port), 40)) for _ in range(200)]
        for connection in slow:
            connection.sendall(b"POST /v1/models/iris/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        began = time.monotonic()
        for _ in range(5):
            for connection in slow[:50]:
                connection.sendall(b" ")
            assert ask(server.port, "GET", "/livez")[0] == 200
            assert ask(server.port, "GET", "/v1/models/iris", {"Authorization": f"Bearer {token()}"})[0] == 200
        assert time.monotonic() - began < 10
        answers = [connection.recv(4096) for connection in slow]
        assert {answer.split(b" ")[1] for answer in answers} == {b"400"}
        assert 13 < time.monotonic() - began < 40
        assert server.read_metrics()['larder_server_refused_total{reason="slow-body"}'] == 200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_loses_lines_and_no_request(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """What cannot be logged is counted, and requests are answered."""
    with Path("/dev/full").open("wb") as full:
        env = build_env(storage, tmp_path, LARDER_PROCESSES="1")
        with run_server(tree, env, tmp_path, stdout=full.fileno()) as server:
            assert all(is_answered(server) for _ in range(10))
            time.sleep(0.5)
            metrics = server.read_metrics()
    assert metrics["larder_server_log_lines_lost_total"] == 10
    assert sum(value for name, value in metrics.items() if name.startswith("larder_requests_total")) == 10


def test_a_wrong_clock_is_seen_by_readiness(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """AWS refuses what is signed an hour off: 503 for requests and readiness; the log has AWS's word."""
    storage.clock = lambda: time.time() + 3600
    with run_server(tree, build_env(storage, tmp_path), tmp_path) as server:
        assert not is_answered(server)
        status, _, body = ask(server.port, "GET", "/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "storage")
        assert any("InvalidSignature" in line.get("error", "") for line in server.read_lines())
        assert ask(server.port, "GET", "/livez")[0] == 200
        storage.clock = time.time
        time.sleep(1.1)
        assert ask(server.port, "GET", "/readyz")[0] == 200
        assert is_answered(server)
