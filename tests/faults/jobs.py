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
from enrich.write.rate_limiter import BURST_SECONDS
from tests.faults import model_engine
from tests.faults.world import DAY, Actor, Killed

if TYPE_CHECKING:
    from tests.faults.history import Story

SHARE = 0.1  # of the histories; another one while mutants of runs in pieces are hunted
MOST_FAILURES = 4  # of a task, as `spark.task.maxFailures`
KEEP_SECONDS = 1.0  # between two looks at the attempts
BUGS = (TypeError, AttributeError, NameError, AssertionError)  # no fault of the world causes these
_NUMBERS = itertools.count(1)
Count = Callable[[float, int], None]


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
        rough = 0.0 if story.gentle else 1.0
        self.slots = random.choice([1, 2, 3, 3])
        self.lost = rough * random.choice([0, 0.1, 0.3])  # probability that an attempt is believed to be lost
        self.dies = rough * random.choice([0, 0.05, 0.2])  # probability, per stage, that its driver is killed
        self.piece_rows = random.choice([[3], [4], [6], [100], [3, 5]])  # of each piece; jobs can differ
        self.write_units = random.choice([None, 2.0, 20.0])
        spark, local = EngineKind.SPARK, EngineKind.LOCAL
        engines: list[list[EngineKind | None]] = [[spark], [spark, spark, local, None]]
        self.engines = random.choice(engines)  # what invocations are told; None: the size decides, so it is local
        self.meters: list[Meter] = []
        self.halts = Random(f"halts {story.seed}")

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
    """Write units that the attempts of one job send, in each of its slots, and the limit that it was given, if any."""

    units_per_second: float | None
    slots: int
    sent: list[tuple[float, int]] = field(default_factory=list)  # time and units
    excess: str | None = None  # how the limit was passed, if it was
    _ahead: dict[int, tuple[float, float]] = field(default_factory=dict)  # slot -> time, and units that are not paid

    def count(self, slot: int, time: float, units: int) -> None:
        """Count a request. A slot sends one only when all earlier ones are paid for, whatever task sent them."""
        self.sent.append((time, units))
        share = (self.units_per_second or 0) / self.slots
        before, ahead = self._ahead.get(slot, (time, 0.0))
        ahead = max(0.0, ahead - (time - before) * share)
        if self.units_per_second and ahead > BURST_SECONDS * share + 0.01:
            self.excess = f"slot {slot} sent {units} units {ahead / share:.1f} s early, at {share} per second"
        self._ahead[slot] = time, ahead + units

    def forgive(self, slot: int) -> None:
        """Forget what a process has sent that was killed: it can't wait until that is paid."""
        self._ahead.pop(slot, None)


@dataclass
class _Attempt:
    task: Task
    slot: int
    actor: Actor = field(init=False)
    is_lost: bool = False  # its executor does not answer any more, in the driver's eyes
    outcome: Any = None  # what it returned, pickled, or its exception


class Cluster:
    """A scheduler whose executors are actors; one for each driver."""

    def __init__(self, story: Story, jobs: Jobs, services: Services, random: Random) -> None:
        self._story, self._jobs, self._services, self._random = story, jobs, services, random
        self.slots = jobs.slots
        self.piece_bytes = random.choice(jobs.piece_rows)
        self._busy: list[_Attempt] = []
        self._waits: Actor | None = None  # the driver, while it waits for attempts
        self._dies_at = float("inf")
        self._halts = jobs.halts
        self._meter = Meter(services.write_units, self.slots)
        jobs.meters.append(self._meter)

    def run(self, tasks: Sequence[Any], keep: Callable[[int], None]) -> Mapping[str, Any]:
        """Execute tasks as `enrich.services.Scheduler` says."""
        world, found, failures = self._story.world, dict[str, Any](), dict[str, int]()
        waiting: list[Task] = list(tasks)
        self._dies_at = world.time + self._draw_time(self._jobs.dies)
        attempts: list[_Attempt] = []
        try:
            while len(found) < len(tasks):
                while waiting and (free := self._find_free_slots()):
                    task = waiting.pop(self._random.randrange(len(waiting)))
                    attempts.append(self._begin(task, self._random.choice(free)))
                self._waits = world.actor
                world.sleep(KEEP_SECONDS)
                self._waits = None
                if world.time > self._dies_at:
                    world.note("the driver is killed")
                    world.kill(world.actor)
                for each in [each for each in attempts if each.actor.finished or each.is_lost]:
                    attempts.remove(each)
                    if isinstance(each.outcome, bytes) and not each.is_lost:
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

    def _draw_time(self, probability: float) -> float:
        """Return after how many seconds something happens: often within the first second, or never."""
        if self._random.random() >= probability:
            return float("inf")
        return self._random.uniform(0, self._random.choice([0.3, 3, 30]))

    def _find_free_slots(self) -> list[int]:
        """Return the slots without an attempt. A lost one keeps its slot: no worker replaces its worker."""
        for each in [each for each in self._busy if each.actor.finished]:
            self._busy.remove(each)
            if each.outcome is None:
                self._meter.forgive(each.slot)
        return sorted(set(range(self.slots)) - {each.slot for each in self._busy})

    def _begin(self, task: Task, slot: int) -> _Attempt:
        """Start an attempt of a task on an executor."""
        story, name = self._story, f"attempt-{next(_NUMBERS)}"
        sent, services = pickle.dumps(task), replace(self._services, owner=name, scheduler=None)
        attempt = _Attempt(task, slot)
        halts = iter([self._halts.random() < 2 * self._jobs.lost])

        def count(time: float, units: int) -> None:
            self._meter.count(slot, time, units)
            if next(halts, False):  # after its first request, with others to send
                story.world.at(time, partial(self._halt, attempt))

        services = replace(
            services, open_transport=lambda timeout: story.open_transport(self._services.owner, timeout, count)
        )

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

        attempt.actor = story.world.spawn(name, main, lasts=10 * DAY)
        self._busy.append(attempt)
        if (seconds := self._draw_time(self._jobs.lost)) < float("inf"):
            story.world.at(story.world.time + seconds, partial(self._lose, attempt))
        return attempt

    def _lose(self, attempt: _Attempt) -> None:
        """Let an executor answer no more; it goes on, at once or after a pause."""
        if not attempt.actor.finished:
            attempt.is_lost = True
            self._story.world.note("%s is believed to be lost", attempt.actor.name)
            self._pause(attempt)

    def _halt(self, attempt: _Attempt) -> None:
        """Pause an executor between two writes, even for longer than a lease; its driver can be killed then, too."""
        if not attempt.actor.finished:
            seconds = self._halts.choice([10, 20, 40, 150, 200])
            attempt.is_lost = True
            self._story.world.note("%s is lost, and paused for %.0f s", attempt.actor.name, seconds)
            attempt.actor.wake_at = max(attempt.actor.wake_at, self._story.world.time + seconds)
            if self._halts.random() < self._jobs.dies:
                self._dies_at = self._story.world.time

    def _pause(self, attempt: _Attempt) -> None:
        world, seconds = self._story.world, self._random.choice([0, 20, 200, 400])
        if seconds:
            world.note("%s is paused for %.0f s", attempt.actor.name, seconds)
        attempt.actor.wake_at = max(attempt.actor.wake_at, world.time + seconds)

    def _leave(self, attempts: Sequence[_Attempt], *, dead: bool) -> None:
        """Leave the attempts that run: those of a dead driver end soon, or go on, at once or after a pause."""
        for each in attempts:
            if dead and self._random.random() < 0.5:
                each.actor.deadline = self._story.world.time + self._random.uniform(0, 5)
            elif self._jobs.lost or self._jobs.dies:
                self._pause(each)
