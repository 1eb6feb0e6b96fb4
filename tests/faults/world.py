"""The model of the world: time, random numbers, who acts next, and what goes wrong. One seed determines everything.

Actors are threads, but only one runs at a time: the one that holds the baton. It gives the baton back at calls to the
outer world, when chance says so; so every interleaving of those calls can happen, and each replays exactly.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import ClientError

T = TypeVar("T")
START = 1_800_000_000.0  # epoch seconds at which every history begins
DAY = 86_400.0


class Killed(BaseException):
    """This actor's process has ended; nothing that its code does afterwards has an effect."""


@dataclass
class Chances:
    """Probabilities of faults, per call; rates per second."""

    crash: float = 0.0
    fault: float = 0.0  # reported as failed, and not applied
    lie: float = 0.0  # reported as failed, but applied
    stall: float = 0.0  # it takes long, before or after it is applied
    switch: float = 0.2
    calls_per_second: float = 20.0
    answers_per_second: float = 5.0  # of the table, to one write
    transport: float = 0.0  # that a write is throttled, cut short, lost or late
    lossy: float = 0.0  # that a fault of a write is a loss


def _taken() -> threading.Lock:
    """Return a lock that is held: the next to acquire it waits until another thread releases it."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class Player:
    """A thread that plays one actor after another: starting a thread takes longer than most actors act."""

    def __init__(self) -> None:
        self.go = _taken()
        self.play: Callable[[], None]
        threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self) -> None:
        while True:
            self.go.acquire()
            self.play()


_idle: list[Player] = []


class Note(NamedTuple):
    """One line of a history."""

    time: float
    actor: str
    what: str


@dataclass
class Actor:
    """An invocation, or an operator at the command line."""

    name: str
    deadline: float
    player: Player
    wake_at: float = 0.0
    stalled: float = 0.0  # seconds for which its calls stalled
    dead: bool = False
    finished: bool = False
    error: BaseException | None = None


class World:
    """Time, chance and the baton."""

    def __init__(self, seed: int, chances: Chances) -> None:
        self.random = random.Random(seed)
        self.chances = chances
        self.time = START
        self.calls = 0
        self.current: Actor | None = None
        self.broken: list[str] = []
        self.notes: list[Note] | None = None  # what happened, for `--trace`; None: not read
        self._actors: list[Actor] = []
        self._back = _taken()
        self._until = START
        self._failure: BaseException | None = None
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def note(self, what: str, *values: object, actor: str | None = None) -> None:
        """Note that something happened; `values` are formatted into `what` only if it is read."""
        if self.notes is not None:
            name = actor or (self.current.name if self.current else "world")
            self.notes.append(Note(self.time, name, what % values if values else what))

    # -- the clock that the code under test is given

    def now(self) -> float:
        """Return epoch seconds."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Let the actor wait."""
        actor = self.actor
        actor.wake_at = self.time + seconds
        self._yield(actor)
        self._check_alive(actor)

    # -- calls to the outer world

    def call(self, name: str, do: Callable[[], T]) -> T:
        """Let an actor make a call, with all faults that such a call can have."""
        actor = self.actor
        self.calls += 1
        self.time += self.random.expovariate(self.chances.calls_per_second)
        if self.random.random() < self.chances.switch:
            self._yield(actor)
        self._check_alive(actor)
        if self.random.random() < self.chances.crash:
            self.note("crashes before %s", name)
            self.kill(actor)
        if self.random.random() < self.chances.fault:
            self.note("%s fails; nothing was done", name)
            raise build_error(name, "InternalError")
        self._maybe_stall(name)
        result = do()
        self._maybe_stall(name)
        if self.random.random() < self.chances.crash:
            self.note("crashes after %s, which was done", name)
            self.kill(actor)
        if self.random.random() < self.chances.lie:
            self.note("%s is reported as failed, and was done", name)
            raise build_error(name, "InternalError")
        return result

    def _maybe_stall(self, name: str) -> None:
        if self.random.random() < self.chances.stall:
            seconds = self.random.uniform(1, self.random.choice([20, 300]))
            self.note("%s stalls for %.0f s", name, seconds)
            self.actor.stalled += seconds
            self.sleep(seconds)

    def kill(self, actor: Actor) -> None:
        """End an actor's process now."""
        actor.dead = True
        raise Killed(actor.name)

    def fail(self, problem: str) -> None:
        """Note that a promise was broken during the history, which can continue."""
        self.note("BROKEN: %s", problem)
        self.broken.append(problem)

    def _check_alive(self, actor: Actor) -> None:
        self._turn()
        if actor.dead or self.time > actor.deadline:
            if not actor.dead:
                self.note("is ended: its time is up")
            self.kill(actor)

    @property
    def actor(self) -> Actor:
        """Return who acts now."""
        assert self.current is not None
        return self.current

    # -- what happens by itself

    def at(self, time: float, do: Callable[[], None]) -> None:
        """Schedule something at a time."""
        heapq.heappush(self._agenda, (time, next(self._numbers), do))

    def _turn(self) -> None:
        while self._agenda and self._agenda[0][0] <= self.time:
            heapq.heappop(self._agenda)[2]()

    # -- actors

    @property
    def acting(self) -> list[Actor]:
        """Return who acts, and has neither ended nor been killed."""
        return [actor for actor in self._actors if not actor.finished]

    def spawn(self, name: str, work: Callable[[], None], *, lasts: float) -> Actor:
        """Start an actor; its process is ended after `lasts` seconds."""
        player = _idle.pop() if _idle else Player()
        actor = Actor(name, self.time + lasts, player)

        def main() -> None:
            try:
                work()
            except Killed:
                pass
            except BaseException as error:
                actor.error = error
            actor.finished = True
            _idle.append(player)
            self._failure = actor.error
            self._pass_on(None if actor.error else self._choose())

        player.play = main
        self._actors.append(actor)
        return actor

    def run(self, until: float) -> None:
        """Run until a time, or until nothing is scheduled."""
        self._until = until
        self._pass_on(self._choose())
        self._back.acquire()
        if self._failure is not None:
            raise self._failure

    def _choose(self) -> Actor | None:
        """Return the next actor, in the thread of the previous one; None if nothing is left to happen."""
        self.current = None
        try:
            return self._find_next()
        except BaseException as error:  # a scheduled event has failed, which ends the history
            self._failure = error
            return None

    def _find_next(self) -> Actor | None:
        while True:
            self._turn()
            self._actors = [actor for actor in self._actors if not actor.finished]
            ready = [actor for actor in self._actors if actor.wake_at <= self.time]
            if ready:
                return self.random.choice(ready)
            times = [actor.wake_at for actor in self._actors]
            if self._agenda:
                times.append(self._agenda[0][0])
            if not times or min(times) > self._until:
                self.time = max(self.time, min(self._until, *times) if times else self._until)
                return None
            self.time = max(self.time, min(times))

    def _pass_on(self, actor: Actor | None) -> None:
        """Pass the baton to an actor; if there is none, to `run`."""
        self.current = actor
        (actor.player.go if actor else self._back).release()

    def _yield(self, actor: Actor) -> None:
        chosen = self._choose()
        if chosen is actor:
            self.current = actor
            return
        self._pass_on(chosen)
        actor.player.go.acquire()


class Calm:
    """A world without time or faults: every call succeeds."""

    notes: list[Note] | None = None

    def call(self, _: str, do: Callable[[], T]) -> T:
        """Call."""
        return do()

    def note(self, *_: object, **__: object) -> None:
        """Note nothing."""


def build_error(operation: str, code: str, **more: Any) -> ClientError:
    """Build what botocore raises after its own retries."""
    status = {"NoSuchKey": 404, "404": 404, "PreconditionFailed": 412}.get(code, 500)
    response: Any = {
        "Error": {"Code": code, "Message": f"modelled {code}"},
        "ResponseMetadata": {"HTTPStatusCode": status},
        **more,
    }
    return ClientError(response, operation)
