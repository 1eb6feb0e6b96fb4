"""Real processes of a job are killed and stopped: the table ends as if nothing had happened.

`LARDER_KILLS=30 pytest -s -m slow tests/spark/test_kills.py` kills 30 processes (default 12, the fewest): each role in
each stage, and most of them while items are written. Executors are processes of their own (`local-cluster`). A process
is killed while moto's server holds a request of its task, so the stage is certain, and no job can end before. The
lease of a job is shorter than in production, so that a dead driver is replaced soon.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest

from tests.spark import test_same_table as same_table
from tests.spark.conftest import Stack, open_stacks
from tests.spark.logged_moto import Gate, LoggedMoto

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("LARDER_KILLS", "12"))
ROWS = 2000
ROOT = Path(__file__).parents[2]  # executors have a folder of their own
SMALL_CHUNKS = Path(__file__).parent / "small_chunks"
LEASE_SECONDS = 40.0  # longer than the two request time-outs for which a writer stops before its end
PATIENCE = 600.0  # seconds for what always happens
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
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}
ROLES = ("worker", "executor", "driver")
ITEMS = r"\.(BatchWriteItem|PutItem)$"
# The request of a task that is held, by stage, and one that comes before it: the writes of both stages look the same.
HELD = {
    "check": (r"^PUT .*/pieces/(checked|stored)/", ""),
    "decide": (r"^PUT .*/pieces/(decided|chosen)/", ""),
    "write": (ITEMS, r"/pieces/attempts/[^/]+/write-.*\.began$"),
    "remove": (ITEMS, r"/pieces/attempts/[^/]+/remove-.*\.began$"),
}


ENDED = r"^PUT .*/pieces/attempts/[^/]+/write-.*\.ended$"


class Kill(NamedTuple):
    """A process to kill: its role, and the stage in which one of its tasks is."""

    role: str
    stage: str


class Job:
    """A job on two executors of one slot each, in a session of its own."""

    def __init__(self, stack: Stack, log: Path, options: Sequence[str]) -> None:
        """Start it."""
        conf = " ".join(f"--conf {name}='{value}'" for name, value in CONF.items())
        env = {**os.environ, **stack.env, "PYTHONPATH": f"{SMALL_CHUNKS}:{ROOT}", "PYSPARK_PYTHON": sys.executable}
        env["PYSPARK_SUBMIT_ARGS"] = f"--master local-cluster[2,1,512] {conf} pyspark-shell"
        env["SPARK_WORKER_DIR"] = str(log.parent / "executors")
        command = [sys.executable, "-c", DRIVER, "--dataset", "stock", "--engine", "spark", *options]
        self._server = urlsplit(stack.env["AWS_ENDPOINT_URL"]).port
        with log.open("ab") as output:
            self._driver = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)

    def wait(self) -> int:
        """Wait until the driver ends; return its exit code."""
        return self._driver.wait(PATIENCE)

    def reach(self, gate: Gate) -> list[psutil.Process]:
        """Wait until a request is held; return its sender, a worker, with its ancestors up to the executor.

        They are none if the job ended before.
        """
        while not gate.reached.wait(0.05):
            if self._driver.poll() is not None:
                return []
        # The port alone can also be that of a connection to another server, or of one that was closed a moment ago.
        ends = (gate.port, self._server)
        found = psutil.net_connections("tcp4")
        (pid,) = {each.pid for each in found if each.pid and each.raddr and (each.laddr.port, each.raddr.port) == ends}
        worker = psutil.Process(pid)
        above = itertools.takewhile(lambda each: each.pid != self._driver.pid, worker.parents())
        executors = [each for each in above if "CoarseGrainedExecutorBackend" in " ".join(each.cmdline())]
        daemon = worker.parent()
        assert daemon is not None
        assert "pyspark.daemon" in " ".join(daemon.cmdline())
        return [worker, daemon, *executors[:1]]

    def kill_driver(self) -> None:
        """Kill the driver, which is Python and Java. Its executors end by themselves as they lose it."""
        python = psutil.Process(self._driver.pid)
        for each in [python, *(child for child in python.children() if "java" in child.name())]:
            each.kill()
        assert self.wait() == -signal.SIGKILL

    def end(self) -> None:
        """Kill all that is left of it."""
        for each in psutil.process_iter():
            if _find_session(each) == self._driver.pid:
                each.kill()
        self._driver.wait()


def _find_session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0


class World:
    """Two deployments over a server, and the jobs of one of them."""

    def __init__(self, moto: LoggedMoto, stacks: Mapping[str, Stack], log: Path) -> None:
        self.moto = moto
        self.stacks = stacks
        self.log = log
        self.jobs: list[Job] = []

    def start(self, *options: str) -> Job:
        """Start a job."""
        self.jobs.append(Job(self.stacks["job"], self.log, ["--piece-bytes", "8000", *options]))
        return self.jobs[-1]

    def hold(self, stage: str, *, skip: int = 0, is_applied: bool = False) -> Gate:
        """Hold a request of a task of a stage."""
        pattern, after = HELD[stage]
        return self.moto.hold(pattern, after=after, skip=skip, is_applied=is_applied)

    def publish(self, day: int, first: int, units: int) -> None:
        """Write an output in both deployments, and execute it in one process in the first."""
        for stack in self.stacks.values():
            same_table.write(stack, day, first, units)
        same_table.run(self.stacks["local"])

    def compare(self) -> None:
        """Compare counts of all runs, rejects and items of both deployments."""
        local, job = self.stacks["local"], self.stacks["job"]
        assert same_table.account(job) == same_table.account(local)
        assert same_table.rejects(job) == same_table.rejects(local)
        assert job.items() == local.items()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(same_table, "ROWS", ROWS)
    with LoggedMoto() as moto:
        found = World(moto, open_stacks(moto.url, monkeypatch), tmp_path / "log")
        for stack in found.stacks.values():
            same_table.seed(stack)
        yield found
        for job in found.jobs:
            job.end()


def plan_kills(count: int, draw: random.Random) -> list[list[Kill]]:
    """Plan at least `count` kills, in rounds of one output each: each role in each stage, most while it is written.

    A driver is the last that is killed in a job, so it comes last in its stage.
    """
    quiet = [[Kill(role, stage) for role in ROLES] for stage in ("check", "decide", "remove")]
    rounds = [[*quiet[0], *map(_in_write, ROLES)], [*quiet[1], *quiet[2]]]
    while (missing := count - sum(map(len, rounds))) > 0:
        roles = [*draw.choices(["worker", "executor"], k=min(missing, 5) - 1), "driver"]
        rounds.append([_in_write(role) for role in roles])
    return rounds


def _in_write(role: str) -> Kill:
    return Kill(role, "write")


def test_killed_processes(world: World) -> None:
    """Whatever is killed, in each stage, the table and the counts of each run are those of an undisturbed run."""
    draw, done = random.Random(KILLS), list[Kill]()
    for number, kills in enumerate(plan_kills(KILLS, draw)):
        world.publish(1, 500 * (number % 2), number + 1)  # each second output has fewer rows: items are removed
        done += disturb(world, kills, draw)
        world.compare()
    counts = Counter(done)
    print(*(f"{kill.role} in {kill.stage}: {n}" for kill, n in sorted(counts.items())), sep="\n")
    assert set(counts) == {Kill(role, stage) for role in ROLES for stage in HELD}
    assert counts.total() >= KILLS
    assert sum(n for kill, n in counts.items() if kill.stage == "write") >= KILLS - 9


def disturb(world: World, kills: Sequence[Kill], draw: random.Random) -> list[Kill]:
    """Kill processes one after another, in as few jobs as possible, and let the output be processed.

    Returns those that were killed.
    """
    done, job = list[Kill](), None
    for kill in kills:
        gate = _hold(world, kill, draw)
        job = job or world.start()
        senders = job.reach(gate)
        assert senders, f"the job ended before {kill}: {world.log.read_text()[-5000:]}"
        _kill(job, kill, senders, gate)
        done.append(kill)
        print(f"killed: {kill.role} in {kill.stage}, after {len(world.moto.requests)} requests", flush=True)
        job = None if kill.role == "driver" else job
    job = job or world.start()
    assert job.wait() == 0, world.log.read_text()[-5000:]
    return done


def _hold(world: World, kill: Kill, draw: random.Random) -> Gate:
    """Hold a request of the next process to be killed; while items are written, any one, or its answer."""
    if kill.stage == "write":
        return world.hold(kill.stage, skip=draw.randrange(5), is_applied=draw.random() < 0.5)
    return world.hold(kill.stage)


def _kill(job: Job, kill: Kill, senders: Sequence[psutil.Process], gate: Gate) -> None:
    """Kill a process while its request is held; a request that is not applied yet is applied afterwards."""
    worker, _, executor = senders
    if kill.role == "driver":
        job.kill_driver()
    else:
        victim = worker if kill.role == "worker" else executor
        victim.kill()
        psutil.wait_procs([victim], timeout=PATIENCE)
        assert not victim.is_running()
    gate.released.set()


def test_a_zombie_writes_nothing(world: World) -> None:
    """A worker that is stopped between two of its writes, and continued after the next run, sends no write.

    Its budget lets it wait between requests: a request that was in flight would have failed it by its time-out. Its
    executor is stopped too: that would end when its driver is killed, and the worker with it.
    """
    world.publish(3, 0, 1)
    gate = world.hold("write", skip=2, is_applied=True)
    job = world.start("--write-units", "50")  # a request per second and slot
    stopped = job.reach(gate)
    worker, *above = stopped
    gate.released.set()
    while any(each.status == "ESTABLISHED" and each.raddr.port == world.moto.port for each in worker.net_connections()):
        time.sleep(0.01)
    for each in stopped:
        each.suspend()
    job.kill_driver()
    world.publish(2, 0, 2)
    assert world.start().wait() == 0, world.log.read_text()[-5000:]
    world.compare()
    written, ended = world.moto.count(ITEMS), world.moto.count(ENDED)
    worker.resume()  # alone, so that it has time to write: those above it end, and it with them
    while world.moto.count(ENDED) == ended:
        assert worker.is_running(), "the worker ended without a record"
        time.sleep(0.05)
    for each in above:
        each.resume()
    psutil.wait_procs(stopped, timeout=PATIENCE)
    assert not any(each.is_running() for each in stopped)
    assert world.moto.count(ENDED) == ended + 1
    assert world.moto.count(ITEMS) == written
    world.compare()
