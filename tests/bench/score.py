"""Time of scoring: `python -m tests.bench.score [--json FILE] [--rounds N] [SERVER ...]`, or `tox -e bench -- score`.

Three tables: a warm request compared with the bare runtime, a cold start compared with handlers that use a pickle or
the Python API, and servers over HTTP on loopback (`none` omits them). Rounds are interleaved; compare only figures of
one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from score.native import Session, open_runtime
from tests.bench.score_cold import measure_cold
from tests.bench.score_servers import SERVERS, measure_servers
from tests.unit.score.kit import IRIS_FEATURES, SCOPES, VIRGINICA, App, iris_version
from tests.unit.serve.kit import App as ServeApp
from tests.unit.serve.kit import claims, event, item, sign

BARE, SCORE = "bare runtime", "a score, token cached"
HYBRID, READ = "a score with a stored item", "a GET of serve"


def measure(call: Callable[[], object], number: int = 2000) -> float:
    """Return the CPU time of a call in microseconds."""
    started = time.process_time()
    for _ in range(number):
        call()
    return (time.process_time() - started) / number * 1e6


def measure_warm(rounds: int) -> dict[str, float]:
    """Measure requests in this process; return the medians of their CPU time in microseconds."""
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
        BARE: lambda: session.run([("x", "float", row)], 1, "probabilities"),
        SCORE: request("iris", dict(VIRGINICA)),
        HYBRID: request("delay", {"departure_delay": 1, "flight_id": "a"}),
        READ: lambda: serve.handler(read, None),
    }
    found: dict[str, list[float]] = {name: [] for name in warm}
    for _ in range(rounds):
        for name, call in warm.items():
            found[name].append(measure(call))
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
    document: dict[str, Any] = {"warm_us": measure_warm(options.rounds), "servers": []}
    with tempfile.TemporaryDirectory() as work:
        document["cold"] = measure_cold(Path(work), options.rounds)
        print_process(document["warm_us"], document["cold"])
        if names != ["none"]:
            document["servers"] = measure_servers(names, Path(work), options.rounds, options.count)
            print_servers(document["servers"])
    if options.json:
        options.json.write_text(json.dumps({"score": document}, indent=1))


def print_process(warm: dict[str, float], cold: list[dict[str, Any]]) -> None:
    """Print the tables of warm requests and of cold starts; x is the ratio to Larder."""
    for name, figure in warm.items():
        print(f"{name:44}{figure:10.1f} us of CPU")
    print(f"{'added to the bare runtime':44}{warm[SCORE] - warm[BARE]:10.1f} us of CPU")
    print(f"{'added to a GET by scoring its item':44}{warm[HYBRID] - warm[READ]:10.1f} us of CPU")
    print(f"{'cold start to the first answer, model on S3':44}{'CPU ms':>10}{'x':>7}{'wall ms':>10}")
    for row in cold:
        times = row["cpu_ms"] / cold[0]["cpu_ms"]
        print(f"{row['handler']:44}{row['cpu_ms']:10.0f}{times:7.1f}{row['wall_ms']:10.0f}")


def print_servers(rows: list[dict[str, Any]]) -> None:
    """Print a line for each server; x is the ratio to the first."""
    columns = ["p50_us", "p99_us", "cpu_us", "rss_mb", "first_answer_s"]
    columns += [name for name in ("rate", "load_p99_us") if name in rows[0]]  # with wrk
    print(f"{'server on loopback':24}" + "".join(f"{column:>16}" for column in columns) + f"{'x p50':>9}{'x RSS':>9}")
    for row in rows:
        shown = "".join(f"{row[column]:16,.1f}" for column in columns)
        times = "".join(f"{row[column] / rows[0][column]:9.1f}" for column in ("p50_us", "rss_mb"))
        print(f"{row['server']:24}{shown}{times}")


if __name__ == "__main__":
    main()
