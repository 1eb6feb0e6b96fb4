"""The parts of enrich that only compute, each tested with a table of inputs and results."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock, call

import duckdb
import pyarrow as pa
import pytest

from enrich.dataset.as_of import BadAsOf, FromColumn, FromKey, LastModified, find_mistakes, get_ahead, parse_as_of
from enrich.dataset.coercion import coerce_typed
from enrich.dataset.expressions import Names, parse_expression, parse_tree
from enrich.dataset.field_types import find_type_mistakes
from enrich.dataset.json_sql import MAX_LEVELS, JsonPolicy, Unrenderable, count_levels, render_json_sql
from enrich.dataset.mistakes import DatasetMistakes
from enrich.dataset.nullability import is_never_null
from enrich.dataset.row_checks import Reasons, RowChecks, render_case
from enrich.dataset.type_names import EXAMPLES, is_type, suggest_type
from enrich.delta import outcomes
from enrich.delta.buckets import EVERYTHING, Bucket, count_bits, divide
from enrich.delta.outcomes import Outcomes
from enrich.join.rejects import add_reasons, build_prefix, count_reasons, write_rejects
from enrich.ledger.records import (
    Counter,
    Counts,
    DatasetState,
    Held,
    OutboxEntry,
    Pending,
    Record,
    Run,
    RunStatistics,
    SeenOutput,
    bump,
    find_runs_over,
    find_withdrawn,
    name_rebuild,
    newest_first,
)
from enrich.ledger.run_state import EngineKind, Kind, RunState, Stage
from enrich.read.magic import OtherFormat, recognize, refuse_other
from enrich.release import RELEASE

# names of pandas, Arrow, Polars, Spark, BigQuery and Python, by the DuckDB type that each means within a list
TYPE_NAMES = {
    "varchar": "object str string utf8 large_utf8 large_string string_view category categorical unicode dictionary "
    "char",
    "double": "float64 number real8 double",
    "float": "float16 float32 halffloat float",
    "boolean": "boolean bool",
    "tinyint": "byte int8 ByteType",
    "smallint": "int16 smallinteger short",
    "integer": "int int32 integer IntegerType",
    "bigint": "long int64 Int64Dtype",
    "blob": "bytes binary large_binary fixed_size_binary binary_view varbinary",
    "date": "date date32 date64",
    "time": "time32 time64",
    "timestamp": "datetime64 datetime TimestampNTZ timestamp int96",
    "timestamptz": "DatetimeTZDtype TimestampLTZ",
    "decimal(38, 9)": "decimal32 decimal64 decimal128 decimal256 bigdecimal bignumeric",
    "interval": "timedelta64 duration DayTimeInterval",
    "json": "jsonb",
}
BOUNDS: dict[str, dict[str, Any]] = {
    "enrich.delta.buckets": {"ROWS": 500_000, "MOST_BITS": 9, "KEY_BITS": 64},
    "enrich.delta.outcomes": {"ROWS": 1_048_576},
    "enrich.dataset.coercion": {"_EXACT_DIGITS": 15},
    "enrich.dataset.json_sql": {"MAX_LEVELS": 8},
    "enrich.read.text": {"BLOCK_BYTES": 1_048_576, "_MAX_ROW": 16_777_216, "_MAX_LINE": 67_108_864},
    "enrich.plan.cost": {"HOURS_PER_MONTH": 730, "RUN_SECONDS": 3600},
    "enrich.read.magic": {"HEAD_BYTES": 512},
    "enrich.write.item_size": {"UNIT_BYTES": 1024, "GZIP_LEVEL": 1},
}


@pytest.mark.parametrize("module", BOUNDS)
def test_each_bound_has_this_value(module: str) -> None:
    """A change of one is deliberate."""
    found = vars(importlib.import_module(module))
    assert {name: found[name] for name in BOUNDS[module]} == BOUNDS[module]


# `a` and `m.n` are never null, `b` can be.
NEVER_NULL = {
    "1": True, "'x'": True, "null": False, "a": True, "A": True, "b": False, "m.n": True, "M.N": True, "m.o": False,
    "cast(a as varchar)": True, "cast(b as varchar)": False, "cast(null as varchar)": False,
    "try_cast(a as date)": False,
    "a + 1": True, "a + b": False, "b * 2": False, "a - a": True, "-a": True, "a / 2": False, "a % 2": False,
    "a || 'x'": True, "a || b": False, "concat(b, null)": True, "concat_ws(b, 'x')": False,
    "abs(a)": True, "ceil(a)": True, "floor(a)": True, "round(a, 1)": True, "round(a, b)": False, "lower(a)": True,
    "upper(a)": True, "trim(a)": True, "date_trunc('day', a)": True, "strftime(a, '%Y')": True, "sqrt(a)": False,
    "coalesce(b, 1)": True, "coalesce(b, m.o)": False, "coalesce(a, b)": True, "b is null": True,
    "b is not null": True, "not a": False, "a = b": False, "case when a then a end": False,
    "case when a then a else a end": False, "[a]": False, "a between 1 and 2": False,
}  # fmt: skip


@pytest.mark.parametrize(("sql", "expected"), NEVER_NULL.items())
def test_what_is_never_null(sql: str, *, expected: bool) -> None:
    """By simple rules; what they do not cover can be null."""
    with duckdb.connect() as con:
        assert is_never_null(parse_tree(con, "body", sql), {("a",), ("m", "n")}) is expected


# What an expression names: columns, those of them that must have a value, and metadata.
NAMED: dict[str, tuple[str, str, str]] = {
    "a": ("a", "a", ""),
    "A": ("a", "a", ""),
    '"B c" + a': ("B c|a", "B c|a", ""),
    "1": ("", "", ""),
    "coalesce(a, d)": ("a|d", "", ""),
    "coalesce(upper(a), 'x') || d": ("a|d", "d", ""),
    "case when a then d end": ("a|d", "", ""),
    "a is null": ("a", "", ""),
    "a is not null": ("a", "", ""),
    "a is null and d": ("a|d", "d", ""),
    "not a": ("a", "a", ""),
    "a in (d)": ("a|d", "a|d", ""),
    "ifnull(a, d)": ("a|d", "", ""),
    "m.x": ("", "", "m.X"),
    "M.X || m.y": ("", "", "m.X|m.y"),
    "m.x.y": ("", "", "m.X"),
    "h.anything.x": ("", "", "h.anything"),
    "h.anything": ("", "", "h.anything"),
    "l": ("", "", "l.v|l.w"),
    "u": ("", "", "u."),
    "[each.v for each in l]": ("", "", "l.v|l.w"),
    "a.field": ("a", "a", ""),
    "a -> '$.x'": ("a", "a", ""),
    "list_transform(d, lambda e: e + a)": ("a|d", "a|d", ""),
    "list_transform(d, lambda a: a + 1)": ("d", "d", ""),
    "list_transform(d, lambda A, i: a + I)": ("d", "d", ""),
    "list_transform(d, lambda e: list_transform(e, lambda f: e + f))": ("d", "d", ""),
}
_NAMES: dict[str, Any] = {
    "columns": ["a", "B c", "d"],
    "metadata": {"m": ["X", "y"], "h": None, "l": ["v", "w"], "u": None},
    "lists": ["l", "u"],
}  # fmt: skip


@pytest.mark.parametrize("sql", NAMED)
def test_an_expression_names_columns_and_metadata(sql: str) -> None:
    """In any case, except in a lambda that gives the name another meaning; nulls are allowed where they are handled."""
    columns, required, metadata = (frozenset(filter(None, names.split("|"))) for names in NAMED[sql])
    with duckdb.connect() as con:
        found = parse_expression(Names(con, **_NAMES), "body.x", sql)
    assert (found.place, found.sql, found.plain) == ("body.x", sql, "(" not in sql and sql.replace(".", "").isalpha())
    assert (found.columns, found.required) == (columns, required)
    assert {f"{name}.{column}" for name, column in found.metadata} == metadata


NOT_NAMED = {
    "e": "there is no column 'e'; known are B c, a, d, h, l, m, u",
    "mm.x": "there is no column 'mm'; did you mean 'm'?",
    "m": "'m' is metadata, not a column; name one of its columns, as in m.name",
    "m.z": "metadata 'm' has no column 'z'; known are X, y",
    "m.yy.x": "metadata 'm' has no column 'yy'; did you mean 'y'?",
    "l.v": "metadata 'l' is a list, with one row for each element; write [each.v for each in l], or l[i].v within "
    "another list",
    "l.v.w": "metadata 'l' is a list, with one row for each element; write [each.v for each in l], or l[i].v within "
    "another list",
    "list_transform(d, e -> e + 1)": "there is no column 'e'; known are B c, a, d; a lambda is written `lambda e: ...`",
    "list_transform(d, lambda e: e) || e": "there is no column 'e'; known are",
    "e || e": "there is no column 'e'; known are",
    "age(a)": "age() can return another value each time; a body must depend only on its row and metadata",
    "Random()": "random() can return another value each time; a body",
    "sum(a)": "sum() is an aggregate, which reads other rows; compute it in the model or the metadata query",
    "unnest(d)": "unnest() makes several rows of one; keep the list, or use list_transform or similar",
    "unlist(d)": "unlist() makes several rows of one; keep the list",
    "generate_subscripts(d, 1)": "generate_subscripts() makes several rows of one; keep the list",
    "first(a) over ()": "is a window function, which reads other rows; compute it in the model or in the metadata",
    "(select a)": "contains a subquery; make it a metadata query and join it",
    "a + (": "is not SQL: ",
    "*": "contains `*`; name the columns",
    "$1": "contains a parameter; write the value",
    "a), (d": "is not one expression; write one expression, as after SELECT",
    "a) from (select 1": "is not one expression",
    "a) where (a": "is not one expression",
    "a) order by (a": "is not one expression",
    "a) group by (a": "is not one expression",
    "a) union select (a": "is not one expression",
    "a); select (d": "is not one expression",
    "a) as e, (d": "is not one expression",
    " /* a */ -- b": "is empty; write an expression",
    "a +": "it is incomplete; complete it: a value, a bracket or an END is missing",
    "a; ": "it ends with a semicolon; remove it",
    'a As "e f"': 'it has an alias, "e f"; remove As "e f": its place gives it a name',
    "a + order": "'order': a reserved word needs double quotes, as in a + \"order\"",
    "a + order + End": "'order', 'End': a reserved word needs double quotes, as in a + \"order\" + \"End\"",
    "a b c": "fix it; a name that is an SQL keyword needs double quotes",
    **{
        word: f"there is no column '{word}'; the SQL keyword depends on the session; a body must depend only on its row"
        for word in ["current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "current_user"]
    },
}


@pytest.mark.parametrize("sql", NOT_NAMED)
def test_what_an_expression_cannot_name_is_a_mistake(sql: str) -> None:
    """Each with its remedy, once."""
    with duckdb.connect() as con, pytest.raises(DatasetMistakes) as caught:
        parse_expression(Names(con, **_NAMES), "body.x", sql)
    (found,) = caught.value.mistakes
    assert found.place == "body.x"
    assert NOT_NAMED[sql] in f"{found.message}; {found.remedy}"


def test_buckets_divide_the_keys() -> None:
    """Names and conditions are those of files on S3 and of SQL; each key is in exactly one bucket of a given number."""
    assert [(one.name, one.condition) for one in (EVERYTHING, Bucket(1, 1), Bucket(9, 0x1FE))] == [
        ("00-0000", "true"),
        ("01-0001", f"k1 between {2**63}::ubigint and {2**64 - 1}::ubigint"),
        ("09-01fe", f"k1 between {510 * 2**55}::ubigint and {511 * 2**55 - 1}::ubigint"),
    ]
    assert divide(0) == [EVERYTHING]
    assert divide(2) == [Bucket(2, 0), Bucket(2, 1), Bucket(2, 2), Bucket(2, 3)]
    assert Bucket(3, 0b101).widen(3) == Bucket(3, 0b101)
    assert Bucket(3, 0b101).widen(1) == Bucket(1, 1)
    assert Bucket(3, 0b101).widen(0) == EVERYTHING
    for wide in divide(2):
        assert [one.prefix for one in divide(3) if one.overlaps(wide)] == [2 * wide.prefix, 2 * wide.prefix + 1]
        assert [one.prefix for one in divide(3) if wide.overlaps(one)] == [2 * wide.prefix, 2 * wide.prefix + 1]
        assert [one for one in divide(2) if one.overlaps(wide)] == [wide]


@pytest.mark.parametrize(
    ("rows", "bits"),
    [(-1, 0), (0, 0), (1, 0), (500_000, 0), (500_001, 1), (1_000_000, 1), (1_000_001, 2), (2_000_000, 2),
     (2_000_001, 3), (256_000_000, 9), (10**12, 9)],
)  # fmt: skip
def test_a_bucket_has_so_many_rows(rows: int, bits: int) -> None:
    """At most half a million rows, in at most 512 buckets."""
    assert count_bits(rows) == bits


@pytest.mark.parametrize("seed", range(3))
def test_outcomes_are_read_as_they_were_decided(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever buckets they came in, and whatever ranges they are read in: also between additions, and from slices."""
    monkeypatch.setattr(outcomes, "ROWS", 4)
    chance = random.Random(seed)
    decided = Outcomes(tmp_path / "outcomes")
    expected: dict[int, int] = {}
    rows = chance.sample(range(40), 26)
    for start in range(0, len(rows), 7):
        bucket = sorted(rows[start : start + 7])
        values = [chance.randrange(256) for _ in bucket]
        expected |= dict(zip(bucket, values, strict=True))
        row = pa.array([-1, *bucket, 99], pa.int64()).slice(1, len(bucket))
        decided.add(row, pa.array([7, *values, 7], pa.uint8()).slice(1, len(bucket)))
        for _ in range(20):
            first = chance.randrange(44)
            last = chance.randrange(first, 48)
            found = decided.read(first, last)
            assert found.schema == pa.schema([("row", pa.int64()), ("outcome", pa.uint8())])
            assert list(zip(*found.to_pydict().values(), strict=True)) == sorted(
                (row, value) for row, value in expected.items() if first <= row <= last
            )
    names = sorted(path.name for path in (tmp_path / "outcomes").iterdir())
    assert names[:2] == ["000000.outcomes", "000000.rows"]
    assert sum(path.stat().st_size for path in (tmp_path / "outcomes").iterdir()) == 5 * len(expected)


def test_a_cached_window_of_outcomes_is_updated(tmp_path: Path) -> None:
    """A window is kept in memory until something is added to it."""
    decided = Outcomes(tmp_path / "outcomes")
    assert decided.read(0, 5).num_rows == 0
    decided.add(pa.array([3], pa.int64()), pa.array([1], pa.uint8()))
    assert decided.read(0, 5)["row"].to_pylist() == [3]
    decided.add(pa.array(range(4, 100), pa.int64()), pa.array(range(96), pa.uint8()))
    assert decided.read(0, 200).to_pydict() == {"row": list(range(3, 100)), "outcome": [1, *range(96)]}
    with pytest.raises(FileExistsError):
        Outcomes(tmp_path / "outcomes")


def test_rejects_are_counted_by_reason() -> None:
    """The prefix is where a replay looks for them."""
    assert build_prefix("flights", 12) == "rejects/flights/00000012/"
    rendered = pa.table({"reason": pa.array(["a", None, "b", "a"])})
    assert count_reasons(rendered) == {"a": 2, "b": 1}
    assert count_reasons(rendered.slice(1, 1)) == {}
    assert add_reasons({"a": 1, "b": 2}, {"b": 3, "c": 4}) == {"a": 1, "b": 5, "c": 4}


def test_states_stages_and_kinds_have_their_stored_values() -> None:
    """The ledgers of deployments contain these values."""
    assert {one.value: one.is_closed for one in RunState} == {
        "pending": False, "running": False, "stopped": False, "done": True, "failed": True, "overwritten": True,
        "withdrawn": True, "held": False, "rejected": True,
    }  # fmt: skip
    assert [one.value for one in RunState if one.is_open] == ["pending", "running", "stopped"]
    assert {one.value: one.needs_decision for one in Stage} == {
        "withdraw-first": False, "restore-first": False, "pin": False, "order": False, "check": False, "write": True,
        "remove": True, "close": True,
    }  # fmt: skip
    assert {one.value: one.is_over_output for one in Kind} == {
        "output": True, "replay": True, "refresh": True, "restore": True, "rejects": False, "removal": False,
    }  # fmt: skip
    assert [one.value for one in EngineKind] == ["local", "spark"]


def _run(number: int, identity: str = "x", kind: Kind = Kind.OUTPUT, of_run: int | None = None) -> Run:
    return Run(
        dataset="d", run=number, kind=kind, bucket="b", object_key="k", identity=identity, arrived_ms=5, of_run=of_run
    )


def test_records_have_their_stored_form() -> None:
    """Their sort keys, and the initial members of a new record."""
    run = _run(12)
    seen = SeenOutput(dataset="d", identity="i", run=1, object_key="k", etag="e", arrived_ms=2)
    records: dict[str, Record] = {
        "state": DatasetState(dataset="d"),
        "counter": Counter(dataset="d"),
        "run#00000012": run,
        "output#i": seen,
        "pending#00000012": Pending(dataset="d", run=12, queued_ms=1),
        "held#00000012": Held(dataset="d", run=12, held_ms=1),
        "statistics#00000012": RunStatistics(dataset="d", run=12),
        "outbox#00000012#00000003": OutboxEntry(dataset="d", run=12, number=3, at_ms=1, events=[]),
    }
    assert {record.sk: record for record in records.values()} == records
    with pytest.raises(NotImplementedError):
        assert Record(dataset="d").sk
    given = {"dataset": "d", "run": 12, "bucket": "b", "object_key": "k", "identity": "x", "arrived_ms": 5}
    nothing = ("of_run", "generation", "as_of_ms", "expires_at", "rows", "decided_ms", "base", "table_id", "owner",
               "failure", "started_ms", "ended_ms", "measured", "held_ms", "error", "code_version", "engine",
               "piece_bytes", "rules", "release")  # fmt: skip
    zero = ("version", "size", "next_row", "place", "units", "attempts", "failures", "queued_ms", "pieces",
            "begun_again")  # fmt: skip
    counts = dict.fromkeys(("written", "unchanged", "superseded", "expired", "rejected", "removed"), 0)
    assert asdict(run) == given | dict.fromkeys(nothing) | dict.fromkeys(zero, 0) | {
        "kind": "output", "parts": 1, "full": False, "state": "pending", "stage": "pin", "counts": counts,
        "reasons": {}, "because": {}, "metadata": {}, "shifts": [], "approved": False,
    }  # fmt: skip
    assert asdict(records["state"]) == {
        "dataset": "d", "version": 0, "release": None, "generation": 1, "high_water": "", "lease_owner": None,
        "lease_until_ms": 0, "open_run": None, "snapshot": "", "fingerprints": None, "table_id": None,
        "rebuilt": None, "metadata": {}, "pruned_ms": 0,
    }  # fmt: skip
    assert (asdict(records["counter"])["next_run"], seen.listing) == (1, "")
    assert asdict(records["statistics#00000012"]) == {
        "dataset": "d", "version": 0, "release": None, "run": 12, "summary": "", "verdicts": "[]", "reference": None,
    }  # fmt: skip
    assert asdict(records["pending#00000012"])["kind"] == "output"
    assert bump(run).release == RELEASE
    assert bump(run) == run, "versions are not compared"
    assert bump(bump(run)).version == 2
    assert name_rebuild("f", "t") == "f t"
    assert name_rebuild(None, "t") == "None t"


def test_counts_are_of_predictions() -> None:
    """There are five outcomes; a removed item is not a prediction."""
    counts = Counts(written=1, unchanged=20, superseded=300, expired=4000, rejected=50000, removed=600000)
    assert counts.read == 54321
    assert counts + counts == Counts(
        written=2, unchanged=40, superseded=600, expired=8000, rejected=100000, removed=1200000
    )


@pytest.mark.parametrize(
    ("expires_at", "decided_ms", "expected"),
    [(None, None, True), (1, None, False), (None, 1, True), (10, 9_999, False), (10, 10_000, True), (10, 10_001, True)],
)
def test_a_run_has_expired_from_its_very_second_on(
    expires_at: int | None, decided_ms: int | None, *, expected: bool
) -> None:
    """As of the time at which it was decided."""
    assert replace(_run(1), expires_at=expires_at, decided_ms=decided_ms).born_expired is expected


def test_a_run_has_an_order_once_it_is_known() -> None:
    """Both members are known then; before, the message names dataset and run."""
    assert replace(_run(3), generation=1, as_of_ms=2).order == (1, 2, 3)
    for run in (_run(3), replace(_run(3), generation=1), replace(_run(3), as_of_ms=1)):
        with pytest.raises(ValueError, match=r"^dataset d, run 3: it has no order yet$"):
            assert run.order


def test_runs_over_an_output_are_found_with_those_of_its_rejects() -> None:
    """In any order of the list; what a later run did is not withdrawn."""
    runs = [
        _run(6, "r2", Kind.REJECTS, 4), _run(1), _run(2, "y"), _run(3, kind=Kind.REPLAY, of_run=1),
        _run(4, "r1", Kind.REJECTS, 3), _run(5, "r3", Kind.REJECTS, 2), _run(7, kind=Kind.REMOVAL, of_run=1),
        _run(8), _run(9, "z", Kind.REPLAY, 1),
    ]  # fmt: skip
    assert find_runs_over(runs, "x") == {1, 3, 4, 6, 7, 8}
    assert find_runs_over(runs, "y") == {2, 5}
    assert find_withdrawn(runs) == {1, 3, 4, 6}
    assert find_withdrawn(runs[:6]) == set()


def test_published_runs_are_listed_newest_first() -> None:
    """By as_of, not by number or generation; without those that were withdrawn, or are over no output."""
    done: dict[str, Any] = {"state": RunState.DONE, "generation": 1}
    runs = [
        replace(_run(1, "a"), **done, as_of_ms=5), replace(_run(2, "b"), **done, as_of_ms=7),
        replace(_run(3, "c", Kind.REPLAY), **done, as_of_ms=6), replace(_run(4, "d"), as_of_ms=9),
        replace(_run(5, "e", Kind.REJECTS), **done, as_of_ms=9), replace(_run(6, "f"), **done, as_of_ms=9),
        replace(_run(7, "f", Kind.REMOVAL), **done, as_of_ms=9),
        replace(_run(8, "f"), **{**done, "generation": 2}, as_of_ms=1),
        replace(_run(9, "g"), **{**done, "state": RunState.FAILED}, as_of_ms=9),
    ]  # fmt: skip
    assert [run.run for run in newest_first(runs)] == [2, 3, 1, 8]
    assert newest_first([]) == []


_TEXT = 'write CSV, JSON lines or Parquet, and set the dataset\'s format to "csv", "jsonl" or "parquet"'
_EXTRACT = "take the file out of it, and compress that with gzip or zstd, or not at all"
_COMPRESS = "compress it with gzip or zstd, or not at all"
# The first bytes of files, what they are, and the remedy.
HEADS: list[tuple[bytes, str, str]] = [
    (b"PK\x03\x04x", "is a zip file (or Excel's)", _EXTRACT),
    (b"PK\x05\x06", "is a zip file (or Excel's)", _EXTRACT),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip file", _EXTRACT),
    (b"Rar!\x1a\x07", "is a RAR file", _EXTRACT),
    (b"a" * 257 + b"ustar", "is a tar file", _EXTRACT),
    (b"\x1f\x8b", "is compressed with gzip", ""),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", ""),
    (b"\xff\x06\x00\x00sNaPpY", "is compressed with snappy", ""),
    (b"BZh91AY&SY", "is compressed with bzip2", _COMPRESS),
    (b"BZh1\x17rE8P\x90", "is compressed with bzip2", _COMPRESS),
    (b"\xfd7zXZ\x00", "is compressed with xz", _COMPRESS),
    (b"\x5d\x00\x00abc" + b"\xff" * 6, "is compressed with LZMA", _COMPRESS),
    (b"\x5d\x00\x00abcdef\x00\x00\x00\x00", "is compressed with LZMA", _COMPRESS),
    (b"LZIP\x01", "is compressed with lzip", _COMPRESS),
    (b"\x04\x22\x4d\x18", "is compressed with lz4", _COMPRESS),
    (b"\x02\x21\x4c\x18", "is compressed with lz4", _COMPRESS),
    (b"\x89LZO\x00", "is compressed with lzop", _COMPRESS),
    (b"\x1f\x9d", "is compressed with compress (.Z)", _COMPRESS),
    (b"\x1f\xa0", "is compressed with compress (.Z)", _COMPRESS),
    (b"x\x9c", "is compressed with deflate (zlib)", _COMPRESS),
    (b"x\xdaA", "is compressed with deflate (zlib)", _COMPRESS),
    (b"PAR1\x15", "is a Parquet file", 'set the dataset\'s format to "parquet"'),
    (b"Obj\x01", "is an Avro file", _TEXT),
    (b"ORC\x08", "is an ORC file", _TEXT),
    (b"ORCab\x0e", "is an ORC file", _TEXT),
    (b"ARROW1\x00\x00", "is an Arrow file", _TEXT),
    (b"\xff\xff\xff\xffab\x00\x00", "is an Arrow file", _TEXT),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file", _TEXT),
    (b"\x93NUMPY", "is a NumPy file", _TEXT),
    (b"\x80\x02", "is a Python pickle", _TEXT),
    (b"\x80\x05", "is a Python pickle", _TEXT),
    (b"SQLite format 3\x00", "is a SQLite file", _TEXT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Excel file", _TEXT),
    (b"%PDF-", "is a PDF file", _TEXT),
    (b" <?xml", "is XML or HTML, an error page perhaps", _TEXT),
    (b"<!DOCTYPE", "is XML or HTML, an error page perhaps", _TEXT),
    (b"<Error>", "is XML or HTML, an error page perhaps", _TEXT),
    (b"\xff\xfe\x00\x00", "is UTF-32", "write it as UTF-8"),
    (b"\x00\x00\xfe\xff", "is UTF-32", "write it as UTF-8"),
    (b"\xff\xfea\x00", "is UTF-16", "write it as UTF-8"),
    (b"\xfe\xff", "is UTF-16", "write it as UTF-8"),
    (b"a\x00b\x00", "is UTF-16", "write it as UTF-8"),
    (b"\x00a\x00b", "is UTF-16", "write it as UTF-8"),
]
TEXTS = (
    *(b"", b"a,b\n", b"x\xda\xa9,1", b"PAR1,2\n", b"ORC,1,2\n", b"BZh9\n", b"PK\n", b"\xef\xbb\xbfa", b"<a>"),
    *(b"\x80\x06", b"a\x00b", b"Obj,1", b"a" * 256 + b"ustar"),
)


@pytest.mark.parametrize(("head", "what", "remedy"), HEADS)
def test_other_formats_are_recognized(head: bytes, what: str, remedy: str) -> None:
    """By their first bytes, each with its remedy; supported compression is refused only within compression."""
    assert recognize(head) == (what, remedy)
    for name in ("a.csv", ""):
        if remedy:
            with pytest.raises(OtherFormat) as caught:
                refuse_other(head, name)
            assert str(caught.value) == f"it {what}; {remedy}"
        elif name:
            refuse_other(head, name)
        else:
            with pytest.raises(OtherFormat, match=rf"^it {what} twice; compress it once$"):
                refuse_other(head, name)


def test_text_is_accepted() -> None:
    """Also if it begins like another format."""
    for text in TEXTS:
        assert recognize(text) is None, text
        refuse_other(text, "a.csv")


CODECS = {
    ".bz2": "bzip2", ".xz": "xz", ".lz4": "lz4", ".lzo": "lzo", ".deflate": "deflate", ".br": "brotli",
}  # fmt: skip


def test_names_say_what_magic_bytes_do_not() -> None:
    """Hadoop's codecs; an empty object is empty, whatever its name."""
    for suffix, codec in CODECS.items():
        message = f"its name ends with {suffix}: it seems to be compressed with {codec}; {_COMPRESS}"
        with pytest.raises(OtherFormat) as caught:
            refuse_other(b"a", f"part-0.csv{suffix}")
        assert str(caught.value) == message
        refuse_other(b"", f"part-0.csv{suffix}")
        refuse_other(b"a", f"part{suffix}/0.csv")


# the type of DuckDB -> names of it in pandas, NumPy, Arrow, Spark, Polars and SQL
FOREIGN_NAMES = {
    "varchar": "object str string utf8 large_utf8 LargeString string_view category Categorical unicode dictionary char",
    "double": "float64 number real8",
    "float": "float16 float32 halffloat",
    "boolean": "bool BooleanType",
    "tinyint": "byte int8",
    "smallint": "int16 SmallInteger short",
    "integer": "int int32 IntegerType",
    "bigint": "long int64",
    "blob": "bytes binary large_binary fixed_size_binary binary_view varbinary",
    "date": "date32 date64",
    "time": "time32 time64",
    "timestamp": "datetime64 datetime TimestampNTZ int96",
    "timestamptz": "DatetimeTZ TimestampLTZ",
    "decimal(38, 9)": "decimal128 decimal256 decimal32 decimal64 BigDecimal bignumeric",
    "interval": "timedelta64 duration DayTimeInterval",
    "json": "jsonb",
}


@pytest.mark.parametrize("own", FOREIGN_NAMES)
def test_each_foreign_name_is_translated(own: str) -> None:
    """A suffix `type` of a class, underscores and case make no difference."""
    with duckdb.connect() as con:
        for foreign in FOREIGN_NAMES[own].split():
            assert suggest_type(con, f"{foreign}[]") == f"did you mean {own}[]? ({EXAMPLES})", foreign
            assert suggest_type(con, f"list<{foreign}>") == f"did you mean {own}[]? ({EXAMPLES})", foreign


# foreign name -> the type of DuckDB; empty if there is none
NESTED_NAMES = {
    "map<array<struct<a:int,b:int>>, long>": "map(struct(a integer, b integer)[], bigint)",
    "struct<a: decimal128(10, 2), b: map<string, long>>": "struct(a decimal(10, 2), b map(varchar, bigint))",
    "list<long>": "bigint[]",
    "array(long)": "bigint[]",
    "large_list<item: long>": "bigint[]",
    "LargeList(int8)": "tinyint[]",
    "fixed_size_list<item: long>[3]": "bigint[]",
    "list_view<item: long>": "bigint[]",
    "long[]": "bigint[]",
    "long[][]": "bigint[][]",
    "ROW<a long>": "struct(a bigint)",
    "record<a: long>": "struct(a bigint)",
    "struct<a: long, b_2 list<string>>": "struct(a bigint, b_2 varchar[])",
    "struct<X: map<long, long>, Y: long>": "struct(X map(bigint, bigint), Y bigint)",
    "struct<a: long, long>": "",
    "struct<a: @@>": "",
    "struct<a: @@, b: long>": "",
    "list<@@>": "",
    "@@[]": "",
    "map<long, @@>": "",
    "map<@@, long>": "",
    "map<long>": "",
    "list<>": "",
    "decimal128(10, 2)": "decimal(10, 2)",
    "Decimal256( 10 , 2 )": "decimal(10, 2)",
    "decimal256(40, 2)": "",
    "decimal128(10, 2, 1)": "decimal(38, 9)",
    "decimal128(10)": "decimal(38, 9)",
    "map<long, long, long>": "",
    "map<long>,long>": "",
    **{f"list<{name}>": f"{name.lower()}[]" for name in ["Integer", "DOUBLE", "Float", "Date", "TIMESTAMP", "Boolean"]},
    "timestamp[us, tz=Europe/Berlin]": "timestamptz",
    "timestamp[us, TZ=X]": "timestamptz",
    "datetime64[ns, Europe/Berlin]": "timestamptz",
    "Datetime('us', 'utc')": "timestamptz",
    "datetime64[ns]": "timestamp",
    "datetime64[ns, XUTC]": "timestamp",
    "datetime[us]": "timestamp",
    "pl.Int8": "tinyint",
    "pa.string_dtype": "varchar",
    " Float64 ": "double",
    "duble": "double",
    "intger": "integer",
    "@@": "",
}


@pytest.mark.parametrize("foreign", NESTED_NAMES)
def test_a_foreign_name_is_translated_at_each_level(foreign: str) -> None:
    """A comma within a parameter does not separate the parameters around it; what is not known has no translation."""
    own = NESTED_NAMES[foreign]
    with duckdb.connect() as con:
        assert suggest_type(con, foreign) == (
            f"did you mean {own}? ({EXAMPLES})" if own else f"write a DuckDB type ({EXAMPLES})"
        )
        assert not own or is_type(con, own)


def test_a_text_that_goes_on_after_a_type_is_no_type() -> None:
    """It would change the statement that it is written into."""
    with duckdb.connect() as con:
        assert [is_type(con, text) for text in ("integer", "integer), (1", "")] == [True, False, False]


def test_each_example_of_a_type_is_its_translation() -> None:
    """The same examples are in every remedy."""
    assert EXAMPLES == (
        "int64 -> bigint, float32 -> float, float64 -> double, string -> varchar, list<string> -> varchar[], "
        "datetime64[ns] -> timestamp"
    )
    with duckdb.connect() as con:
        for foreign, own in (pair.split(" -> ") for pair in EXAMPLES.split(", ")):
            assert suggest_type(con, f"list<{foreign}>").startswith(f"did you mean {own}[]? (")


_WHOLE = "expected a whole number; write e.g. 10"
# a value, the hint that it does not fit, and what is expected and to be written
HINTS: list[tuple[Any, Any, str]] = [
    (1.5, str, 'is 1.5, of type float; expected a text; write "1.5"'),
    (b"a", str, "is b'a', of type bytes; expected a text; write it in quotes"),
    (1, bool, "is 1, of type int; expected a boolean; write True or False"),
    (True, int, f"is True, of type bool; {_WHOLE}"),
    ("1", int, f"is '1', of type str; {_WHOLE}"),
    (True, float, "is True, of type bool; expected a number; write e.g. 0.01"),
    (7, timedelta, "is 7, of type int; expected a timedelta; write e.g. timedelta(days=7)"),
    ("x", datetime, "expected a datetime; write e.g. datetime(2026, 1, 31, tzinfo=UTC)"),
    (1, Mapping[str, str], "expected a mapping; write e.g. {'name': 'expression'}"),
    (1, Mapping[str, int], "expected a mapping; write e.g. {'name': int(...)}"),
    ("ab", Sequence[str], "expected a list; write e.g. ['name']"),
    (["a"], tuple[str, ...], "expected a tuple; write e.g. ('name',)"),
    ("f", Callable[[int], int], "expected a function; name the function, without calling it"),
    (1, None.__class__, "expected None; leave it out"),
    ("ye", Literal["yes", "no"], "is 'ye'; did you mean 'yes'?"),
    ("x", Literal["yes", "no"], "is 'x'; known are no, yes"),
    (1, Literal["yes", "no"], "is 1, of type int; expected one of 'yes', 'no'; write e.g. 'yes'"),
    (1, Literal["yes", "no"] | None, "is 1, of type int; expected one of 'yes', 'no' or None; write e.g. 'yes'"),
    (1, Mapping[str, str] | None, "expected a mapping or None; write e.g. {'name': 'expression'}"),
    (1.5, int | None, "is 1.5, of type float; expected a whole number or None; write e.g. 10"),
    (b"", int | str | None, "expected a whole number, a text or None; write e.g. 10"),
    (["a"], str | Mapping[str, str], 'expected a text or a mapping; write a list as one expression, e.g. "[a, b]"'),
    (["a"], Mapping[str, str], "expected a mapping; write e.g. {'name': 'expression'}"),
    (SeenOutput, SeenOutput | None, "expected SeenOutput or None; write SeenOutput(...)"),
    ("SeenOutput", SeenOutput, "expected SeenOutput; write SeenOutput(...)"),
    (1, SeenOutput | None, "expected SeenOutput or None; write SeenOutput(...)"),
    ("LastModified", LastModified, "expected LastModified; write LastModified()"),
    ("a\ud800", str, "has a lone surrogate; write the whole character"),
    ("\udfff", str, "has a lone surrogate; write the whole character"),
]
FITTING: list[tuple[Any, Any]] = [
    (1, float), (1.5, float), (False, bool), ("a", str | None), (None, str | None), ("yes", Literal["yes", "no"]),
    (True, Literal["x", True]), (("a", "b"), Sequence[str]), (["a"], Sequence[str]), ({"a": 1}, Mapping[str, int]),
    (print, Callable[[int], int]), (object(), Any), ("\ud7ff\ue000", str), (LastModified(), LastModified),
]  # fmt: skip


@pytest.mark.parametrize(("value", "hint", "message"), HINTS)
def test_a_value_that_does_not_fit_its_hint(value: Any, hint: Any, message: str) -> None:
    """Its place, what it is, what is expected, and what to write."""
    (found,) = find_type_mistakes("d", value, hint)
    assert found.place == "d"
    assert message in f"{found.message}; {found.remedy}"


def test_places_of_values_within_a_value() -> None:
    """Of a mapping's name, an item of a list, and a member of a class; values that fit have none."""
    for value, hint in FITTING:
        assert list(find_type_mistakes("d", value, hint)) == [], (value, hint)
    nested: Any = {"a": [1, "b"], 2: ["c"], "e.f": [FromKey(b"x")]}  # type: ignore[arg-type]
    found = find_type_mistakes("d", nested, Mapping[str, Sequence[int | str | FromKey]])
    assert [one.place for one in found] == ["d 2", 'd "e.f"[0].pattern']


_WRITE = "write e.g. scored={} or year={year}/month={month}/day={day}"
_GAP = "needs one {}, or {year} and the parts after it without a gap; " + _WRITE
_KNOWN = "known are {}, {year}, {month}, {day}, {hour}, {minute}, {second}; " + _WRITE
# a pattern of object keys, and what is wrong with it
PATTERNS = {
    "{}": "", "{}/{hour}": "", "{}/{hour}{minute}{second}": "", "*{}*": "", "{year}": "", "{year}{month}": "",
    "{day}.{month}.{year}": "", "/{}": "",
    "a": _GAP, "*": _GAP, "{month}": _GAP, "{year}/{day}": _GAP, "{}{day}": _GAP, "{}{month}": _GAP, "{year}{}": _GAP,
    "{}/{minute}": _GAP, "{}/{second}": _GAP, "{hour}": _GAP, "{year}{month}{day}{hour}{second}": _GAP,
    "{}{}": f"has a placeholder twice; {_WRITE}", "{year}/{year}": f"has a placeholder twice; {_WRITE}",
    "{date}": f"has {{date}}; {_KNOWN}", "{date}{time}": f"has {{date}}; {_KNOWN}",
    "{}{Year}": f"has {{Year}}; {_KNOWN}", "{}{": f"has a brace; {_KNOWN}",
    "{}}": f"has a brace; {_KNOWN}", "{a/b}": f"has a brace; {_KNOWN}",
    "a//{}": f"has a bucket or an empty segment, which no object key has; {_WRITE}",
}  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_of_object_keys_has_each_part_of_an_instant_once(pattern: str) -> None:
    """From the year on, without a gap."""
    found = [f"{message}; {remedy}" for message, remedy in find_mistakes(FromKey(pattern))]
    assert found == ([f"{pattern!r} {PATTERNS[pattern]}"] if PATTERNS[pattern] else [])


def test_a_rule_for_as_of_has_bounds() -> None:
    """A zone of the IANA database, and a century at most; by default neither another zone nor a later time."""
    day = timedelta(days=1)
    for rule in (FromKey("{}"), FromColumn("a")):
        assert (rule.zone, get_ahead(rule)) == ("UTC", timedelta(0))
        for ahead, is_good in ((0, True), (1, True), (36_500, True), (36_501, False), (-1, False)):
            found = list(find_mistakes(replace(rule, ahead=ahead * day)))
            remedy = "set how much later as_of can be than the arrival, e.g. timedelta(days=1)"
            assert found == ([] if is_good else [(f"ahead is {ahead * day}", remedy)])
            assert get_ahead(replace(rule, ahead=ahead * day)) == ahead * day
        for zone, remedy in {
            "Europe/Berlin": "", "UTC": "", "EUROPE/berlin": "did you mean 'Europe/Berlin'?",
            " europe/berlin ": "did you mean 'Europe/Berlin'?",
            "Europe/Berln": "did you mean 'Europe/Berlin'?",
            "Mars/Olympus": "write its name in the IANA database, e.g. Europe/Berlin",
            "": "write its name in the IANA database, e.g. Europe/Berlin",
            "/etc/localtime": "write its name in the IANA database, e.g. Europe/Berlin",
        }.items():  # fmt: skip
            found = list(find_mistakes(replace(rule, zone=zone)))
            assert found == ([(f"{zone!r} is not a time zone", remedy)] if remedy else []), zone
    assert get_ahead(LastModified()) == timedelta(0)


OBJECT_KEYS: list[tuple[str, str, str]] = [
    ("{year}{month}{day}", "20261120", "2026-11-20 00:00:00"),
    ("{year}-{month}-{day}", "2026-1-2", "2026-01-02 00:00:00"),
    ("{year}-{month}{day}", "2026-0102", "2026-01-02 00:00:00"),
    ("{year}-{month}{day}", "2026-102", ""),
    ("{year}{month}-{day}", "202601-2", "2026-01-02 00:00:00"),
    ("{year}{month}-{day}", "20261-2", ""),
    ("{year}{month}{day}-{hour}", "20261120-6", "2026-11-20 06:00:00"),
    ("{year}-{month}-{day}{hour}", "2026-1-0206", "2026-01-02 06:00:00"),
    ("{year}-{month}-{day}{hour}", "2026-1-206", ""),
    ("{year}-{month}-{day}-{hour}{minute}", "2026-1-2-0607", "2026-01-02 06:07:00"),
    ("{year}-{month}-{day}-{hour}{minute}", "2026-1-2-607", ""),
    ("{day}{month}{year}", "02012026", "2026-01-02 00:00:00"),
    ("{day}{month}{year}", "212026", ""),
    ("a{year}b", "a26b", ""),
    ("y={year}", "y=2026", "2026-01-01 00:00:00"),
    ("{day}.{month}.{year}", "2.1.2026", "2026-01-02 00:00:00"),
    ("{year}/{month}", "2026/3", "2026-03-01 00:00:00"),
    ("{}", "2026-W47-5", "2026-11-20 00:00:00"),
    ("{}", "a/2026W475/b", "2026-11-20 00:00:00"),
    ("{}.csv", "a/2026-11-20T01.csv.gz", "2026-11-20 01:00:00"),
    ("*{}", "a/model-1.2-2026-11-20", "2026-11-20 00:00:00"),
    ("d={}", "x/dd=2026-11-20", ""),
    ("d={}", "x/d=2026-11-20T06:30:15+01:00/y", "2026-11-20 05:30:15"),
    ("d={}/h={hour}", "d=2026-11-20/h=23", "2026-11-20 23:00:00"),
    ("d={}/h={hour}/m={minute}/s={second}", "d=20261120/h=1/m=2/s=3", "2026-11-20 01:02:03"),
]


@pytest.mark.parametrize(("pattern", "object_key", "instant"), OBJECT_KEYS)
def test_parts_of_an_instant_have_their_widths(pattern: str, object_key: str, instant: str) -> None:
    """Beside another part a part has all of its digits."""
    if instant:
        assert parse_as_of(FromKey(pattern), object_key) == datetime.fromisoformat(f"{instant}+00:00")
    else:
        with pytest.raises(BadAsOf, match=r"^object key .* does not match the pattern"):
            parse_as_of(FromKey(pattern), object_key)


@pytest.mark.parametrize("own", TYPE_NAMES)
def test_a_foreign_name_of_a_type_has_one_meaning(own: str) -> None:
    """Also if DuckDB has the name for another type: `int8` has eight bytes there, and one in Arrow."""
    with duckdb.connect() as con:
        for name in TYPE_NAMES[own].split():
            assert f"did you mean {own}[]?" in suggest_type(con, f"list<{name}>"), name


LEVELS = {
    "integer": 0, "decimal(10, 2)": 0, "varchar[]": 1, "map(varchar, integer)": 1, "struct(a integer)": 1,
    "integer[][]": 2, "integer[3]": 1, "struct(a integer, b struct(c integer[]))": 3, "map(varchar, integer[][])": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", LEVELS)
def test_levels_of_a_type_are_counted(name: str) -> None:
    """Along its deepest branch."""
    assert count_levels(duckdb.sqltype(name)) == LEVELS[name]


def test_a_type_has_at_most_eight_levels() -> None:
    """A deeper one has no JSON."""
    render_json_sql("x", duckdb.sqltype("integer" + "[]" * MAX_LEVELS))
    remedy = "write it as JSON text, or name fewer of its members"
    with pytest.raises(Unrenderable, match=rf"^it nests more than {MAX_LEVELS} lists, maps and structs; {remedy}$"):
        render_json_sql("x", duckdb.sqltype("integer" + "[]" * (MAX_LEVELS + 1)))


# types of a column, and declared types that it can't be converted to
NOT_CONVERTED = {
    "integer": ["struct(a integer)", "varchar", "date", "integer[]", "integer[2]", "map(varchar, integer)"],
    "integer[]": ["struct(a integer)", "integer", "map(varchar, integer)", "date[]", "date[2]", "integer[][]"],
    "struct(a integer)": ["struct(b integer)", "struct(a integer, b integer)", "struct(a date)", "integer[]"],
    "struct(a integer, b integer)[]": ["map(integer, integer)", "struct(a integer)"],
    "struct(key integer)[]": ["map(integer, integer)"],
    "struct(key integer, value integer, other integer)[]": ["map(integer, integer)"],
    "map(varchar, date)": ["map(varchar, integer)", "struct(key varchar)"],
    "map(date, integer)": ["map(integer, integer)"],
    "varchar": ["integer", "struct(a integer)", "date", "blob"],
    "date": ["timestamp", "varchar", "integer"],
}


@pytest.mark.parametrize("actual", NOT_CONVERTED)
def test_types_that_are_not_converted(actual: str) -> None:
    """Also within other types: one member that can't be converted is enough."""
    for declared in NOT_CONVERTED[actual]:
        for around in ("{}", "{}[]", "struct(x {})", "map(integer, {})"):
            kinds = [duckdb.sqltype(around.format(kind)) for kind in (actual, declared)]
            assert coerce_typed("v", *kinds) is None, (around, declared)


CONVERTED = [
    ("[{'key': 'a', 'value': [1, null]}]", "map(varchar, bigint[])", "{a=[1, NULL]}"),
    ("[{'key': 'a', 'value': [1.5::double]}]", "map(varchar, bigint[])", ""),
    ("[{'key': 1, 'value': [{'key': 2, 'value': [3]}]}]", "map(bigint, map(bigint, bigint[]))", "{1={2=[3]}}"),
    ("[{'key': 1, 'value': [{'key': 2, 'value': [1.5::double]}]}]", "map(bigint, map(bigint, bigint[]))", ""),
    ("[{'a': [[1]], 'b': 2}]", "struct(b bigint, a bigint[][])[]", "[{'b': 2, 'a': [[1]]}]"),
    ("[{'a': [[1.5::double]], 'b': 2}]", "struct(b bigint, a bigint[][])[]", ""),
]


@pytest.mark.parametrize(("value", "declared", "expected"), CONVERTED)
def test_nested_values_are_converted_at_each_level(value: str, declared: str, expected: str) -> None:
    """A value with a member that does not fit is bad as a whole."""
    with duckdb.connect() as con:
        (actual,) = con.sql(f"select {value}").types
        found = coerce_typed("v", actual, duckdb.sqltype(declared))
        assert found is not None
        select = f"select cast({found.sql} as varchar), {found.bad or 'false'} from (select {value} as v)"
        ((text, is_bad),) = con.sql(select).fetchall()
        assert is_bad if not expected else (text, is_bad) == (expected, False)


def test_checks_of_rows_begin_with_lines_that_cannot_be_read() -> None:
    """Code 0 is theirs; relations without a check have none."""
    reasons = Reasons()
    assert reasons.all == [("bad-value", "the line can't be read")]
    assert (reasons.add("a", "b"), reasons.add("c", "d"), reasons.all[1:]) == (1, 2, [("a", "b"), ("c", "d")])
    checks = RowChecks("p", reasons)
    assert (checks.slots, checks.checks, checks.metadata, checks.code) == ([], [], set(), "null")
    assert checks.select("r") == "(select * from r)"
    with duckdb.connect() as con:
        plain, other = (parse_expression(Names(con, **_NAMES), "body.x", sql) for sql in ("a", "upper(a) || m.x"))
    assert (checks.value(plain), checks.checks) == ("(a)", [])
    assert checks.value(other) == checks.value(other) == '"larder.p.0".v', "an expression is computed once"
    assert checks.slots == ['try(struct_pack(v := (upper(a) || m.x\n))) as "larder.p.0"']
    assert (checks.checks, checks.metadata) == ([('"larder.p.0" is null', 3)], {"m"})
    assert reasons.all[3:] == [("bad-value", "body.x: the expression 'upper(a) || m.x' fails for this row")]
    assert checks.code == 'case when "larder.p.0" is null then 3 end'
    assert render_case([("a", 1), ("b", 2)]) == "case when a then 1 when b then 2 end"
    assert JsonPolicy() == JsonPolicy(nulls="keep", large_integers="number")


def test_a_chunk_without_rejects_leaves_no_object() -> None:
    """A run that fails goes over all its chunks for their rejects; only those that have some leave an object."""
    s3 = Mock()
    rendered = pa.table({"row": [0], "reason": pa.nulls(1, pa.string()), "detail": pa.nulls(1, pa.string())})
    assert write_rejects(s3, "bucket", "prefix/", Mock(), pa.record_batch({"a": [1]}), rendered, 0) == {}
    assert s3.method_calls == []


def test_rejects_of_a_later_chunk_have_the_rows_of_the_file() -> None:
    """The engine takes their places in the chunk; the object is named by the rows of the whole chunk."""
    s3, chunk = Mock(), pa.record_batch({"a": [0, 1, 2, 3]})
    originals = lambda of, places: [f'{{"a":{place}}}' for place in places if of is chunk]  # noqa: E731
    engine = Mock(originals=originals, partitions=lambda _: {}, problems=lambda _, places: [None] * len(places))
    rendered = pa.table({"row": [2, 3, 4, 5], "reason": [None, "r", None, "s"], "detail": [None, "t", None, None]})
    assert write_rejects(s3, "bucket", "prefix/", engine, chunk, rendered, 2) == {"r": 1, "s": 1}
    (put,) = s3.method_calls
    lines = (
        b'{"row":3,"reason":"r","detail":"t","prediction":{"a":1}}\n'
        b'{"row":5,"reason":"s","detail":null,"prediction":{"a":3}}\n'
    )
    assert put == call.put_object(Bucket="bucket", Key="prefix/000000000002-000000000005.jsonl", Body=lines)
