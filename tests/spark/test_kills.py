"""Real processes of a job are killed: the table ends as if nothing had happened.

`LARDER_KILLS=30 pytest -m slow tests/spark/test_kills.py` kills 30 processes (default 6). Executors are processes of
their own (`local-cluster`). The lease of a job is shorter than in production, so that a dead driver is replaced soon.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from enrich.ledger.store import Ledger
from tests.spark import test_same_table as same_table
from tests.spark.conftest import Stack, open_stacks

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("LARDER_KILLS", "6"))
ROWS = 2000
ROOT = Path(__file__).parents[2]  # executors have a folder of their own
SMALL_CHUNKS = Path(__file__).parent / "small_chunks"
LEASE_SECONDS = 40.0  # longer than the two request time-outs for which a writer stops before its end
DRIVER = f"""
import sys
from enrich.ledger import lease
lease.RENEWAL_SECONDS = {LEASE_SECONDS}
from enrich.spark.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
CONF = {
    "spark.ui.enabled": "false",
    "spark.task.maxFailures": "50",
    "spark.deploy.maxExecutorRetries": "-1",
    "spark.executor.memory": "512m",
    "spark.driver.memory": "512m",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1",
}


class Writes:
    """The requests that have written items, as moto's server has logged them."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def count(self) -> int:
        return len(self._log.read_text().splitlines())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Mapping[str, Stack], Writes]]:
    """Two deployments over a server that logs writes."""
    log = tmp_path / "writes"
    log.touch()
    command = [sys.executable, "-m", "tests.spark.logged_moto", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        try:
            yield open_stacks(f"http://127.0.0.1:{port}", monkeypatch), Writes(log)
        finally:
            server.kill()


def start(stack: Stack, log: Path) -> subprocess.Popen[bytes]:
    """Start a job on two executors of one slot each."""
    conf = " ".join(f"--conf {name}={value}" for name, value in CONF.items())
    env = {**os.environ, **stack.env, "PYTHONPATH": f"{SMALL_CHUNKS}:{ROOT}", "PYSPARK_PYTHON": sys.executable}
    env["PYSPARK_SUBMIT_ARGS"] = f"--master local-cluster[2,1,512] {conf} pyspark-shell"
    command = [sys.executable, "-c", DRIVER, "--dataset", "stock", "--engine", "spark", "--piece-bytes", "8000"]
    with log.open("ab") as output:
        return subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)


def find_processes(driver: int) -> dict[str, list[psutil.Process]]:
    """Return the living processes of a job by their role: driver, executor, worker."""
    found: dict[str, list[psutil.Process]] = {"driver": [], "executor": [], "worker": []}
    try:
        family = [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for each in family:
        try:
            line, parent = " ".join(each.cmdline()), each.parent()
            if each.pid == driver:
                found["driver"].append(each)
            elif "CoarseGrainedExecutorBackend" in line and "java" in each.name():
                found["executor"].append(each)
            elif "pyspark.daemon" in line and parent is not None and "pyspark.daemon" in " ".join(parent.cmdline()):
                found["worker"].append(each)
        except psutil.Error:
            continue
    return found


def wait(until: Callable[[], Any], job: subprocess.Popen[bytes], seconds: float = 600) -> bool:
    """Wait for something to happen while a job runs; return whether it did."""
    end = time.monotonic() + seconds
    while job.poll() is None and time.monotonic() < end:
        if until():
            return True
        time.sleep(0.05)
    return bool(until())


def kill_job(job: subprocess.Popen[bytes]) -> None:
    """Kill a driver; its executors end by themselves, as they lose it."""
    for each in find_processes(job.pid)["driver"]:
        jvm = [child for child in each.children() if "java" in child.name()]
        for process in (each, *jvm):
            process.kill()
    job.wait()


def finish(stack: Stack, log: Path) -> None:
    """Run jobs until none stops early."""
    for _ in range(5):
        if start(stack, log).wait() == 0:
            return
    raise AssertionError(log.read_text()[-5000:])


def read_stage(stack: Stack) -> str:
    """Return the stage of the newest run that has begun."""
    runs = Ledger(stack.client("dynamodb"), stack.env["LARDER_LEDGER"]).fetch_runs("stock")
    begun = [run for run in runs if run.state == "running"]
    return str(begun[-1].stage) if begun else ""


def test_killed_processes(
    world: tuple[Mapping[str, Stack], Writes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is killed, in each stage, the table and the counts of each run are those of an undisturbed run."""
    monkeypatch.setattr(same_table, "ROWS", ROWS)
    stacks, writes = world
    for stack in stacks.values():
        same_table.seed(stack)
    draw, log, done = random.Random(KILLS), tmp_path / "log", list[str]()
    for units in itertools.count(1):
        first = draw.choice([0, 500])
        for stack in stacks.values():
            same_table.write(stack, 1, first, units)
        same_table.run(stacks["local"])
        done += disturb(stacks["job"], writes, draw, log)
        for each in (same_table.account, same_table.rejects, Stack.items):
            assert each(stacks["job"]) == each(stacks["local"]), done
        if len(done) >= KILLS:
            break
    print(*done, sep="\n")


def disturb(stack: Stack, writes: Writes, draw: random.Random, log: Path) -> list[str]:
    """Run a job, kill one of its processes, and run jobs until the output is processed; return what was killed.

    Two of three kills are while items are written, one is before.
    """
    role, after = draw.choice(["worker", "worker", "executor", "driver"]), draw.randrange(1, 50)
    before, is_early = writes.count(), draw.random() < 1 / 3
    job, killed = start(stack, log), list[str]()
    if is_early:
        wait(lambda: find_processes(job.pid)["worker"], job)
        time.sleep(draw.random() * 4)
    else:
        wait(lambda: writes.count() >= before + after, job)
    for each in find_processes(job.pid)[role][:1]:
        killed.append(f"{role}, at the stage {read_stage(stack)}, after {writes.count() - before} requests")
        if role == "driver":
            kill_job(job)
        else:
            each.kill()
    if job.wait() != 0:
        finish(stack, log)
    return killed
