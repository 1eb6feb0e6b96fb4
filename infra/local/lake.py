"""Load a folder `lake/{database}/{table}.{parquet,csv,jsonl}` as Glue tables of Parquet on the stand-in's S3.

A table is a file, or a folder of parts; folders `name=value` within it are columns (Hive partitions). Text can be
compressed with gzip or zstd. All files are read before anything is loaded.
"""

from __future__ import annotations

import codecs
import io
import itertools
import re
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from enrich.dataset.json_sql import identifier, literal
from enrich.errors import first_line
from enrich.new.text_table import BadTable, TextTable, check_names, check_numbers, narrow, read_text_table
from enrich.read.decompress import Damaged, unpack
from enrich.read.magic import HEAD_BYTES, OtherFormat, refuse_other
from enrich.read.partitions import PARTITION_NULL, guess_type, parse_partitions

SUFFIXES = (".parquet", *(f"{text}{packed}" for text in (".csv", ".jsonl") for packed in ("", ".gz", ".zst")))
_BLOCK_BYTES = 1024 * 1024
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
            test(kind)
            for test in (
                pa.types.is_string,
                pa.types.is_large_string,
                pa.types.is_string_view,
                pa.types.is_null,
                pa.types.is_time,
            )
        ),
        "string",
        pa.string(),
    ),
    (
        lambda kind: any(
            test(kind)
            for test in (
                pa.types.is_binary,
                pa.types.is_large_binary,
                pa.types.is_binary_view,
                pa.types.is_fixed_size_binary,
            )
        ),
        "binary",
        pa.binary(),
    ),
]
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


class BadLake(Exception):
    """Files of the lake can't be loaded; the message has each file, the problem, and the remedy."""


def read_lake(folder: Path) -> dict[TableName, pa.Table]:
    """Read all tables of a folder; none if it does not exist.

    Raises:
        BadLake: a file is damaged, has another format or is in a wrong place, or two files are the same table.
    """
    found: dict[TableName, Path] = {}
    tables: dict[TableName, pa.Table] = {}
    wrong: list[str] = []
    if folder.exists() and not folder.is_dir():
        raise BadLake(f"{folder}: is not a folder; expected {folder}/{{database}}/{{table}}.{{parquet,csv,jsonl}}")
    for database in _visible(folder):
        if not database.is_dir():
            wrong.append(f"{database}: is not a folder; expected {folder}/{{database}}/{{table}}.{{parquet,csv,jsonl}}")
            continue
        for path in _visible(database):
            table = path.name if path.is_dir() else path.name.removesuffix(_find_suffix(path))
            name = database.name.lower(), table.lower()  # Glue and Athena use lower case
            is_known = path.is_dir() or _find_suffix(path) in SUFFIXES
            if is_known and (unfit := next((each for each in name if not re.fullmatch(r"[a-z0-9_-]+", each)), None)):
                wrong.append(f"{path}: {unfit!r} is not a name for Athena; use letters, digits, _ and -")
                continue
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
    """Write each table to `s3://bucket/{database}/{table}/` and register it; an existing table is replaced."""
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


def _find_suffix(path: Path) -> str:
    """Return the suffix that determines how a file is read; if it has none of these, its own suffix."""
    return next((each for each in SUFFIXES if path.name.endswith(each)), path.suffix)


def _read_table(path: Path) -> pa.Table:
    files = [each for each in sorted(path.rglob("*")) if each.is_file()] if path.is_dir() else [path]
    files = [each for each in files if not _is_hidden(each.relative_to(path))]
    if not files:
        raise BadLake(f"{path}: has no files; put parts of the table into it, or remove it")
    folders = {file: parse_partitions(file.relative_to(path).as_posix()) for file in files}
    values = {name: [each.get(name) for each in folders.values()] for each in folders.values() for name in each}
    if odd := next((name for name, found in values.items() if None in found), None):
        raise BadLake(f"{path}: some of its files are in a folder {odd}=... and some are not; put all into one")
    parts = [_add_partitions(_read_file(file), file, folders[file], values) for file in files]
    try:
        whole = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise BadLake(f"{path}: its parts differ: {error}; write each column with one type") from error
    columns: dict[str, Any] = {}
    for name in whole.column_names:
        if name.lower() in columns:
            raise BadLake(f"{path}: has the column {name!r} twice, ignoring case; rename one")
        try:
            columns[name.lower()] = _store(whole.column(name))
        except (ValueError, pa.ArrowException) as error:
            raise BadLake(f"{path}: column {name!r}: {error}; write it as another type, e.g. text") from error
    return pa.table(columns)


def _is_hidden(below: Path) -> bool:
    return any(step.startswith((".", "_")) and "=" not in step for step in below.parts)


def _add_partitions(
    part: pa.Table, file: Path, folders: Mapping[str, str], values: Mapping[str, Iterable[str | None]]
) -> pa.Table:
    """Add the columns in the names of the folders, with a type that fits all values of the table."""
    for name, text in folders.items():
        if name.lower() in {each.lower() for each in part.column_names}:
            raise BadLake(f"{file}: column {name!r} is in the file and in the name of its folder; keep one of them")
        kind = {"bigint": pa.int64(), "date": pa.date32()}.get(guess_type(values[name]), pa.string())
        value = pa.scalar(None if text == PARTITION_NULL else text, pa.string()).cast(kind)
        part = part.append_column(name, pa.repeat(value, part.num_rows))
    return part


def _read_file(path: Path) -> pa.Table:
    suffix = _find_suffix(path)
    if suffix not in SUFFIXES:
        raise BadLake(f"{path}: is {suffix or 'without a suffix'}; expected {', '.join(SUFFIXES)}")
    try:
        if suffix == ".parquet":
            return pq.ParquetFile(path).read()  # can be without rows, since the file has the types
        table = _read_text(path, "csv" if suffix.startswith(".csv") else "jsonl")
    except (BadTable, Damaged, OtherFormat) as error:
        raise BadLake(f"{path}: {error}") from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise BadLake(f"{path}: can't be read as {suffix[1:]}: {first_line(error)}; fix or remove the file") from error
    if not table.num_rows:
        raise BadLake(f"{path}: has no rows, which show the types; add one, or write the table as Parquet")
    return table


def _read_text(path: Path, kind: Literal["csv", "jsonl"]) -> pa.Table:
    """Read a text by the rules of `./larder new`: a type is recognized only if it loses nothing of the text."""
    with tempfile.NamedTemporaryFile(suffix=f".{kind}") as copy, duckdb.connect() as con:
        _copy_plain(path, copy)
        con.execute("set TimeZone='UTC'")
        found = read_text_table(con, Path(copy.name), kind, header=True)
        guesses = dict(zip(found.names, found.kinds, strict=True)) if kind == "jsonl" else _strip(con, found)
        kinds = narrow(con, guesses)
        kinds |= {name: guess for name, guess in guesses.items() if guess == "boolean"}  # True, too: it loses nothing
        if kind == "jsonl":  # a list or struct is not read from its text
            if any("double" in each for each in kinds.values()):
                check_numbers(Path(copy.name))
            columns = ", ".join(f"{literal(name)}: {literal(each)}" for name, each in kinds.items())
            sql = f"from read_json({literal(copy.name)}, format='newline_delimited', columns={{{columns}}})"
        else:
            chosen = (f"cast({identifier(name)} as {each}) as {identifier(name)}" for name, each in kinds.items())
            sql = f"select {', '.join(chosen)} from texts"
        table = con.sql(sql).to_arrow_table()
    empty = [name for name in table.column_names if table[name].null_count == table.num_rows]
    for name in empty:  # another part of the table can have its type
        table = table.set_column(table.column_names.index(name), name, pa.nulls(table.num_rows))
    return table


def _strip(con: duckdb.DuckDBPyConnection, found: TextTable) -> dict[str, str]:
    """Remove the blanks around the names of CSV, and around its values unless they are text; return the types.

    Raises:
        BadTable: two names are the same without blanks.
    """
    names = [name.strip() for name in found.names]
    check_names(names)
    columns = zip(map(identifier, found.names), map(identifier, names), found.kinds, strict=True)
    chosen = (f"{old if kind == 'varchar' else f'trim({old})'} as {new}" for old, new, kind in columns)
    con.execute(f"create or replace temp table texts as select {', '.join(chosen)} from texts")
    return dict(zip(names, found.kinds, strict=True))


def _copy_plain(path: Path, copy: Any) -> None:
    """Write the text of a file without compression and byte order mark.

    Raises:
        BadTable: it is empty, or not UTF-8.
        Damaged: its compression is damaged.
        OtherFormat: it is not text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines, is_first = 1, True
    with path.open("rb") as file:
        for block in itertools.chain(unpack(path.name, file, _BLOCK_BYTES), [b""]):
            text = block
            if is_first and block:
                refuse_other(block[:HEAD_BYTES])
                text, is_first = block.removeprefix(codecs.BOM_UTF8), False
            begun = len(decoder.getstate()[0])  # bytes of a character that the block before began
            try:
                decoder.decode(text, final=not block)
            except UnicodeDecodeError as error:
                line = lines + text.count(b"\n", 0, max(error.start - begun, 0))
                raise BadTable(f"line {line} is not UTF-8; write the file as UTF-8") from error
            lines += text.count(b"\n")
            copy.write(text)
    copy.flush()
    if is_first:
        raise BadTable("has no bytes; write it again, or remove it")


def _store(column: pa.ChunkedArray) -> Any:
    """Convert a column to the type in which Athena reads it; names within it become lower case, as in Glue.

    Raises:
        ValueError: Glue does not have the type, or two members of a struct have the same name.
    """
    if column.type == pa.uuid():
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    stored = column.cast(_to_hive(column.type)[1], safe=False)
    lowered = _lower(stored.type)
    # A cast finds members by name, and makes members null whose names differ.
    return stored if lowered == stored.type else pa.array(_lower_keys(stored.to_pylist()), lowered)


def _lower(kind: Any) -> Any:
    """Return a stored type with the names of struct members in lower case."""
    if pa.types.is_list(kind):
        return pa.list_(_lower(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_lower(kind.key_type), _lower(kind.item_type))
    if not pa.types.is_struct(kind):
        return kind
    names = [kind.field(n).name.lower() for n in range(kind.num_fields)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"has the member {twice!r} twice, ignoring case")
    return pa.struct([(name, _lower(kind.field(n).type)) for n, name in enumerate(names)])


def _lower_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {name.lower(): _lower_keys(member) for name, member in value.items()}
    if isinstance(value, tuple):  # an entry of a map, whose key is a value
        return value[0], _lower_keys(value[1])
    return [_lower_keys(each) for each in value] if isinstance(value, list) else value


def _to_hive(kind: Any) -> tuple[str, Any]:
    """Return the Hive type of an Arrow type, and the Arrow type in which it is stored.

    Raises:
        ValueError: Hive does not have the type.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return _to_hive(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _to_hive(kind.value_type)
    if pa.types.is_decimal(kind) and kind.precision <= 38:
        return f"decimal({kind.precision},{kind.scale})", pa.decimal128(kind.precision, kind.scale)
    if any(test(kind) for test in _LISTS):
        text, stored = _to_hive(kind.value_type)
        return f"array<{text}>", pa.list_(stored)
    if pa.types.is_map(kind):
        (key, stored_key), (item, stored_item) = _to_hive(kind.key_type), _to_hive(kind.item_type)
        return f"map<{key},{item}>", pa.map_(stored_key, stored_item)
    if pa.types.is_struct(kind):
        fields = [(kind.field(n).name, *_to_hive(kind.field(n).type)) for n in range(kind.num_fields)]
        return f"struct<{','.join(f'{name.lower()}:{text}' for name, text, _ in fields)}>", pa.struct(
            [(name, stored) for name, _, stored in fields]
        )
    for test, text, stored in _HIVE:
        if test(kind):
            return text, stored
    raise ValueError(f"Glue has no type for {kind}")
