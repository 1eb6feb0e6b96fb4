"""The write budget is divided by the slots that a job will have, not by those of executors that have registered."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast
from unittest import mock

import boto3
import pyarrow as pa
import pytest
from botocore.config import Config

from enrich.errors import LeaseLost, Stopped, TaskBroke
from enrich.write.responses import WriteThrottled

pytest.importorskip("pyspark")
worker: Any = importlib.import_module("enrich.spark.worker")
pytestmark = pytest.mark.slow


@dataclass
class Context:
    """What the scheduler reads of Spark's context."""

    conf: dict[str, str] = field(default_factory=dict)
    defaultParallelism: int = 2  # noqa: N815 - Spark's name

    def getConf(self) -> dict[str, str]:  # noqa: N802
        return self.conf


@pytest.mark.parametrize(("executors", "registered", "slots"), [(9, 2, 36), (0, 2, 2), (0, 36, 36), (9, 40, 40)])
def test_slots_are_those_of_all_executors(executors: int, registered: int, slots: int) -> None:
    """Of nine executors with four cores each, none has registered at start."""
    from enrich.spark.scheduler import SparkScheduler

    context: Any = Context({"spark.executor.cores": "4"}, registered)
    assert SparkScheduler(context, {}, executors=executors).slots == slots


@pytest.mark.parametrize("setting", ["spark.speculation", "spark.dynamicAllocation.enabled"])
def test_what_changes_the_slots_is_refused(setting: str) -> None:
    """Two attempts at once, or a number of executors that changes, would pass the budget."""
    from enrich.spark.scheduler import SparkScheduler

    context: Any = Context({setting: "true"})
    with pytest.raises(Stopped, match=setting):
        SparkScheduler(context, {})


ONCE = Config(retries={"total_max_attempts": 1})
BROKEN = {
    "raises": "^ValueError: it is odd$",
    "breaks": r"^KeyError: 'no such\\nthing'$",
    "dies": "exited unexpectedly",
}
PASSING = {
    "is late": "LeaseLost on .*: another driver holds the lease$",
    "reaches nothing": 'EndpointConnectionError on .*: Could not connect to the endpoint URL: "http://127.0.0.1:9/"$',
    "writes too fast": "WriteThrottled on .*: the table throttles$",
}


class Odd(NamedTuple):
    """A task, as far as the scheduler reads it."""

    name: str
    kind: str = "check"


def perform(env: Mapping[str, str], task: Odd) -> tuple[str, Any]:
    """Perform a task of this name as a worker does."""
    with mock.patch.object(worker, "_open"), mock.patch.object(worker, "execute", fail):
        found: tuple[str, Any] = worker.perform(env, task)
        return found


def fail(_services: Any, task: Odd) -> dict[str, Any]:
    """Execute a task of this name."""
    match task.name:
        case "raises":
            raise ValueError("it is odd")
        case "breaks":
            try:
                raise WriteThrottled("the table throttles")
            except Stopped as error:
                raise KeyError("no such\nthing") from error
        case "dies":
            os._exit(1)
        case "is late":
            raise LeaseLost("another driver holds the lease")
        case "reaches nothing":
            session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
            session.client("s3", endpoint_url="http://127.0.0.1:9", config=ONCE).list_buckets()
        case "writes too fast":
            raise WriteThrottled("the table throttles")
    return {}


def test_a_task_that_always_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an exception, or because its process dies; but what a service causes, with other errors or not, is retried."""
    from pyspark.sql import SparkSession

    import enrich.spark.scheduler as module

    monkeypatch.setattr(cast(Any, module), "perform", perform)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.master("local[2,2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        scheduler = module.SparkScheduler(spark.sparkContext, {})
        tasks = [Odd("a"), Odd("b"), Odd("c")]
        assert scheduler.run(tasks, lambda _: None) == {"a": {}, "b": {}, "c": {}}
        for name, expected in BROKEN.items():
            with pytest.raises(TaskBroke, match=expected) as caught:
                scheduler.run([*tasks, Odd(name), Odd("d")], lambda _: None)
            assert caught.value.name == name
        for name, expected in PASSING.items():
            with pytest.raises(Stopped, match=f"a task of check failed in all its attempts: {expected}"):
                scheduler.run([*tasks, Odd(name)], lambda _: None)
    finally:
        spark.stop()


def test_a_worker_gives_memory_back() -> None:
    """The C library's and Arrow's: what lies between buffers that are still in use."""
    import psutil

    from enrich.spark.worker import _give_memory_back

    large = b"x" * (30 * 1024 * 1024)
    del large  # from now on smaller buffers come from an arena
    process, used = psutil.Process(), list[Any]()
    before = process.memory_info().rss
    for _ in range(100):
        used += [b"x" * (1024 * 1024), b"x" * 100_000, pa.py_buffer(b"x" * 100_000), pa.array(range(100_000))]
    last = used[1::4]
    assert process.memory_info().rss - before > 180_000_000
    del used
    assert process.memory_info().rss - before > 90_000_000
    _give_memory_back()
    assert process.memory_info().rss - before < 30_000_000
    assert last
