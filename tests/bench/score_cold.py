"""Measure cold starts of scoring: from the start of a process to its first response, with the model on S3.

Larder's handler also verifies a token, and reads alias and manifest; the peers, which use boto3, do not.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from examples.score.pretrained import FOLDER, VIRGINICA
from score.manifest import Alias, dump_alias, parse_manifest
from score.paths import alias_key, manifest_key, model_key
from tests.bench.read_setup import BENCH, ROOT
from tests.bench.score_servers import PEERS, build_server_env

BUCKET = "models"
PICKLE_KEY = "iris.joblib"
_LAMBDA = ("boto3", "joblib", "numpy", "onnxruntime", "scikit-learn")
# name -> environment, its pip arguments, and the module in peers/ with the handler
HANDLERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "larder": ("score", ("-r", str(ROOT / "score/requirements.txt"), "--no-deps"), "score_larder_handler"),
    "onnxruntime's Python API": ("score_lambda", _LAMBDA, "score_onnx_handler"),
    "pickle": ("score_lambda", _LAMBDA, "score_pickle_handler"),
}
_RUN = (
    "import importlib, json, os, sys; sys.path.insert(0, os.environ['BENCH_PEERS']); "
    "handler = importlib.import_module(sys.argv[1]).handler; "
    "answer = handler(json.load(open(os.environ['BENCH_EVENT'])), None); "
    "assert answer['statusCode'] == 200 and 'virginica' in answer['body'], answer"
)


def find_python(name: str) -> Path:
    """Return the Python of a handler's environment, which is created once, with `.pyc` files of all packages."""
    folder_name, packages, _ = HANDLERS[name]
    folder = Path(os.environ.get("BENCH_ENVIRONMENTS", str(BENCH))) / folder_name
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        if "joblib" in packages:
            subprocess.run([python, PEERS / "score_model.py", folder / PICKLE_KEY], check=True)
        done.touch()
    return python


def build_objects() -> dict[str, bytes]:
    """Build the objects of the bucket: the version that Larder serves, and the pickle of the peer."""
    manifest = parse_manifest((FOLDER / "manifest.json").read_bytes(), "manifest.json")
    names = manifest.model, manifest.version
    return {
        alias_key(manifest.model): dump_alias(Alias(*names, None, None, None, "bench", manifest.created)),
        manifest_key(*names): (FOLDER / "manifest.json").read_bytes(),
        model_key(*names): (FOLDER / "model.onnx").read_bytes(),
        PICKLE_KEY: (find_python("pickle").parents[1] / PICKLE_KEY).read_bytes(),
    }


@contextmanager
def run_bucket(objects: Mapping[str, bytes]) -> Iterator[str]:
    """Respond to GETs of a bucket as S3 does, on loopback; yield the endpoint."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data = objects.get(self.path.partition("?")[0].removeprefix(f"/{BUCKET}/"))
            self.send_response(404 if data is None else 200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def measure_cold(work: Path, rounds: int) -> list[dict[str, Any]]:
    """Start each handler in interleaved rounds; return medians of CPU and of elapsed time, in milliseconds."""
    pythons = {name: find_python(name) for name in HANDLERS}
    env = build_env(work)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in HANDLERS}
    with run_bucket(build_objects()) as endpoint:
        env["AWS_ENDPOINT_URL"] = endpoint
        for turn in range(rounds + 1):
            for name, python in pythons.items():
                times = _spend([str(python), "-c", _RUN, HANDLERS[name][2]], env)
                if turn:  # the first round compiles and fills the disk cache
                    found[name].append(times)
    return [
        {"handler": name, "cpu_ms": median(cpu for cpu, _ in times), "wall_ms": median(wall for _, wall in times)}
        for name, times in found.items()
    ]


def build_env(work: Path) -> dict[str, str]:
    """Build the handlers' variables; the event is a POST with a token for iris."""
    env = build_server_env(work)
    event = json.loads((work / "event.json").read_text())
    event |= {"httpMethod": "POST", "path": "/v1/models/iris/score", "body": json.dumps(VIRGINICA)}
    event["headers"]["Content-Type"] = "application/json"
    (work / "post.json").write_text(json.dumps(event))
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    (given,) = manifest["inputs"]
    return {
        **env,
        "BENCH_EVENT": str(work / "post.json"),
        "BENCH_BUCKET": BUCKET,
        "BENCH_MODEL_KEY": model_key(manifest["model"], manifest["version"]),
        "BENCH_TENSORS": json.dumps([given["name"], given["type"], manifest["output"]]),
        "BENCH_PICKLE_KEY": PICKLE_KEY,
        "LARDER_MODELS_BUCKET": BUCKET,
        "OMP_NUM_THREADS": "1",
    }


def _spend(command: list[str], env: Mapping[str, str]) -> tuple[float, float]:
    start = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[-1]} failed")
    return (usage.ru_utime + usage.ru_stime) * 1000, (time.perf_counter() - start) * 1000
