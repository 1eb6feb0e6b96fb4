"""The key space in buckets: any number of them gives the same result, and each invocation continues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.delta import buckets, changes, outcomes
from enrich.delta.buckets import Bucket, count_bits, divide
from enrich.delta.notes import Log
from enrich.errors import Failed, OutOfTime
from enrich.intake.worker import run_pending
from enrich.ledger.records import Counts
from enrich.ledger.run_state import Stage
from enrich.run import lifecycle
from enrich.run.context import RunContext
from tests.unit.enrich.small_shop import ROWS, SETTINGS, SmallShop, parquet

DAY = 86_400
KEYS = [(shop, sku) for shop in "uvwxyz" for sku in "abcd"]


def many(random: Random) -> dict[str, list[Any]]:
    """Return predictions for some of 24 items, in any order; some keys occur twice."""
    chosen = random.sample(KEYS, random.randint(8, 24)) + random.choices(KEYS, k=random.choice([0, 0, 3]))
    return {
        "shop": [shop for shop, _ in chosen],
        "sku": [sku for _, sku in chosen],
        "units": [random.choice([1.0, 2.0]) for _ in chosen],
    }


def read_fingerprints(shop: SmallShop) -> list[tuple[Any, ...]]:
    """Read the dataset's fingerprints, from one file or from the files that its manifest names."""
    table = read_table(shop, shop.ledger.get_state("stock").fingerprints or "")
    if "object_key" in table.column_names:
        table = pa.concat_tables([read_table(shop, object_key) for object_key in table["object_key"].to_pylist()])
    return sorted(tuple(row.values()) for row in table.to_pylist())


def read_table(shop: SmallShop, object_key: str) -> pa.Table:
    return pq.read_table(BytesIO(shop.s3.objects[SETTINGS.bucket, object_key][-1].body))


def list_fingerprints(shop: SmallShop) -> list[str]:
    return sorted(key for bucket, key in shop.s3.objects if key.startswith("fingerprints/"))


@pytest.mark.parametrize("output", ["partial", "snapshot"])
@pytest.mark.parametrize("sizes", [[3], [500_000, 3, 10, 5, 500_000]], ids=str)
def test_any_number_of_buckets_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: Any, sizes: list[int]
) -> None:
    """Counts, items and fingerprints after each run are those of one bucket, also if the number changes."""
    shops = []
    for name in ("one", "many"):
        (tmp_path / name).mkdir()
        shops.append(SmallShop(tmp_path / name))
        shops[-1].dataset = replace(shops[-1].dataset, source=replace(shops[-1].dataset.source, output=output))
    one, other = shops
    for number in range(5):
        rows, day = many(Random(f"{output} {number}")), [3, 2, 1, 2, 0][number]
        monkeypatch.setattr(buckets, "ROWS", 500_000)
        expected = one.run(rows, day)
        monkeypatch.setattr(buckets, "ROWS", sizes[number % len(sizes)])
        found = other.run(rows, day)
        assert (found.counts, found.because, found.state) == (expected.counts, expected.because, "done")
        assert {at: item.body for at, item in other.table.items.items()} == {
            at: item.body for at, item in one.table.items.items()
        }
        assert read_fingerprints(other) == read_fingerprints(one)


def test_fingerprints_of_an_earlier_release_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its single file, as DuckDB wrote it, is divided into as many buckets as this release has."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    object_key = shop.ledger.get_state("stock").fingerprints or ""
    file = tmp_path / "format-1.parquet"
    with duckdb.connect() as db:
        db.register("known", read_table(shop, object_key))
        db.execute(
            f"copy (from known) to '{file}' (format parquet, compression zstd, "
            f"kv_metadata {{'format': '1', 'table': '{shop.dynamo.table_id}'}})"
        )
    shop.s3.put(SETTINGS.bucket, object_key, file.read_bytes())
    shop.written()
    monkeypatch.setattr(buckets, "ROWS", 1)
    assert shop.run(ROWS).counts == Counts(unchanged=3)
    assert shop.written() == []  # otherwise all live outputs would be written again, because nothing would be known
    assert read_table(shop, shop.ledger.get_state("stock").fingerprints or "")["bits"].to_pylist()[0] == 2


def test_an_earlier_release_refuses_fingerprints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Release 0.1.0 knows the formats 1 and 2: it takes others as missing, and writes everything again."""
    shop = SmallShop(tmp_path)
    for rows, format_ in ((500_000, "3"), (1, "4")):
        monkeypatch.setattr(buckets, "ROWS", rows)
        shop.run(ROWS, day=1)
        file = tmp_path / "fingerprints.parquet"
        file.write_bytes(shop.s3.objects[SETTINGS.bucket, shop.ledger.get_state("stock").fingerprints or ""][-1].body)
        with duckdb.connect() as db:
            marks = dict(
                db.execute("select decode(key), decode(value) from parquet_kv_metadata(?)", [str(file)]).fetchall()
            )
            assert (marks["format"], marks["table"]) == (format_, shop.dynamo.table_id)
            if format_ == "3":
                columns = [name for name, *_ in db.execute(f"describe from '{file}'").fetchall()]
                assert columns == ["k1", "k2", "digest", "order", "expires_at", "removed", "pk", "sk", "inputs"]


def test_a_bucket_without_predictions_keeps_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small output rewrites only the fingerprints of its own keys; the files of the others are still referenced."""
    monkeypatch.setattr(buckets, "ROWS", 1)
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=2)
    before = read_table(shop, shop.ledger.get_state("stock").fingerprints or "").to_pylist()
    shop.run({name: values[:1] for name, values in {**ROWS, "units": [9.0]}.items()}, day=1)
    after = read_table(shop, shop.ledger.get_state("stock").fingerprints or "").to_pylist()
    kept = [row for row in after if row in before]
    assert len(before) > len(kept) == len(after) - 1
    shop.run({name: values[:1] for name, values in {**ROWS, "units": [8.0]}.items()})
    assert shop.refresh(full=False).state == "done"
    assert len(read_fingerprints(shop)) == 3


def test_items_that_expire_leave_a_bucket_without_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is rewritten when the first of its items has expired, even if no prediction names any."""
    monkeypatch.setattr(buckets, "ROWS", 1)
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=6)
    shop.world.sleep(DAY)
    shop.run({name: values[:1] for name, values in ROWS.items()})
    assert len(read_fingerprints(shop)) == 1


def test_a_manifest_with_missing_parts_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lost part is as bad as all of them: every live output is written again, before the new one."""
    monkeypatch.setattr(buckets, "ROWS", 1)
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    shop.written()
    lost = read_table(shop, shop.ledger.get_state("stock").fingerprints or "")["object_key"][0].as_py()
    del shop.s3.objects[SETTINGS.bucket, lost]
    shop.run({name: values[:1] for name, values in ROWS.items()})
    assert shop.written() == ["x/a", "x/b", "y/a"]


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Let each invocation end after one bucket; the returned function ends this."""
    with monkeypatch.context() as patch:

        def pause(context: RunContext) -> None:
            raise OutOfTime("one bucket is enough")

        patch.setattr(RunContext, "pause", pause)
        yield patch.undo


def run_to_its_end(shop: SmallShop, rows: dict[str, list[Any]], day: int) -> int:
    """Run an output in as many invocations as it needs; return how many ended before it was closed."""
    shop.put(shop.key(day), parquet(rows))
    for ended in range(100):
        try:
            assert shop.go(shop.key(day)).state == "done"
        except OutOfTime:
            continue
        return ended
    raise AssertionError("it does not move")


def test_a_bucket_without_live_items_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: Callable[[], None]
) -> None:
    """All its items have expired: it leaves no fingerprints, and the next invocation continues after it."""
    monkeypatch.setattr(buckets, "ROWS", 1)
    shop = SmallShop(tmp_path)
    run_to_its_end(shop, ROWS, day=6)
    shop.world.sleep(DAY)
    run_to_its_end(shop, {name: values[:1] for name, values in ROWS.items()}, day=0)
    assert len(read_fingerprints(shop)) == 1
    run_to_its_end(shop, {name: values[:1] for name, values in ROWS.items()}, day=0)
    assert [key for key in list_fingerprints(shop) if ".0.0." in key] == []  # and no files for ever


def test_each_bucket_is_worked_on_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: Callable[[], None]
) -> None:
    """However often invocations end between two buckets, each is decided, removed from and merged exactly once."""
    monkeypatch.setattr(buckets, "ROWS", 3)
    shop = SmallShop(tmp_path)
    shop.dataset = replace(shop.dataset, source=replace(shop.dataset.source, output="snapshot"))
    done: Counter[str] = Counter()
    upload = shop.s3.upload_file

    def count(name: str, bucket: str, object_key: str) -> None:
        done[object_key] += 1
        upload(name, bucket, object_key)

    monkeypatch.setattr(shop.s3, "upload_file", count)
    ended = sum(run_to_its_end(shop, rows, day) for day, rows in ((1, many(Random(1))), (0, many(Random(2)))))
    assert ended >= 2 * 3 * 3  # two runs of at least four buckets that decide, remove and merge
    assert set(done.values()) == {1}
    assert sum("/decided/" in key for key in done) >= 2 * 4
    assert sum("/removals/" in key for key in done) >= 2 * 4


def test_fingerprints_of_a_dataset_are_bounded(tmp_path: Path, few_per_bucket: int) -> None:
    """After each of many runs there are only the fingerprints of the last run and of the one before."""
    shop = SmallShop(tmp_path)
    counted = []
    for number in range(8):
        shop.run({**ROWS, "units": [float(number), 2.0, 3.0]})
        counted.append(len(list_fingerprints(shop)))
    assert max(counted) <= (2 if few_per_bucket > 3 else 2 * (1 + 3))
    assert counted[-1] == counted[2]


@pytest.fixture(params=[500_000, 1], ids=["one bucket", "four buckets"])
def few_per_bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(buckets, "ROWS", request.param)
    rows: int = request.param
    return rows


def test_what_crashes_left_is_deleted_when_the_next_run_closes(tmp_path: Path, few_per_bucket: int) -> None:
    """Files that no commit made the dataset's are deleted by the next close; those of other datasets are not."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    shop.s3.put(SETTINGS.bucket, "fingerprints/stock/00000001-0123456789abcdef/02-0000.1.0.parquet", b"left")
    shop.s3.put(SETTINGS.bucket, "fingerprints/stock-2/00000001-01.parquet", b"of another dataset")
    shop.run(ROWS)
    assert [key for key in list_fingerprints(shop) if "0123456789abcdef" in key] == []
    assert "fingerprints/stock-2/00000001-01.parquet" in list_fingerprints(shop)


def test_nothing_is_deleted_before_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_per_bucket: int
) -> None:
    """A close that fails leaves the fingerprints that the ledger names."""
    shop = SmallShop(tmp_path)
    for number in range(3):
        shop.run({**ROWS, "units": [float(number), 2.0, 3.0]}, day=1)
    before = list_fingerprints(shop)
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> None:
            raise OutOfTime("before the commit")

        patch.setattr("enrich.run.close.Delete", fail)
        with pytest.raises(OutOfTime):
            shop.run(ROWS)
    assert set(before) <= set(list_fingerprints(shop))
    list(run_pending(shop.services(), "stock"))
    assert not set(before) <= set(list_fingerprints(shop))


def test_a_failed_deletion_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is already closed; the files are found again when the next one closes, and the log reports it."""
    shop = SmallShop(tmp_path)
    for _ in range(2):
        shop.run(ROWS)
    answer = {"Errors": [{"Key": "fingerprints/stock/00000001-01.parquet", "Code": "AccessDenied"}]}
    with monkeypatch.context() as patch:
        patch.setattr(shop.s3, "delete_objects", lambda **_: answer)
        assert shop.run({**ROWS, "units": [1.0, 2.0, 4.0]}).state == "done"
    assert "AccessDenied" in capsys.readouterr().out
    shop.run({**ROWS, "units": [1.0, 2.0, 5.0]})
    assert len(list_fingerprints(shop)) == 2


def test_a_plan_deletes_nothing(tmp_path: Path, few_per_bucket: int) -> None:
    """It closes runs as a run does, over the existing objects, and does not delete them."""
    shop = SmallShop(tmp_path)
    for number in range(3):
        shop.run({**ROWS, "units": [float(number), 2.0, 3.0]}, day=1)
    shop.put(shop.key(), parquet({**ROWS, "units": [7.0, 2.0, 3.0]}))
    before = {at: kept for at, kept in shop.s3.objects.items() if not at[1].startswith("metadata/")}
    assert shop.plan(shop.key()).run.counts == Counts(written=1, unchanged=2)
    assert {at: kept for at, kept in shop.s3.objects.items() if not at[1].startswith("metadata/")} == before


@pytest.mark.parametrize(
    ("rows", "bits"),
    [(0, 0), (500_000, 0), (500_001, 1), (1_000_000, 1), (1_000_001, 2), (100_000_000, 8), (10**12, 9)],
)
def test_number_of_buckets_follows_from_rows(rows: int, bits: int) -> None:
    """A power of two, so that a bucket has at most 500,000 rows, within the limit of files that are open at once."""
    assert count_bits(rows) == bits


def test_buckets_of_other_numbers_overlap_by_common_prefix() -> None:
    """Of four buckets the second half of two overlaps two; of one, all."""
    assert [each.overlaps(Bucket(1, 1)) for each in divide(2)] == [False, False, True, True]
    assert all(each.overlaps(Bucket(0, 0)) and Bucket(0, 0).overlaps(each) for each in divide(3))


def test_outcomes_are_read_by_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the windows and the order of buckets, a range of rows gives its outcomes in the order of rows."""
    monkeypatch.setattr(outcomes, "ROWS", 7)
    found, random = outcomes.Outcomes(tmp_path / "outcomes"), Random(1)
    decided = {row: random.randrange(4) for row in range(50) if row % 11}
    for part in range(3):
        mine = [row for row in decided if row % 3 == part]
        found.add(pa.array(mine, pa.int64()), pa.array([decided[row] for row in mine], pa.uint8()))
        # A window includes what was added after it was read.
        assert {row for row in mine if 7 <= row < 14} <= set(found.read(7, 13)["row"].to_pylist())
    for first, last in ((0, 49), (0, 6), (7, 7), (11, 11), (5, 30), (44, 60), (60, 90)):
        table = found.read(first, last)
        assert dict(zip(*table.to_pydict().values(), strict=True)) == {
            row: outcome for row, outcome in decided.items() if first <= row <= last
        }
        assert table["row"].to_pylist() == sorted(table["row"].to_pylist())


def test_a_log_is_distributed_by_prefix(tmp_path: Path) -> None:
    """Each row is once in the file of its bucket, in the order of rows; of an imported file, only a range."""
    log, random = Log(tmp_path / "log"), Random(1)
    keys = [random.getrandbits(64) for _ in range(60)]

    def note(rows: range) -> pa.Table:
        columns = {
            "row": list(rows),
            "k1": pa.array([keys[row] for row in rows], pa.uint64()),
            "k2": [0] * len(rows),
            "digest": [0] * len(rows),
        }
        nulls = [None] * len(rows)
        return pa.table(
            {
                **columns,
                "kept": [True] * len(rows),
                "pk": nulls,
                "sk": nulls,
                "inputs": pa.nulls(len(rows), pa.uint64()),
            }
        )

    earlier = Log(tmp_path / "earlier")
    earlier.add(note(range(30)))
    log.import_file(earlier.export(), 0, 19)
    for first in (20, 40):
        log.add(note(range(first, first + 20)))
        log.export()
    steps: list[None] = []
    paths = log.distribute(3, tmp_path, lambda: steps.append(None))
    found = {
        prefix: pa.ipc.open_stream(path.read_bytes()).read_all()["row"].to_pylist() for prefix, path in paths.items()
    }
    assert found == {prefix: [row for row, key in enumerate(keys) if key >> 61 == prefix] for prefix in range(8)}
    assert len(steps) == 3
    assert list((tmp_path / "log").iterdir()) == []


def test_notes_that_do_not_fit_on_disk_are_read_from_s3_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of buckets stay on scratch disk as long as there is room; the others are read from S3 when needed."""
    monkeypatch.setattr(buckets, "ROWS", 3)
    monkeypatch.setattr(changes, "LOCAL_BYTES", 0)
    shop = SmallShop(tmp_path)
    rows: dict[str, list[Any]] = {
        "shop": [each for each, _ in KEYS],
        "sku": [sku for _, sku in KEYS],
        "units": [1.0] * len(KEYS),
    }
    assert shop.run(rows, day=1).counts == Counts(written=24)
    assert shop.run(rows).counts == Counts(unchanged=24)


def test_the_lease_is_renewed_between_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command has no deadline: while it divides, decides and merges for hours, it keeps the dataset's lease."""
    monkeypatch.setattr(buckets, "ROWS", 3)
    shop = SmallShop(tmp_path)
    upload = shop.s3.upload_file

    def be_slow(name: str, bucket: str, object_key: str) -> None:
        shop.world.sleep(30)  # of the 120 s for which a lease is renewed
        assert shop.ledger.get_state("stock").lease_until_ms / 1000 > shop.world.now()
        upload(name, bucket, object_key)

    monkeypatch.setattr(shop.s3, "upload_file", be_slow)
    assert shop.run(many(Random(1)), day=1).state == "done"
    assert shop.run(many(Random(2))).state == "done"


def test_the_lease_is_renewed_while_a_run_that_fails_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a run that began to write can't be completed."""
    monkeypatch.setattr(buckets, "ROWS", 3)
    shop = SmallShop(tmp_path)
    upload = shop.s3.upload_file

    left: list[float] = []  # seconds of the lease; a failed assertion in here would be closed like any other error

    def be_slow(name: str, bucket: str, object_key: str) -> None:
        shop.world.sleep(30)
        left.append(shop.ledger.get_state("stock").lease_until_ms / 1000 - shop.world.now())
        upload(name, bucket, object_key)

    def fail(*_: Any) -> None:
        raise Failed("no permission")

    monkeypatch.setitem(lifecycle.STAGES, Stage.WRITE, fail)
    monkeypatch.setattr(shop.s3, "upload_file", be_slow)
    assert shop.run(many(Random(1))).state == "failed"
    assert min(left) > 0
