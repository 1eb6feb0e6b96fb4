"""Every type of a Parquet file, alone and nested: either the correct JSON, a rejected row, or a failed output."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.dataset.json_sql import MAX_LEVELS
from enrich.join.engine import Engine
from enrich.read import row_groups
from enrich.read.chunks import BadOutput
from tests.unit.enrich.test_read import dataset_of, parquet, read, render

AT = datetime(2026, 1, 2, 3, 4, 5, 678901)
NANOS = 1_735_689_600_123_456_789
NOON = time(12, 30, 15, 250000)
UUID = b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff"
UUID_TEXT = '"00112233-4455-6677-8899-aabbccddeeff"'
INSTANT = '"2026-01-02T03:04:05.678901Z"'


def extension(kind: Any, value: Any) -> pa.Array:
    """Build an array of an extension type."""
    return pa.ExtensionArray.from_storage(kind, pa.array([value], kind.storage_type))


# one value as Arrow, the declared type, its JSON
VALUES: list[tuple[pa.Array, str, str]] = [
    (pa.array([True]), "boolean", "true"),
    *((pa.array([-7], kind), "bigint", "-7") for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((pa.array([7], kind), "ubigint", "7") for kind in (pa.uint8(), pa.uint16(), pa.uint32())),
    (pa.array([2**64 - 1], pa.uint64()), "ubigint", "18446744073709551615"),
    (pa.array([np.float16(1.5)], pa.float16()), "double", "1.5"),
    (pa.array([np.float16(0.1)], pa.float16()), "float", "0.099975586"),
    (pa.array([0.1], pa.float32()), "float", "0.1"),
    (pa.array([0.1], pa.float32()), "double", "0.10000000149011612"),
    (pa.array([0.1]), "double", "0.1"),
    (pa.array([Decimal("1.50")], pa.decimal32(5, 2)), "decimal(5,2)", "1.5"),
    (pa.array([Decimal("1.50")], pa.decimal64(12, 2)), "decimal(12,2)", "1.5"),
    (pa.array([Decimal(10**37)], pa.decimal128(38, 0)), "decimal(38,0)", "1" + "0" * 37),
    (pa.array([Decimal("1.50")], pa.decimal256(20, 2)), "decimal(20,2)", "1.5"),
    (pa.array([Decimal("2.00")], pa.decimal256(20, 2)), "integer", "2"),
    *((pa.array(["é"], kind), "varchar", '"é"') for kind in (pa.string(), pa.large_string(), pa.string_view())),
    *((pa.array([b"\xff"], kind), "blob", '"/w=="') for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    (pa.array([b"\xff\x00"], pa.binary(2)), "blob", '"/wA="'),
    (pa.array([date(2026, 1, 2)], pa.date32()), "date", '"2026-01-02"'),
    (pa.array([date(2026, 1, 2)], pa.date64()), "date", '"2026-01-02"'),
    *((pa.array([AT], pa.timestamp("us")), kind, INSTANT) for kind in ("timestamp", "timestamptz", "timestamp_ns")),
    (pa.array([AT], pa.timestamp("us")), "timestamptz_ns", INSTANT),
    *(
        (pa.array([AT.replace(tzinfo=UTC)], pa.timestamp(unit, zone)), kind, INSTANT)
        for unit in ("us", "ns")
        for zone in ("UTC", "Europe/Berlin", "+02:00")
        for kind in ("timestamp", "timestamptz", "timestamp_ns", "timestamptz_ns")
    ),
    *((pa.array([AT], pa.timestamp("ns")), kind, INSTANT) for kind in ("timestamp", "timestamptz", "timestamptz_ns")),
    (
        pa.array([1_735_689_600_123_456_789], pa.timestamp("ns", "UTC")),
        "timestamptz_ns",
        '"2025-01-01T00:00:00.123456789Z"',
    ),
    (
        pa.array([1_735_689_600_123_456_789], pa.timestamp("ns", "UTC")),
        "timestamp_ns",
        '"2025-01-01T00:00:00.123456789Z"',
    ),
    (pa.array([NANOS], pa.timestamp("ns", "UTC")), "timestamptz_ns", '"2025-01-01T00:00:00.123456789Z"'),
    (pa.array([NANOS], pa.timestamp("ns", "UTC")), "timestamp_ns", '"2025-01-01T00:00:00.123456789Z"'),
    (pa.array([NANOS], pa.timestamp("ns", "UTC")), "timestamptz", '"2025-01-01T00:00:00.123457Z"'),
    (pa.array([NANOS], pa.timestamp("ns")), "timestamp_ns", '"2025-01-01T00:00:00.123456789Z"'),
    *(
        (pa.array([AT.replace(microsecond=0)], pa.timestamp(unit, zone)), "timestamp_s", '"2026-01-02T03:04:05Z"')
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC")
    ),
    *((pa.array([NOON], pa.time64(unit)), "time", '"12:30:15.25"') for unit in ("us", "ns")),
    *((pa.array([NOON], pa.time64(unit)), "time_ns", '"12:30:15.25"') for unit in ("us", "ns")),
    (pa.array([NOON], pa.time32("ms")), "time", '"12:30:15.25"'),
    (pa.array(["a"]).dictionary_encode(), "varchar", '"a"'),
    (pa.array(["a"]).dictionary_encode(), "enum('a','b')", '"a"'),
    (extension(pa.uuid(), UUID), "uuid", UUID_TEXT),
    (extension(pa.json_(), '{"a": 1}'), "json", '{"a":1}'),
    (extension(pa.bool8(), 1), "boolean", "true"),
    (extension(pa.opaque(pa.float16(), "x", "y"), np.float16(2)), "float", "2.0"),
    (pa.array([None], pa.null()), "varchar", "null"),
]


def in_list(values: pa.Array, n: int = 0) -> pa.Array:
    """Put each value into a list, of one of Arrow's kinds."""
    count = len(values)
    if n % 4 == 0:
        return pa.ListArray.from_arrays(pa.array(range(count + 1), pa.int32()), values)
    if n % 4 == 1:
        return pa.LargeListArray.from_arrays(pa.array(range(count + 1), pa.int64()), values)
    if n % 4 == 2:
        return pa.ListViewArray.from_arrays(
            pa.array(range(count), pa.int32()), pa.array([1] * count, pa.int32()), values
        )
    return pa.FixedSizeListArray.from_arrays(values, 1)


def in_struct(values: pa.Array) -> pa.Array:
    """Put each value into a struct."""
    return pa.StructArray.from_arrays([values], ["m"])


def in_map(values: pa.Array) -> pa.Array:
    """Put each value into a map."""
    offsets = pa.array(range(len(values) + 1), pa.int32())
    return pa.MapArray.from_arrays(offsets, pa.array(["k"] * len(values)), values)


# name -> how to nest the n-th array, its declared type, its JSON
Nest = tuple[Callable[[pa.Array, int], pa.Array], Callable[[str], str], Callable[[str], str]]
NESTS: dict[str, Nest] = {
    "alone": (lambda values, _: values, lambda kind: kind, lambda text: text),
    "list": (in_list, lambda kind: f"{kind}[]", lambda text: f"[{text}]"),
    "array": (lambda values, _: in_list(values, 3), lambda kind: f"{kind}[1]", lambda text: f"[{text}]"),
    "struct": (lambda values, _: in_struct(values), lambda kind: f"struct(m {kind})", lambda text: f'{{"m":{text}}}'),
    "deep": (
        lambda values, n: in_list(in_struct(in_map(in_list(values, n)))),
        lambda kind: f"struct(m map(varchar, {kind}[]))[]",
        lambda text: f'[{{"m":{{"k":[{text}]}}}}]',
    ),
}
SLOW = {"array", "deep"}


def rendered(directory: Path, columns: dict[str, tuple[pa.Array, str]]) -> list[dict[str, Any]]:
    """Write columns as Parquet, read and render them; also replay what the rejects would save of each row."""
    dataset = dataset_of("parquet", {name: kind for name, (_, kind) in columns.items()})
    content = parquet(pa.table({name: values for name, (values, _) in columns.items()}))
    rows, lines = [], []
    with Engine(dataset, {}, directory=directory) as engine:
        for first, chunk in read(dataset, ("a.parquet", content)):
            rows += engine.render(chunk, first).to_pylist()
            lines += engine.originals(chunk, list(range(chunk.num_rows)))
    kept = "\n".join(f'{{"prediction":{line}}}' for line in lines).encode()
    replay = replace(dataset.source, format="rejects", rejects_of="parquet")
    again = render(directory, replace(dataset, source=replay), ("r.jsonl", kept))
    for row, repeated in zip(rows, again, strict=True):
        row["again"] = repeated["body"]
    return rows


def split(body: str) -> dict[str, str]:
    """Split a body of members c0, c1, ... into their texts."""
    found = re.findall(r'[{,]"(c\d+)":(.*?)(?=,"c\d+":|}$)', body)
    return dict(found)


@pytest.mark.parametrize("nest", NESTS)
def test_every_type_has_its_json_and_survives_a_replay(tmp_path: Path, nest: str) -> None:
    """Alone, in a list, a struct and a map: the value that the file has, also after a replay of the rejects."""
    build, declare, describe = NESTS[nest]
    chosen = list(enumerate(VALUES))[:: 4 if nest in SLOW else 1]
    columns = {f"c{n}": (build(values, n), declare(kind)) for n, (values, kind, _) in chosen}
    (row,) = rendered(tmp_path, columns)
    assert row["detail"] is None
    expected = {f"c{n}": describe(text) for n, (_, _, text) in chosen}
    assert split(row["body"]) == expected
    assert split(row["again"]) == expected


@pytest.mark.parametrize("nest", NESTS)
def test_rows_that_are_measured_before_they_are_decoded_are_the_same(
    monkeypatch: pytest.MonkeyPatch, nest: str
) -> None:
    """A row group that can be wide is read differently, with texts as dictionaries; its values are the same."""
    build, declare, _ = NESTS[nest]
    columns = {f"c{n}": (build(values, n), declare(kind)) for n, (values, kind, _) in enumerate(VALUES)}
    dataset = dataset_of("parquet", {name: kind for name, (_, kind) in columns.items()})
    content = parquet(pa.table({name: values for name, (values, _) in columns.items()}))
    ((_, usual),) = read(dataset, ("a", content))
    monkeypatch.setattr(row_groups, "MAX_UNMEASURED", -1)
    ((_, measured),) = read(dataset, ("a", content))
    assert measured.schema == usual.schema
    assert measured.equals(usual)


def hostile(kind: pa.DataType, random: Random, rows: int) -> pa.Array:
    """Build an array of invalid bytes."""
    if pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind):
        bits = kind.byte_width * 8
    elif kind in {pa.string(), pa.binary()}:
        pieces = [random.randbytes(random.randrange(4)) for _ in range(rows)]
        return pa.array(pieces, pa.binary()).view(kind)
    else:
        bits = kind.bit_width
    return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(random.randbytes(rows * max(bits, 8) // 8))])


HOSTILE = [
    (pa.string(), "varchar"),
    (pa.string(), "json"),
    (pa.string(), "uuid"),
    (pa.binary(), "blob"),
    (pa.float16(), "float"),
    (pa.float32(), "double"),
    (pa.float64(), "integer"),
    (pa.int64(), "tinyint"),
    (pa.uint64(), "bigint"),
    (pa.decimal128(9, 2), "decimal(9,2)"),
    (pa.decimal128(38, 10), "integer"),
    (pa.date32(), "date"),
    (pa.time32("ms"), "time"),
    (pa.time64("us"), "time"),
    (pa.time64("ns"), "time_ns"),
    *(
        (pa.timestamp(unit, zone), kind)
        for unit in ("ms", "us", "ns")
        for zone in (None, "UTC")
        for kind in ("timestamp", "timestamptz", "timestamp_ms", "timestamptz_ns")
    ),
]


@pytest.mark.parametrize("nest", NESTS)
def test_any_bytes_give_json_or_a_reject(tmp_path: Path, nest: str) -> None:
    """No body is invalid JSON, no row is lost, nothing fails; a reject names the column and can be replayed."""
    build, declare, _ = NESTS[nest]
    random, each = Random(1), 3 if nest in SLOW else 15
    columns = {}
    for n, (kind, declared) in enumerate(HOSTILE):
        values = build(hostile(kind, random, each), n)
        around = [pa.nulls(n * each, values.type), values, pa.nulls((len(HOSTILE) - 1 - n) * each, values.type)]
        columns[f"c{n}"] = pa.concat_arrays(around), declare(declared)
    rows = rendered(tmp_path, columns)
    assert [row["row"] for row in rows] == list(range(len(HOSTILE) * each))
    for row in rows:
        assert (row["body"] is None) == (row["reason"] is not None)
        column = f"c{row['row'] // each}"
        if row["body"] is None:
            assert re.search(rf"'{column}'|body\.{column}\b", row["detail"]), row
        else:
            json.loads(row["body"], parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
            assert row["again"] == row["body"]


def one_column(directory: Path, values: pa.Array, kind: str, **options: Any) -> list[dict[str, Any]]:
    """Render a file of one column."""
    return render(directory, dataset_of("parquet", {"v": kind}), ("a", parquet(pa.table({"v": values}), **options)))


# values as Arrow, the declared type, the JSON of each row; None: the row is rejected
DO_NOT_FIT = [
    (pa.array([[[3_000_000_000, 1]], [[1, None]], None]), "integer[][]", [None, "[[1,null]]", "null"]),
    (pa.array([[1.5], [2.0, None]]), "integer[]", [None, "[2,null]"]),
    (pa.array([[Decimal("1.5")], [Decimal("2.0")]]), "integer[]", [None, "[2]"]),
    (pa.array([Decimal("1.5"), Decimal("2.0"), None]), "integer", [None, "2", "null"]),
    (pa.array([2**24 + 1, 2**24, None]), "float", [None, "16777216.0", "null"]),
    (pa.array([2**53 + 1, -(2**63), 2**63 - 1]), "double", [None, "-9.223372036854776e+18", None]),
    (pa.array([[2**64 - 1], [2**63]], pa.list_(pa.uint64())), "double[]", [None, "[9.223372036854776e+18]"]),
    (pa.array([Decimal("123.4"), Decimal("12.3")]), "decimal(3,1)", [None, "12.3"]),
    (pa.array([[1, 2], [1, 2, 3], None], pa.list_(pa.int32())), "integer[3]", [None, "[1,2,3]", "null"]),
    (pa.array([{"a": 300, "b": "x"}, {"a": 1, "b": None}, None]), "struct(a tinyint)", [None, '{"a":1}', "null"]),
    (pa.array([{"a": {"b": [300]}}, {"a": {"b": [1]}}]), "struct(a struct(b tinyint[]))", [None, '{"a":{"b":[1]}}']),
    (pa.array([["z"], ["a"]]), "enum('a')[]", [None, '["a"]']),
    (pa.array([["{"], ["{}"]]), "json[]", [None, "[{}]"]),
    (
        pa.array([[("a", 300)], [("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.int64())),
        "map(varchar, tinyint)",
        [None, '{"a":1,"b":null}', "null"],
    ),
    (
        pa.array([[("a", 1), ("a", 2)], [("a", 1)]], pa.map_(pa.string(), pa.int64())),
        "map(varchar, bigint)",
        [None, '{"a":1}'],
    ),
    (
        pa.array([[(300, "x")], [(1, "x")], [(1.5, "x")]], pa.map_(pa.float64(), pa.string())),
        "map(tinyint, varchar)",
        [None, '{"1":"x"}', None],
    ),
    (
        pa.array([[AT, None], [datetime(2500, 1, 1)]], pa.list_(pa.timestamp("us"))),
        "timestamp_ns[]",
        [f"[{INSTANT},null]", None],
    ),
    (pa.array([b"ok", b"\xff\xfe", None]).view(pa.string()), "varchar", ['"ok"', None, "null"]),
    (
        pa.array([b"ok", b"\xff", None, b"ok"]).view(pa.string()).dictionary_encode(),
        "varchar",
        ['"ok"', None, "null", '"ok"'],
    ),
    (in_list(pa.array([b"ok", b"\xff"]).view(pa.string())), "varchar[]", ['["ok"]', None]),
    (in_map(pa.array([b"ok", b"\xed\xa0\x80"]).view(pa.string())), "map(varchar, varchar)", ['{"k":"ok"}', None]),
    (pa.array([10**9], pa.decimal128(10, 0)).view(pa.decimal128(5, 0)), "decimal(5,0)", [None]),
    (pa.array([2**62, 0], pa.timestamp("ms", "UTC")), "timestamptz", [None, '"1970-01-01T00:00:00Z"']),
]


@pytest.mark.parametrize(("values", "kind", "texts"), DO_NOT_FIT, ids=[f"{c[0].type}-{c[1]}" for c in DO_NOT_FIT])
def test_a_value_that_does_not_fit_rejects_its_row(
    tmp_path: Path, values: pa.Array, kind: str, texts: list[str | None]
) -> None:
    """Nested or not: no member becomes null, or is cut or omitted; the rows around it become items."""
    rows = one_column(tmp_path, values, kind)
    assert [row["body"] for row in rows] == [text and f'{{"v":{text}}}' for text in texts]
    assert {row["reason"] for row in rows if row["body"] is None} == {"bad-value"}
    assert all("'v'" in row["detail"] for row in rows if row["body"] is None)


# Bytes that are not UTF-8: an unknown byte, texts that end too early or include a quote, a backslash or a control
# character, a surrogate, an overlong form, a code point beyond Unicode.
BROKEN = [
    *(
        b"\xff",
        b"longer than what is inlined \xff",
        b"\xe2",
        b'\xe2"',
        b'a\xe2"b',
        b"\xc3\\",
        b"\xc2\x1f",
        b'\xf0\x90\x80"',
    ),
    *(b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"),
]
SOUND = ["", 'quoted "\\', "\x00\x1f\x7f", "\u2028\ufeff\uffff", "é😀"]
KEYS = (
    lambda values, _: pa.MapArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), values, values.is_null()),
    lambda _: "map(varchar, boolean)",
    lambda text: f"{{{text}:false}}",
)
ENTRIES = (
    lambda values, n: in_list(pa.StructArray.from_arrays([values, values.is_null()], ["key", "value"])),
    *KEYS[1:],
)


@pytest.mark.parametrize("expression", ['"v"', 'case when true then "v" end'], ids=["column", "expression"])
@pytest.mark.parametrize("nest", [*NESTS.values(), KEYS, ENTRIES], ids=[*NESTS, "keys", "entries"])
def test_broken_text_that_reaches_the_engine_rejects_its_row(tmp_path: Path, nest: Nest, expression: str) -> None:
    """Wherever it comes from: the body is not parsed after it is rendered, so each text in it is checked."""
    build, declare, describe = nest
    texts = [word for pair in zip(BROKEN, [text.encode() for text in SOUND * 3], strict=False) for word in pair]
    values = build(pa.array(texts, pa.binary()).view(pa.string()), 0)
    dataset = replace(dataset_of("parquet", {"v": declare("varchar")}), body={"v": expression})
    with Engine(dataset, {}, directory=tmp_path) as engine:
        rows = engine.render(pa.RecordBatch.from_arrays([values], ["v"]), 0).to_pylist()
    assert [row["reason"] for row in rows[::2]] == ["bad-value"] * len(BROKEN)
    assert [row["body"] for row in rows[::2]] == [None] * len(BROKEN)
    for row, text in zip(rows[1::2], SOUND * 3, strict=False):
        assert json.loads(row["body"]) == json.loads(f'{{"v":{describe(json.dumps(text))}}}')


REFUSED: list[tuple[pa.Array, str]] = [
    (pa.array([2**53 + 1, 5]), "double"),
    (pa.array([-(2**53) - 1, 5]), "double"),
    (pa.array([2**24 + 1, 5]), "float"),
    (pa.array([2**64 - 1, 5], pa.uint64()), "double"),
    (pa.array([[5, 2**53 + 1], [5]]), "double[]"),
    (pa.array([2.0**63, 5.0]), "bigint"),
    (pa.array([1.5, 5.0]), "bigint"),
    (pa.array([Decimal("1.5"), Decimal(5)]), "integer"),
    (pa.array([1e300, 0.1]), "float"),
    (pa.array([1e30, 0.125]), "decimal(10, 2)"),
    (pa.array(["x", "a"]), "enum('a')"),
    (pa.array([[("a", 1), ("a", 2)], [("a", 1)]], pa.map_(pa.string(), pa.int64())), "map(varchar, integer)"),
    (pa.array([[1], [1, 2]]), "integer[2]"),
]


@pytest.mark.parametrize(("values", "kind"), REFUSED, ids=[f"{values.type} as {kind}" for values, kind in REFUSED])
def test_a_replay_rejects_what_its_run_could_not_convert(tmp_path: Path, values: pa.Array, kind: str) -> None:
    """While the contract is the same: a value in a reject is not rounded."""
    bad, good = rendered(tmp_path, {"v": (values, kind)})
    assert (bad["body"], bad["again"]) == (None, None)
    assert good["body"] == good["again"] is not None


def test_invalid_json_is_in_no_body(tmp_path: Path) -> None:
    """A value of the type JSON is parsed when it is rendered."""
    texts = ["{", "[1 2]", '"\\ud800"', "", " ", "01", "'a'", '{"a": 1} {}', '{"a": [1]}']
    values = pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))
    chunk = pa.RecordBatch.from_arrays([values], ["v"])
    with Engine(dataset_of("parquet", {"v": "json"}), {}, directory=tmp_path) as engine:
        rows = engine.render(chunk, 0).to_pylist()
    assert [row["body"] for row in rows] == [None] * (len(texts) - 1) + ['{"v":{"a":[1]}}']


def test_a_duration_that_nothing_can_hold_rejects_its_row(tmp_path: Path) -> None:
    """Neither DuckDB nor Python can represent such a value: the reject has the number from the file."""
    dataset = replace(dataset_of("parquet", {"v": "interval"}), body={"v": "epoch(v)"}, prediction_id="'x'")
    table = pa.table({"v": pa.array([2**62, 5], pa.duration("s"))})
    with Engine(dataset, {}, directory=tmp_path) as engine:
        ((first, chunk),) = read(dataset, ("a", parquet(table)))
        assert [row["body"] for row in engine.render(chunk, first).to_pylist()] == [None, '{"v":5.0}']
        assert engine.originals(chunk, [0]) == [f'{{"v":"{2**62}"}}']


def test_text_that_is_not_utf_8_is_kept_as_far_as_it_is(tmp_path: Path) -> None:
    """The reject gives the reason, and its text has U+FFFD for each invalid byte."""
    dataset = dataset_of("parquet", {"id": "varchar", "v": "struct(t varchar, b blob)[]"})
    members = [pa.array([b"a\xffb"]).view(pa.string()), pa.array([b"\xff"])]
    table = pa.table({"id": ["x"], "v": in_list(pa.StructArray.from_arrays(members, ["t", "b"]))})
    with Engine(dataset, {}, directory=tmp_path) as engine:
        ((first, chunk),) = read(dataset, ("a", parquet(table)))
        (row,) = engine.render(chunk, first).to_pylist()
        (kept,) = engine.originals(chunk, [0])
    assert row["detail"] == "column 'v' holds text that is not UTF-8"
    assert json.loads(kept) == {"id": "x", "v": [{"t": "a\ufffdb", "b": "\\xFF"}]}


def test_int96_holds_the_years_1_to_9999(tmp_path: Path) -> None:
    """What Spark, Hive and Athena write is not limited to the years that nanoseconds can represent."""
    values = [datetime(9999, 12, 31, 23, 59, 59, 999999), datetime(1, 1, 1), datetime(2026, 1, 2, 3)]
    table = pa.table({"v": values, "n": [[value] for value in values]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, use_deprecated_int96_timestamps=True)
    columns = {"v": "timestamp", "n": "timestamptz[]"}
    rows = render(tmp_path, dataset_of("parquet", columns), ("a", buffer.getvalue()))
    texts = ["9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", "2026-01-02T03:00:00Z"]
    assert [json.loads(row["body"]) for row in rows] == [{"v": text, "n": [text]} for text in texts]


HALF, WIDE = pa.array([np.float16(1)], pa.float16()), pa.array([Decimal(10**40)], pa.decimal256(50, 0))
UNNAMED = {
    "half": HALF,
    "halves": in_list(HALF),
    "wide": WIDE,
    "wides": in_struct(WIDE),
    "V": pa.array(["another"]),
    "duration": pa.array([timedelta(1)]),
    "bad": pa.array([b"\xff"]).view(pa.string()),
    "v.x": pa.array([1]),
    "period": extension(pa.opaque(pa.int64(), "pandas", "period"), 1),
}


def test_unnamed_columns_and_members_are_ignored(tmp_path: Path) -> None:
    """Columns, and members of structs, that the contract does not name can have any type and any name."""
    struct = pa.StructArray.from_arrays([pa.array([1]), *UNNAMED.values()], ["v", *UNNAMED])
    table = pa.table({"v": ["x"], **UNNAMED, "t": struct})
    rows = render(tmp_path, dataset_of("parquet", {"v": "varchar", "t": "struct(v bigint)"}), ("a", parquet(table)))
    assert [row["body"] for row in rows] == ['{"v":"x","t":{"v":1}}']


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        (pa.array([b"x"]), "varchar", 'declare it as blob and write decode("v")'),
        (WIDE, "decimal(38,0)", "decimal256(50, 0); write it as a decimal of at most 38 digits"),
        (in_list(WIDE), "double[]", "decimal256(50, 0)"),
        (in_map(WIDE), "map(varchar, double)", "decimal256(50, 0)"),
        (pa.array([{"length": 1}]), "struct(lenght bigint)", "has no member 'lenght'; did you mean 'length'?"),
        (in_struct(pa.array(["x"])), "struct(m bigint)", "STRUCT(m VARCHAR)"),
        (in_map(pa.array([1])), "bigint[]", "MAP(VARCHAR, BIGINT)"),
        (pa.array([timedelta(1)]), "time", "INTERVAL"),
        (pa.StructArray.from_arrays([HALF, HALF], ["x", "X"]), "struct(y float)", "has no member 'y'"),
    ],
)
def test_types_that_the_engine_lacks_fail_the_output(tmp_path: Path, values: pa.Array, kind: str, found: str) -> None:
    """The error names file, column, the type found, the declared one and a remedy; no row is read before."""
    with pytest.raises(BadOutput, match=r"^s3://bucket/things/a: column 'v' is ") as error:
        one_column(tmp_path, values, kind)
    assert found in str(error.value)
    assert kind in str(error.value)


def test_eight_levels_are_read_and_rendered(tmp_path: Path) -> None:
    """This is the maximum of a declared type; `check` refuses deeper ones, whose SQL would take minutes to compile."""
    values, declared, text = pa.array([1], pa.int64()), "integer", "1"
    for n in range(MAX_LEVELS):
        values, declared, text = in_list(values, n), f"{declared}[]", f"[{text}]"
    dataset = dataset_of("parquet", {"c": declared})
    (row,) = render(tmp_path, dataset, ("a", parquet(pa.table({"c": values}))))
    assert row["body"] == f'{{"c":{text}}}'


def test_members_that_differ_in_case_only_can_be_read(tmp_path: Path) -> None:
    """The member with the declared name is read; a name that differs in case is used if it is unambiguous."""
    both = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["x", "X"])
    assert one_column(tmp_path, both, "struct(X bigint)")[0]["body"] == '{"v":{"X":2}}'
    assert one_column(tmp_path, in_struct(HALF), "struct(M float)")[0]["body"] == '{"v":{"M":1.0}}'


def test_rows_that_are_too_wide_for_one_query_are_rendered_in_smaller_ones(tmp_path: Path) -> None:
    """If DuckDB exceeds its memory limit, the query is divided, and the run continues."""
    text = "x" * 200_000
    dataset = dataset_of("parquet", {"v": "varchar"})
    chunk = pa.RecordBatch.from_pydict({"v": [text] * 150})
    with Engine(dataset, {}, directory=tmp_path, memory_limit="24MB") as engine:
        rows = engine.render(chunk, 5, digest=False)
    assert rows["row"].to_pylist() == list(range(5, 155))
    assert set(rows["body"].to_pylist()) == {f'{{"v":"{text}"}}'}
