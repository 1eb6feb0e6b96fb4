"""`python -m tests.bench.cold [--json FILE] [--rounds N] [READER ...]`: CPU from process start to a first GET.

Readers run in turn, with `.pyc` files. `python` is the interpreter alone; `boto3.client` only creates the client.
`larder_bundle` is the built bundle without site-packages, which reads its keys from Parameter Store, as it is deployed;
the other readers read a file. All are without TLS, whose share docs/decisions/cold-start.md states.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from infra.bundle import build, unpack
from tests.bench.read_setup import HERE, READERS, build_env, endpoint, interpreter

FIGURES = ("cpu_ms", "wall_ms")
NOT_COLD = {f"larder_{name}" for name in ("unremembered", "named", "singles", "top", "ten")}  # they start like larder
NOT_COLD |= {"feast_rows"}  # no Lambda function

BUNDLE = "larder_bundle"
FIRST_GET = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from serve.handler import handler
with open(os.environ["BENCH_EVENT"]) as file:
    event = json.load(file)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
found = handler(event, None)
if found["statusCode"] != 200:
    sys.exit(f"the bundle answered {found}")
os._exit(0)
"""


def _spend(command: list[object], env: dict[str, str]) -> tuple[float, float]:
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} failed")
    return (usage.ru_utime + usage.ru_stime) * 1000, (time.perf_counter() - start) * 1000


def main() -> None:
    """Print the table, and write JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", default=[], help=", ".join(READERS))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    readers = [reader for reader in (arguments.readers or READERS) if reader not in NOT_COLD]
    with tempfile.TemporaryDirectory() as work, endpoint(keys=Path(work) / "jwks.json") as port:
        env = build_env(port, Path(work))
        tree = unpack(build("serve"), Path(work))
        commands: dict[str, list[object]] = {
            "python": [interpreter("boto3"), "-c", "pass"],
            "boto3.client": [interpreter("boto3"), "-c", "import boto3; boto3.client('dynamodb')"],
        }
        # What importing a verifier costs: Larder's with cryptography, and PyJWT.
        for name, reader, modules in (
            ("verifier alone", "larder", "serve.tokens.jwt, serve.tokens.jwks"),
            ("PyJWT alone", "boto3", "jwt, jwt.algorithms"),
        ):
            commands[name] = [interpreter(reader), "-c", f"import {modules}"]
        for reader in readers:
            commands[reader] = [interpreter(reader), HERE / "read_worker.py", f"{reader}_handler", "--cold"]
        commands[BUNDLE] = [sys.executable, "-I", "-S", "-c", FIRST_GET, tree]
        stored = json.dumps([{**one, "keys": "ssm:/larder/bench/keys/"} for one in json.loads(env["LARDER_ISSUERS"])])
        environments = {BUNDLE: {**env, "LARDER_ISSUERS": stored}}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for turn in range(arguments.rounds + 1):
            for name, command in commands.items():
                figures = _spend(command, environments.get(name, env))
                if turn:  # the first round compiles and fills the disk cache
                    found[name].append(figures)
    results = [
        {"process": name} | {figure: median(row[column] for row in rows) for column, figure in enumerate(FIGURES)}
        for name, rows in found.items()
    ]
    base = next(float(str(one["cpu_ms"])) for one in results if one["process"] == "boto3.client")
    print(f"{'cold process to first GET':30}{'CPU ms':>10}{'x':>7}{'wall ms':>10}")
    for one in results:
        cpu = float(str(one["cpu_ms"]))
        print(f"{one['process']:30}{cpu:10.0f}{cpu / base:7.2f}{one['wall_ms']:10.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"cold": results}, indent=1))


if __name__ == "__main__":
    main()
