"""Jobs that execute runs in pieces: drivers and attempts of tasks are actors around the real driver and real tasks.

`Cluster` is a scheduler as Spark is one. It starts attempts of tasks, believes some to be lost and starts others, which
then run at the same time, and forgets them all when its driver dies; some go on nevertheless, some after a long pause.
An attempt fails as any actor does, at each call, before or after the file that it writes. Spark is not simulated.

What is drawn here comes from a random of its own, so histories without jobs stay what they were.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any
from unittest import mock

from enrich.errors import Stopped
from enrich.intake.job import run_job
from enrich.ledger.run_state import EngineKind
from enrich.run.lifecycle import open_context
from enrich.run.pieces.tasks import Task, execute_task
from enrich.services import Services
from tests.faults import model_engine
from tests.faults.world import DAY, Actor, Killed

if TYPE_CHECKING:
    from tests.faults.history import Story

SHARE = 0.1  # of the histories
MOST_FAILURES = 4  # of a task, as `spark.task.maxFailures`
KEEP_SECONDS = 1.0  # between two looks at the attempts
BUGS = (TypeError, AttributeError, NameError, AssertionError)  # no fault of the world causes these
_NUMBERS = itertools.count(1)


@contextmanager
def modelled_pieces() -> Iterator[None]:
    """Cut and read outputs as `model_engine` does."""
    with (
        mock.patch("enrich.run.pieces.passes.cut_output", model_engine.cut_output),
        mock.patch("enrich.run.pieces.tasks.read_piece", model_engine.read_piece),
    ):
        yield


class Jobs:
    """What starts jobs in a history, and reports those that died."""

    def __init__(self, story: Story, random: Random) -> None:
        self._story = story
        self._random = random
        rough = 0.0 if story.gentle else random.choice([0.3, 1.0, 1.0])
        self.slots = random.choice([1, 2, 3, 3])
        self.lost = rough * random.choice([0, 0.05, 0.2])  # probability that an attempt is believed to be lost
        self.dies = rough * random.choice([0, 0.03, 0.1])  # probability, per stage, that its driver is killed
        self.piece_rows = random.choice([[3], [4], [6], [100], [3, 5]])  # of each piece; jobs can differ
        self.write_units = random.choice([None, None, 2.0, 20.0])
        spark, local = EngineKind.SPARK, EngineKind.LOCAL
        engines: list[list[EngineKind | None]] = [[spark], [spark, spark, local, None]]
        self.engines = random.choice(engines)  # what invocations are told; None: the size decides, so it is local
        self.meters: list[Meter] = []

    def options(self) -> dict[str, Any]:
        """Return what services have where jobs exist."""
        return {
            "start_job": lambda dataset: self._story.world.call("StartJobRun", lambda: self._start(dataset)),
            "engine": self._random.choice(self.engines),
            "write_units": self.write_units,
        }

    def settle(self) -> None:
        """From now on no attempt is lost, and no driver dies."""
        self.lost = self.dies = 0.0

    def _start(self, dataset: str) -> None:
        world = self._story.world
        world.at(world.time + self._random.uniform(1, 60), partial(self._spawn, dataset))

    def _spawn(self, dataset: str) -> None:
        story, name = self._story, f"job-{next(_NUMBERS)}"
        lasts = 10 * DAY if story.gentle else self._random.choice([600.0, 3600.0, 10 * DAY, 10 * DAY])

        def main() -> None:
            services = story.services(name, None)
            services = replace(services, scheduler=Cluster(story, self, services, self._random))
            story.world.note("begins as the driver of %s", dataset)
            ended_well = False
            try:
                ended_well = run_job(services, dataset)
            except BUGS:
                raise
            except Exception as error:  # the exit code of the driver is not 0
                story.world.note("ends: %s: %s", type(error).__name__, error)
            finally:
                if not ended_well:
                    self._report()
                story.world.note("ends")

        story.world.spawn(name, main, lasts=lasts)

    def _report(self) -> None:
        """Let EventBridge report that a job has failed: nearly always."""
        ended = datetime.fromtimestamp(self._story.world.time, UTC).isoformat()
        if self._random.random() < 0.9:
            event = {"source": "aws.glue", "detail-type": "Glue Job State Change", "time": ended, "detail": {}}
            self._story.queue.deliver(event, delay=self._random.uniform(1, 30))


@dataclass
class Meter:
    """Write units that the attempts of one job have sent, by time, and the limit that it was given, if any."""

    units_per_second: float | None
    slots: int
    sent: list[tuple[float, int]] = field(default_factory=list)

    def count(self, time: float, units: int) -> None:
        """Count the units of a request that is sent: one for each item, which is the least."""
        self.sent.append((time, units))

    def find_excess(self) -> str | None:
        """Return by how much the limit was passed, if it was.

        A slot may send a request once earlier ones are paid for: so it is at most one request ahead of its share.
        """
        if self.units_per_second is None:
            return None
        largest = max((units for _, units in self.sent), default=0)
        allowed, level, before = self.slots * largest + 0.2 * self.units_per_second, 0.0, 0.0
        for time, units in self.sent:
            level = max(0.0, level - (time - before) * self.units_per_second) + units
            before = time
            if level > allowed + 1:
                return f"{level:.0f} units are ahead of {self.units_per_second} per second; {allowed:.0f} can be"
        return None


@dataclass
class _Attempt:
    task: Task
    actor: Actor
    lost_at: float  # when it is believed to be lost
    outcome: Any = None  # what it returned, pickled, or its exception


class Cluster:
    """A scheduler whose executors are actors; one for each driver."""

    def __init__(self, story: Story, jobs: Jobs, services: Services, random: Random) -> None:
        self._story, self._jobs, self._services, self._random = story, jobs, services, random
        self.slots = jobs.slots
        self.piece_bytes = random.choice(jobs.piece_rows)
        self._busy: list[_Attempt] = []
        self._waits: Actor | None = None  # the driver, while it waits for attempts
        self._meter = Meter(services.write_units, self.slots)
        jobs.meters.append(self._meter)

    def run(self, tasks: Sequence[Any], keep: Callable[[int], None]) -> Mapping[str, Any]:
        """Execute tasks as `enrich.services.Scheduler` says."""
        world, found, failures = self._story.world, dict[str, Any](), dict[str, int]()
        waiting: list[Task] = list(tasks)
        dies_at = self._random.uniform(0, 30) if self._random.random() < self._jobs.dies else float("inf")
        dies_at += world.time
        attempts: list[_Attempt] = []
        try:
            while len(found) < len(tasks):
                self._busy = [each for each in self._busy if not each.actor.finished]
                while waiting and len(self._busy) < self.slots:
                    attempts.append(self._begin(waiting.pop(self._random.randrange(len(waiting)))))
                self._waits = world.actor
                world.sleep(KEEP_SECONDS)
                self._waits = None
                if world.time > dies_at:
                    world.note("the driver is killed")
                    world.kill(world.actor)
                for each in [each for each in attempts if each.actor.finished or self._loses(each)]:
                    attempts.remove(each)
                    if isinstance(each.outcome, bytes):
                        found[each.task.name] = pickle.loads(each.outcome)
                        continue
                    failures[each.task.name] = failures.get(each.task.name, 0) + 1
                    if failures[each.task.name] == MOST_FAILURES:
                        raise Stopped(f"a task of {each.task.kind} failed in all its attempts: {each.outcome}")
                    waiting.append(each.task)
                keep(len(found))
        except BaseException as error:
            self._leave(attempts, dead=isinstance(error, Killed))
            raise
        return found

    def _begin(self, task: Task) -> _Attempt:
        """Start an attempt of a task on an executor."""
        story, name = self._story, f"attempt-{next(_NUMBERS)}"
        sent, services = pickle.dumps(task), replace(self._services, owner=name, scheduler=None)
        services = replace(services, open_transport=self._open_transport)

        def main() -> None:
            story.world.note("begins %s %s of run %d", task.kind, task.name, task.run.run)
            try:
                attempt.outcome = pickle.dumps(execute_task(services, pickle.loads(sent), open_context))
                story.world.note("ends")
            except BUGS:
                raise
            except Exception as error:
                attempt.outcome = error
                story.world.note("ends: %s: %s", type(error).__name__, error)
            if self._waits is not None:
                self._waits.wake_at = story.world.time  # the slot does not stay empty

        is_lost = self._random.random() < self._jobs.lost
        lost_at = story.world.time + self._random.uniform(0, 10) if is_lost else float("inf")
        attempt = _Attempt(task, story.world.spawn(name, main, lasts=10 * DAY), lost_at)
        self._busy.append(attempt)
        return attempt

    def _open_transport(self, timeout: float) -> Any:
        return self._story.open_transport(self._services.owner, timeout, self._meter)

    def _loses(self, attempt: _Attempt) -> bool:
        """Return whether an executor does not answer any more; it can go on, at once or after a long pause."""
        world = self._story.world
        if world.time < attempt.lost_at:
            return False
        world.note("%s is believed to be lost", attempt.actor.name)
        self._pause(attempt)
        return True

    def _pause(self, attempt: _Attempt) -> None:
        world, seconds = self._story.world, self._random.choice([0, 0, 20, 200, 400])
        if seconds:
            world.note("%s is paused for %.0f s", attempt.actor.name, seconds)
        attempt.actor.wake_at = max(attempt.actor.wake_at, world.time + seconds)

    def _leave(self, attempts: Sequence[_Attempt], *, dead: bool) -> None:
        """Leave the attempts that run: those of a dead driver end soon, or go on, at once or after a long pause."""
        for each in attempts:
            if dead and self._random.random() < 0.5:
                each.actor.deadline = self._story.world.time + self._random.uniform(0, 5)
            elif self._jobs.lost or self._jobs.dies:
                self._pause(each)
