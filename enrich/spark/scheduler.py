"""Execute tasks on Spark's executors: one partition per task, and nothing of Spark's own data types."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from pyspark import SparkContext

from enrich.errors import Stopped, TaskBroke, first_line
from enrich.read.pieces import PIECE_BYTES
from enrich.spark.worker import perform

_KEEP_SECONDS = 1.0  # between two calls of `keep`
_MOST_PLACES = 4  # sets of names: pieces and buckets of this run and of the last one
_SENT = (
    "LARDER_",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)  # variables that are sent; no credentials
_PASSES = f"{Stopped.__module__}.{Stopped.__name__}: "  # the cause passes; all other errors are counted
_TRACEBACK = "Traceback (most recent call last):"
_TASK = re.compile(r"Task (\d+) in stage \S+ failed")  # its place among the tasks
_DIED = re.compile(r"most recent failure: [^:]+: (.+)")  # how its process, or its machine, ended
_NOT_SENT = {"LARDER_PROJECT"}  # each machine has its own


class _Places(NamedTuple):
    """Names of tasks, each a partition that is cached on the executor that has executed the first such task."""

    names: Mapping[str, int]
    rows: Any


class SparkScheduler:
    """Runs tasks as the partitions of one stage; Spark retries a task whose executor or process has died."""

    def __init__(
        self, context: SparkContext, env: Mapping[str, str], *, executors: int = 0, piece_bytes: int = PIECE_BYTES
    ) -> None:
        """Read the number of slots from the job.

        Args:
            context: Spark's context.
            env: the variables of the driver, some of which are sent to executors.
            executors: number of executors that there will be; 0: those that have registered.
            piece_bytes: of an output, per piece.

        Raises:
            Stopped: two attempts of a task could write at once, or the number of executors could change.
        """
        for setting in ("spark.speculation", "spark.dynamicAllocation.enabled"):
            if context.getConf().get(setting, "false") == "true":
                raise Stopped(f"{setting} is true, expected false: the write budget is divided by the slots at start")
        cores = int(context.getConf().get("spark.executor.cores", "1") or 1)
        self.slots = max(1, executors * cores, int(context.defaultParallelism))
        self.piece_bytes = piece_bytes
        self._context = context
        self._places: list[_Places] = []
        self._env = {name: env[name] for name in env if name.startswith(_SENT) and name not in _NOT_SENT}

    def run(self, tasks: Sequence[Any], keep: Callable[[int], None]) -> Mapping[str, Any]:
        """Execute tasks; return the results by name.

        Raises:
            Stopped, TaskBroke: all attempts of a task have failed; the message has the last error.
        """
        group = f"larder-{uuid.uuid4().hex[:8]}"
        found: Future[list[tuple[str, Any]]] = Future()

        def collect() -> None:
            try:
                self._context.setJobGroup(group, f"{len(tasks)} tasks: {tasks[0].kind}", interruptOnCancel=False)
                found.set_result(self._execute(tasks))
            except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
                found.set_exception(error)

        threading.Thread(target=collect, daemon=True).start()
        try:
            while not _is_done(found):
                keep(self._count_done(group))
        except BaseException:
            self._context.cancelJobGroup(group)
            raise
        try:
            return dict(found.result())
        except Exception as error:
            raise _explain(error, tasks) from error

    def _execute(self, tasks: Sequence[Any]) -> list[tuple[str, Any]]:
        env, places = self._env, self._find_places([task.name for task in tasks])
        by_name = {task.name: task for task in tasks}
        wanted = self._context.parallelize([by_name.get(name) for name in places.names], len(places.names))
        performed = places.rows.zip(wanted).map(lambda pair: perform(env, pair[1]))
        return list(self._context.runJob(performed, list, [places.names[name] for name in by_name]))

    def _find_places(self, names: Sequence[str]) -> _Places:
        """Return partitions with these names, among others: Spark executes a task where its name was cached.

        So a piece is written where it was checked, if that executor is free; what is cached is only the name.
        """
        for places in self._places:
            if places.names.keys() >= set(names):
                return places
        rows = self._context.parallelize(names, len(names)).cache()
        self._places = [_Places({name: n for n, name in enumerate(names)}, rows), *self._places[:_MOST_PLACES]]
        return self._places[0]

    def _count_done(self, group: str) -> int:
        tracker = self._context.statusTracker()
        done = 0
        for job in tracker.getJobIdsForGroup(group):
            info = tracker.getJobInfo(job)
            for stage in info.stageIds if info else ():
                of = tracker.getStageInfo(stage)
                done += of.numCompletedTasks if of else 0
        return done


def _is_done(found: Future[Any]) -> bool:
    try:
        found.exception(timeout=_KEEP_SECONDS)
    except TimeoutError:
        return False
    return True


def _explain(error: Exception, tasks: Sequence[Any]) -> Exception:
    cause, found = _find_cause(error), _TASK.search(str(error))
    if cause.startswith(_PASSES) or found is None:
        return Stopped(f"a task of {tasks[0].kind} failed in all its attempts: {cause.removeprefix(_PASSES)}")
    return TaskBroke(tasks[int(found[1])].name, cause)


def _find_cause(error: Exception) -> str:
    """Return the first line of the executor's error: the last one of a chain, within the text of Java's exception."""
    python, _, last = str(error).partition("\n\tat ")[0].rpartition(_TRACEBACK)
    if python:
        return next((line for line in last.splitlines() if line.strip() == line != ""), first_line(error))
    died = _DIED.search(str(error))
    return died[1].rstrip(". ") if died else first_line(error)
