"""The lake's folder: types of its files, and files that can't be loaded, reported with place and remedy."""

from __future__ import annotations

import gzip
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.local.athena.catalog import parse_type
from infra.local.lake import BadLake, build_table_input, read_lake


def put(folder: Path, **files: str | bytes) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_tables_have_the_types_of_their_files(tmp_path: Path) -> None:
    """Numbers, dates and text with leading zeros; structs and lists; parts are one table; two databases."""
    put(
        tmp_path,
        a__x_dot_csv="Id,d,zip\n1,2024-01-02,007\n",
        b__t__1_dot_jsonl='{"k":"a","s":{"p":[1],"q":"x"}}\n',
        b__t__2_dot_jsonl='{"k":"b","s":null}\n',
    )
    tables = read_lake(tmp_path)
    assert tables["a", "x"].to_pylist() == [{"id": 1, "d": date(2024, 1, 2), "zip": "007"}]
    assert tables["b", "t"].to_pylist() == [{"k": "a", "s": {"p": [1], "q": "x"}}, {"k": "b", "s": None}]
    for table in tables.values():
        columns = build_table_input("t", "s3://b/t/", table.schema)["StorageDescriptor"]["Columns"]
        assert [parse_type(column["Type"]) for column in columns] == table.schema.types


def test_compressed_text_and_folders_with_values(tmp_path: Path) -> None:
    """Gzip and zstd are read; `name=value` folders are columns of their values' type; hidden files are not read."""
    for name, content in {
        "a/x.csv.gz": gzip.compress(b"k,zip\na,007\n"),
        "a/y.jsonl.zst": pa.compress(b'{"k": 1}\n', "zstd", asbytes=True),
        "a/t/region=EU/n=1/d=2024-01-02/p.csv": b"k\na\n",
        "a/t/region=a%20b/n=-20/d=__HIVE_DEFAULT_PARTITION__/p.csv": b"k\nb\n",
        "a/t/region=007/n=0/d=2024-01-03/p.csv": b"k\nc\n",
        "a/t/_SUCCESS": b"",
        "a/t/_temporary/p.csv": b"x",
        ".git/x.csv": b"x",
    }.items():
        path = tmp_path / "my [lake]*" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    tables = read_lake(tmp_path / "my [lake]*")
    assert tables["a", "x"].to_pylist() == [{"k": "a", "zip": "007"}]
    assert tables["a", "y"].to_pylist() == [{"k": 1}]
    assert sorted(tables["a", "t"].to_pylist(), key=lambda row: str(row["k"])) == [
        {"k": "a", "region": "EU", "n": 1, "d": date(2024, 1, 2)},
        {"k": "b", "region": "a b", "n": -20, "d": None},
        {"k": "c", "region": "007", "n": 0, "d": date(2024, 1, 3)},
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("01/02/2026", "01/02/2026"),  # the day or the month can be first
        ("2026-02-01", date(2026, 2, 1)),
        ("2026-02-01 03:04:05", datetime(2026, 2, 1, 3, 4, 5)),
        ("2026-02-01T03:04:05+01:00", datetime(2026, 2, 1, 2, 4, 5)),
        ("12345678901234567890.123456789", "12345678901234567890.123456789"),
        ("1234567.25", 1234567.25),
        ("0.30000000000000004", 0.30000000000000004),
        ("0.10000000000000001", 0.1),  # as C writes a double
        ("1e-7", 1e-7),
        ("12345678901234567890123", Decimal(12345678901234567890123)),
        ("007", "007"),
        ("True", True),
        ("[1]", "[1]"),
    ],
)
def test_a_type_is_recognized_only_if_it_loses_nothing(tmp_path: Path, text: str, value: Any) -> None:
    """A date in another form than ISO, and a number with more digits than a double has, stay text."""
    put(tmp_path, a__x_dot_csv=f'k,"V v"\n1,{text}\n2,\n', a__y_dot_jsonl=f'{{"k":1,"V v":"{text}"}}\n')
    tables = read_lake(tmp_path)
    assert tables["a", "x"].to_pylist() == [{"k": 1, "v v": value}, {"k": 2, "v v": None}]
    assert str(tables["a", "y"].to_pylist()[0]["v v"]) in {text, str(value)}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_blank_first_lines_and_blanks_around_fields_are_no_data(tmp_path: Path, newline: str) -> None:
    """Names and numbers are those without blanks; text keeps them. The number of a bad line counts the blank ones."""
    text = "k, d , n, t\n1, 2024-01-02, 1.5, x\n2,2024-01-03 ,2, y\n"
    blank = "\n\nk,v\n1,2\n"
    put(
        tmp_path,
        a__x_dot_csv=text.replace("\n", newline),
        a__y_dot_csv=blank.replace("\n", newline),
        a__z_dot_csv="\nk\n1\n",
    )
    tables = read_lake(tmp_path)
    assert tables["a", "x"].to_pylist() == [
        {"k": 1, "d": date(2024, 1, 2), "n": 1.5, "t": " x"},
        {"k": 2, "d": date(2024, 1, 3), "n": 2.0, "t": " y"},
    ]
    assert tables["a", "y"].to_pylist() == [{"k": 1, "v": 2}]
    assert tables["a", "z"].to_pylist() == [{"k": 1}]
    put(tmp_path, a__y_dot_csv=blank + "3,4,5\n", a__z_dot_csv="k, k\n1,2\n")
    with pytest.raises(
        BadLake, match=r"y\.csv: line 5 has 3 fields, expected 2(?s:.*)columns 'k' and 'k' have one name"
    ):
        read_lake(tmp_path)


def test_the_columns_of_json_lines(tmp_path: Path) -> None:
    """Values of several types are text; objects with many members are columns; a part without values has any type."""
    wide = ",".join(f'"c{n}":{n}.5' for n in range(250))
    put(
        tmp_path,
        a__x_dot_jsonl='{"k":1,"m":1,"n":0.1}\n{"k":2,"m":"b","n":null}\n',
        a__y_dot_jsonl=f"{{{wide}}}\n",
        a__z__1_dot_csv="k,v\na,\n",
        a__z__2_dot_csv="k,v\nb,1\n",
    )
    tables = read_lake(tmp_path)
    assert tables["a", "x"].to_pylist() == [{"k": 1, "m": "1", "n": 0.1}, {"k": 2, "m": "b", "n": None}]
    assert tables["a", "y"].to_pylist() == [{f"c{n}": n + 0.5 for n in range(250)}]
    assert tables["a", "z"].to_pylist() == [{"k": "a", "v": None}, {"k": "b", "v": 1}]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a__x_dot_csv": "i\n1\n", "a__x_dot_jsonl": '{"i": 1}\n'}, "both the table a.x; remove or rename one"),
        ({"a__x_dot_csv": "i\n1\n", "a__X__1_dot_csv": "i\n1\n"}, "both the table a.x"),
        ({"a__x_dot_parquet": "no"}, "x.parquet: can't be read as parquet"),
        ({"a__x_dot_jsonl": "{"}, "x.jsonl: can't be read as JSON lines: line 1 is not JSON"),
        ({"a__x_dot_csv": "i\n"}, "x.csv: has no rows"),
        ({"x_dot_csv": "i\n1\n"}, "x.csv: is not a folder"),
        ({"a__x_dot_xls": "no"}, "x.xls: is .xls; expected .parquet"),
        ({"a__x__1_dot_csv": "i\n1\n", "a__x__2_dot_csv": "i\nb\n"}, "its parts differ"),
        ({"a__x_dot_csv": "i\n1\n", "a__x_dot_csv_dot_gz": "no"}, "both the table a.x; remove or rename one"),
        ({"a__x_dot_csv_dot_gz": "no"}, "x.csv.gz: its name ends with .gz, but it is not compressed"),
        ({"a__x_dot_csv_dot_bz2": "no"}, "x.csv.bz2: is .bz2; expected .parquet"),
        ({"a__x y_dot_csv": "i\n1\n"}, "x y.csv: 'x y' is not a name for Athena"),
        ({"a__x__d=1__p_dot_csv": "i\n1\n", "a__x__p_dot_csv": "i\n2\n"}, "some of its files are in a folder d=..."),
        ({"a__x__i=1__p_dot_csv": "i\n1\n"}, "column 'i' is in the file and in the name of its folder"),
        (
            {"a__x_dot_jsonl": '{"s": {"A": 1, "a": 2}}\n'},
            "x.jsonl: can't be read as JSON lines: Not implemented Error: Duplicate",
        ),
        ({"a__x_dot_csv": "k,t,n\na,Tea,1\nb,Jam, sweet,2\n"}, "x.csv: line 3 has 4 fields, expected 3; quote a field"),
        ({"a__x_dot_csv": "k,t,n\na,Tea,1\nb,Jam,2\nTotal: 2\n"}, "x.csv: line 4 has 1 field, expected 3"),
        ({"a__x_dot_csv": "k,t,n\na,Tea\nb,Jam,2,3\n"}, "x.csv: line 2 has 2 fields, expected 3"),
        ({"a__x_dot_csv": "# by me\nk,t\na,1\nb,2\n"}, "x.csv: its first lines (1) are neither rows nor a header"),
        ({"a__x_dot_csv": "a,a\n1,2\n"}, "x.csv: columns 'a' and 'a' have one name in SQL; rename one"),
        ({"a__x_dot_csv": ",a\n1,2\n"}, "x.csv: column 1 has no name; name it (pandas: to_csv(index=False))"),
        (
            {"a__x_dot_jsonl": '[{"a":1},{"a":2}]\n'},
            "x.jsonl: line 1 is JSON, but no object; write one object per line",
        ),
        ({"a__x_dot_jsonl": '{"a":1}\n{"a":,}\n{"a":2}\n'}, "x.jsonl: can't be read as JSON lines: line 2 is not JSON"),
        (
            {"a__x_dot_jsonl": '{"a":1.5}\n{"a":1,"s":{"n":12345678901234567890.123456789}}\n'},
            "x.jsonl: line 2: 12345678901234567890.123456789 has more digits than a double keeps; write it as a string",
        ),
        ({"a__x_dot_csv": b"k,t\na,1\nb,caf\xe9\n"}, "x.csv: line 3 is not UTF-8; write the file as UTF-8"),
        ({"a__x_dot_jsonl": b'{"k": "caf\xe9"}\n'}, "x.jsonl: line 1 is not UTF-8; write the file as UTF-8"),
        ({"a__x_dot_csv": "k,t\na,1\n".encode("utf-16")}, "x.csv: it is UTF-16; write it as UTF-8"),
        ({"a__x_dot_csv": b""}, "x.csv: has no bytes; write it again, or remove it"),
        ({"a__x_dot_jsonl_dot_gz": gzip.compress(b"")}, "x.jsonl.gz: has no bytes; write it again, or remove it"),
        ({"a__x_dot_csv_dot_zst": b"k\na\n"}, "x.csv.zst: its name ends with .zst, but it is not compressed"),
    ],
)
def test_a_broken_lake_is_refused(tmp_path: Path, files: dict[str, str | bytes], said: str) -> None:
    """Each mistake is reported with its file and the remedy."""
    with pytest.raises(BadLake) as found:
        read_lake(put(tmp_path, **files))
    assert said in str(found.value)


U = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
STORED: list[tuple[pa.Array, str, Any]] = [  # values in a Parquet file, the type in Glue, the value as it is stored
    (pa.array([1], pa.uint8()), "smallint", 1),
    (pa.array([2**64 - 1], pa.uint64()), "decimal(20,0)", 2**64 - 1),
    (pa.array(["a"]).dictionary_encode(), "string", "a"),
    (pa.array(["a"], pa.large_string()), "string", "a"),
    (pa.array(["a"], pa.string_view()), "string", "a"),
    (pa.array([U], pa.uuid()), "string", str(U)),
    (pa.array([b"a"], pa.binary_view()), "binary", b"a"),
    (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), "array<tinyint>", [1, 2]),
    (pa.array([[["a"]]], pa.large_list(pa.large_list(pa.large_string()))), "array<array<string>>", [["a"]]),
    (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())), "map<string,int>", [("k", 1)]),
    (pa.array([{"A": 1, "B": {"C": None}}]), "struct<a:bigint,b:struct<c:string>>", {"a": 1, "b": {"c": None}}),
    (pa.array([[{"Sku": "x"}, None]]), "array<struct<sku:string>>", [{"sku": "x"}, None]),
    (
        pa.array([[("K", {"A": 1})]], pa.map_(pa.string(), pa.struct([("A", pa.int8())]))),
        "map<string,struct<a:tinyint>>",
        [("K", {"a": 1})],
    ),
]


@pytest.mark.parametrize(("values", "kind", "stored"), STORED, ids=[kind for _, kind, _ in STORED])
def test_types_and_values_of_parquet(tmp_path: Path, values: pa.Array, kind: str, stored: Any) -> None:
    """Each value is kept, at any depth and whatever the case of its names; the local Athena reads the type."""
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table({"c": values, "none": pa.nulls(1)}), tmp_path / "d" / "t.parquet")
    table = read_lake(tmp_path)["d", "t"]
    columns = build_table_input("t", "s3://b/t/", table.schema)["StorageDescriptor"]["Columns"]
    assert [column["Type"] for column in columns] == [kind, "string"]
    assert [parse_type(column["Type"]) for column in columns] == table.schema.types
    assert table.to_pylist() == [{"c": stored, "none": None}]


def test_a_lake_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("")
    with pytest.raises(BadLake, match="lake: is not a folder; expected "):
        read_lake(tmp_path / "lake")
    assert read_lake(tmp_path / "none") == {}


def test_a_type_that_athena_lacks_is_refused(tmp_path: Path) -> None:
    """The message names the file, the column and the remedy."""
    (tmp_path / "d").mkdir()
    twice = pa.array([{"A": 1, "a": 2}], pa.struct([("A", pa.int8()), ("a", pa.int8())]))
    pq.write_table(pa.table({"s": twice}), tmp_path / "d" / "t.parquet")
    with pytest.raises(BadLake, match="column 's': has the member 'a' twice"):
        read_lake(tmp_path)
    pq.write_table(pa.table({"c": pa.array([1], pa.duration("s"))}), tmp_path / "d" / "t.parquet")
    with pytest.raises(
        BadLake, match=r"t.parquet: column 'c': Glue has no type for duration\[s\]; write it as another"
    ):
        read_lake(tmp_path)
