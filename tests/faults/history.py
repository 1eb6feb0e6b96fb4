"""One history: outputs, their events (some lost or doubled), operators and faults around the real code."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
from bisect import bisect
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast
from unittest import mock

from botocore.exceptions import ClientError

from enrich.dataset.definition import Dataset, FromKey, Guard, Metadata, Source, Tolerated
from enrich.delta import buckets
from enrich.errors import Failed
from enrich.intake import operations
from enrich.intake.events import parse_text
from enrich.intake.held import approve, reject
from enrich.intake.worker import handle_requests, run_pending
from enrich.ledger.lease import QUIET_PERIOD_OWNER
from enrich.ledger.records import DatasetState, Run, newest_first
from enrich.ledger.store import Ledger
from enrich.progress import Progress
from enrich.services import Bus, Services
from enrich.settings import Settings
from serve.datasets import Served
from serve.item import ORDER, PREDICTION_ID
from tests.doubles.services import ModelAthena, ModelBus, ModelDynamo, ModelS3, Queue, Sent
from tests.doubles.table import Applied, Items, ModelTransport
from tests.faults import jobs, model_engine, shared_duckdb
from tests.faults.describe import describe_message, describe_world
from tests.faults.jobs import BUGS, Count, Jobs, modelled_pieces
from tests.faults.liveness import check_moved, positions
from tests.faults.model_engine import render_body
from tests.faults.outputs import MARKER, SHIFTED, TTL, Put, write_output, write_rows
from tests.faults.world import DAY, START, Calm, Chances, Note, World

R = TypeVar("R")
SETTINGS = Settings(
    table="items", ledger="ledger", bucket="larder", outputs="outputs", queue="queue", workgroup="primary"
)
MOST_GROWTH = 4  # of the rows of an output, as a share of those of the reference
GUARDS = (Guard("max", "v", most=int(SHIFTED[1:]) - 1), Guard("rows", change=MOST_GROWTH))
MOST_PUTS = 200  # where a bug keeps a run open, each rewriting of it would bring about others, for ever
RANKS = (None, "n", "n desc")
MEMORY = "/dev/shm"  # where there is one, scratch files cost no disk
_INVOCATIONS = itertools.count(1)


@dataclass
class Story:
    """Everything that happened, as the oracle needs it."""

    seed: int
    world: World
    s3: ModelS3
    dynamo: ModelDynamo
    items: Items
    queue: Queue
    athena: ModelAthena
    datasets: dict[str, Dataset]
    bus: ModelBus | None  # None: the environment sends no events
    puts: list[Put] = field(default_factory=list)
    newest: dict[str, str] = field(default_factory=dict)  # dataset -> order of the newest run that sent a write
    services: Callable[..., Services] = field(default=cast(Any, None))
    gentle: bool = False  # no fault was injected
    lost: bool = False  # fingerprints were lost
    given_up: int = 0  # operators who can have been interrupted; what they left waits for the next sweep
    stood_still: set[tuple[Any, ...]] = field(
        default_factory=set
    )  # positions of runs when an invocation did not move them
    transports: dict[str, list[ModelTransport]] = field(default_factory=dict)  # by invocation
    reranked: set[str] = field(default_factory=set)  # datasets whose rank was changed
    repeated: dict[str, set[tuple[str, str]]] = field(default_factory=dict)  # dataset -> item keys of the last output
    ends: float = START + 3 * DAY  # when the faults end
    hasty: float = 0.0  # how often the model is run again while its output is being written
    behind: Random | None = None  # writes an output behind a run of which a write lands late, until it is None
    jobs: Jobs | None = None  # None: each run is executed by the Lambda

    # records of the ledger by key: the row that was read, and its record
    _records: dict[tuple[str, str], tuple[Any, Any]] = field(default_factory=dict)

    def open_transport(self, owner: str, timeout: float, count: Count | None = None) -> ModelTransport:
        """Open a transport to the table of items, and record whose it is.

        `count` is called with the time and the number of items of a request, where attempts of a job send them.
        """
        watch = partial(_watch, self, owner, count)
        transport = ModelTransport(self.world, self.items, timeout, watch, partial(_write_behind_a_late_write, self))
        self.transports.setdefault(owner, []).append(transport)
        return transport

    def state(self, dataset: str) -> DatasetState:
        """Return a dataset's state, outside any call."""
        return self._read((dataset, "state"), lambda: self.ledger.get_state(dataset))

    def run(self, dataset: str, number: int) -> Run | None:
        """Return a run by its number, outside any call."""
        return self._read((dataset, f"run#{number:08d}"), lambda: self.ledger.get_run(dataset, number))

    def runs(self, dataset: str) -> list[Run]:
        """Return a dataset's runs, newest first, outside any call; also those that the ledger has no more."""
        pruned = self._numbers(dataset, "run#", self.dynamo.pruned)
        numbers = sorted([*pruned, *self._numbers(dataset, "run#")], reverse=True)
        return [run for number in numbers if (run := self.run(dataset, number))]

    def pending(self, dataset: str) -> list[int]:
        """Return the numbers of the runs that are not closed, oldest first."""
        return self._numbers(dataset, "pending#")

    def unsent(self, dataset: str) -> int:
        """Return the number of entries in a dataset's outbox."""
        return sum(at[0] == dataset and at[1].startswith("outbox#") for at in self.dynamo.rows)

    def is_pruned(self, run: Run) -> bool:
        """Return whether the ledger has a run no more."""
        return (run.dataset, run.sk) in self.dynamo.pruned

    def _numbers(self, dataset: str, prefix: str, rows: Mapping[tuple[str, str], Any] | None = None) -> list[int]:
        rows = self.dynamo.rows if rows is None else rows
        return sorted(int(at[1][len(prefix) :]) for at in rows if at[0] == dataset and at[1].startswith(prefix))

    def _read(self, at: tuple[str, str], get: Callable[[], R]) -> R:
        """Read a record of the ledger again only if its row was replaced: parsing takes longer than a call."""
        row = self.dynamo.rows.get(at) or self.dynamo.pruned.get(at)
        seen, record = self._records.get(at, (None, None))
        if row is None or row is not seen:
            record = get()
            self._records[at] = row, record
        return cast(R, record)

    @property
    def disturbed(self) -> bool:
        """Return whether fingerprints or items were lost."""
        return self.lost or self.dynamo.table_id != "table-1"

    def find_put(self, run: Run) -> Put | None:
        """Return the write of the output that a run ran over; None for rejects."""
        return next((put for put in self.puts if put.identity == run.identity), None)

    def good_keys(self, run: Run) -> set[tuple[str, str]]:
        """Return the item keys that a run's output names and gives a body."""
        put = self.find_put(run)
        return put.good_keys() if put else set()

    def applied(self, run: Run) -> list[Applied]:
        """Return the writes of a run that the table applied."""
        mine = f"{run.dataset}#"
        if run.generation is None or run.as_of_ms is None:
            return []
        return [each for each in self.items.applied if each.order == run.order.text and each.at[0].startswith(mine)]

    def rejects(self, run: Run) -> list[Any]:
        """Return the lines that a run saved for its rejects."""
        prefix = f"rejects/{run.dataset}/{run.run:08d}/"
        files = [kept[-1] for at, kept in self.s3.objects.items() if at[0] == "larder" and at[1].startswith(prefix)]
        return [json.loads(line) for file in files for line in file.body.splitlines()]

    def render(self, run: Run, value: str) -> str:
        """Return the body that a run must give to a value."""
        return render_body(self.datasets[run.dataset], value, [[{"k": self.athena.fetched[run.metadata["m"]][1]}]])

    @property
    def ledger(self) -> Ledger:
        """Return the ledger over a client that never fails, with the records of runs that were deleted."""
        dynamo = ModelDynamo(cast(Any, Calm()))
        dynamo.rows = cast(Any, ChainMap(self.dynamo.rows, self.dynamo.pruned))
        return Ledger(cast(Any, dynamo), "ledger")


@contextmanager
def played(seed: int, notes: list[Note] | None = None) -> Iterator[Story]:
    """Play the history of a seed until all runs are closed; it can be continued.

    What happens is added to `notes`, if there is such a list.
    """
    at_once = Random(f"commits {seed}").choice([1, 1, 2, 8])  # withdrawals are small here, but take several commits
    prunes = Random(f"prune {seed}")
    kept_for = timedelta(days=prunes.choice([1, 1, 1.5, 3]))  # shorter than the ttl: `pruned_ms` limits the sweep
    with (
        tempfile.TemporaryDirectory(dir=MEMORY if os.path.isdir(MEMORY) else None) as directory,
        modelled(),
        mock.patch("enrich.intake.recovery.RUNS_AT_ONCE", at_once),
        mock.patch("enrich.intake.prune.find_kept_for", return_value=kept_for),
        mock.patch("enrich.intake.prune.NEWEST_KEPT", prunes.choice([1, 1, 2, 5])),
        mock.patch("enrich.intake.prune.MOST", prunes.choice([3, 5, 100])),
        mock.patch("enrich.intake.prune.RUNS_AT_ONCE", prunes.choice([1, 2])),
    ):
        story = build_story(seed, Path(directory), notes)
        _plan(story)
        story.world.run(until=story.ends)
        _settle(story, story.ends)
        yield story


def say_again(story: Story) -> None:
    """Let the model repeat its newest outputs, and play until all runs are closed.

    Now it shows when fingerprints call something unchanged that the table does not hold.
    """
    random = Random(f"again {story.seed}")
    keys: dict[str, set[tuple[str, str]]] = {}
    for name, dataset in story.datasets.items():
        said: dict[tuple[str, str], Any] = {}
        for run in reversed(newest_first(story.runs(name))):
            put = story.find_put(run)
            said |= put.good_rows() if put else {}
        story.puts.append(write_rows(story.s3, dataset, random, story.world.time, list(said.values())))
        keys[story.puts[-1].identity] = set(said)
    _settle(story, story.world.time)
    for run in (run for name in story.datasets for run in story.runs(name)):
        if run.state == "done" and run.identity in keys:  # a guard may hold it
            story.repeated[run.dataset] = keys[run.identity]


@contextmanager
def modelled() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(mock.patch("enrich.run.context.Engine", model_engine.ModelEngine))
        stack.enter_context(mock.patch("enrich.run.context.read_chunks", model_engine.read_chunks))
        stack.enter_context(mock.patch("enrich.delta.changes.duckdb.connect", shared_duckdb.Connection))
        stack.enter_context(mock.patch("enrich.delta.buckets.ROWS", buckets.ROWS))  # `build_story` sets others
        stack.enter_context(mock.patch("enrich.log.print", _silent, create=True))
        stack.enter_context(modelled_pieces())
        yield


def _silent(*_: Any, **__: Any) -> None:
    """Print nothing and record nothing, which a mock would do."""


def build_story(seed: int, directory: Path, notes: list[Note] | None) -> Story:
    """Build the world of a history, in which nothing is planned yet."""
    random = Random(f"story {seed}")
    harsh = random.choice([0.0, 0.3, 1.0, 1.0, 2.5])
    chances = Chances(
        crash=harsh * random.choice([0, 0.004, 0.012]),
        fault=harsh * random.choice([0, 0.004, 0.015, 0.04]),
        lie=harsh * random.choice([0, 0.003, 0.01]),
        stall=harsh * random.choice([0, 0.004, 0.015]),
        switch=random.choice([0.02, 0.2, 0.6]),
        calls_per_second=random.choice([2.0, 20.0, 300.0, 300.0]),
        answers_per_second=random.choice([0.5, 5.0]),
        transport=min(0.6, harsh * random.choice([0, 0.1, 0.3])),
        lossy=random.choice([0, 0, 0.8]),
    )
    world = World(seed, chances)
    versioned = {"outputs"} if random.random() < 0.6 else set()
    s3, dynamo = ModelS3(world, versioned), ModelDynamo(world)
    datasets = {name: _guard(_dataset(name, random), seed) for name in ["one", "two"][: random.choice([1, 1, 2])]}
    ranks = Random(f"rank {seed}")
    for name in datasets:
        datasets[name] = replace(datasets[name], rank=ranks.choice(RANKS))
    changes = sorted(START + random.uniform(0, 3) * DAY for _ in range(random.choice([0, 1, 2])))
    athena = ModelAthena(world, s3, lambda now: f"m{bisect(changes, now)}")
    bus = _build_bus(world, Random(f"bus {seed}"), harsh)
    story = Story(seed, world, s3, dynamo, Items(), Queue(world), athena, datasets, bus)
    world.notes = notes
    for line in describe_world(datasets, bool(versioned), chances):
        world.note("%s", line)
    story.gentle = harsh == 0.0

    pauses = random.choice([[0.01], [0.01, 0.01, 0.5, 5.0, 20.0, *([] if story.gentle else [80.0])]])
    story.hasty = random.choice([0, 0, 0.3])

    class Busy(Progress):
        def rows(self, run: Run, done: int, rejected: int, rate: float | None) -> None:
            world.sleep(world.random.choice(pauses))

    # a dozen rows are one, two or four buckets; releases may differ in how many
    releases = Random(f"buckets {seed}")
    rows_per_bucket = releases.choice([[500_000], [500_000], [5], [3], [500_000, 6, 3]])
    if (pieces := Random(f"pieces {seed}")).random() < jobs.SHARE:
        story.jobs = Jobs(story, pieces)
        rows_per_bucket = rows_per_bucket[:1]  # all processes of a job have the same release

    def services(owner: str, deadline: float | None) -> Services:
        buckets.ROWS = releases.choice(rows_per_bucket)
        return Services(
            settings=replace(SETTINGS, bus="bus" if bus else ""),
            datasets=datasets,
            s3=cast(Any, s3),
            dynamodb=cast(Any, dynamo),
            ledger=Ledger(cast(Any, dynamo), "ledger"),
            athena=cast(Any, story.athena),
            open_transport=lambda timeout: story.open_transport(owner, timeout),
            send=story.queue.send,
            clock=world,
            random=world.random,
            directory=directory,
            owner=owner,
            deadline=deadline,
            progress=Busy(),
            checkpoint_seconds=random.choice([0.0, 2.0, 30.0]),
            bus=Bus(cast(Any, bus)) if bus else None,
            **(story.jobs.options() if story.jobs else {}),
        )

    story.services = services
    return story


def _build_bus(world: World, random: Random, harsh: float) -> ModelBus | None:
    """Build a bus, in half of the histories: it can be down for minutes or a day, and refuse some events."""
    if random.random() < 0.5:
        return None
    bus = ModelBus(world, refuses=min(0.5, harsh * random.choice([0, 0.1, 0.3])))
    if harsh:
        begins = [START + random.uniform(0, 2.5) * DAY for _ in range(random.choice([0, 1, 3]))]
        bus.down = [(at, at + random.choice([120, 3600, DAY])) for at in begins]
    return bus


def _dataset(name: str, random: Random) -> Dataset:
    return Dataset(
        served=Served(name=name, subject=("s",), scope=name),
        source=Source(
            prefix=f"{name}/",
            format="jsonl",
            columns={"s": "varchar"},
            output=random.choice(["partial", "partial", "snapshot"]),
            empty_snapshot="remove-all",
            snapshot_files="each",
            marker=random.choice([None, None, MARKER]),
        ),
        as_of=FromKey("at={}"),
        ttl=TTL,
        metadata={"m": Metadata("select 1 as k", on="k", max_age=timedelta(hours=random.choice([0, 24])))},
        subject={"s": "s"},
        prediction_id="p",
        body={"value": "v", "metadata": "m.k"} | random.choice([{}, {}, {"padding": "repeat('x', 60000)"}]),
        tolerated=random.choice([Tolerated(share=1.0), Tolerated(share=0.25, few=1)]),
        unchanged_life=0.5,
    )


def _guard(dataset: Dataset, seed: int) -> Dataset:
    """Give a dataset guards, in one of three histories."""
    guarded = Random(f"guards {dataset.name} {seed}").random() < 0.35
    return replace(dataset, guards=GUARDS) if guarded else dataset


def _watch(
    story: Story, sender: str, count: Count | None, items: list[dict[str, Any]], conditional: bool, event: str
) -> None:
    """Check that only the holder of a dataset writes to it, and that its writes land before another can hold it.

    No write without a condition lands once a newer run of its dataset may have begun to write.
    """
    (name,) = {item["pk"]["S"].partition("#")[0] for item in items}
    (order,) = {item[ORDER]["S"] for item in items}
    state, now = story.state(name), story.world.time
    if count is not None and event == "sent":
        count(now, len(items))
    # an attempt of a task that its driver has left goes on until its horizon, which the quiet period outlasts
    may_be_quiet = event == "landed" or count is not None
    if state.lease_owner != sender and not (may_be_quiet and state.lease_owner == QUIET_PERIOD_OWNER):
        story.world.fail(f"{sender} {event} a write of {order} while {state.lease_owner} held {name}")
    if now > state.lease_until_ms / 1000:
        story.world.fail(f"{sender} {event} a write of {order} {now - state.lease_until_ms / 1000} s after its lease")
    story.newest[name] = max(order, story.newest.get(name, ""))
    if not conditional and not order == state.high_water == story.newest[name]:
        story.world.fail(
            f"a write of {order} {event} without a condition; the high-water mark was {state.high_water}, "
            f"and {story.newest[name]} was written before"
        )
    if not all(PREDICTION_ID.match(item["sk"]["S"]) for item in items):
        story.world.fail(f"an item key that none can have: {items}")
    if len({(item["pk"]["S"], item["sk"]["S"]) for item in items}) != len(items) or len(items) > 25:
        story.world.fail("a batch of more than 25 items, or with an item key twice")


def _plan(story: Story) -> None:
    """Choose at random what will happen in three days, and sometimes in nine more."""
    world, random = story.world, Random(f"plan {story.seed}")
    at = START
    busy = [at]
    burst = random.choice([0.4, 0.4, 0.9])
    for _ in range(random.randint(3, 7)):
        # some close together, so that invocations overlap
        at = at + random.uniform(0, 20) if random.random() < burst else START + random.uniform(0, 2.5 * DAY)
        busy.append(at)
        world.at(at, lambda: _put(story, random))
    for _ in range(random.choice([0, 0, 1, 3])):
        deed = random.choice([_withdraw, _replay, _refresh, _replay_rejects])
        at = START + random.uniform(0.5, 2.9) * DAY
        if random.random() < 0.4:  # while runs are open or pending
            at = random.choice(busy) + random.uniform(60, 1800)
        world.at(at, partial(_operate, story, random, deed))
    if random.random() < 0.1:
        world.at(START + random.uniform(1, 2.5) * DAY, lambda: _restore_table(story))
    if random.random() < 0.1:
        world.at(START + random.uniform(1, 2.5) * DAY, lambda: _lose_fingerprints(story))
    if random.random() < 0.2:
        world.at(START + random.uniform(1, 2.5) * DAY, lambda: _expire_work(story))
    for n in range(1, 12):
        world.at(START + n * DAY / 4, lambda: story.queue.deliver({"sweep": True}))
        world.at(START + n * DAY / 4 + 60, lambda: story.items.delete_expired(world.time))
    if (own := Random(f"take back {story.seed}")).random() < 0.15:
        world.at(START + DAY / 4, lambda: _withdraw_beside_a_waiting_run(story, own))
    if (own := Random(f"hand over {story.seed}")).random() < 0.1:
        story.dynamo.on_commit = partial(_write_while_released, story, own)
    if (own := Random(f"behind {story.seed}")).random() < 0.2:
        story.behind = own
    decides = Random(f"decides {story.seed}")
    for _ in range(8 if any(dataset.guards for dataset in story.datasets.values()) else 0):
        world.at(START + decides.uniform(0.1, 2.9) * DAY, lambda: _decide_held(story, decides))
    if (own := Random(f"rerank {story.seed}")).random() < 0.3:
        world.at(START + own.uniform(0.3, 2.5) * DAY, partial(_rerank, story, own))
    if (own := Random(f"later {story.seed}")).random() < 0.25:
        _plan_later(story, own)
    world.at(START, lambda: poll(story, random))


def _plan_later(story: Story, random: Random) -> None:
    """Let the history last until the first items have expired and their runs are deleted, with a little happening."""
    world, story.ends = story.world, START + 12 * DAY
    for n in range(6, 24):
        world.at(START + n * DAY / 2, lambda: story.queue.deliver({"sweep": True}))
        world.at(START + n * DAY / 2 + 60, lambda: story.items.delete_expired(world.time))
    for _ in range(random.randint(1, 3)):
        world.at(START + random.uniform(3, 11) * DAY, lambda: _put(story, random))
    for _ in range(random.choice([0, 1, 2])):
        deed = random.choice([_withdraw, _withdraw, _replay, _refresh, _replay_rejects])
        world.at(START + random.uniform(5, 11.5) * DAY, partial(_operate, story, random, deed))
    if random.random() < 0.3:
        world.at(START + random.uniform(8, 11.5) * DAY, lambda: _restore_table(story))


def _rerank(story: Story, random: Random) -> None:
    """Deploy a dataset with another rank if no run of it is open; else try again later."""
    name = random.choice(list(story.datasets))
    if not story.pending(name):
        rank = random.choice([rank for rank in RANKS if rank != story.datasets[name].rank])
        story.datasets[name] = replace(story.datasets[name], rank=rank)
        story.reranked.add(name)
        story.world.note("the rank of dataset %s is %s from now on", name, rank)
    elif story.world.time < START + 2.9 * DAY:
        story.world.at(story.world.time + 600, partial(_rerank, story, random))


def _write_while_released(story: Story, random: Random, actions: list[Any]) -> None:
    """Write an output while a holder releases a dataset: who takes it in finds the dataset held, and goes away."""
    puts = [change["Item"] for action in actions for change in action.values() if "Item" in change]
    releases = len(puts) == 1 and "lease_owner" in puts[0] and "S" not in puts[0]["lease_owner"]
    if not releases or random.random() < 0.5 or story.world.time > START + 2.9 * DAY:
        return
    story.dynamo.on_commit = lambda _: None  # once in a history
    _put_and_invoke(story, random, 60.0)
    story.world.sleep(random.uniform(1, 10))


def _write_behind_a_late_write(story: Story) -> bool:
    """Write an output whose run follows directly on one with a write in flight, and let that write land late."""
    random, story.behind = story.behind, None
    if random is None or story.world.time > START + 2.9 * DAY:
        return False
    _put_and_invoke(story, random, 120.0)
    return True


def _put_and_invoke(story: Story, random: Random, lasts: float) -> None:
    """Write an output, and let invocations of so many seconds take its event, and other pending work, at once."""
    _put(story, random, at_once=True)
    while sent := story.queue.receive():
        _invoke(story, sent, lasts)


def _withdraw_beside_a_waiting_run(story: Story, random: Random) -> None:
    """Withdraw an output if another run is pending that has an order and no invocation; else try again later."""
    for name in story.datasets:
        runs = story.runs(name)
        waits = any(not run.state.is_closed and run.generation and run.decided_ms is None for run in runs)
        if waits and story.world.time > story.state(name).lease_until_ms / 1000:
            return _operate(story, random, _withdraw, name)
    if story.world.time < START + 2.9 * DAY:
        story.world.at(story.world.time + 60, lambda: _withdraw_beside_a_waiting_run(story, random))
    return None


def _put(story: Story, random: Random, over: Put | None = None, *, at_once: bool = False) -> None:
    """Write an output, and send its event once, twice, late or not at all; with `at_once`, once and now."""
    dataset = story.datasets[over.dataset if over else random.choice(list(story.datasets))]
    earlier = [put for put in story.puts if put.dataset == dataset.name]
    put = write_output(story.s3, dataset, random, story.world.time, earlier, over)
    story.puts.append(put)
    story.world.note("writes %s: %s", put.object_key, put.describe(), actor="model")
    for object_key in [put.object_key.replace(MARKER, "part-0")] * bool(dataset.source.marker) + [put.object_key]:
        event = {
            "source": "aws.s3",
            "detail-type": "Object Created",
            "detail": {"bucket": {"name": "outputs"}, "object": {"key": object_key}},
        }
        for _ in range(1 if at_once else random.choice([0, 1, 1, 1, 2])):
            story.queue.deliver(event, delay=0 if at_once else random.choice([0, 5, 60, 0.7 * DAY]) * random.random())


def poll(story: Story, random: Random) -> None:
    """Let the event source mapping poll the queue regularly, for ever."""
    while sent := story.queue.receive():
        _invoke(story, sent, random.choice([60.0, 60.0, 120.0, 900.0]))
        if random.random() < 0.3:
            break
    due = [sent.visible_at for sent in story.queue.messages]
    pause = max(1.0, min([*due, story.world.time + 600]) - story.world.time)
    story.world.at(story.world.time + pause, lambda: poll(story, random))


def _invoke(story: Story, sent: Sent, lasts: float) -> None:
    name = f"invocation-{next(_INVOCATIONS)}"

    def main() -> None:
        before = positions(story)

        def send(message: dict[str, Any]) -> None:
            if "continue" in message:
                check_moved(story, actor, lasts, message["continue"]["dataset"], before)
            story.queue.send(message)

        services = replace(story.services(name, story.world.time + lasts), send=send)
        story.world.note("begins, for %.0f s, with %s", lasts, describe_message(sent.body))
        sent.refused = False  # what an earlier receive came to says nothing about the last one
        try:
            handle_requests(services, parse_text(sent.body))
        except BUGS:
            raise
        except Exception as error:
            sent.refused = isinstance(error, Failed)
            story.world.note("ends, its message stays in the queue: %s: %s", type(error).__name__, error)
            return  # the message is received again when it is visible again
        with contextlib.suppress(ClientError):
            story.world.call("DeleteMessage", lambda: story.queue.delete(sent))
        story.world.note("ends, and has deleted its message")
        _look_who_waits(story)

    _rewrite_open(story, story.world.random)
    actor = story.world.spawn(name, main, lasts=lasts)


def _look_who_waits(story: Story) -> None:
    """Check that the last invocation leaves nothing pending, unless a message is still to be processed."""
    coming = any(sent.receives or sent.visible_at <= story.world.time for sent in story.queue.messages)
    given_up = story.given_up > 0 or not all(sent.refused for sent in story.queue.dead)
    if coming or given_up or len(story.world.acting) > 1 or story.jobs:  # who waits for a job waits for a sweep
        return
    for name in story.datasets:
        for number in story.pending(name):
            story.world.fail(f"{name} run {number} is pending, and no invocation is there to run it")


def _rewrite_open(story: Story, random: Random) -> None:
    """Overwrite an output that a run has begun to write to the table, and must continue with."""
    for name in story.datasets if story.world.time < START + 2.9 * DAY else ():
        run = story.run(name, story.state(name).open_run or 0)
        put = story.find_put(run) if run else None
        if put and random.random() < story.hasty and len(story.puts) < MOST_PUTS:
            _put(story, random, over=put)


def _operate(story: Story, random: Random, deed: Callable[..., Run | None], name: str | None = None) -> None:
    """Let an operator run a command: it has no deadline, and nothing continues it."""
    name = name or random.choice(list(story.datasets))
    runs = [run for run in story.runs(name) if run.state.is_closed and not story.is_pruned(run)]
    good = [run for run in runs if run.state == "done" and run.kind == "output"]
    if not good:
        return
    run = random.choice(good if random.random() < 0.8 else runs)

    def main() -> None:
        services = story.services(f"operator-{story.world.time}", None)
        story.world.note("begins: %s of %s run %d", deed.__name__.lstrip("_"), name, run.run)
        story.given_up += 1
        try:
            queued = deed(story, services, run)
            list(run_pending(services, name, [queued.run] if queued else []))
            story.given_up -= 1
            story.world.note("ends")
        except BUGS:
            raise
        except Exception as error:  # an operator looks at the status and continues
            story.world.note("gives up: %s: %s", type(error).__name__, error)
            return

    story.world.spawn("operator", main, lasts=10 * DAY)


def _decide_held(story: Story, random: Random) -> None:
    """Let an operator approve or reject a run that is held, if there is one."""
    held = [run for name in story.datasets for run in story.runs(name) if run.state == "held"]
    if not held:
        return
    run, approves = random.choice(held), random.random() < 0.7
    newer = [each for each in story.runs(run.dataset) if each.state == "done" and each.kind == "output"]
    newer = [each for each in newer if (each.as_of_ms or 0) > (run.as_of_ms or 0)]

    def main() -> None:
        services = story.services(f"operator-{story.world.time}", None)
        story.world.note("%s %s run %d", "approves" if approves else "rejects", run.dataset, run.run)
        story.given_up += 1
        try:
            (approve if approves else reject)(services, run.dataset, run.run)
            withdrawn = [each for each in newer if (now := story.run(each.dataset, each.run)) and now.state != "done"]
            if approves and newer and not withdrawn:
                story.world.fail(f"{run.dataset} run {run.run} was approved, and run {newer[0].run} is newer")
            list(run_pending(services, run.dataset, [run.run]))
            story.given_up -= 1
        except BUGS:
            raise
        except Failed as error:
            story.given_up -= 1
            story.world.note("is refused: %s", error)
        except Exception as error:
            story.world.note("gives up: %s: %s", type(error).__name__, error)

    story.world.spawn("operator", main, lasts=10 * DAY)


def _withdraw(_: Story, services: Services, run: Run) -> Run:
    return operations.withdraw(services, run)


def _replay(story: Story, services: Services, run: Run) -> Run | None:
    # An old version of an overwritten output would win over the version that replaced it, as the operator requested.
    if run.identity == next((put.identity for put in reversed(story.puts) if put.object_key == run.object_key), None):
        return operations.replay(services, run)
    return None


def _replay_rejects(_: Story, services: Services, run: Run) -> Run | None:
    return operations.replay_rejects(services, f"rejects/{run.dataset}/{run.run:08d}/") if run.counts.rejected else None


def _refresh(_: Story, services: Services, run: Run) -> Run:
    return operations.refresh(services, run.dataset)


def _restore_table(story: Story) -> None:
    """Replace the table by one that lacks a random part of the items."""
    story.dynamo.table_id += "-restored"
    story.world.note("the table of items is restored, and lacks some of them")
    for at in list(story.items.rows):
        if story.world.random.random() < 0.5:
            del story.items.rows[at]


def _expire_work(story: Story) -> None:
    """Delete what the bucket's rules delete: work folders of closed runs, and old metadata that no open run joins."""
    young = datetime.fromtimestamp(story.world.time - 25 * 3600, UTC)  # no run joins older metadata
    open_runs = [run for name in story.datasets for run in story.runs(name) if not run.state.is_closed]
    kept = [f"work/{run.dataset}/{run.run:08d}/" for run in open_runs]
    kept += [location.partition("//larder/")[2] for run in open_runs for location in run.metadata.values()]
    for at, versions in list(story.s3.objects.items()):
        old = at[1].startswith("work/") or (at[1].startswith("metadata/") and versions[-1].modified < young)
        if at[0] == "larder" and old and not at[1].startswith(tuple(kept)):
            del story.s3.objects[at]


def _lose_fingerprints(story: Story) -> None:
    story.lost = True
    story.world.note("the fingerprints are lost")
    for at in list(story.s3.objects):
        if at[0] == "larder" and at[1].startswith("fingerprints/"):
            del story.s3.objects[at]


def _settle(story: Story, since: float) -> None:
    """End the faults, and sweep until nothing is pending."""
    story.world.note("from now on nothing fails; sweeps until nothing is pending")
    story.world.chances = Chances(switch=0.05)
    if story.jobs:
        story.jobs.settle()
    if story.bus:
        story.bus.down, story.bus.refuses = (), 0.0
    for n in range(1, 40):
        story.queue.deliver({"sweep": True})
        story.world.run(until=since + n * 2000)
        open_ones = [story.pending(name) or story.unsent(name) for name in story.datasets]
        if n > 3 and not any(open_ones) and not story.queue.messages:
            return
