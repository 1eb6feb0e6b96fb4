"""The lake's folder: types of its files, and what can't be loaded, with the place and the remedy."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from infra.local.athena.catalog import parse_type
from infra.local.lake import BadLake, build_table_input, read_lake


def put(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
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


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a__x_dot_csv": "i\n1\n", "a__x_dot_jsonl": '{"i": 1}\n'}, "both the table a.x; remove or rename one"),
        ({"a__x_dot_csv": "i\n1\n", "a__X__1_dot_csv": "i\n1\n"}, "both the table a.x"),
        ({"a__x_dot_parquet": "no"}, "x.parquet: can't be read as parquet"),
        ({"a__x_dot_jsonl": "{"}, "x.jsonl: can't be read as jsonl"),
        ({"a__x_dot_csv": "i\n"}, "x.csv: has no rows"),
        ({"x_dot_csv": "i\n1\n"}, "x.csv: is no folder"),
        ({"a__x_dot_xls": "no"}, "x.xls: is .xls; expected .parquet"),
        ({"a__x__1_dot_csv": "i\n1\n", "a__x__2_dot_csv": "i\nb\n"}, "its parts differ"),
    ],
)
def test_a_broken_lake_is_refused(tmp_path: Path, files: dict[str, str], said: str) -> None:
    """Each mistake is named with its file and the remedy."""
    with pytest.raises(BadLake) as found:
        read_lake(put(tmp_path, **files))
    assert said in str(found.value)


def test_hive_types_of_arrow_types() -> None:
    """Unsigned integers widen; a dictionary is its values."""
    schema = pa.schema([("a", pa.uint8()), ("b", pa.uint64()), ("c", pa.dictionary(pa.int8(), pa.string()))])
    columns = build_table_input("t", "s3://b/t/", schema)["StorageDescriptor"]["Columns"]
    assert [column["Type"] for column in columns] == ["smallint", "decimal(20,0)", "string"]
