"""The server in its processes: answers, probes, metrics, credentials, and an end that loses no request."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from server.body import DISCARD_BYTES, MAX_BODY
from tests.doors.kit import (
    LOOPBACK,
    Running,
    Storage,
    ask,
    build_env,
    build_tree,
    exchange,
    find_children,
    find_workers,
    live,
    needs_server,
    run_server,
    start_server,
    token,
    wait_for,
)
from tests.unit.score.kit import VIRGINICA

pytestmark = needs_server


class Doors(NamedTuple):
    """Both servers over one storage."""

    storage: Storage
    serve: Running
    score: Running


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an image has."""
    return build_tree(tmp_path_factory.mktemp("image") / "app")


@pytest.fixture(scope="module")
def doors(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Serve and score, of one process each."""
    folder = tmp_path_factory.mktemp("servers")
    storage = Storage(live("a", '{"x":1}'))
    env = build_env(storage, folder, LARDER_PROCESSES="1")
    with run_server(tree, env, folder) as serve, run_server(tree, env, folder, "score") as score:
        yield Doors(storage, serve, score)
    storage.close()


@pytest.fixture
def good() -> dict[str, str]:
    """A token."""
    return {"Authorization": f"Bearer {token()}"}


def test_it_answers_as_the_handler_does(doors: Doors, good: dict[str, str]) -> None:
    """An item, HEAD, 304, an encoded slash, a connection that is kept."""
    connection = http.client.HTTPConnection(LOOPBACK, doors.serve.port, timeout=10)
    connection.request("GET", "/v1/flight-delays/a", headers=good)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b'{"x":1}')
    etag = {"If-None-Match": answer.headers["etag"]}
    for method, path, headers, status in (
        ("HEAD", "/v1/flight-delays/a", good, 200),
        ("GET", "/v1/flight-delays/a", good | etag, 304),
        ("GET", "/v1/flight-delays%2Fa", good, 404),
        ("GET", "/v1/flight-delays/a", {}, 401),
        ("OPTIONS", "/v1/flight-delays/a", {}, 204),
        ("GET", "/v1/health", {}, 200),
    ):
        connection.request(method, path, headers=headers)
        found = connection.getresponse()
        assert found.status == status, (method, path)
        assert not found.read() or method == "GET"
    connection.close()


def test_models_answer(doors: Doors, good: dict[str, str]) -> None:
    """A body reaches score."""
    headers = good | {"Content-Type": "application/json"}
    status, _, body = ask(doors.score.port, "POST", "/v1/models/iris/score", headers, json.dumps(VIRGINICA).encode())
    assert (status, json.loads(body)["prediction"]["label"]) == (200, "virginica")
    assert ask(doors.score.port, "GET", "/readyz")[0] == 200


def wait_until(find: Callable[[], Any]) -> Any:
    """Return what a function finds, once it finds something: lines are written a moment later."""
    ends = time.monotonic() + 20
    while not (found := find()) and time.monotonic() < ends:
        time.sleep(0.02)
    return found


def test_storage_that_is_down_is_seen_by_readiness_alone(doors: Doors) -> None:
    """A pod is taken out of service, and is not restarted; the log has the reason, which is internal."""
    assert ask(doors.serve.port, "GET", "/readyz")[0] == 200
    doors.storage.is_down = True
    try:
        time.sleep(1.05)
        status, _, body = ask(doors.serve.port, "GET", "/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "storage")
        assert ask(doors.serve.port, "GET", "/livez")[0] == 200
        (line,) = wait_until(lambda: [one for one in doors.serve.read_lines() if one.get("event") == "not_ready"])
        assert (line["level"], line["error"]) == ("WARNING", "StorageUnavailable: Dropped")
    finally:
        doors.storage.is_down = False
    time.sleep(1.05)
    assert ask(doors.serve.port, "GET", "/readyz")[0] == 200


def test_a_server_that_started_without_its_models_is_ready_later(tree: Path, tmp_path: Path) -> None:
    """Without a request, although a model file takes longer than a probe waits."""
    storage = Storage()
    storage.is_down = True
    with run_server(tree, build_env(storage, tmp_path, LARDER_PROCESSES="1"), tmp_path, "score") as server:
        assert ask(server.port, "GET", "/readyz")[0] == 503
        storage.is_down, storage.model_seconds = False, 1.7
        assert wait_until(lambda: ask(server.port, "GET", "/readyz")[0] == 200)
    storage.close()


def test_lines_and_metrics_agree(doors: Doors, good: dict[str, str]) -> None:
    """Each request has its line on standard output, and is counted."""
    for name in ("a", "b"):
        ask(doors.serve.port, "GET", f"/v1/flight-delays/{name}", {**good, "X-Request-Id": f"line-{name}"})

    def find_lines() -> list[Any]:
        lines = doors.serve.read_lines()
        return [line["status"] for name in "ab" for line in lines if line.get("request_id") == f"line-{name}"]

    def are_counted() -> bool:
        metrics = doors.serve.read_metrics()
        counted = {name: value for name, value in metrics.items() if name.startswith("larder_requests_total")}
        lines = [line for line in doors.serve.read_lines() if "status" in line]
        return sum(counted.values()) == len(lines) and 'use_case="get_item"' in "".join(counted)

    assert wait_until(lambda: len(find_lines()) == 2)
    assert find_lines() == [200, 404]
    assert wait_until(are_counted)


@pytest.mark.parametrize("function", ["serve", "score"])
def test_a_refused_request_has_its_line_too(doors: Doors, function: str) -> None:
    """And is counted: an alarm on errors sees what only the server has answered."""
    server: Running = getattr(doors, function)
    status, _, body = ask(server.port, "POST", "/v1/models/iris/score", body=b"x" * (MAX_BODY + 1))
    request_id = json.loads(body)["requestId"]
    (line,) = wait_until(lambda: [one for one in server.read_lines() if one.get("request_id") == request_id])
    assert (status, line["status"], line["use_case"]) == (413, 413, "unrouted")
    assert (line["code"], line["reason"]) == ("content_too_large", "content-too-large")
    name = f'larder_client_errors_total{{environment="test",service="{function}",use_case="unrouted"}}'
    assert wait_until(lambda: server.read_metrics().get(name, 0) >= 1)


def test_a_head_that_is_too_large_is_refused(doors: Doors) -> None:
    """60 KB of headers pass; 200 KB do not."""
    for size, status in ((60_000, b"404"), (200_000, b"431")):
        head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: %b\r\n\r\n" % (b"a" * size)
        assert exchange(doors.serve.port, head).split(b" ")[1] == status, size


def test_a_body_without_end_is_refused(doors: Doors) -> None:
    """After 1 MB of chunks the answer is 413; after 10 MB more, or 2 s, the connection ends."""
    with socket.create_connection((LOOPBACK, doors.score.port), 10) as connection:
        connection.sendall(b"POST /v1/models/iris/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 64 * 1024 * 1024:
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
        except OSError:
            pass
        assert MAX_BODY <= sent < 3 * DISCARD_BYTES  # the system buffers some MB
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert doors.score.read_metrics()['larder_server_refused_total{reason="content-too-large"}'] >= 1


@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_a_client_that_sends_all_before_it_reads_gets_its_answer(doors: Doors, seconds: float) -> None:
    """A refused body is read to its end, also one that comes in two parts with a pause; no write is reset."""
    body = b"x" * 1_500_000
    head = b"POST /v1/models/iris/score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * len(body))
    with socket.create_connection((LOOPBACK, doors.score.port), 10) as connection:
        connection.sendall(head + body)
        time.sleep(seconds)
        connection.sendall(body)
        answer = b""
        while part := connection.recv(65536):  # an error would be a reset
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_refused_client_has_its_answer_at_once(doors: Doors, expect: bytes) -> None:
    """Before its body, and without "100 Continue" if it waits for that; what it sends after that is still read."""
    body = b"x" * 2_000_000
    head = b"POST /v1/models/iris/score HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n" % (expect, len(body))
    with socket.create_connection((LOOPBACK, doors.score.port), 10) as connection:
        connection.sendall(head)
        answer = connection.recv(65536)
        connection.sendall(body)
        while part := connection.recv(65536):  # an error would be a reset
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_connections_are_bounded_by_open_files(tree: Path, tmp_path: Path, good: dict[str, str]) -> None:
    """Those beyond the bound end at once; the others, and the server's own to storage, have what they need."""
    storage = Storage(live("a", '{"x":1}'))
    env = build_env(storage, tmp_path, LARDER_PROCESSES="1")
    with run_server(tree, env, tmp_path, files=128) as server, ExitStack() as stack:
        place = LOOPBACK, server.port
        connections = [stack.enter_context(socket.create_connection(place, 10)) for _ in range(200)]
        assert {has_ended(each) for each in connections[64:]} == {True}
        kept = http.client.HTTPConnection(LOOPBACK, server.port, timeout=10)
        kept.sock = connections[0]
        kept.request("GET", "/v1/flight-delays/a", headers=good)
        assert kept.getresponse().read() == b'{"x":1}'
        for each in connections:
            each.close()
        assert wait_until(lambda: has_answer(server, good))
    assert (tmp_path / "serve.err").read_text().count("\n") == 1
    storage.close()


def has_ended(connection: socket.socket) -> bool:
    """Return whether the server ends a connection within a second."""
    connection.settimeout(1)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def has_answer(server: Running, headers: dict[str, str]) -> bool:
    """Return whether a request on a connection of its own is answered."""
    try:
        return ask(server.port, "GET", "/v1/flight-delays/a", headers)[0] == 200
    except OSError:
        return False


def test_no_more_open_files_are_a_line_and_not_a_flood(tree: Path, tmp_path: Path, good: dict[str, str]) -> None:
    """Whatever has opened them: connections wait, and are accepted later."""
    storage = Storage(live("a", '{"x":1}'))
    with run_server(tree, build_env(storage, tmp_path, LARDER_PROCESSES="1"), tmp_path) as server, ExitStack() as stack:
        assert has_answer(server, good)
        (worker,) = find_workers(server)
        _, most = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{worker}/fd")) + 5, most))
        for _ in range(20):
            stack.enter_context(socket.create_connection((LOOPBACK, server.port), 10))
        time.sleep(3)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (most, most))
        assert wait_until(lambda: has_answer(server, good))
    _, *lines = map(json.loads, (tmp_path / "serve.err").read_text().splitlines())
    assert [(line["level"], line["reason"], line["error"]) for line in lines] == [
        ("ERROR", "OSError", "Too many open files")
    ]
    storage.close()


@pytest.mark.parametrize("send_signal", [os.kill, os.killpg])
def test_no_request_is_lost_at_the_end(
    tree: Path, tmp_path: Path, good: dict[str, str], send_signal: Callable[[int, int], None]
) -> None:
    """On SIGTERM the server says that it is not ready, answers for the time of the drain, and what is in flight.

    The signal is sent to the main process, as by Kubernetes, or to all processes, as by systemd.
    """
    storage = Storage(live("a", '{"x":1}'))
    env = build_env(storage, tmp_path, LARDER_DRAIN_SECONDS="2")
    storage.seconds = 0.02
    statuses: list[int] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                statuses.append(ask(server.port, "GET", "/v1/flight-delays/a", good)[0])
            except Exception as error:
                errors.append(error)

    with run_server(tree, env, tmp_path) as server:
        kept = http.client.HTTPConnection(LOOPBACK, server.port, timeout=10)
        kept.request("GET", "/v1/flight-delays/a", headers=good)
        assert kept.getresponse().read()
        threads = [threading.Thread(target=load, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        send_signal(server.process.pid, signal.SIGTERM)
        signalled = time.monotonic()
        while json.loads(ask(server.port, "GET", "/readyz")[2]).get("reason") != "draining":
            time.sleep(0.02)
        time.sleep(0.2)  # the other process
        kept.request("GET", "/v1/flight-delays/a", headers=good)
        answer = kept.getresponse()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        stop.set()  # as load balancers do once a target is not ready
        for thread in threads:
            thread.join()
        storage.seconds = 0.9
        late = threading.Thread(target=lambda: statuses.append(ask(server.port, "GET", "/v1/flight-delays/a", good)[0]))
        time.sleep(max(0.0, signalled + 1.3 - time.monotonic()))
        before = len(statuses)
        late.start()  # is in flight when the sockets close
        assert server.process.wait(30) == 0
        late.join()
        assert len(statuses) == before + 1
    assert errors == []
    assert set(statuses) == {200}
    assert "a process ended" not in (tmp_path / "serve.err").read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("larder-server-")] == []
    storage.close()


@pytest.mark.parametrize("send_signal", [os.kill, os.killpg])
def test_a_server_ends_while_it_starts(tree: Path, tmp_path: Path, send_signal: Callable[[int, int], None]) -> None:
    """Without a drain. As the first process of a container, it would never see a signal that is not blocked."""
    storage = Storage()
    process = start_server(tree, build_env(storage, tmp_path, LARDER_DRAIN_SECONDS="60"), tmp_path)
    errors = tmp_path / "serve.err"
    wait_for(lambda: find_children(process.pid), process, errors)  # it checks the function
    send_signal(process.pid, signal.SIGTERM)
    assert process.wait(10) == 0
    assert errors.read_text() == ""
    storage.close()


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_a_drain_is_skipped(tree: Path, tmp_path: Path, good: dict[str, str], signals: list[signal.Signals]) -> None:
    """On SIGINT, which a terminal sends to all processes, or a second SIGTERM; what is in flight is answered."""
    storage = Storage(live("a", '{"x":1}'))
    storage.seconds = 0.6
    statuses: list[int] = []
    env = build_env(storage, tmp_path, LARDER_DRAIN_SECONDS="60")
    with run_server(tree, env, tmp_path) as server:
        late = threading.Thread(target=lambda: statuses.append(ask(server.port, "GET", "/v1/flight-delays/a", good)[0]))
        late.start()
        time.sleep(0.1)
        for each in signals:
            os.killpg(server.process.pid, each)
            time.sleep(0.2)
        assert server.process.wait(10) == 0
        late.join()
    assert statuses == [200]
    storage.close()
