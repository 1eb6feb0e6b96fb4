"""One history: outputs that come, events that tell of them or not, operators, faults; in the middle the real code."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast
from unittest import mock

from botocore.exceptions import ClientError

from enrich import again, dispatch
from enrich.dataset import Dataset, FromKey, Metadata, Source, Tolerated
from enrich.edges import Edges
from enrich.events import parse_text
from enrich.faults import Failed, LeaseLost, Stopped
from enrich.ledger import Ledger
from enrich.progress import Progress
from enrich.records import Run
from enrich.settings import Settings
from enrich.work import work_off
from serve.datasets import Served
from tests.faults import model_engine, shared_duckdb
from tests.faults.services import Items, ModelAthena, ModelDynamo, ModelS3, ModelTransport, Queue, Sent
from tests.faults.world import DAY, START, Broken, Chances, World

TTL = timedelta(days=7)
SETTINGS = Settings(
    table="items", ledger="ledger", bucket="larder", outputs="outputs", queue="queue", workgroup="primary"
)
_INVOCATIONS = itertools.count(1)
KEYS = [(subject, f"p{n}") for subject in ("a", "b") for n in range(5)]


@dataclass
class Put:
    """One write of an output."""

    dataset: str
    object_key: str
    identity: str
    as_of: float
    rows: list[Any] | None  # None: it can't be read
    number: int


@dataclass
class Story:
    """Everything that happened, as the oracle needs it."""

    seed: int
    world: World
    s3: ModelS3
    dynamo: ModelDynamo
    items: Items
    queue: Queue
    datasets: dict[str, Dataset]
    puts: list[Put] = field(default_factory=list)
    edges: Callable[..., Edges] = field(default=cast(Any, None))
    gentle: bool = False  # nothing was made to fail
    lost: bool = False  # fingerprints were

    def state(self, dataset: str) -> Any:
        """Return a dataset's state, outside any call."""
        return self.ledger.get_state(dataset)

    @property
    def ledger(self) -> Ledger:
        """Return the ledger over a client that never fails."""
        return Ledger(cast(Any, _Quiet(self.dynamo)), "ledger")


class _Quiet:
    """The ledger's table for whoever looks at it from outside: no time passes, nothing fails."""

    def __init__(self, dynamo: ModelDynamo) -> None:
        self._dynamo = dynamo

    def __getattr__(self, name: str) -> Any:
        def call(**request: Any) -> Any:
            with mock.patch.object(self._dynamo._world, "call", lambda _, do: do()):
                return getattr(self._dynamo, name)(**request)

        return call


def play(seed: int) -> Story:
    """Play the history of a seed to its end, when everything has come to rest."""
    with tempfile.TemporaryDirectory() as directory, modelled():
        story = _build(seed, Path(directory))
        _plan(story)
        story.world.run(until=START + 3 * DAY)
        _settle(story)
        return story


@contextmanager
def modelled() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(mock.patch("enrich.run.Engine", model_engine.ModelEngine))
        stack.enter_context(mock.patch("enrich.active.read_chunks", model_engine.read_chunks))
        stack.enter_context(mock.patch("enrich.delta.duckdb.connect", shared_duckdb.Connection))
        stack.enter_context(mock.patch("enrich.log.print", create=True))
        yield


def _build(seed: int, directory: Path) -> Story:
    random = Random(f"story {seed}")
    harsh = random.choice([0.0, 0.3, 1.0, 1.0, 2.5])
    chances = Chances(
        crash=harsh * random.choice([0, 0.004, 0.012]),
        fault=harsh * random.choice([0, 0.004, 0.015]),
        lie=harsh * random.choice([0, 0.003, 0.01]),
        stall=harsh * random.choice([0, 0.004, 0.015]),
        switch=random.choice([0.02, 0.2, 0.6]),
        transport=min(0.6, harsh * random.choice([0, 0.1, 0.3])),
    )
    world = World(seed, chances)
    versioned = {"outputs"} if random.random() < 0.6 else set()
    s3, dynamo = ModelS3(world, versioned), ModelDynamo(world)
    datasets = {name: _dataset(name, random) for name in ["one", "two"][: random.choice([1, 1, 2])]}
    story = Story(seed, world, s3, dynamo, Items(), Queue(world), datasets)
    story.gentle = harsh == 0.0
    story.items.watch = lambda order: _watch(story, order)
    athena = ModelAthena(world, s3)

    pauses = [0.01, 0.01, 0.5, 5.0, 20.0, *([] if story.gentle else [80.0])]

    class Busy(Progress):
        def rows(self, run: Run, done: int, rejected: int, rate: float | None) -> None:
            world.sleep(world.random.choice(pauses))

    def edges(owner: str, deadline: float | None) -> Edges:
        return Edges(
            settings=SETTINGS,
            datasets=datasets,
            s3=cast(Any, s3),
            dynamodb=cast(Any, dynamo),
            ledger=Ledger(cast(Any, dynamo), "ledger"),
            athena=cast(Any, athena),
            open_transport=lambda timeout: ModelTransport(world, story.items, timeout),
            send=story.queue.send,
            clock=world,
            random=world.random,
            directory=directory,
            owner=owner,
            deadline=deadline,
            progress=Busy(),
            checkpoint_seconds=random.choice([0.0, 2.0, 30.0]),
        )

    story.edges = edges
    return story


def _dataset(name: str, random: Random) -> Dataset:
    return Dataset(
        served=Served(name=name, subject=("s",), scope=name),
        source=Source(
            prefix=f"{name}/",
            format="jsonl",
            columns={"s": "varchar"},
            output=random.choice(["partial", "partial", "snapshot"]),
        ),
        as_of=FromKey("at={}"),
        ttl=TTL,
        metadata={"m": Metadata("select 1 as k", on="k", max_age=timedelta(hours=random.choice([0, 24])))},
        subject=["s"],
        prediction_id="p",
        body={"value": "v"},
        tolerated=Tolerated(share=1.0),
        unchanged_life=0.5,
    )


def _watch(story: Story, order: str) -> None:
    """No unconditional write lands once a newer run of its dataset may have begun to write."""
    marks = [story.state(name).high_water for name in story.datasets]
    if order not in marks:
        raise Broken(f"a write of {order} landed without a condition when the high-water marks were {marks}")


def _plan(story: Story) -> None:
    """Lay out what will happen in three days, by chance."""
    world, random = story.world, Random(f"plan {story.seed}")
    at = START
    for _ in range(random.randint(3, 7)):
        # some close together, so that invocations overlap
        at = at + random.uniform(0, 20) if random.random() < 0.4 else START + random.uniform(0, 2.5 * DAY)
        world.at(at, lambda: _put(story, random))
    for _ in range(random.choice([0, 0, 1, 2])):
        deed = random.choice([_withdraw, _replay, _refresh, _replay_rejects])
        world.at(START + random.uniform(0.5, 2.9) * DAY, partial(_operate, story, random, deed))
    if random.random() < 0.1:
        world.at(START + random.uniform(1, 2.5) * DAY, lambda: _restore_table(story))
    if random.random() < 0.1:
        world.at(START + random.uniform(1, 2.5) * DAY, lambda: _lose_fingerprints(story))
    for n in range(1, 12):
        world.at(START + n * DAY / 4, lambda: story.queue.deliver({"sweep": True}))
        world.at(START + n * DAY / 4 + 60, lambda: story.items.delete_expired(world.time))
    world.at(START, lambda: _poll(story, random))


def _put(story: Story, random: Random) -> None:
    """Write an output, maybe over an earlier one, and maybe tell of it, late or twice."""
    name = random.choice(list(story.datasets))
    now = story.world.time
    as_of = int(now - random.choice([0, 0, 1, 1, 2, 6.9, 9]) * DAY - random.uniform(0, 3000))
    object_key = f"{name}/at={datetime.fromtimestamp(as_of, UTC):%Y-%m-%dT%H:%M:%SZ}/part"
    mine = [put for put in story.puts if put.dataset == name]
    if mine and random.random() < 0.3:  # over an earlier one, or as of the same instant
        earlier = random.choice(mine)
        object_key, as_of = earlier.object_key + random.choice(["", "", "x"]), int(earlier.as_of)
    rows: list[Any] | None = None
    content = b"corrupt"
    if random.random() > 0.05:
        chosen = random.sample(KEYS, random.randint(0, len(KEYS)))
        rows = [
            [subject, key, random.choice(["v1", "v2", None if random.random() < 0.3 else "v3"])]
            for subject, key in chosen
        ]
        if rows and random.random() < 0.2:
            rows += [random.choice(rows), ["a", None, "v1"]]
        content = json.dumps(rows).encode() if rows else b""
    version = story.s3.put("outputs", object_key, content)
    part = version.version_id or f"{version.etag.strip(chr(34))}.{int(version.modified.timestamp() * 1000)}"
    story.puts.append(Put(name, object_key, f"{object_key}@{part}", as_of, rows, len(story.puts)))
    event = {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": "outputs"}, "object": {"key": object_key}},
    }
    for _ in range(random.choice([0, 1, 1, 1, 2])):
        story.queue.deliver(event, delay=random.choice([0, 5, 60, 0.7 * DAY]) * random.random())


def _poll(story: Story, random: Random) -> None:
    """Let the event source mapping look into the queue, now and then for ever."""
    while sent := story.queue.receive():
        _invoke(story, sent, random.choice([60.0, 120.0, 900.0]))
        if random.random() < 0.3:
            break
    due = [sent.visible_at for sent in story.queue.messages]
    pause = max(1.0, min([*due, story.world.time + 600]) - story.world.time)
    story.world.at(story.world.time + pause, lambda: _poll(story, random))


def _invoke(story: Story, sent: Sent, lasts: float) -> None:
    name = f"invocation-{next(_INVOCATIONS)}"

    def main() -> None:
        edges = story.edges(name, story.world.time + lasts)
        try:
            work_off(edges, parse_text(sent.body))
        except Exception as error:
            if isinstance(error, Broken):
                raise
            return  # the message comes again when it is visible again
        with contextlib.suppress(ClientError):
            story.world.call("DeleteMessage", lambda: story.queue.delete(sent))

    story.world.spawn(name, main, lasts=lasts)


def _operate(story: Story, random: Random, deed: Callable[..., None]) -> None:
    """Let an operator do something at the command line: no deadline, and nobody takes it up again."""
    name = random.choice(list(story.datasets))
    runs = [run for run in story.ledger.fetch_runs(name) if run.state == "done" and run.kind == "output"]
    if not runs:
        return
    run = random.choice(runs)

    def main() -> None:
        edges = story.edges(f"operator-{story.world.time}", None)
        try:
            deed(edges, run)
            list(dispatch.drain(edges, name))
        except (Failed, Stopped, LeaseLost):
            return
        except Exception as error:
            if isinstance(error, Broken | TypeError | AttributeError | KeyError | AssertionError):
                raise

    story.world.spawn("operator", main, lasts=10 * DAY)


def _withdraw(edges: Edges, run: Run) -> None:
    again.withdraw(edges, run)


def _replay(edges: Edges, run: Run) -> None:
    # An old version of an overwritten output would win over the version that took its place: that is what was asked.
    current = edges.s3.head_object(Bucket=run.bucket, Key=run.object_key)
    if run.identity.endswith(str(current.get("VersionId"))):
        again.replay(edges, run)


def _replay_rejects(edges: Edges, run: Run) -> None:
    if run.counts.rejected:
        again.replay_rejects(edges, f"rejects/{run.dataset}/{run.run:08d}/")


def _refresh(edges: Edges, run: Run) -> None:
    again.refresh(edges, run.dataset)


def _restore_table(story: Story) -> None:
    """Put a table in the place of ours that lacks what chance says."""
    story.dynamo.table_id += "-restored"
    for at in list(story.items.rows):
        if story.world.random.random() < 0.5:
            del story.items.rows[at]


def _lose_fingerprints(story: Story) -> None:
    story.lost = True
    for at in list(story.s3.objects):
        if at[0] == "larder" and at[1].startswith("fingerprints/"):
            del story.s3.objects[at]


def _settle(story: Story) -> None:
    """Let the faults end, and sweep until nothing is pending."""
    story.world.chances = Chances(switch=0.05)
    for n in range(1, 40):
        story.queue.deliver({"sweep": True})
        story.world.run(until=START + 3 * DAY + n * 2000)
        open_ones = [story.ledger.fetch_pending(name) for name in story.datasets]
        if n > 3 and not any(open_ones) and not story.queue.messages:
            return
