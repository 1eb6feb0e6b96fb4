"""Slow and hostile clients, a full disk, a wrong clock: the server answers everybody else all the while."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.doors.kit import (
    LOOPBACK,
    Running,
    Storage,
    ask,
    build_env,
    find_workers,
    live,
    needs_network,
    needs_server,
    run_in_own_network,
    run_server,
    token,
    wait_for,
)

pytestmark = [pytest.mark.slow, needs_server]
IDLE = 10_000
LARGE = gzip.compress(b'{"x":"%b"}' % (b"x" * 4_100_000))  # an item that is 4 MB as text
HALF = b"GET /v1/flight-delays/a HTTP/1.1\r\nHost: x\r\nX-Y"


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


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted by root alone")
def test_a_full_tmp_costs_metrics_at_most(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """Values have their space from the start. A process that is replaced gets none, and has no metrics."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    try:
        with run_server(tree, build_env(storage, tmp_path), folder) as server:
            fill_disk(folder)
            assert all(is_answered(server) for _ in range(40))
            assert ask(server.port, "GET", "/v1/flight-delays", {"Authorization": f"Bearer {token()}"})[0] == 200
            assert sum(count_requests(server).values()) > 0
            (first, *_) = find_workers(server)
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: first not in find_workers(server), server.process, folder / "serve.err")
            wait_for(lambda: len(find_workers(server)) == 2, server.process, folder / "serve.err")
            time.sleep(1)
            assert all(is_answered(server) for _ in range(40))
            assert sum(count_requests(server).values()) > 0
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 0
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(folder: Path) -> None:
    """Write until nothing more fits."""
    file = os.open(folder / "full", os.O_CREAT | os.O_WRONLY)
    with suppress(OSError):
        while True:
            os.write(file, b"x" * 4096)
    os.close(file)


def count_requests(server: Running) -> dict[str, float]:
    """Return the metrics that count requests."""
    return {name: value for name, value in server.read_metrics().items() if name.startswith("larder_requests_total")}


def count_connections(server: Running) -> int:
    """Return how many connections of clients a server has open."""
    found = 0
    for line in Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        found += local.endswith(f":{server.port:04X}") and state in ("01", "08")  # ESTABLISHED, CLOSE_WAIT
    return found


def wait_until_ended(server: Running, seconds: float) -> None:
    """Wait until the server has no connection any more; it answers others all the while."""
    ends = time.monotonic() + seconds
    while left := count_connections(server):
        assert time.monotonic() < ends, f"{left} connections are left"
        assert is_answered(server)
        time.sleep(0.5)


@needs_network
def test_clients_that_vanish_are_left(tree: Path, tmp_path: Path) -> None:
    """No FIN, no RST, nothing any more: an idle one, in a head, in a body, and before an answer; 25 of each."""
    gone = "127.0.0.9"
    asked = f"GET /v1/flight-delays/%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n\r\n"
    body = b"POST /v1/flight-delays/a HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\nx"
    sent = [b"", (asked % "a").encode(), HALF, body, (asked % "large").encode()]

    def work() -> None:
        own = Storage(live("a", '{"x":1}'), live("large", LARGE))
        with run_server(tree, build_env(own, tmp_path), tmp_path) as server, ExitStack() as stack:
            assert is_answered(server)
            time.sleep(1)  # options of the listening sockets are set just after they listen
            for data in sent * 25:
                connection = socket.socket()
                stack.enter_context(connection)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.bind((gone, 0))
                connection.connect((LOOPBACK, server.port))
                connection.sendall(data)
            time.sleep(1)
            assert count_connections(server) == 25 * len(sent)
            for side in ("-s", "-d"):
                subprocess.run(["iptables", "-A", "INPUT", side, gone, "-j", "DROP"], check=True)
            wait_until_ended(server, 110)
        own.close()

    run_in_own_network(work)


def test_clients_that_do_not_read_are_left(tree: Path, tmp_path: Path) -> None:
    """200 clients ask for 4 MB each and read a byte a second: memory is bounded, others are served, and it ends."""
    storage = Storage(live("a", '{"x":1}'), live("large", LARGE))
    asked = f"GET /v1/flight-delays/large HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n\r\n"
    with run_server(tree, build_env(storage, tmp_path), tmp_path) as server, ExitStack() as stack:
        good = {"Authorization": f"Bearer {token()}"}
        assert len(ask(server.port, "GET", "/v1/flight-delays/large", good)[2]) > 4_000_000
        memory = read_memory(server)
        slow = []
        for number in range(200):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((LOOPBACK, server.port))
            connection.sendall(asked.encode())
            slow.append(connection)
            if number % 10 == 9:
                assert is_answered(server)
        most, ends = 0, time.monotonic() + 110
        while count_connections(server):
            assert time.monotonic() < ends
            assert is_answered(server)
            for connection in slow:
                with suppress(OSError):
                    connection.recv(1)
            most = max(most, read_memory(server) - memory)
            time.sleep(1)
        metrics = server.read_metrics()
        counts = [
            metrics[f'larder_server_refused_total{{reason="{one}"}}'] for one in ("slow-reader", "too-many-answers")
        ]
        print(f"200 clients that do not read: {most / 1e6:.0f} MB more; broken off and refused: {counts}")
        assert sum(counts) == 200
        assert most < 250e6
        assert len(ask(server.port, "GET", "/v1/flight-delays/large", good)[2]) > 4_000_000
    storage.close()


def test_a_flood_of_refused_bodies_holds_nothing(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """100 that send as fast as they can, and 200 that send nothing after their head: all end within seconds."""
    head = b"POST /v1/flight-delays/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    answers: list[bytes] = []

    def flood(_: int) -> None:
        with socket.create_connection((LOOPBACK, server.port), 20) as connection:
            connection.sendall(head)
            answers.append(connection.recv(4096)[:12])
            with suppress(OSError):
                while True:
                    connection.sendall(b"x" * 65536)

    with run_server(tree, build_env(storage, tmp_path), tmp_path) as server, ExitStack() as stack:
        assert is_answered(server)
        memory = read_memory(server)
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection((LOOPBACK, server.port), 20))
            connection.sendall(head)
        with ThreadPoolExecutor(20) as pool:
            for one in [pool.submit(flood, number) for number in range(100)]:
                assert is_answered(server)
                one.result()
        wait_until_ended(server, 20)
        grown = read_memory(server) - memory
        print(f"300 refused bodies: {grown / 1e6:.0f} MB more")
        assert grown < 50e6
    assert set(answers) == {b"HTTP/1.1 413"}


def test_a_wrong_clock_is_seen_by_readiness(tree: Path, storage: Storage, tmp_path: Path) -> None:
    """AWS refuses what is signed an hour off: 503 for requests and readiness; the log has AWS's word."""
    storage.clock = lambda: time.time() + 3600
    with run_server(tree, build_env(storage, tmp_path), tmp_path) as server:
        assert not is_answered(server)

        def has_said_why() -> bool:
            status, _, body = ask(server.port, "GET", "/readyz")
            assert (status, json.loads(body)["reason"]) == (503, "storage")
            return any("InvalidSignature" in line.get("error", "") for line in server.read_lines())

        wait_for(has_said_why, server.process, tmp_path / "serve.err")  # a busy machine can take longer than a look
        assert ask(server.port, "GET", "/livez")[0] == 200
        storage.clock = time.time
        time.sleep(1.1)
        assert ask(server.port, "GET", "/readyz")[0] == 200
        assert is_answered(server)
