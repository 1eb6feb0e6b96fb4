"""Load a folder `lake/{database}/{table}.{parquet,csv,jsonl}` as Glue tables of Parquet on the stand-in's S3.

A table is a file, or a folder of parts. All files are read before anything is loaded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

SUFFIXES = (".parquet", ".csv", ".jsonl")
TableName = tuple[str, str]  # database, table

_HIVE = [
    (pa.types.is_boolean, "boolean", pa.bool_()),
    (pa.types.is_int8, "tinyint", pa.int8()),
    (lambda kind: pa.types.is_int16(kind) or pa.types.is_uint8(kind), "smallint", pa.int16()),
    (lambda kind: pa.types.is_int32(kind) or pa.types.is_uint16(kind), "int", pa.int32()),
    (lambda kind: pa.types.is_int64(kind) or pa.types.is_uint32(kind), "bigint", pa.int64()),
    (pa.types.is_uint64, "decimal(20,0)", pa.decimal128(20, 0)),
    (lambda kind: pa.types.is_float16(kind) or pa.types.is_float32(kind), "float", pa.float32()),
    (pa.types.is_float64, "double", pa.float64()),
    (pa.types.is_date, "date", pa.date32()),
    (pa.types.is_timestamp, "timestamp", pa.timestamp("ms")),
    (
        lambda kind: any(
            test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_null, pa.types.is_time)
        ),
        "string",
        pa.string(),
    ),
    (
        lambda kind: any(
            test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
        ),
        "binary",
        pa.binary(),
    ),
]


class BadLake(Exception):
    """Files of the lake can't be loaded; the message has each one, what is wrong, and the remedy."""


def read_lake(folder: Path) -> dict[TableName, pa.Table]:
    """Read all tables of a folder; none if it does not exist.

    Raises:
        BadLake: a file is damaged, of another format or in another place, or two files are one table.
    """
    found: dict[TableName, Path] = {}
    tables: dict[TableName, pa.Table] = {}
    wrong: list[str] = []
    for database in _visible(folder):
        if not database.is_dir():
            wrong.append(f"{database}: is no folder; expected {folder}/{{database}}/{{table}}.{{parquet,csv,jsonl}}")
            continue
        for path in _visible(database):
            table = path.name if path.is_dir() else path.stem
            name = database.name.lower(), table.lower()  # Glue and Athena know no upper case
            if other := found.get(name):
                wrong.append(f"{other} and {path} are both the table {'.'.join(name)}; remove or rename one")
                continue
            found[name] = path
            try:
                tables[name] = _read_table(path)
            except BadLake as error:
                wrong.append(str(error))
    if wrong:
        raise BadLake("\n".join(wrong))
    return tables


def load_lake(s3: Any, glue: Any, bucket: str, tables: Mapping[TableName, pa.Table]) -> None:
    """Write each table to `s3://bucket/{database}/{table}/` and register it, in place of what was there."""
    for (database, name), table in tables.items():
        with suppress(glue.exceptions.AlreadyExistsException):
            glue.create_database(DatabaseInput={"Name": database})
        content = io.BytesIO()
        pq.write_table(table, content, compression="zstd")
        s3.put_object(Bucket=bucket, Key=f"{database}/{name}/part-0.parquet", Body=content.getvalue())
        with suppress(glue.exceptions.EntityNotFoundException):
            glue.delete_table(DatabaseName=database, Name=name)
        location = f"s3://{bucket}/{database}/{name}/"
        glue.create_table(DatabaseName=database, TableInput=build_table_input(name, location, table.schema))


def build_table_input(name: str, location: str, schema: pa.Schema) -> dict[str, Any]:
    """Build Glue's `TableInput` of a table of Parquet files."""
    hive = "org.apache.hadoop.hive.ql.io.parquet"
    return {
        "Name": name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"classification": "parquet", "EXTERNAL": "TRUE"},
        "StorageDescriptor": {
            "Location": location,
            "Columns": [{"Name": field.name, "Type": _to_hive(field.type)[0]} for field in schema],
            "InputFormat": f"{hive}.MapredParquetInputFormat",
            "OutputFormat": f"{hive}.MapredParquetOutputFormat",
            "SerdeInfo": {"SerializationLibrary": f"{hive}.serde.ParquetHiveSerDe"},
        },
    }


def _visible(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*")) if not path.name.startswith((".", "_"))]


def _read_table(path: Path) -> pa.Table:
    files = [each for each in sorted(path.rglob("*")) if each.is_file()] if path.is_dir() else [path]
    files = [each for each in files if not each.name.startswith((".", "_"))]
    if not files:
        raise BadLake(f"{path}: has no files; put parts of the table into it, or remove it")
    parts = {file: _read_file(file) for file in files}
    try:
        whole = pa.concat_tables(parts.values(), promote_options="permissive")
    except pa.ArrowException as error:
        raise BadLake(f"{path}: its parts differ: {error}; write each column with one type") from error
    columns: dict[str, Any] = {}
    for name in whole.column_names:
        if name.lower() in columns:
            raise BadLake(f"{path}: has the column {name!r} twice, in any case of letters; rename one")
        try:
            columns[name.lower()] = whole.column(name).cast(_to_hive(whole.schema.field(name).type)[1], safe=False)
        except (ValueError, pa.ArrowException) as error:
            raise BadLake(f"{path}: column {name!r}: {error}; write it as another type, e.g. text") from error
    return pa.table(columns)


def _read_file(path: Path) -> pa.Table:
    if path.suffix not in SUFFIXES:
        raise BadLake(f"{path}: is {path.suffix or 'without a suffix'}; expected {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            return pq.ParquetFile(path).read()  # without rows too: it has its types
        with duckdb.connect() as con:
            con.execute("set TimeZone='UTC'")
            if path.suffix == ".csv":
                table = con.read_csv(str(path), sample_size=-1, strict_mode=True).to_arrow_table()
            else:
                table = con.read_json(str(path), sample_size=-1, format="newline_delimited").to_arrow_table()
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise BadLake(f"{path}: can't be read as {path.suffix[1:]}: {first}; fix or remove the file") from error
    if not table.num_rows:
        raise BadLake(f"{path}: has no rows, which show the types; add one, or write the table as Parquet")
    return table


def _to_hive(kind: Any) -> tuple[str, Any]:
    """Return the Hive type of an Arrow type, and the Arrow type in which it is stored.

    Raises:
        ValueError: Hive has no such type.
    """
    if pa.types.is_dictionary(kind):
        return _to_hive(kind.value_type)
    if pa.types.is_decimal(kind) and kind.precision <= 38:
        return f"decimal({kind.precision},{kind.scale})", pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        text, stored = _to_hive(kind.value_type)
        return f"array<{text}>", pa.list_(stored)
    if pa.types.is_struct(kind):
        fields = [(kind.field(n).name.lower(), *_to_hive(kind.field(n).type)) for n in range(kind.num_fields)]
        return f"struct<{','.join(f'{name}:{text}' for name, text, _ in fields)}>", pa.struct(
            [(name, stored) for name, _, stored in fields]
        )
    for test, text, stored in _HIVE:
        if test(kind):
            return text, stored
    raise ValueError(f"{kind} is no type of Glue")
