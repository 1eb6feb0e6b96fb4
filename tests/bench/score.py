"""Time of scoring: `python -m tests.bench.score [--json FILE] [--rounds N] [SERVER ...]`, or `tox -e bench -- score`.

Three tables: a warm request beside the bare runtime, a cold start beside a handler over the Python API, and servers
over HTTP on loopback (`none` leaves them out). Rounds are interleaved; compare figures within one run only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from score.native import Session, open_runtime
from tests.bench.score_servers import SERVERS, measure_servers
from tests.unit.score.kit import IRIS_FEATURES, SCOPES, VIRGINICA, App, iris_version
from tests.unit.serve.kit import App as ServeApp
from tests.unit.serve.kit import claims, event, item, sign

ROOT = Path(__file__).parents[2]
_START = "import sys, time; sys.path.insert(0, %r); model = open(%r, 'rb').read(); row = [5.9, 3.0, 5.1, 1.8]\n"
# What each does before its first answer; a handler over the Python API needs numpy and the package.
COLD = {
    "score": "import score.handler; from score.native import Session, open_runtime\n"
    "session = Session(open_runtime(), model); session.run([('x', 'float', row)], 1, 'probabilities')",
    "Python API and boto3": "import boto3, json, numpy, onnxruntime\n"
    "boto3.client('s3', region_name='us-east-1', aws_access_key_id='a', aws_secret_access_key='b')\n"
    "session = onnxruntime.InferenceSession(model)\n"
    "session.run(['probabilities'], {'x': numpy.array([row], numpy.float32)})",
}


def measure(call: Callable[[], object], number: int = 2000) -> float:
    """Return the CPU time of a call in microseconds."""
    started = time.process_time()
    for _ in range(number):
        call()
    return (time.process_time() - started) / number * 1e6


def measure_cold(code: str, model: Path) -> float:
    """Return the CPU time of a process until its first answer, in milliseconds."""
    program = _START % (str(ROOT), str(model)) + code + "\nprint(time.process_time())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout) * 1e3


def measure_process(rounds: int) -> dict[str, float]:
    """Measure within this process and in new ones; return medians, in the unit that the name ends with."""
    app = App(item("a", '{"prediction": {"late": 0.25}}'))
    headers = {"Authorization": f"Bearer {sign(claims(scope=SCOPES))}", "Content-Type": "application/json"}

    def request(model: str, instance: dict[str, float | str]) -> Callable[[], object]:
        made = event("rest", "POST", f"/v1/models/{model}/score", {}, headers)
        made["body"] = json.dumps({"instance": instance})
        return lambda: app.handler(made, None)

    onnx, _ = iris_version()
    session = Session(open_runtime(), onnx)
    row = [VIRGINICA[name] for name in IRIS_FEATURES]
    read = event("rest", "GET", "/v1/flight-delays/a", {}, headers)
    serve = ServeApp(item("a", '{"prediction": {"late": 0.25}}'))
    warm: dict[str, Callable[[], object]] = {
        "bare runtime": lambda: session.run([("x", "float", row)], 1, "probabilities"),
        "a score, token remembered": request("iris", dict(VIRGINICA)),
        "a score with a stored item": request("delay", {"departure_delay": 1, "flight_id": "a"}),
        "a GET of serve": lambda: serve.handler(read, None),
    }
    path = ROOT / ".larder" / "bench" / "iris.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(onnx)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, call in warm.items():
            found.setdefault(f"{name}, us", []).append(measure(call))
        for name, code in COLD.items():
            found.setdefault(f"cold: {name}, ms", []).append(measure_cold(code, path))
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    """Measure in interleaved rounds, print the medians, and write JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", help=", ".join([*SERVERS, "none"]), default=[])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=300, help="requests to a server in a round")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = options.servers or list(SERVERS)
    document: dict[str, Any] = {"cpu": measure_process(options.rounds), "servers": []}
    for name, figure in document["cpu"].items():
        print(f"{name} of CPU: {figure:.1f}")
    if names != ["none"]:
        with tempfile.TemporaryDirectory() as work:
            document["servers"] = measure_servers(names, Path(work), options.rounds, options.count)
        print_servers(document["servers"])
    if options.json:
        options.json.write_text(json.dumps({"score": document}, indent=1))


def print_servers(rows: list[dict[str, Any]]) -> None:
    """Print a line for each server; x is how many times more than the first."""
    columns = ("p50_us", "p99_us", "cpu_us", "rss_mb", "first_answer_s")
    print(f"{'server on loopback':24}" + "".join(f"{column:>16}" for column in columns) + f"{'x p50':>9}{'x RSS':>9}")
    for row in rows:
        shown = "".join(f"{row[column]:16,.1f}" for column in columns)
        times = "".join(f"{row[column] / rows[0][column]:9.1f}" for column in ("p50_us", "rss_mb"))
        print(f"{row['server']:24}{shown}{times}")


if __name__ == "__main__":
    main()
