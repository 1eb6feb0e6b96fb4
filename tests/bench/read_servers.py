"""Send GETs over HTTP on loopback to Larder's laptop server and Feast's feature server, one process each, in turn."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any, NamedTuple

from tests.bench.peers.several_ids import IDS
from tests.bench.read_setup import HERE, interpreter


def _render_query(ids: list[str]) -> bytes:
    return json.dumps({"features": ["flights:body"], "entities": {"prediction": ids}}).encode()


FEAST_QUERY = _render_query(["a"])
CONNECTIONS = 4
RATE = 200.0  # requests per second
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


class Server(NamedTuple):
    """A running server, and the request for the body."""

    name: str
    port: int
    pid: int
    request: bytes
    items: int


@contextmanager
def open_server(name: str, env: dict[str, str], folder: Path) -> Iterator[Server]:
    """Run a server in its own environment."""
    items = len(IDS) if name.endswith(("_named", "_rows")) else 1
    if name.startswith("feast_server"):
        query = _render_query(IDS) if items > 1 else FEAST_QUERY
        env = {**env, "FEAST_STORE": "sqlite" if name.endswith("sqlite") else "dynamodb"}
        command: list[str | Path] = [interpreter(name), HERE / "peers" / "feast_server.py"]
        head = "POST /get-online-features HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(query)}\r\n\r\n".encode() + query
    else:
        command = [interpreter(name), "-m", "serve", "--port", "0"]
        token = json.loads(Path(env["BENCH_EVENT"]).read_text())["headers"]["Authorization"]
        path = f"?id={'&id='.join(IDS)}" if items > 1 else "/a"
        request = f"GET /v1/flight-delays{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        while not (found := re.search(r"(?:127\.0\.0\.1:|^)(\d{4,5})\b", line)):
            if not line:
                raise SystemExit(f"{name} did not start")
            line = process.stderr.readline()
        Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would block the server
        yield Server(name, int(found[1]), process.pid, request, items)
    finally:
        process.terminate()
        process.wait()


class Load:
    """Keep-alive connections to one server."""

    def __init__(self, server: Server, rate: float = RATE) -> None:
        self.server = server
        self._rate = rate
        self.rounds: list[dict[str, float]] = []
        self._due: list[list[float]] = []  # latencies at a fixed rate, by round

    def run(self, count: int) -> None:
        """Send `count` requests over one connection, over all at once, and at a fixed rate; record the figures."""
        with self._open(1) as sockets:
            self._ask(sockets)
            cpu = _cpu(self.server.pid)
            alone = [self._ask(sockets) for _ in range(count)]
            cpu = (_cpu(self.server.pid) - cpu) / count
        with self._open(CONNECTIONS) as sockets:
            self._ask(sockets)
            begin = time.perf_counter()
            together = [self._ask(sockets) for _ in range(count // CONNECTIONS)]
            rate = count // CONNECTIONS * CONNECTIONS / (time.perf_counter() - begin)
        at_once = sorted(latency for latencies in together for latency in latencies)
        one = sorted(latency for latencies in alone for latency in latencies)
        with self._open(1) as (connection,):
            self._ask([connection])
            self._due.append(self._ask_at_rate(connection, count))
        self.rounds.append({
            "cpu_us": cpu * 1e6, "p50_us": one[len(one) // 2] * 1e6, "p99_us": one[len(one) * 99 // 100] * 1e6,
            "rate": rate, "rate_p99_us": at_once[len(at_once) * 99 // 100] * 1e6,
        })  # fmt: skip

    def figures(self) -> dict[str, Any]:
        """Return the medians of all rounds except the first, which warms up."""
        kept = self.rounds[1:]
        due = sorted(latency for latencies in self._due[1:] for latency in latencies)
        at_rate = {f"due_{name}_us": due[int(len(due) * share)] * 1e6 for name, share in SHARES.items()}
        return {"server": self.server.name} | {name: median(one[name] for one in kept) for name in kept[0]} | at_rate

    @contextmanager
    def _open(self, count: int) -> Iterator[list[socket.socket]]:
        """Open connections, for one part of a round: servers close those that are idle meanwhile."""
        with ExitStack() as stack:
            sockets = [
                stack.enter_context(socket.create_connection(("127.0.0.1", self.server.port), timeout=30))
                for _ in range(count)
            ]
            for connection in sockets:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield sockets

    def _ask_at_rate(self, connection: socket.socket, count: int) -> list[float]:
        """Send requests at the rate. A latency begins when its request is due, even if the one before has no answer."""
        begin, latencies = time.perf_counter(), list[float]()
        for number in range(count):
            due = begin + number / self._rate
            time.sleep(max(0.0, due - time.perf_counter()))
            self._ask([connection])
            latencies.append(time.perf_counter() - due)
        return latencies

    def _ask(self, connections: list[socket.socket]) -> list[float]:
        begin = time.perf_counter()
        for connection in connections:
            connection.sendall(self.server.request)
        latencies = []
        for connection in connections:
            _read_answer(connection, self.server.name, self.server.items)
            latencies.append(time.perf_counter() - begin)
        return latencies


def _read_answer(connection: socket.socket, name: str, items: int) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _receive(connection, name)
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"{name} answered {data[:300]!r}")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += _receive(connection, name)
    if body.count(b"JetBlue Airways") < items:
        raise SystemExit(f"{name} answered without {items} bodies: {body[:300]!r}")


def _receive(connection: socket.socket, name: str) -> bytes:
    received = connection.recv(65536)
    if not received:
        raise SystemExit(f"{name} closed the connection")
    return received


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
