"""A run in pieces has the results of a run in one process: table, fingerprints, rejects and counts."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.dataset.definition import Dataset, Metadata, Tolerated
from enrich.errors import LeaseLost, Refused, Stopped, TaskBroke
from enrich.intake.worker import run_pending
from enrich.join.engine import Engine
from enrich.join.rendering import RenderedCache
from enrich.ledger.lease import QUIET_PERIOD_OWNER
from enrich.ledger.run_state import EngineKind
from enrich.read import chunks, pieces
from enrich.read.s3_object import Part
from enrich.run import fingerprints
from enrich.run.context import RunContext
from enrich.run.pieces import gather
from enrich.run.pieces.kept import Kept
from enrich.run.pieces.passes import PiecePasses
from enrich.services import Services
from tests.doubles.task_scheduler import TaskScheduler
from tests.faults.world import build_error
from tests.unit.enrich.small_shop import DATASET as WITH_PRODUCTS
from tests.unit.enrich.small_shop import SmallShop

PRODUCTS = replace(WITH_PRODUCTS.metadata["products"], missing="null")  # it has few of the keys
DATASET = replace(WITH_PRODUCTS, metadata={"products": PRODUCTS})
KEYS = [("x" if n % 3 else "y", f"sku-{n}") for n in range(60)]


@dataclass
class PiecesShop(SmallShop):
    """The small shop, whose runs are executed in pieces by a scheduler in this process."""

    attempts: int = 1
    ran: list[Any] = field(default_factory=list)
    checkpoint_seconds: float = 15.0
    kept: Kept | None = None
    piece_bytes: int = 1000

    def services(self) -> Services:
        services = replace(super().services(), checkpoint_seconds=self.checkpoint_seconds)
        scheduler = TaskScheduler(services, 4, self.piece_bytes, self.attempts, self.ran, self.kept)
        return replace(services, scheduler=scheduler, engine=EngineKind.SPARK)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks of 7 rows, so that some dozen rows are several pieces."""
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 7)
    for reader in (chunks.read_chunks, chunks.read_range, chunks.find_cuts):
        monkeypatch.setitem(cast(Any, reader).__kwdefaults__, "chunk_rows", 7)
    monkeypatch.setattr(pieces, "MOST_ROWS", 14)


def rows(numbers: Any, units: float = 1.0) -> dict[str, list[Any]]:
    numbers = list(numbers)
    return {
        "shop": [KEYS[n][0] for n in numbers],
        "sku": [KEYS[n][1] if n % 11 else "a" for n in numbers],
        "units": [units + n % 5 if n % 13 else float("nan") for n in numbers],
    }


def grouped(of: Mapping[str, list[Any]], size: int = 10) -> bytes:
    """Return a Parquet file of small row groups."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(of)), buffer, row_group_size=size)
    return buffer.getvalue()


def leaves(shop: SmallShop) -> dict[str, Any]:
    """Return the results of runs: items, rejects, and the ledger's counts of each run."""
    kept = {
        at[1]: sorted(json.loads(line)["row"] for line in versions[-1].body.splitlines())
        for at, versions in shop.s3.objects.items()
        if at[1].startswith("rejects/")
    }
    runs = [
        (run.run, run.kind, run.state, run.stage, run.rows, run.counts, run.units, run.reasons, run.because, run.shifts)
        for run in shop.ledger.fetch_runs(shop.dataset.name)
    ]
    return {"items": shop.table.items, "rejects": kept, "runs": runs}


def both(tmp_path: Path, dataset: Dataset = DATASET, attempts: int = 1) -> tuple[SmallShop, PiecesShop]:
    for name in ("local", "pieces"):
        (tmp_path / name).mkdir()
    return SmallShop(tmp_path / "local", dataset), PiecesShop(tmp_path / "pieces", dataset, attempts=attempts)


OUTPUTS = {
    "new, changed, unchanged and duplicate rows": [rows(range(60)), rows([*range(20, 60), 3], 2.0), rows(range(30))],
    "no rows": [rows([]), rows(range(5))],
    "one row": [rows([1])],
    "too many rejects": [rows([0, 13, 26, 39, 52, 11, 22, 33, 44, 55])],
}


@pytest.mark.parametrize(
    ("output", "attempts", "keeps"), [("partial", 1, False), ("snapshot", 2, False), ("partial", 1, True)]
)
@pytest.mark.parametrize("case", OUTPUTS)
def test_same_as_in_one_process(tmp_path: Path, case: str, output: Any, attempts: int, keeps: bool) -> None:
    """For each output, pieces leave the same items, rejects, counts and reasons.

    Also if all tasks run twice, and in a worker that keeps its engine and what it has rendered.
    """
    source = replace(DATASET.source, output=output, empty_snapshot="remove-all")
    local, in_pieces = both(tmp_path, replace(DATASET, source=source), attempts)
    if keeps:
        in_pieces.kept = Kept(tmp_path / "kept")
    for day, content in enumerate(OUTPUTS[case]):
        for shop in (local, in_pieces):
            shop.run(grouped(content), day=len(OUTPUTS[case]) - day)
    assert leaves(in_pieces) == leaves(local)
    assert {task.kind for task in in_pieces.ran} >= {"check", "store_notes"}
    if in_pieces.kept:
        in_pieces.kept.close()


@pytest.mark.parametrize("missing", ["null", "reject", "fail"])
@pytest.mark.parametrize("keeps", [False, True])
def test_metadata_that_fits_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: Any, keeps: bool) -> None:
    """Metadata of which each piece gets only the rows that it needs: the results are those of all rows."""
    metadata = {"products": replace(PRODUCTS, missing=missing)}
    local, in_pieces = both(tmp_path, replace(DATASET, metadata=metadata, tolerated=Tolerated(share=1.0)))
    if keeps:
        in_pieces.kept = Kept(tmp_path / "kept")
    monkeypatch.setattr(gather, "MOST_BYTES", 0)
    monkeypatch.setattr(in_pieces, "start", lambda _, location: put_products(in_pieces, location))
    monkeypatch.setattr(local, "start", lambda _, location: put_products(local, location))
    tables = list[int]()
    engine = Engine.__init__

    def count(self: Engine, dataset: Dataset, tables_: Mapping[str, pa.Table], **more: Any) -> None:
        tables.append(tables_["products"].num_rows)
        engine(self, dataset, tables_, **more)

    for day, content in ((2, rows(range(60))), (1, rows(range(20, 50), 2.0))):
        local.run(grouped(content), day=day)
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "__init__", count)
            in_pieces.run(grouped(content), day=day)
    assert leaves(in_pieces) == leaves(local)
    assert 0 < max(tables) <= 14, "no engine had more metadata rows than its piece has predictions"


def test_metadata_that_fits_nowhere_is_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows for the same values fail the run, also if they are in different files."""
    local, in_pieces = both(tmp_path)
    monkeypatch.setattr(gather, "MOST_BYTES", 0)
    errors = []
    for shop in (local, in_pieces):
        monkeypatch.setattr(shop, "start", lambda _, location, shop=shop: put_products(shop, location, ["sku-7"]))
        errors.append(shop.run(grouped(rows(range(60)))).error)
    assert errors[0] == errors[1]
    assert "2 rows have sku = sku-7, expected one" in str(errors[0])


@pytest.mark.parametrize("value", ["units", "try_cast(units as decimal(9, 2))", "try_cast(units as bigint)"])
def test_metadata_whose_equal_values_have_different_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """1 and 1.0 match, so hashes of their texts would lose rows: such metadata is read whole."""
    metadata = {"products": Metadata("select n, title from products", on={value: "n"}, missing="null")}
    local, in_pieces = both(tmp_path, replace(DATASET, metadata=metadata))
    monkeypatch.setattr(gather, "MOST_BYTES", 0)
    numbers = pa.table({"n": pa.array(range(1, 4), pa.int32()), "title": ["one", "two", "three"]})
    for shop in (local, in_pieces):
        monkeypatch.setattr(shop, "start", lambda _, location, shop=shop: put_files(shop, location, [numbers]))
        shop.run(grouped(rows(range(1, 30))))
    assert leaves(in_pieces) == leaves(local)
    assert any("two" in str(item.body) for item in local.table.items.values())
    assert ("gather" in {task.kind for task in in_pieces.ran}) == ("bigint" in value)


def test_metadata_of_elements_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list's elements are not exchanged; each worker reads their metadata, as large as one process can hold."""
    metadata = {"products": replace(PRODUCTS, each="skus", on={"skus": "sku"})}
    source = replace(DATASET.source, columns={**DATASET.source.columns, "skus": "varchar[]"})
    dataset = replace(DATASET, source=source, metadata=metadata, body={"titles": "[each.title for each in products]"})
    local, in_pieces = both(tmp_path, dataset)
    monkeypatch.setattr(gather, "MOST_BYTES", 0)
    content = rows(range(1, 9))
    content["skus"] = [["a", f"sku-{n}"] for n in range(8)]
    for shop in (local, in_pieces):
        assert shop.run(grouped(content)).error is None
    assert leaves(in_pieces) == leaves(local)


def test_buckets_are_chosen_from_the_largest_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first file without rows says nothing of the others: the metadata would be two buckets, however large it is."""
    _, in_pieces = both(tmp_path)
    monkeypatch.setattr(gather, "MOST_BYTES", 0)
    monkeypatch.setattr(gather, "count_bits", lambda units: 3 if units >= 200 else 0)
    table = pa.table({"sku": [f"sku-{n}" for n in range(200)], "title": ["T"] * 200})
    files = [table.slice(0, 0), table]
    monkeypatch.setattr(in_pieces, "start", lambda _, location: put_files(in_pieces, location, files))
    in_pieces.run(grouped(rows(range(1, 9))))
    assert len([task for task in in_pieces.ran if task.kind == "gather"]) == 8


def put_files(shop: SmallShop, location: str, tables: Sequence[pa.Table]) -> str:
    """Write the metadata as a file for each table."""
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    for n, table in enumerate(tables):
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        shop.s3.put(bucket, f"{prefix}{n}.parquet", buffer.getvalue())
    return location


def put_products(shop: SmallShop, location: str, more: Sequence[str] = ()) -> str:
    """Write the metadata as two files; sku-3 and others have no row, and one row has no sku."""
    skus = [*(f"sku-{n}" for n in range(200) if n % 10 != 3), None, "a"]
    parts = (skus[::2], [*skus[1::2], *more])
    columns = [{"sku": pa.array(part, pa.string()), "title": [f"Title {sku}" for sku in part]} for part in parts]
    return put_files(shop, location, [pa.table(each) for each in columns])


def test_a_row_that_fails_the_run_is_named_by_its_number_in_its_part(tmp_path: Path) -> None:
    """Also if it was rendered with rows of later chunks: all other rows are those of live items."""
    _, shop = both(tmp_path, replace(DATASET, metadata={"products": replace(PRODUCTS, missing="fail")}))
    good: dict[str, list[Any]] = {"shop": [f"s{n}" for n in range(60)], "sku": ["a"] * 60, "units": [1.0] * 60}
    assert shop.run(grouped(good), day=2).state == "done"
    run = shop.run(grouped({**good, "sku": ["gone" if n == 16 else "a" for n in range(60)]}), day=1)
    assert run.state == "failed"
    assert "p.parquet, row 16 of this part: " in (run.error or "")


def test_what_a_check_has_rendered_is_not_rendered_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that writes what it has checked renders no row, and leaves no file."""
    (tmp_path / "shop").mkdir()
    shop = PiecesShop(tmp_path / "shop", DATASET, kept=Kept(tmp_path / "kept"))
    rendered = list[bool]()
    monkeypatch.setattr(Kept, "has_room", lambda _: True)
    render = Engine.render

    def note(engine: Engine, chunk: Any, first_row: int, *, digest: bool = True) -> pa.Table:
        rendered.append(digest)
        return render(engine, chunk, first_row, digest=digest)

    monkeypatch.setattr(Engine, "render", note)
    shop.run(grouped(rows(n for n in range(60) if n % 11 and n % 13)))
    assert shop.kept is not None
    shop.kept.close()
    assert rendered
    assert all(rendered), "rendered without digests: for a write"
    assert not list((tmp_path / "kept").glob("*/*"))


@pytest.mark.parametrize(("most", "again"), [(1_000, 1), (10, 0)])
def test_rows_that_can_be_unchanged_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, again: int
) -> None:
    """Of a dataset with too many items each row is rendered; that of the one row that changes is done once more."""
    (tmp_path / "shop").mkdir()
    shop, kept = PiecesShop(tmp_path / "shop", DATASET, kept=Kept(tmp_path / "kept")), list[int]()
    monkeypatch.setattr(Kept, "has_room", lambda _: True)
    monkeypatch.setattr(fingerprints, "MOST_ITEMS", most)
    keep = RenderedCache.keep

    def note(cache: RenderedCache, first_row: int, rows: int, rendered: pa.Table) -> None:
        kept.append(rendered.num_rows)
        keep(cache, first_row, rows, rendered)

    monkeypatch.setattr(RenderedCache, "keep", note)
    good: dict[str, list[Any]] = {"shop": [f"s{n}" for n in range(60)], "sku": ["a"] * 60, "units": [1.0] * 60}
    shop.run(grouped(good), day=2)
    assert sum(kept) == 60
    kept.clear()
    assert shop.run(grouped({**good, "units": [*good["units"][1:], 2.0]}), day=1).counts.written == 1
    assert sum(kept) == again


def test_a_run_that_is_saved_while_tasks_run_is_closed_by_its_first_driver(tmp_path: Path) -> None:
    """Each stage goes on from what was saved last: the ledger refuses a commit over an older version of the run."""
    _, shop = both(tmp_path, replace(DATASET, source=replace(DATASET.source, output="snapshot")))
    shop.checkpoint_seconds = 0.0
    for day, numbers in ((2, range(60)), (1, range(30))):
        run = shop.run(grouped(rows(numbers)), day=day)
        assert (run.state, run.attempts) == ("done", 1)


def test_lost_fingerprints(tmp_path: Path) -> None:
    """After fingerprints were lost, driver and tasks compare with the same: nothing."""
    _, shop = both(tmp_path)
    shop.run(grouped(rows(range(60))), day=2)
    for at in [at for at in shop.s3.objects if at[1].startswith("fingerprints/")]:
        del shop.s3.objects[at]
    run = shop.run(grouped(rows(range(60), 2.0)), day=1)
    assert [each.state for each in shop.ledger.fetch_runs("stock")] == ["done"] * 3
    assert run.counts.written > 0


def test_attempts_that_cannot_be_listed_do_not_reopen_a_closed_run(tmp_path: Path, monkeypatch: Any) -> None:
    """The lease then stays quiet as long as an attempt could write."""
    _, shop = both(tmp_path)
    list_objects = shop.s3.list_objects_v2

    def refuse(Bucket: str, Prefix: str, **more: Any) -> Any:  # noqa: N803
        if "pieces/attempts/" in Prefix:
            raise build_error("ListObjectsV2", "InternalError")
        return list_objects(Bucket, Prefix, **more)

    monkeypatch.setattr(shop.s3, "list_objects_v2", refuse)
    assert shop.run(grouped(rows(range(60)))).state == "done"
    state = shop.ledger.get_state("stock")
    assert state.lease_owner == QUIET_PERIOD_OWNER
    assert state.lease_until_ms / 1000 > shop.world.now()


@pytest.mark.parametrize("sizes", [(100, 100_000), (100_000, 100)])
def test_drivers_that_would_cut_an_output_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int]
) -> None:
    """A driver dies after its first piece with rejects, the next has another size: each reject is kept, once."""
    local, in_pieces = both(tmp_path)
    output, run_tasks = grouped(rows([0, 13, 26, 39, 52] * 8), 4), TaskScheduler.run
    in_pieces.piece_bytes, later = sizes

    def die(scheduler: TaskScheduler, tasks: Sequence[Any], keep: Any) -> Mapping[str, Any]:
        if tasks[0].kind != "keep_rejects" or in_pieces.piece_bytes == later:
            return run_tasks(scheduler, tasks, keep)
        run_tasks(scheduler, tasks[:1], keep)
        raise Stopped("the driver is killed")

    monkeypatch.setattr(TaskScheduler, "run", die)
    local.run(output)
    with pytest.raises(Stopped):
        in_pieces.run(output)
    in_pieces.piece_bytes = later
    list(run_pending(in_pieces.services(), "stock"))
    assert leaves(in_pieces) == leaves(local)
    kept = [versions[-1].body for at, versions in in_pieces.s3.objects.items() if "rejects/" in at[1]]
    assert sum(len(lines.splitlines()) for lines in kept) == 40


def test_the_lease_is_kept_while_footers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of large parts take longer than a lease lasts."""
    _, shop = both(tmp_path)
    left: list[float] = []

    def cut_slowly(parts: Any, source: Any, *, open_part: Any, piece_bytes: int) -> Any:
        del source, piece_bytes
        for _ in range(4):
            shop.world.sleep(70)
            open_part(parts[0]).close()
            left.append(shop.ledger.get_state("stock").lease_until_ms / 1000 - shop.world.now())
        return [(pieces.Range(0),)]

    monkeypatch.setattr("enrich.run.pieces.passes.cut_output", cut_slowly)
    assert shop.run(grouped(rows(range(60)))).state == "done"
    assert len(left) == 4
    assert min(left) > 60


def test_executors_of_another_version_execute_nothing(tmp_path: Path) -> None:
    """The run stops with the remedy, nothing is published, and the job with the right files continues it."""
    _, shop = both(tmp_path)
    other = mock.patch("enrich.run.pieces.passes.name_release", return_value="1 another")
    with other, pytest.raises(Stopped, match=r"Larder 1 another, .* start the job again with the same files"):
        shop.run(grouped(rows(range(60))))
    assert not shop.table.items
    assert shop.go(shop.key()).state == "done"


def test_many_small_parts_are_cut_without_being_opened() -> None:
    """100,000 parts of 1 MB: as many in a piece as fit, in their order."""
    parts = [Part("outputs", f"{n:06d}.parquet", None, "etag", 1 << 20) for n in range(100_000)]
    cut = pieces.cut_output(
        parts, DATASET.source, open_part=mock.Mock(side_effect=AssertionError), piece_bytes=32 << 20
    )
    assert [len(each) for each in cut] == [32] * 3125
    assert [at.part for each in cut for at in each] == list(range(100_000))


PIECES = ("000001", "01-0001")  # the second one, and the second bucket


@pytest.mark.parametrize("kind", ["check", "store_notes"])
def test_a_piece_that_fails_always_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The third driver closes the run: its error names the rows and what happened, and nothing is published."""
    _, shop = both(tmp_path)
    run_tasks = TaskScheduler.run

    def fail(scheduler: TaskScheduler, tasks: Sequence[Any], keep: Any) -> Mapping[str, Any]:
        found = run_tasks(scheduler, [task for task in tasks if task.kind != kind or task.name not in PIECES], keep)
        if len(found) < len(tasks):
            raise TaskBroke(next(task.name for task in tasks if task.name in PIECES), "ValueError: it is odd")
        return found

    monkeypatch.setattr(TaskScheduler, "run", fail)
    with pytest.raises(Refused, match="it is odd"):
        shop.run(grouped(rows(range(60)), 4))
    with pytest.raises(Refused, match="it is odd"):
        list(run_pending(shop.services(), "stock"))
    (run,) = run_pending(shop.services(), "stock")
    assert (run.state, run.decided_ms, shop.table.items) == ("failed", None, {})
    expected = f"failed 3 times in a row at stage check, row 0: dataset stock, run 1: the task {kind} "
    assert expected in (run.error or "")
    assert "ValueError: it is odd" in (run.error or "")
    assert kind != "check" or "p.parquet, rows 7 to 13)" in (run.error or ""), run.error


def test_an_attempt_that_begins_when_its_run_is_closed_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver has not seen that it began, so it waits for nothing: what was read of the lease before is too old."""
    _, shop = both(tmp_path)
    write_work = RunContext.write_work

    def close_first(context: RunContext, name: str, content: bytes) -> None:
        if name.endswith(".began"):
            state = shop.ledger.get_state("stock")
            shop.ledger.commit(replace(state, open_run=None))
        write_work(context, name, content)

    monkeypatch.setattr(RunContext, "write_work", close_first)
    with pytest.raises(LeaseLost):
        shop.run(grouped(rows(range(60)), 4))
    assert shop.table.items == {}


def test_a_run_that_stops_leaves_its_lease_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt can begin after its driver has looked; the next driver waits until no write of it can be applied."""
    _, shop = both(tmp_path)
    run_tasks = TaskScheduler.run

    def stop(scheduler: TaskScheduler, tasks: Sequence[Any], keep: Any) -> Mapping[str, Any]:
        found = run_tasks(scheduler, tasks, keep)
        if tasks[0].kind == "write":
            raise Stopped("a service does not answer")
        return found

    monkeypatch.setattr(TaskScheduler, "run", stop)
    with pytest.raises(Stopped, match="does not answer"):
        shop.run(grouped(rows(range(60)), 4))
    state = shop.ledger.get_state("stock")
    assert state.lease_owner == QUIET_PERIOD_OWNER
    assert state.lease_until_ms / 1000 > shop.world.now() + 60


def test_a_driver_that_waits_for_its_parts_stops_no_other_one() -> None:
    """Two of them in one process, as in the fault simulation: the first one reads from an S3 that does not answer."""
    answer, waits = threading.Event(), threading.Event()

    class Context:
        def __init__(self, name: str) -> None:
            self._name = name

        @property
        def parts(self) -> list[str]:
            if self._name == "slow":
                waits.set()
                answer.wait()
            return [self._name]

    slow, fast = (PiecePasses(cast(Any, Context(name)), cast(Any, None)) for name in ("slow", "fast"))
    found = list[object]()
    threads = [threading.Thread(target=lambda each=each: found.append(each._parts)) for each in (slow, fast)]
    threads[0].start()
    waits.wait()
    threads[1].start()
    threads[1].join(5)
    seen = list(found)
    answer.set()
    for thread in threads:
        thread.join()
    assert seen == [["fast"]]
