"""A job whose executors reach no service stops with the cause; of two jobs at once, one works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from enrich.ledger.records import Run
from enrich.ledger.store import Ledger
from tests.spark import test_same_table as same_table
from tests.spark.conftest import Stack
from tests.spark.test_kills import ROWS, World, world

__all__ = ["world"]  # a fixture
pytestmark = pytest.mark.slow
SECONDS = 400  # botocore tries 8 times
CUT_OFF = """
import sys
from enrich.spark.scheduler import SparkScheduler
begin = SparkScheduler.__init__
def cut_off(scheduler, *arguments, **options):
    begin(scheduler, *arguments, **options)
    scheduler._env = {**scheduler._env, "AWS_ENDPOINT_URL_%s": "http://127.0.0.1:9"}
SparkScheduler.__init__ = cut_off
from enrich.spark.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def fetch_runs(stack: Stack) -> list[Run]:
    return Ledger(stack.client("dynamodb"), stack.env["LARDER_LEDGER"]).fetch_runs("stock")


@pytest.mark.parametrize("service", ["S3", "DYNAMODB"])
def test_executors_that_reach_no_service(
    stacks: Mapping[str, Stack], monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    """The driver does: the job ends with 1, its run names what could not be reached, and the next job continues it."""
    monkeypatch.setattr(same_table, "ROWS", ROWS)
    for stack in stacks.values():
        same_table.seed(stack)
        same_table.write(stack, 1, 0, 1)
    job = stacks["job"]
    env = {**os.environ, **job.env, "PYTHONPATH": ".", "PYSPARK_PYTHON": sys.executable}
    env["PYSPARK_SUBMIT_ARGS"] = "--master local[2,2] --conf spark.ui.enabled=false pyspark-shell"
    command = [sys.executable, "-c", CUT_OFF % service, "--dataset", "stock", "--engine", "spark"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 1, done.stderr[-3000:]
    (run,) = fetch_runs(job)
    assert (run.state, run.failures) == ("stopped", 0)
    assert 'Could not connect to the endpoint URL: "http://127.0.0.1:9/' in (run.error or "")
    assert "EndpointConnectionError on " in (run.error or "")
    assert job.items() == {}
    for stack in stacks.values():
        same_table.run(stack)
    assert same_table.account(job) == same_table.account(stacks["local"])
    assert job.items() == stacks["local"].items()


def test_two_jobs_at_once(world: World) -> None:
    """The second one is started while the first one writes: both end well, and only the first one has worked."""
    world.publish(1, 0, 1)
    gate = world.hold("write")
    first = world.start()
    assert first.reach(gate)
    second = world.start()
    gate.released.set()
    assert (first.wait(), second.wait()) == (0, 0), world.log.read_text()[-5000:]
    world.compare()
    (run,) = fetch_runs(world.stacks["job"])
    assert run.attempts == 1
