"""Time of scoring: a warm request beside the bare runtime, and a cold start beside a handler over the Python API.

python -m tests.bench.score [ROUNDS]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from score.native import Session, open_runtime
from tests.unit.score.kit import IRIS_FEATURES, SCOPES, VIRGINICA, App, iris_version
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


def main() -> None:
    """Measure in interleaved rounds, and print the medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
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
    from tests.unit.serve.kit import App as ServeApp

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
    found: dict[str, list[float]] = {name: [] for name in [*warm, *COLD]}
    for _ in range(rounds):
        for name, call in warm.items():
            found[name].append(measure(call))
        for name, code in COLD.items():
            found[name].append(measure_cold(code, path))
    for name, times in found.items():
        print(f"{name}: {statistics.median(times):.1f} {'ms' if name in COLD else 'us'} of CPU")


if __name__ == "__main__":
    main()
