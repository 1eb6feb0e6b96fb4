"""Rows whose inputs are those of a live item are not rendered, and the results are those of rendering all of them."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from enrich.dataset.definition import Derive, Guard, Metadata
from enrich.dataset.expressions import Names, find_functions, parse_expression
from enrich.dataset.inputs import Unhashable, build_basis, hash_values
from enrich.dataset.mistakes import DatasetMistakes
from enrich.delta import buckets
from enrich.delta.memory import Memory
from enrich.errors import OutOfTime
from enrich.intake.worker import run_pending
from enrich.join import engine, rendering
from enrich.join.engine import Engine
from enrich.join.rendering import RenderedCache
from enrich.ledger.records import Counts
from enrich.read.chunks import read_chunks
from enrich.run import checker, fingerprints
from enrich.run.context import RunContext
from tests.unit.enrich import small_shop
from tests.unit.enrich.small_shop import DATASET, PRODUCTS, ROWS, SETTINGS, SmallShop

DAY = 24 * 3600.0


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read outputs in chunks of four rows."""
    monkeypatch.setattr("enrich.run.context.read_chunks", partial(read_chunks, chunk_rows=4))


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the rows that engines have rendered."""
    found: list[int] = []
    render = Engine._render

    def note(self: Engine, chunk: Any, rows: pa.Array, *, digest: bool) -> pa.Table:
        found.extend(rows.to_pylist())
        return render(self, chunk, rows, digest=digest)

    monkeypatch.setattr(Engine, "_render", note)
    return found


def test_only_rows_with_other_inputs_are_rendered(tmp_path: Path, rendered: list[int]) -> None:
    """An output that repeats the last one renders nothing, and reads no row a second time; another value one row."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=2)
    assert rendered == [0, 1, 2]
    rendered.clear()
    assert shop.run(ROWS, day=1).counts == Counts(unchanged=3)
    assert rendered == []
    assert shop.run({**ROWS, "units": [1.0, 2.5, 3.0]}).counts == Counts(written=1, unchanged=2)
    assert rendered == [1]
    assert shop.written() == ["x/a", "x/b", "x/b", "y/a"]


@pytest.mark.parametrize(
    "other",
    [
        {"body": {"title": "upper(products.title)", "units": "units"}},
        {"body": {"title": "products.title", "units": "units::bigint"}, "large_integers": "string"},
        {"body": {"title": "products.title", "count": "units"}},
        {"rank": "units desc"},
        {"prediction_id": "sku || '.'"},
        {"metadata": {"products": replace(DATASET.metadata["products"], on={"'b'": "sku"})}},
        {"source": replace(DATASET.source, columns={**DATASET.source.columns, "units": "float"})},
    ],
    ids=" ".join,
)
def test_another_definition_renders_all_rows(tmp_path: Path, rendered: list[int], other: dict[str, Any]) -> None:
    """Rows are rendered again by any rule that is another one, and written where their items are others."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    shop.dataset = replace(DATASET, **other)
    rendered.clear()
    shop.run(ROWS)
    assert set(rendered) == {0, 1, 2}


def test_another_renderer_or_duckdb_renders_all_rows(
    tmp_path: Path, rendered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another release, or another version of DuckDB, has rendered is rendered again."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=2)
    for day, (module, name) in zip((1, 0), ((engine, "RELEASE"), (duckdb, "__version__")), strict=True):
        monkeypatch.setattr(module, name, "99.0.0")
        rendered.clear()
        assert shop.run(ROWS, day=day).counts == Counts(unchanged=3)
        assert rendered == [0, 1, 2]


def test_rows_of_changed_metadata_are_rendered(
    tmp_path: Path, rendered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only predictions that meet a changed row; a row that is gone rejects them; a column that is not used is none."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=3)
    rendered.clear()
    monkeypatch.setattr(small_shop, "PRODUCTS", {**PRODUCTS, "title": ["A", "new", "C", "D"], "colour": [1, 2, 3, 4]})
    assert shop.run(ROWS, day=2).counts == Counts(written=1, unchanged=2)
    assert rendered == [1]
    monkeypatch.setattr(small_shop, "PRODUCTS", {"sku": ["a"], "title": ["A"]})
    assert shop.run(ROWS, day=1).counts == Counts(unchanged=2, rejected=1)
    monkeypatch.setattr(small_shop, "PRODUCTS", {"sku": ["a", "b"], "title": ["A", None]})
    assert shop.run(ROWS).counts == Counts(written=1, unchanged=2)


def test_elements_of_lists_are_inputs(tmp_path: Path, rendered: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed row that only one element of a list meets renders its prediction."""
    columns = {"shop": "varchar", "skus": "varchar[]"}
    dataset = replace(
        DATASET,
        source=replace(DATASET.source, columns=columns),
        metadata={
            "products": Metadata("select sku, title from products", on={"skus": "sku"}, each="skus", missing="null")
        },
        prediction_id="'all'",
        body={"titles": "[each.title for each in products]"},
    )
    shop = SmallShop(tmp_path, dataset)
    rows: dict[str, list[Any]] = {"shop": ["x", "y", "z"], "skus": [["a", "b"], ["c", "q"], []]}
    shop.run(rows, day=2)
    rendered.clear()
    monkeypatch.setattr(small_shop, "PRODUCTS", {**PRODUCTS, "title": ["A", "B", "new", "D"]})
    assert shop.run(rows, day=1).counts == Counts(written=1, unchanged=2)
    assert rendered == [1]
    monkeypatch.setattr(small_shop, "PRODUCTS", {"sku": ["a", "b", "c", "q"], "title": ["A", "B", "new", None]})
    rendered.clear()
    assert shop.run(rows).counts == Counts(unchanged=3)  # without a row, the title was null too
    assert rendered == [1]


def test_a_row_that_is_known_can_be_a_duplicate_or_be_written_again(tmp_path: Path) -> None:
    """It is rejected or written as if it had been rendered."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=3)
    twice = {"shop": [*ROWS["shop"], "x"], "sku": [*ROWS["sku"], "a"], "units": [*ROWS["units"], 1.0]}
    assert shop.run(twice, day=2).counts == Counts(unchanged=2, rejected=2)
    shop.world.sleep(DAY)
    assert shop.run(ROWS).counts == Counts(written=3)  # less than half of the ttl is left
    assert shop.refresh(full=True).counts == Counts(written=3)


def test_guards_measure_rows_that_are_not_rendered(tmp_path: Path, rendered: list[int]) -> None:
    """Statistics are of all rows."""
    shop = SmallShop(tmp_path, replace(DATASET, guards=[Guard("max", "body.units", most=2.5), Guard("rows", least=3)]))
    calm = {**ROWS, "units": [1.0, 2.0, 2.5]}
    shop.run(calm, day=2)
    rendered.clear()
    assert shop.run(calm, day=1).state == "done"
    assert rendered == []
    assert shop.run({**ROWS, "units": [1.0, 2.0, 9.0]}).state == "held"


def _make(rows: int, changed: Iterable[int] = (), rejected: Iterable[int] = ()) -> dict[str, list[Any]]:
    """Return an output of a shop per row; rejected rows have a product without metadata."""
    return {
        "shop": [f"s{n}" for n in range(rows)],
        "sku": ["gone" if n in rejected else "a" for n in range(rows)],
        "units": [0.1 * n + (n in changed) for n in range(rows)],
    }


@pytest.mark.parametrize(
    ("limits", "selects"),
    [
        ({}, [[1, 6, 7, 30]]),
        ({"_MOST_CHUNKS": 3}, [[1, 6, 7], [30]]),
        ({"_MOST_BYTES": 0}, [[1], [6, 7], [30]]),
        ({"_FEW": 1}, [[1], [6, 7], [30]]),
    ],
    ids=str,
)
@pytest.mark.usefixtures("_small_chunks")
def test_few_rows_of_several_chunks_are_rendered_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int], selects: list[list[int]]
) -> None:
    """Up to a number of chunks and of bytes; a chunk with more such rows by itself. Rejects are kept by their chunk."""
    shop = SmallShop(tmp_path)
    shop.run(_make(40), day=1)
    shop.written()
    for name, value in limits.items():
        monkeypatch.setattr(checker, name, value)
    found = list[list[int]]()
    render = Engine._render

    def note(self: Engine, chunk: Any, rows: pa.Array, *, digest: bool) -> pa.Table:
        found.append(rows.to_pylist())
        return render(self, chunk, rows, digest=digest)

    monkeypatch.setattr(Engine, "_render", note)
    run = shop.run(_make(40, changed=[1, 6], rejected=[7, 30]))
    assert found == selects
    assert run.counts == Counts(written=2, unchanged=36, rejected=2)
    assert shop.written() == ["s1/a", "s6/a"]
    rejects = [at[1].rpartition("/")[2] for at in shop.s3.objects if at[1].startswith("rejects/")]
    assert rejects == ["000000000004-000000000007.jsonl", "000000000028-000000000031.jsonl"]


@pytest.mark.usefixtures("_small_chunks")
def test_rows_that_wait_are_part_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invocation ends after each chunk, after some, or never: counts, rejects, items, statistics are the same."""
    left = list[Any]()
    for chunks in (100, 1, 3):
        folder = tmp_path / f"{chunks}"
        folder.mkdir()
        shop = SmallShop(folder, replace(DATASET, guards=[Guard("mean", "units", most=50.0)]))
        shop.run(_make(40), day=1)
        run, steps = shop.enqueue(_make(40, changed=[1, 6, 19], rejected=[7, 30])), itertools.count(1)
        with monkeypatch.context() as patched:
            patched.setattr(
                RunContext, "step", lambda context, s=steps, c=chunks: context.run.rows is None and not next(s) % c
            )
            while shop.ledger.fetch_pending("stock"):
                with suppress(OutOfTime):
                    list(run_pending(shop.services(), "stock"))
        done, measured = shop.ledger.get_run("stock", run.run), shop.ledger.get_statistics("stock", run.run)
        assert done is not None
        assert measured is not None
        assert done.attempts == 10 // chunks + 1
        rejects = {at[1]: each[-1].body for at, each in shop.s3.objects.items() if at[1].startswith("rejects/")}
        left.append([done.counts, done.reasons, rejects, shop.table.items, shop.written(), measured.summary])
    assert left[0][0] == Counts(written=3, unchanged=35, rejected=2)
    assert left[1:] == [left[0], left[0]]


@pytest.mark.usefixtures("_small_chunks")
def test_chunks_whose_columns_have_other_types_do_not_wait_together(tmp_path: Path) -> None:
    """The parts of an output can store a column as other types."""
    shop = SmallShop(tmp_path, replace(DATASET, source=replace(DATASET.source, marker="_SUCCESS")))
    kinds = (pa.float64(), pa.int64())
    for day, more in ((1, 0), (0, 1)):
        prefix = shop.key(day).rpartition("/")[0]
        for n, kind in enumerate(kinds):
            rows = {**_make(8), "shop": [f"{n}{row}" for row in range(8)], "units": pa.array(range(8), kind)}
            rows["units"] = pc.add(rows["units"], pc.if_else(pc.equal(pa.arange(0, 8), 5), more, 0)).cast(kind)
            shop.put(f"{prefix}/{n}.parquet", small_shop.parquet(rows))
        shop.put(f"{prefix}/_SUCCESS", b"")
        run = shop.go(f"{prefix}/_SUCCESS")
    assert run.counts == Counts(written=2, unchanged=14)
    assert [json.loads(cast(str, item.body))["units"] for key, item in shop.table.items.items() if "5" in key[0]] == [
        6,
        6,
    ]


def test_a_derive_step_gets_whole_chunks(tmp_path: Path) -> None:
    """Also where only one of their rows is rendered."""
    lengths: list[int] = []

    def double(frame: Any) -> Any:
        lengths.append(len(frame))
        return frame.assign(double=frame["units"] * 2)

    dataset = replace(DATASET, derive=Derive(double, {"double": "double"}), body={"double": "double"})
    shop = SmallShop(tmp_path, dataset)
    shop.run(ROWS, day=2)
    assert shop.run(ROWS, day=1).counts == Counts(unchanged=3)
    assert shop.run({**ROWS, "units": [1.0, 2.0, 4.0]}).counts == Counts(written=1, unchanged=2)
    assert set(lengths) == {3}


@pytest.mark.parametrize("rows_per_bucket", [500_000, 3])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.usefixtures("_small_chunks")
def test_the_table_is_the_same_as_if_all_rows_were_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_bucket: int, seed: int
) -> None:
    """Counts, items and fingerprints of a random series of outputs, metadata and definitions."""
    monkeypatch.setattr(buckets, "ROWS", rows_per_bucket)
    known = _play(tmp_path / "known", seed, monkeypatch)
    monkeypatch.setattr(fingerprints, "MOST_ITEMS", -1)
    assert _play(tmp_path / "rendered", seed, monkeypatch) == known


@pytest.mark.parametrize(
    ("case", "again"),
    [("known", [1]), ("too many items", []), ("no digest of inputs", []), ("another table", [0, 1, 2, 0, 1, 2])],
)
def test_rows_are_kept_if_most_of_them_will_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, again: list[int]
) -> None:
    """Those of a first output, and those that differ from a live item; of others, what is written is rendered again."""
    shop, kept = SmallShop(tmp_path), list[int]()
    keep = RenderedCache.keep

    def note(cache: RenderedCache, first_row: int, rows: int, rendered: pa.Table) -> None:
        kept.extend(rendered["row"].to_pylist())
        keep(cache, first_row, rows, rendered)

    monkeypatch.setattr(RenderedCache, "keep", note)
    if case == "too many items":
        monkeypatch.setattr(fingerprints, "MOST_ITEMS", 2)
    if case == "no digest of inputs":
        monkeypatch.setattr(Engine, "has_inputs", False)
    shop.run(ROWS, day=2)
    assert kept == [0, 1, 2]
    kept.clear()
    if case == "another table":
        shop.dynamo.table_id = "another"
    assert shop.run({**ROWS, "units": [1.0, 2.5, 3.0]}, day=1).counts.written == 1
    assert kept == again
    assert [item.body for item in shop.table.items.values() if "2.5" in str(item.body)] == ['{"title":"B","units":2.5}']


@pytest.mark.usefixtures("_small_chunks")
def test_chunks_that_find_no_room_are_rendered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rendered: list[int]
) -> None:
    """The first chunk takes all the room that there is."""
    monkeypatch.setattr(rendering, "MAX_CACHE_BYTES", 2_000)
    shop, kept = SmallShop(tmp_path), list[int]()
    take = RenderedCache.take

    def note(cache: RenderedCache, first_row: int, rows: pa.Array) -> pa.Table | None:
        found = take(cache, first_row, rows)
        kept.extend([] if found is None else found["row"].to_pylist())
        return found

    monkeypatch.setattr(RenderedCache, "take", note)
    assert shop.run(_make(12)).counts == Counts(written=12)
    assert kept == [0, 1, 2, 3]
    assert sorted(rendered) == sorted([*range(12), *range(4, 12)])
    assert len(shop.table.items) == 12


def _play(directory: Path, seed: int, patch: pytest.MonkeyPatch) -> list[Any]:
    directory.mkdir()
    random, shop, found = Random(seed), SmallShop(directory), list[Any]()
    units = [None, 0.0, -0.0, 1.0, 1.04]
    rows: dict[tuple[str, str], float | None] = {(s, k): 1.0 for s in "xyz" for k in "abcdq"}
    for day in range(5, -1, -1):
        for at in random.sample(sorted(rows), 3):
            rows[at] = random.choice(units)
        titles = [random.choice([None, "", t, t, t]) for t in PRODUCTS["title"]]
        patch.setattr(small_shop, "PRODUCTS", {**PRODUCTS, "title": titles})
        shop.dataset = replace(
            DATASET, body=random.choice([DATASET.body, {"u": "round(units, 1)", "t": "products.title"}])
        )
        keys = random.sample(sorted(rows), 14)
        output: dict[str, list[Any]] = {
            "shop": [s for s, _ in keys],
            "sku": [k for _, k in keys],
            "units": [rows[at] for at in keys],
        }
        run = shop.run({**output, "units": cast(Any, pa.array(output["units"], pa.float64()))}, day)
        found += [run.counts, run.reasons, run.because, dict(shop.table.items), shop.written()]
    found += [each[-1].body for at, each in sorted(shop.s3.objects.items()) if at[1].startswith("rejects/")]
    state = shop.ledger.get_state("stock")
    content = shop.s3.objects[SETTINGS.bucket, state.fingerprints or ""][-1].body
    table = pq.read_table(pa.BufferReader(content))
    return [*found, sorted(map(str, table.to_pylist())) if "k1" in table.column_names else table["rows"].to_pylist()]


VALUES = {
    "double": ["0.0", "'-0.0'", "1.0", "null", "'nan'", "'inf'", "5e-324"],
    "float": ["0.0", "'-0.0'", "0.1", "null"],
    "integer": ["0", "1", "-1", "null"],
    "hugeint": ["0", "1", "18446744073709551616", "-1", "null"],
    "decimal(38,2)": ["0", "0.01", "1", "null"],
    "varchar": ["''", "'a'", "'A'", "'a '", "'null'", "chr(0)", "'a' || chr(0)", "null", "repeat('a', 12)", "repeat('a', 13)"],  # noqa: E501
    "blob": ["''", "'a'", "'\\x00'", "null"],
    "boolean": ["true", "false", "null"],
    "timestamptz": ["'2020-01-01'", "'2020-01-01 00:00:00.000001'", "null"],
    "uuid": ["'00000000-0000-0000-0000-000000000000'", "'00000000-0000-0000-0000-000000000001'", "null"],
    "enum('a', 'b')": ["'a'", "'b'", "null"],
    "integer[]": ["null", "[]", "[null]", "[1]", "[1, null]", "[null, 1]", "[1, 2]", "[2, 1]"],
    "integer[][]": ["null", "[]", "[[]]", "[[], []]", "[null]", "[[1], [2]]", "[[1, 2]]", "[[], [1]]", "[[1], []]", "[[1, 2], []]"],  # noqa: E501
    "double[]": ["[0.0]", "['-0.0'::double]", "[null]"],
    "double[2]": ["[0.0, 1.0]", "['-0.0'::double, 1.0]", "[1.0, 0.0]", "null"],
    "varchar[]": ["['a, b']", "['a', 'b']", "['ab']", "['a', null]", "['a']", "['']", "[]"],
    "struct(a integer, b varchar)": ["null", "{'a': null, 'b': null}", "{'a': 1, 'b': null}", "{'a': null, 'b': '1'}"],
    "struct(a integer)[]": ["[null]", "[{'a': null}]", "[]", "null", "[{'a': 1}]"],
    "struct(a integer[], b integer[])": ["{'a': [1], 'b': []}", "{'a': [], 'b': [1]}", "{'a': null, 'b': [1]}"],
    "map(varchar, integer)": ["null", "map{}", "map{'a': 1}", "map{'a': null}", "map{'b': 1}", "map{'a': 1, 'b': 1}"],
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
def test_different_values_have_different_digests(kind: str) -> None:
    """At any depth, and alone or before another value; the same value has the same digest."""
    with duckdb.connect() as con:
        (of,) = con.sql(f"select cast(null as {kind})").types
        (more,) = con.sql("select 1").types
        values = [f"cast({value} as {kind})" for value in VALUES[kind]]
        con.execute(f"create table v as select unnest(range({len(values)})) as n, cast(null as {kind}) as v")
        for n, value in enumerate(values):
            con.execute(f"update v set v = {value} where n = {n}")
        alone, before = hash_values([("v", of)]), hash_values([("v", of), ("1", more)])
        found = con.execute(f"select {alone}, {before}, {alone} from v order by n").fetchall()
    for column in (0, 1):
        assert len({row[column] for row in found}) == len(values)
    assert all(row[0] == row[2] for row in found)


@pytest.mark.parametrize("kind", ["interval", "timetz", "bit", "bignum", "interval[]", "struct(a bit)"])
def test_a_type_without_digest_renders_all_rows(kind: str) -> None:
    """Equal hashes of such values would not mean equal values."""
    with duckdb.connect() as con, pytest.raises(Unhashable, match="have no digest"):
        hash_values([("v", con.sql(f"select cast(null as {kind})").types[0])])


def test_digests_are_spread_evenly() -> None:
    """Rows that differ in few bits collide in 32 of the 64 bits as often as random numbers would."""
    rows = 1 << 17
    with duckdb.connect() as con:
        kinds = dict.fromkeys(("a", "b"), con.sql("select 1::bigint").types[0]) | {"c": con.sql("select ''").types[0]}
        digest = hash_values([*kinds.items()])
        digest = f"hash({build_basis({})}, {digest})"
        table = f"(select n % 512 as a, n // 512 as b, (n % 7)::varchar as c from range({rows}) t(n))"
        for part in (f"{digest} >> 32", f"{digest} & 4294967295"):
            ((distinct,),) = con.execute(f"select count(distinct {part}) from {table}").fetchall()
            assert rows - distinct < 12  # 2 are expected


def test_only_an_item_with_the_same_key_and_inputs_is_known() -> None:
    """The digest of another key, or of other inputs, is never returned."""
    uint = pa.uint64()
    known = pa.table(
        {
            "k1": pa.array([1, 5, 9], uint),
            "inputs": pa.array([10, 50, 90], uint),
            "digest": pa.array([11, 55, 99], uint),
        }
    )
    asked = [(1, 10), (5, 90), (9, 90), (0, 10), (2, 10), (10, 90), (None, 10), (5, None), (5, 50)]
    k1, inputs = (pa.array([each[n] for each in asked], uint) for n in (0, 1))
    assert Memory(known).find(k1, inputs).to_pylist() == [11, None, 99, None, None, None, None, None, 55]


def list_unstable() -> Iterator[str]:
    """Yield a call of each function whose result DuckDB does not call consistent, and the values of a session."""
    with duckdb.connect() as con:
        functions = con.execute(
            "select distinct function_name from duckdb_functions() where function_type in ('scalar', 'macro') "
            "and stability is not null and stability <> 'CONSISTENT' and function_name ~ '^[a-z_0-9]+$' order by 1"
        ).fetchall()
    yield from (f"{name}()" for (name,) in functions)
    yield from ("age(d)", "current_date", "current_timestamp", "localtime", "localtimestamp", "current_user", "user")
    yield from ("current_localtime()", "Current_LocalTimestamp()", "version()", "json_serialize_plan('select now()')")
    # macros that use one of these, or DuckDB's catalog
    yield from ("ago(interval '1 day')", "main.ago(interval '1 day')", "pg_conf_load_time()", "current_catalog()")
    yield from (
        "pg_catalog.pg_postmaster_start_time()",
        "pg_sleep(0)",
        "user()",
        "format_type(1, 2)",
        "get_block_size('a')",
    )
    yield "#1"  # the first column of a SELECT that Larder generates: the row's number


def test_an_expression_that_is_not_deterministic_is_a_mistake() -> None:
    """Its value would not be an input, and would be kept as it was at first."""
    expressions = list(list_unstable())
    assert {"random()", "now()", "uuid()", "nextval()", "current_setting()"} <= set(expressions)
    with duckdb.connect() as con:
        names = Names(con, ["d"], {})
        for expression, around in itertools.product(
            expressions, ("{}", "concat('a', {})", "[x for x in [1] if {} is null]")
        ):
            with pytest.raises(DatasetMistakes):
                parse_expression(names, "body.x", around.format(expression))


ARGUMENTS = {
    **dict.fromkeys(["BIGINT", "INTEGER", "HUGEINT", "DOUBLE", "FLOAT"], "1"),
    **dict.fromkeys(["T[]", "ANY[]"], "['2', '1']"),
    "VARCHAR": "'a'",
    "BLOB": "'a'::blob",
    "BOOLEAN": "true",
    "DATE": "date '2026-01-02'",
    "INTERVAL": "interval '1 day'",
    "TIME": "time '01:02:03'",
    "TIMESTAMP": "timestamp '2026-01-02 03:04:05'",
    "TIMESTAMP WITH TIME ZONE": "timestamptz '2026-01-02 03:04:05Z'",
}
OTHERS = ["'2'", "1", "interval '1 day'", "[2.0, 1.0]"]  # for macros, and for types without a value


def list_accepted() -> set[str]:
    """Return the functions that expressions can use, without collations and what DuckDB's optimizer inserts."""
    return {name for name in find_functions().allowed if not re.match("__|(icu_)?collate_", name)}


def list_calls(functions: Collection[str]) -> list[str]:
    """Return calls of some functions with arguments of the types that they take."""
    with duckdb.connect() as con:
        signatures = con.execute("select distinct function_name, parameter_types from duckdb_functions()").fetchall()
    return sorted(
        {
            f'"{name}"({", ".join(ARGUMENTS.get(kind, other) for kind in kinds)})'
            for name, kinds in signatures
            for other in OTHERS
            if name.lower() in functions and (name, len(kinds)) != ("age", 1)  # refused by its number of arguments
        }
    )


def evaluate(con: duckdb.DuckDBPyConnection, calls: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for call in calls:
        try:
            found[call] = con.execute(f"select cast({call} as varchar)").fetchall()
        except duckdb.Error:  # other types, or other values
            found[call] = None
    return found


def test_every_accepted_function_has_the_same_value_each_time(tmp_path: Path) -> None:
    """In another database and session, and later. DuckDB's own declaration of a function can be wrong."""
    calls = list_calls(list_accepted())
    with duckdb.connect() as con:
        first = evaluate(con, calls)
    with duckdb.connect(tmp_path / "other.db") as con:
        con.execute("create schema s; set search_path = 's'; set variable a = 'b'; select setseed(0.5)")
        again = evaluate(con, calls)
    assert {call: (value, again[call]) for call, value in first.items() if value != again[call]} == {}
    known = {call.partition('"(')[0] for call, value in first.items() if value}
    assert len(known) > 400, "so many have a value for one of these arguments"


def test_every_accepted_function_has_been_reviewed() -> None:
    """A function of a new DuckDB is added to the list if its value depends on its arguments only.

    Not on time, session, settings, random numbers, files, environment, sequences, or DuckDB's catalog and version.
    """
    reviewed = Path(__file__).with_name("accepted_functions.txt").read_text(encoding="utf-8")
    assert sorted(list_accepted()) == reviewed.rstrip("\n").split("\n")


_PRINT_SQL = """
import pyarrow as pa
from dataclasses import replace
from enrich.dataset.definition import Metadata
from enrich.join.engine import Engine
from tests.unit.enrich.small_shop import DATASET, PRODUCTS

products = {name: Metadata("select", on={"sku": "sku"}) for name in ("p", "q", "r", "s")}
body = {f"m{n}": f"concat(units, {n}, p.title, q.title)" for n in range(9)}
dataset = replace(DATASET, metadata=products, body={**body, **{name: f"upper({name}.title)" for name in products}})
with Engine(dataset, dict.fromkeys(products, pa.table(PRODUCTS)), directory="/") as engine:
    print(engine._select_inputs)
"""


def test_every_process_has_the_same_basis() -> None:
    """The compiled SQL does not depend on the order of sets, so digests of one process are known in another."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PRINT_SQL], env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE
        )
        for seed in "12"
    ]
    first, second = (process.communicate()[0] for process in processes)
    assert first == second != b""
