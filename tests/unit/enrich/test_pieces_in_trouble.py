"""A run in pieces whose parts change, whose executors reach no service, or that has two drivers."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError

from enrich.errors import LeaseLost, Stopped
from enrich.intake.job import run_job
from enrich.intake.worker import run_pending
from enrich.ledger.lease import RENEWAL_SECONDS
from enrich.ledger.store import Ledger
from enrich.read.chunks import read_chunks, read_range
from enrich.read.s3_object import Part
from enrich.run.context import RunContext
from tests.doubles.services import ModelS3
from tests.doubles.task_scheduler import TaskScheduler
from tests.unit.enrich.small_shop import SETTINGS, SmallShop
from tests.unit.enrich.test_pieces import DATASET, PiecesShop, _small_chunks, both, grouped, leaves, rows

__all__ = ["_small_chunks"]  # a fixture
OUTPUT = grouped(rows(range(60)), 4)


Keep = Callable[[int], None]


def before(
    monkeypatch: pytest.MonkeyPatch, kind: str, act: Callable[[TaskScheduler, Keep], Any], after: int = 0
) -> None:
    """Do something once, when `after` tasks of a kind have run, and others are to be."""
    run_tasks, done = TaskScheduler.run, list[str]()

    def run(scheduler: TaskScheduler, tasks: Sequence[Any], keep: Keep) -> Mapping[str, Any]:
        if done or tasks[0].kind != kind:
            return run_tasks(scheduler, tasks, keep)
        done.append(kind)
        found = run_tasks(scheduler, tasks[:after], keep)
        act(scheduler, keep)
        return {**found, **run_tasks(scheduler, tasks[after:], keep)}

    monkeypatch.setattr(TaskScheduler, "run", run)


# -- parts that change


def change(shop: SmallShop, how: str) -> None:
    """Replace, shorten or delete the output."""
    if how == "deleted":
        shop.s3.delete(SETTINGS.outputs, shop.key())
    else:
        shop.put(shop.key(), OUTPUT[: len(OUTPUT) // 2] if how == "shorter" else grouped(rows(range(30), 2.0), 4))


@pytest.mark.parametrize(
    ("kind", "after", "how"),
    [("check", 0, "shorter"), ("check", 3, "replaced"), ("write", 0, "deleted"), ("write", 3, "shorter")],
)
def test_a_part_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, after: int, how: str) -> None:
    """Between two pieces, or check and write: the run ends, names the file, and mixes no rows of both.

    The items that it had written are those of its own output; the next output writes all of its items.
    """
    shop = PiecesShop(tmp_path, DATASET)
    shop.s3 = ModelS3(cast(Any, shop.world), versioned=set())
    before(monkeypatch, kind, lambda *_: change(shop, how), after)
    run = shop.run(OUTPUT)
    assert run.state == "overwritten"
    assert f"s3://outputs/{shop.key()} is no longer the object that this run began with" in (run.error or "")
    assert bool(shop.table.items) == (kind == "write" and after > 0)
    assert shop.ledger.fetch_pending("stock") == []
    other = SmallShop(tmp_path, DATASET)
    for each in (shop, other):
        assert each.run(grouped(rows(range(60), 3.0), 4)).state == "done"
    assert {key: item.body for key, item in shop.table.items.items()} == {
        key: item.body for key, item in other.table.items.items()
    }


def test_a_part_with_versions_can_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read is of the pinned version: the results are those of the output as it was."""
    local, in_pieces = both(tmp_path)
    local.run(OUTPUT)
    before(monkeypatch, "write", lambda *_: change(in_pieces, "shorter"), 3)
    assert in_pieces.run(OUTPUT).state == "done"
    assert leaves(in_pieces) == leaves(local)


# -- a dataset that changes


@pytest.mark.parametrize(
    ("kind", "after"), [("check", 3), ("store_notes", 0), ("decide", 0), ("write", 2), ("merge", 0)]
)
def test_a_deploy_between_two_drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, after: int) -> None:
    """The second driver uses no result of the first one, and all items get the new bodies."""
    former = replace(DATASET, metadata={}, body={"units": "units"})
    local, in_pieces = both(tmp_path, former)
    for shop in (local, in_pieces):
        shop.run(grouped(rows(range(40), 2.0), 4), day=1)

    def stop(*_: object) -> None:
        raise Stopped("the driver ends")

    before(monkeypatch, kind, stop, after)
    in_pieces.put(in_pieces.key(), OUTPUT)
    with pytest.raises(Stopped, match="the driver ends"):
        in_pieces.go(in_pieces.key())
    for shop in (local, in_pieces):
        shop.dataset = replace(former, body={"units": "units * 2"})
    list(run_pending(in_pieces.services(), "stock"))
    local.run(OUTPUT)
    assert in_pieces.ledger.fetch_runs("stock")[0].state == "done"
    left = [{key: item.body for key, item in shop.table.items.items()} for shop in (local, in_pieces)]
    assert left[0] == left[1]
    counts = [shop.run(grouped(rows(range(60)), 5)).counts for shop in (local, in_pieces)]
    assert counts[0] == counts[1]
    assert counts[0].unchanged > 0  # what the fingerprints know of the bodies is true


# -- executors that reach no service


class Unreachable:
    """A client whose calls do not reach the service."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def call(**_: Any) -> Any:
            raise self._error

        return call


REFUSED, SILENT = (
    each(endpoint_url="https://aws", error="-") for each in (EndpointConnectionError, ConnectTimeoutError)
)


@pytest.mark.parametrize("service", ["s3", "ledger"])
@pytest.mark.parametrize(("kind", "after"), [("check", 0), ("write", 3)])
def test_executors_that_reach_no_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, after: int, service: str
) -> None:
    """The run stops with the cause, at once and not failed, and the next job continues it."""
    local, in_pieces = both(tmp_path)
    local.run(OUTPUT)
    client = cast(Any, Unreachable(REFUSED))
    broken = {"s3": client} if service == "s3" else {"ledger": Ledger(client, "ledger")}

    def cut_off(scheduler: TaskScheduler, _: Keep) -> None:
        scheduler.services = replace(scheduler.services, **broken)

    with monkeypatch.context() as patched:
        before(patched, kind, cut_off, after)
        with pytest.raises(Stopped, match="https://aws"):
            in_pieces.run(OUTPUT)
    (run,) = in_pieces.ledger.fetch_runs("stock")
    assert (run.state, run.failures) == ("stopped", 0)
    assert "https://aws" in (run.error or "")
    assert bool(in_pieces.table.items) == (after > 0)
    assert run_job(in_pieces.services(), "stock")
    assert leaves(in_pieces) == leaves(local)


def test_a_part_that_cannot_be_read_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of botocore's errors are OSErrors, as are those of a file that can't be parsed."""
    _, shop = both(tmp_path)
    get_object = shop.s3.get_object

    def time_out(Bucket: str, Key: str, **more: Any) -> Any:  # noqa: N803
        if Bucket == SETTINGS.outputs:
            raise SILENT
        return get_object(Bucket, Key, **more)

    before(monkeypatch, "check", lambda *_: monkeypatch.setattr(shop.s3, "get_object", time_out))
    with pytest.raises(Stopped, match=r"s3://outputs/stock/.* can't be read: Connect timeout"):
        shop.run(OUTPUT)


# -- clocks


@dataclass
class Shifted:
    """A clock that differs from all others."""

    clock: Any
    seconds: float

    def now(self) -> float:
        return float(self.clock.now()) + self.seconds

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)


@pytest.mark.parametrize(("seconds", "how"), [(60.0, "59 s ahead of"), (-60.0, "60 s behind"), (-5.0, "5 s behind")])
@pytest.mark.parametrize("of", ["executors", "driver"])
def test_a_clock_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str, seconds: float, how: str
) -> None:
    """The end of a lease is the driver's time: an executor behind would write after it, one ahead end before it.

    So the run stops with the remedy before anything is written, and continues when the clock is right.
    """
    local, in_pieces = both(tmp_path)
    local.run(OUTPUT)
    in_pieces.enqueue(rows(range(60)))
    services = in_pieces.services()
    with monkeypatch.context() as patched:
        if of == "executors":
            shift(patched, seconds)
        else:
            services = replace(services, clock=Shifted(services.clock, seconds))
        with pytest.raises(Stopped, match=f"this machine's clock is at least {how} DynamoDB's"):
            list(run_pending(services, "stock"))
    assert in_pieces.table.items == {}
    (run,) = run_pending(in_pieces.services(), "stock")
    assert run.state == "done"
    assert in_pieces.table.items.keys() == local.table.items.keys()


@pytest.mark.parametrize("seconds", [3.0, -3.0, 4000.0])
def test_a_clock_that_is_right_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Some seconds are within the margin; and AWS itself refuses a clock that is off by minutes: it is a stand-in."""
    local, in_pieces = both(tmp_path)
    local.run(OUTPUT)
    if seconds < 1000:
        shift(monkeypatch, seconds)
    else:
        monkeypatch.setattr(in_pieces.dynamo, "_world", Foreign(in_pieces.world, seconds))
    assert in_pieces.run(OUTPUT).state == "done"
    assert leaves(in_pieces) == leaves(local)


def shift(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Shift the clock of all executors."""

    def shifted(scheduler: TaskScheduler, *arguments: Any) -> Mapping[str, Any]:
        services = scheduler.services
        return run_tasks(
            replace(scheduler, services=replace(services, clock=Shifted(services.clock, seconds))), *arguments
        )

    run_tasks = TaskScheduler.run
    monkeypatch.setattr(TaskScheduler, "run", shifted)


@dataclass
class Foreign:
    """The world as a service sees it whose time is another one."""

    world: Any
    seconds: float

    @property
    def time(self) -> float:
        return float(self.world.time) + self.seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world, name)


# -- two drivers


@dataclass
class Waiting:
    """A clock of a second driver: while it waits, the first one goes on, and can renew its lease."""

    clock: Any
    meanwhile: Callable[[], None]

    def now(self) -> float:
        return float(self.clock.now())

    def sleep(self, seconds: float) -> None:
        while seconds > 0:
            self.clock.sleep(min(seconds, 1.0))
            seconds -= 1.0
            self.meanwhile()


@pytest.mark.parametrize("kind", ["check", "write"])
def test_a_second_driver_leaves_the_run_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It waits as long as a dead holder's lease would last, finds it renewed, and ends well; it executes no task."""
    local, in_pieces = both(tmp_path)
    local.run(OUTPUT)
    ended = list[bool]()

    def start_second(_: TaskScheduler, keep: Keep) -> None:
        services = replace(in_pieces.services(), owner="second", clock=Waiting(in_pieces.world, lambda: keep(0)))
        began, ran = in_pieces.world.now(), len(in_pieces.ran)
        ended.append(run_job(services, "stock"))
        assert len(in_pieces.ran) == ran
        assert in_pieces.world.now() - began < 2 * RENEWAL_SECONDS

    before(monkeypatch, kind, start_second)
    assert in_pieces.run(OUTPUT).attempts == 1
    assert ended == [True]
    assert leaves(in_pieces) == leaves(local)


@pytest.mark.parametrize("kind", ["check", "write"])
def test_a_second_driver_takes_over_from_one_that_is_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The paused one finds its lease lost and ends; the table has the output once."""
    local, in_pieces = both(tmp_path)
    local.run(OUTPUT)

    def start_second(_: TaskScheduler, keep: Keep) -> None:
        assert run_job(replace(in_pieces.services(), owner="second"), "stock")

    before(monkeypatch, kind, start_second)
    with pytest.raises(LeaseLost):
        in_pieces.run(OUTPUT)
    assert leaves(in_pieces) == leaves(local)
    assert list(run_pending(in_pieces.services(), "stock")) == []


# -- many parts


def test_no_task_reads_the_list_of_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100,000 parts it has 20 MB, and there are thousands of tasks: each gets its own parts from the driver."""
    marked = replace(DATASET, source=replace(DATASET.source, marker="_SUCCESS"))
    local, in_pieces = both(tmp_path, marked)
    lists = list[str]()
    get_object = in_pieces.s3.get_object

    def count(Bucket: str, Key: str, **more: Any) -> Any:  # noqa: N803
        lists.extend([Key] if Key.endswith("parts.json") else [])
        return get_object(Bucket, Key, **more)

    monkeypatch.setattr(in_pieces.s3, "get_object", count)
    for shop in (local, in_pieces):
        folder = shop.key().removesuffix("p.parquet")
        for n in range(20):
            shop.put(f"{folder}{n:02d}.parquet", grouped(rows(range(3 * n, 3 * n + 3))))
        shop.put(f"{folder}_SUCCESS", b"")
        assert shop.go(f"{folder}_SUCCESS").state == "done"
    assert leaves(in_pieces) == leaves(local)
    tasks = [task for task in in_pieces.ran if task.kind in {"check", "write"}]
    assert len(tasks) > 20
    assert all(task.parts.keys() == {number for number, *_ in task.data["ranges"]} for task in tasks)
    assert len(lists) <= 3, "by the driver, for the engine, the check and the write"


def test_a_driver_keeps_its_lease_while_it_reads_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier driver can have left those of thousands of pieces, each of which is a request."""
    _, shop = both(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(TaskScheduler, "run", _stop_before("store_notes"))
        with pytest.raises(Stopped):
            shop.run(OUTPUT)
    read_work = RunContext.read_work

    def read_slowly(context: RunContext, name: str) -> bytes:
        if "pieces/checked/" in name:
            shop.world.sleep(50)
            assert shop.ledger.get_state("stock").lease_until_ms / 1000 > shop.world.now()
        return read_work(context, name)

    monkeypatch.setattr(RunContext, "read_work", read_slowly)
    (run,) = run_pending(shop.services(), "stock")
    assert run.state == "done"


def _stop_before(kind: str) -> Callable[..., Mapping[str, Any]]:
    run_tasks = TaskScheduler.run

    def run(scheduler: TaskScheduler, tasks: Sequence[Any], keep: Keep) -> Mapping[str, Any]:
        if tasks[0].kind == kind:
            raise Stopped("the driver stops")
        return run_tasks(scheduler, tasks, keep)

    return run


# -- a row group that is larger than a worker can hold


def test_a_large_row_group_is_read_in_little_memory(tmp_path: Path) -> None:
    """A piece of it takes as much memory as its chunks, and has the chunks of the whole output."""
    path, size = tmp_path / "p.parquet", 64 * 1024 * 1024
    digits = os.urandom(size // 2).hex()
    skus = pa.array([digits[first : first + 512] for first in range(0, size, 512)])
    shops = pa.array([f"shop-{n % 9}" for n in range(len(skus))])
    table = pa.table({"shop": shops, "sku": skus, "units": pa.array(range(len(skus)), pa.float64())})
    pq.write_table(table, path, row_group_size=table.num_rows, use_dictionary=["shop"])
    part = Part("outputs", "p.parquet", None, "etag", path.stat().st_size)
    middle, expected, found = len(skus) // 2, dict[int, pa.RecordBatch](), dict[int, pa.RecordBatch]()
    opened: Any = {"open_part": lambda _: path.open("rb"), "chunk_rows": 32_000}
    for first, chunk in read_chunks([part], DATASET.source, **opened):
        if middle <= first < middle + 32_000:
            expected[first] = chunk
    del table, skus, shops, digits
    pool, before, reads = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool(), list[int]()

    class Counted(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append(len(content := super().read(size) or b""))
            return content

    opened["open_part"] = lambda _: Counted(path)
    pa.set_memory_pool(pool)
    try:
        ranges = read_range(part, DATASET.source, first_row=middle, end_row=middle + 32_000, **opened)
        found.update(ranges)
    finally:
        pa.set_memory_pool(before)
    assert len(found) > 1
    assert found == expected
    assert max(reads) <= 2 * 1024 * 1024
    assert pool.max_memory() < size // 2 + sum(chunk.nbytes for chunk in found.values())
