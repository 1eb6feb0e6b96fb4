"""What the tests of doors are made of: storage over HTTP, the tree of an image, the server in its own processes."""

from __future__ import annotations

import ctypes
import http.client
import importlib.util
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from score.model import render_models
from serve.datasets import render_served
from serve.item import Item
from tests.unit.score.kit import MODELS, Bucket, alias_of, delay_version, iris_version, news_version, wine_version
from tests.unit.serve.kit import AUDIENCE, ISSUER, SERVED, Table, all_jwks, claims, item, sign

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
LATER = int(time.time()) + 86_400
HAS_SERVER = importlib.util.find_spec("prometheus_client") is not None
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
needs_network = pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("iptables")),
    reason="a network of its own needs root, iproute2 and iptables",
)
needs_server = pytest.mark.skipif(
    not HAS_SERVER, reason="prometheus_client is missing: pip install -r tests/requirements.txt"
)


def token(**changes: Any) -> str:
    """Sign a token that is valid for ten minutes."""
    now = int(time.time())
    scope = "flight-delays:read iris:score news:score delay:score"
    return sign(claims(iat=now, exp=now + 600, scope=scope, **changes))


def live(sk: str, body: str | bytes | None = "{}", **changes: Any) -> Item:
    """Build an item that lives for a day."""
    return item(sk, body, **{"expires_at": LATER, **changes})


class Storage:
    """A table and a bucket in memory, over HTTP, which can be slow, down, or refuse requests with a wrong clock."""

    def __init__(self, *items: Item) -> None:
        self.table = Table(*items)
        self.bucket = Bucket()
        for version in (iris_version(), wine_version(), news_version(), delay_version()):
            self.bucket.put(version)
            self.bucket.point(alias_of(version))
        self.seconds = 0.0
        self.model_seconds = 0.0  # of a model file
        self.is_down = False
        self.keys_seen: set[str] = set()  # access keys that requests were signed with
        self.clock: Callable[[], float] | None = None  # refuses requests that are signed 5 minutes off
        storage = self

        class Peer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                payload = self.rfile.read(int(self.headers["Content-Length"]))
                signed = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
                storage.keys_seen.add(signed[1] if signed else "")
                if storage.is_down:
                    self.close_connection = True
                    return
                time.sleep(storage.seconds)
                if storage.clock is not None:
                    sent = time.mktime(time.strptime(self.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")) - time.timezone
                    if abs(sent - storage.clock()) > 300:
                        self._answer(400, b'{"__type":"com.amazon.coral.service#InvalidSignatureException"}')
                        return
                self._answer(200, storage.table.send(self.headers["x-amz-target"], payload))

            def do_GET(self) -> None:
                data = storage.bucket.objects.get(self.path.split("/", 2)[2])
                if storage.is_down:
                    self.close_connection = True
                elif data is None:
                    self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                else:
                    time.sleep(storage.model_seconds if self.path.endswith(".onnx") else 0.0)
                    self._answer(200, data, etag=f'"{sha256(data).hexdigest()[:32]}"')

            def _answer(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Peer)
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def build_tree(folder: Path) -> Path:
    """Copy what an image has: the code, who can read what, and the models."""
    for name in ("serve", "score", "wire", "server"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "dev", "publish"))
    (folder / "serve/datasets.json").write_text(render_served(SERVED))
    (folder / "score/models.json").write_text(render_models(MODELS))
    return folder


def build_env(storage: Storage, folder: Path, **changes: str) -> dict[str, str]:
    """Build the environment of a server whose storage is this one, and whose keys are in a file of the folder."""
    (folder / "keys.json").write_text(all_jwks())
    issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "keys": f"file:{folder / 'keys.json'}"}]
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": storage.url,
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "LARDER_TABLE": "table",
        "LARDER_ENVIRONMENT": "test",
        "LARDER_ISSUERS": json.dumps(issuers),
        "LARDER_MODELS_BUCKET": "models",
        "LARDER_DRAIN_SECONDS": "0",
        **changes,
    }


class Running(NamedTuple):
    """A server that listens."""

    port: int
    metrics_port: int
    process: subprocess.Popen[bytes]
    lines: Path  # its standard output: a line for each request

    def read_lines(self) -> list[dict[str, Any]]:
        """The log lines of requests so far."""
        return [json.loads(line) for line in self.lines.read_text().splitlines()]

    def read_metrics(self) -> dict[str, float]:
        """The metrics that a Prometheus would read, by name and labels."""
        status, _, text = ask(self.metrics_port, "GET", "/metrics")
        assert status == 200
        lines = (line for line in text.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def start_server(
    tree: Path,
    env: Mapping[str, str],
    folder: Path,
    function: str = "serve",
    stdout: int | None = None,
    files: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start the server; its outputs are files of the folder. `files` is how many files each process can have open."""
    log, errors = folder / f"{function}.log", folder / f"{function}.err"
    command = [sys.executable, "-P", "-m", "server", function, "--host", LOOPBACK, "--port", "0", "--metrics-port", "0"]
    path = os.pathsep.join([str(tree), env.get("PYTHONPATH", "")]).replace(str(ROOT), "")

    def limit_files() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    with log.open("wb") as output, errors.open("wb") as problems:
        return subprocess.Popen(
            command,
            env={**env, "PYTHONPATH": path, "TMPDIR": str(folder)},
            cwd=folder,
            stdout=output if stdout is None else stdout,
            stderr=problems,
            preexec_fn=limit_files,  # noqa: PLW1509 - it takes no lock that a thread could hold
            start_new_session=True,  # so that a signal can be sent to all of its processes
        )


@contextmanager
def run_server(
    tree: Path,
    env: Mapping[str, str],
    folder: Path,
    function: str = "serve",
    stdout: int | None = None,
    files: int | None = None,
) -> Iterator[Running]:
    """Run the server from a tree until the block ends; then it must end by itself, within 10 seconds."""
    log, errors = folder / f"{function}.log", folder / f"{function}.err"
    process = start_server(tree, env, folder, function, stdout, files)
    try:
        found = wait_for(
            lambda: re.search(r'"port": (\d+), "metrics_port": (\d+)', errors.read_text()), process, errors
        )
        port = int(found[1])
        wait_for(lambda: _answers(port), process, errors)
        yield Running(port, int(found[2]), process, log)
    finally:
        if process.poll() is None:
            assert stop(process), "the server did not end within 10 s"


def stop(process: subprocess.Popen[bytes]) -> bool:
    """End a process; return whether SIGTERM was enough."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True


def wait_for(find: Callable[[], Any], process: subprocess.Popen[bytes], errors: Path, seconds: float = 30) -> Any:
    """Return what a function finds, once it finds something."""
    ends = time.monotonic() + seconds
    while not (found := find()):
        assert process.poll() is None, f"ended with {process.returncode}:\n{errors.read_text()[-3000:]}"
        assert time.monotonic() < ends, f"nothing after {seconds} s:\n{errors.read_text()[-3000:]}"
        time.sleep(0.02)
    return found


def find_workers(server: Running) -> list[int]:
    """Return the ids of the processes that answer."""
    found = find_children(server.process.pid)
    return [pid for pid in found if b"server.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def find_children(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run_in_own_network(work: Callable[[], None]) -> None:
    """Run a function in a thread whose sockets, and those of processes it starts, see only a loopback of their own."""

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        work()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(enter).result()


def find_free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server((LOOPBACK, 0)) as one:
        return int(one.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        return ask(port, "GET", "/livez")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def ask(
    port: int, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send a request on a connection of its own; return status, headers in lower case, and body."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def exchange(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """Send bytes and return all that comes back until the connection ends, or nothing comes for a time."""
    with socket.create_connection((LOOPBACK, port), seconds) as connection:
        connection.sendall(data)
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
        return received
