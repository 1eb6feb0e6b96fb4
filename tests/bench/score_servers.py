"""Send requests over HTTP on loopback to Larder's server and to its peers, each in its own environment.

Each peer runs with a pickle of scikit-learn, the usual form, and with the ONNX file that Larder serves. Only Larder
verifies a token. `larder_lines` also writes its log lines and counts their metrics, as a container does.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import jwt
import psutil

from examples.score.models.iris import iris
from examples.score.pretrained import FOLDER, VIRGINICA
from score.model import render_models
from tests.bench.doors import measure
from tests.bench.read_setup import BENCH, build_env

PEERS = Path(__file__).parent / "peers"
COMMON = ("scikit-learn", "joblib", "numpy", "onnxruntime")
# peer -> pip arguments of its environment, and the arguments of its Python
SERVERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "larder": ((), ("score_larder.py",)),
    "larder_lines": ((), ("score_larder.py", "lines")),
    "flask": (("flask", "waitress", *COMMON), ("score_flask.py",)),
    "flask_waitress": (("flask", "waitress", *COMMON), ("score_flask_waitress.py",)),
    "fastapi": (("fastapi", "uvicorn", *COMMON), ("score_fastapi.py",)),
    "litserve": (("litserve", *COMMON), ("score_litserve.py",)),
    "bentoml": (("bentoml", *COMMON), ("-m", "bentoml", "serve", "score_bentoml:Iris")),
    "mlserver": (("mlserver", *COMMON), ("-c", "from mlserver.cli import main; main()", "start")),
}
FORMS = ("pickle", "onnx")
TENSOR = {
    "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": list(VIRGINICA.values())}]
}  # MLServer's form
START_SECONDS = 120
LOAD_SECONDS = 2


@dataclass
class Running:
    """A server and its figures; times in microseconds."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    path: str
    body: bytes
    headers: dict[str, str]
    first_answer_s: float = 0
    rounds: list[dict[str, float]] = field(default_factory=list)

    def measure(self, count: int) -> None:
        """Send requests one after the other over one connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(20):
            self.ask(connection)
        cpu, times = self.cpu(), []
        for _ in range(count):
            started = time.perf_counter()
            self.ask(connection)
            times.append((time.perf_counter() - started) * 1e6)
        times.sort()
        spent = (self.cpu() - cpu) / count * 1e6
        self.rounds.append({"p50_us": times[count // 2], "p99_us": times[count * 99 // 100], "cpu_us": spent})
        connection.close()

    def load(self, script: Path, seconds: int) -> None:
        """Send requests over 32 connections, if wrk is installed."""
        if shutil.which("wrk"):
            found = measure(self.port, self.process.pid, script, seconds)
            self.rounds[-1] |= {"rate": found["rate"], "load_p99_us": found["p99_ms"] * 1000}

    def render_script(self) -> str:
        """Render the request for wrk."""
        headers = "".join(
            f"wrk.headers[{json.dumps(name)}] = {json.dumps(each)}\n" for name, each in self.headers.items()
        )
        return f"wrk.method = 'POST'\nwrk.path = '{self.path}'\nwrk.body = {json.dumps(self.body.decode())}\n{headers}"

    def ask(self, connection: http.client.HTTPConnection) -> None:
        """Send the request and check the response."""
        connection.request("POST", self.path, self.body, self.headers)
        response = connection.getresponse()
        data = response.read()
        if response.status != 200 or b"virginica" not in data:
            raise SystemExit(f"{self.name} answered {response.status} {data[:300]!r}")

    def tree(self) -> list[psutil.Process]:
        """Return the server's processes."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def cpu(self) -> float:
        """Return the CPU seconds of all processes."""
        return float(sum(one.cpu_times().user + one.cpu_times().system for one in self.tree()))

    def figures(self) -> dict[str, Any]:
        """Return medians over the rounds, memory, and the time to the first response."""
        memory = sum(one.memory_info().rss for one in self.tree()) / 1e6
        medians = {name: median(each[name] for each in self.rounds) for name in self.rounds[0]}
        return {"server": self.name, **medians, "rss_mb": memory, "first_answer_s": self.first_answer_s}


def _is_ours(peer: str) -> bool:
    return peer.startswith("larder")


def find_python(peer: str) -> Path:
    """Return the Python of a peer's environment, which is created once, with `.pyc` files of all packages."""
    if _is_ours(peer):
        return Path(sys.executable)
    packages = SERVERS[peer][0]
    folder = Path(os.environ.get("BENCH_ENVIRONMENTS", str(BENCH))) / peer.partition("_")[0]
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    pickle = folder / "iris.joblib"
    if not pickle.exists():
        subprocess.run([python, PEERS / "score_model.py", pickle], check=True)
    return python


@contextmanager
def run_server(peer: str, form: str, env: dict[str, str], work: Path) -> Iterator[Running]:
    """Run a server until the block ends; it has responded once."""
    python = find_python(peer)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = list(SERVERS[peer][1])
    path, body, headers = "/score", json.dumps(VIRGINICA).encode(), {"Content-Type": "application/json"}
    own = {
        **env, "BENCH_FORM": form, "BENCH_PORT": str(port), "BENCH_ONNX": str(FOLDER), "HOME": str(work),
        "BENCH_PICKLE": str(python.parents[1] / "iris.joblib"), "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "true",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    if _is_ours(peer):
        path, headers = "/v1/models/iris/score", {**headers, "Authorization": env["BENCH_TOKEN"]}
        words[0] = str(PEERS / words[0])
    else:
        own["PYTHONPATH"] = str(PEERS)
        words = [str(PEERS / word) if word.endswith(".py") else word for word in words]
    if peer == "bentoml":
        words += ["--port", str(port), "--host", "127.0.0.1", "--working-dir", str(PEERS)]
    if peer == "mlserver":
        path, body = "/v2/models/iris/infer", json.dumps(TENSOR).encode()
        words.append(str(_write_mlserver(work / f"mlserver-{form}", port)))
    started = time.perf_counter()
    with (work / f"{peer}-{form}.log").open("wb") as log:
        process = subprocess.Popen([python, *words], env=own, cwd=work, stdout=log, stderr=log, start_new_session=True)
    try:
        running = Running(peer if _is_ours(peer) else f"{peer} {form}", port, process, path, body, headers)
        _wait(running, work / f"{peer}-{form}.log")
        running.first_answer_s = time.perf_counter() - started
        yield running
    finally:
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(running: Running, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
            running.ask(connection)
        except (OSError, http.client.HTTPException, SystemExit):
            if time.monotonic() > deadline or running.process.poll() is not None:
                raise SystemExit(f"{running.name} did not answer:\n{log.read_text()[-1500:]}") from None
            time.sleep(0.02)
        else:
            return
        finally:
            connection.close()


def _write_mlserver(folder: Path, port: int) -> Path:
    folder.mkdir(exist_ok=True)
    settings = {
        "http_port": port, "host": "127.0.0.1", "grpc_port": _free(), "metrics_port": _free(), "parallel_workers": 0,
        "metrics_endpoint": None,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "iris", "implementation": "score_mlserver.Iris"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    return folder


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def build_server_env(work: Path) -> dict[str, str]:
    """Build the variables of Larder's server: a key set, a token for iris, and the definition of iris."""
    env = build_env(9, work, scope="iris:score")
    token = json.loads((work / "event.json").read_text())["headers"]["Authorization"]
    assert jwt.decode(token.split()[1], options={"verify_signature": False})["scope"] == "iris:score"
    (work / "models.json").write_text(render_models({"iris": iris._replace(keep=None)}))
    return {**env, "BENCH_TOKEN": token, "BENCH_MODELS": str(work / "models.json")}


def measure_servers(peers: list[str], work: Path, rounds: int, count: int) -> list[dict[str, Any]]:
    """Measure servers in interleaved rounds. One that can't be installed or started is reported and left out."""
    env = build_server_env(work)
    with ExitStack() as stack:
        running = []
        for peer in peers:
            for form in ("onnx",) if _is_ours(peer) else FORMS:
                try:
                    running.append(stack.enter_context(run_server(peer, form, env, work)))
                except (SystemExit, subprocess.CalledProcessError) as error:
                    print(f"{peer} {form} is left out: {error}", file=sys.stderr)
        for each in running:
            (work / f"{each.name}.lua").write_text(each.render_script())
        for _ in range(rounds):
            for each in running:
                each.measure(count)
                each.load(work / f"{each.name}.lua", LOAD_SECONDS)
        return [each.figures() for each in running]
