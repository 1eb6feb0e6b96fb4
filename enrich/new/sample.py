"""Read a sample of a model's output, local or on S3: its format, columns, DuckDB types, and the first rows.

Of Parquet the footer and the first rows are read, of text the first megabyte, of a folder its first part that is not
empty.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from enrich.dataset.json_sql import identifier, literal
from enrich.read.decompress import Damaged, unpack
from enrich.read.magic import HEAD_BYTES, OtherFormat
from enrich.read.s3_object import Part, PartFile
from enrich.s3 import split_location

TEXT_BYTES = 1024 * 1024
ROWS = 10_000
_CSV = {"delimiter": ",", "quote": '"', "escape": None, "header": True}  # the defaults of `Source`
_MOST_PARTS = 1000  # of a folder: enough to find one with rows


class BadSample(Exception):
    """The sample can't be used; the message names the place, what was found, and the remedy."""


@dataclass(frozen=True)
class Sample:
    """What a sample says of a dataset.

    Attributes:
        location: of the file that was read.
        object_key: its key, or its path below the folder that was given.
        columns: name -> DuckDB type.
        options: of CSV that is not as RFC 4180 with a header line: attributes of `Source`.
        rows: the first rows; columns have the types of `columns`.
        marker: `_SUCCESS`, if such a file is beside it.
    """

    location: str
    object_key: str
    format: Literal["parquet", "csv", "jsonl"]
    columns: Mapping[str, str]
    rows: pa.Table
    options: Mapping[str, Any] = field(default_factory=dict)
    marker: str | None = None


@dataclass(frozen=True)
class _File:
    location: str
    object_key: str
    size: int
    open: Callable[[], Any]


def read_sample(location: str, open_s3: Callable[[], Any]) -> Sample:
    """Read a sample.

    Args:
        location: a file or folder, or s3://bucket/object_key or prefix.
        open_s3: makes the client; called only for a location on S3.

    Raises:
        BadSample: nothing is there, it is of another format, damaged, has no rows, or has a type that DuckDB lacks.
    """
    files = _list_s3(open_s3(), location) if location.startswith("s3://") else _list_local(location)
    names = {file.object_key.rpartition("/")[2] for file in files}
    parts = [file for file in files if _is_data(file.object_key)]
    if not parts:
        raise BadSample(f"{location}: there is no file; expected an output of the model, a file or a folder of parts")
    for file in parts:
        if file.size and (sample := _read_file(file)) is not None:
            marker = "_SUCCESS" if "_SUCCESS" in names else None
            return Sample(**{**vars(sample), "marker": marker})
    raise BadSample(f"{location}: has no rows; give an output with at least one: it shows the types")


def _is_data(object_key: str) -> bool:
    return not any(step.startswith(("_", ".")) and "=" not in step for step in object_key.split("/"))


def _list_local(location: str) -> list[_File]:
    path = Path(location).expanduser()
    if not path.exists():
        raise BadSample(f"{location}: there is no such file or folder; give the path of an output of the model")
    paths = [each for each in sorted(path.rglob("*")) if each.is_file()] if path.is_dir() else [path]
    base = path if path.is_dir() else path.parent
    return [
        _File(str(each), _key_of(each, base), each.stat().st_size, lambda each=each: each.open("rb"))  # type: ignore[misc]
        for each in paths[:_MOST_PARTS]
    ]


def _key_of(path: Path, base: Path) -> str:
    """Return a path from its first step that has a `name=value` on, or from the folder that was given."""
    steps = path.resolve().parts
    first = next((n for n, step in enumerate(steps) if "=" in step), None)
    return "/".join(steps[first:]) if first is not None else path.relative_to(base).as_posix()


def _list_s3(s3: Any, location: str) -> list[_File]:
    bucket, prefix = split_location(location)
    try:
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=_MOST_PARTS).get("Contents", [])
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise BadSample(f"{location}: can't be listed: {code}; check the bucket's name and your permissions") from error
    exact = [one for one in listed if one["Key"] == prefix and not prefix.endswith("/")]
    folder = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    chosen = exact or [one for one in listed if one["Key"].startswith(folder) and not one["Key"].endswith("/")]

    def opener(entry: Any) -> Callable[[], Any]:
        part = Part(bucket, entry["Key"], None, entry["ETag"], entry["Size"])
        return lambda: PartFile(s3, part, read_ahead=TEXT_BYTES)

    return [_File(f"s3://{bucket}/{one['Key']}", one["Key"], one["Size"], opener(one)) for one in chosen]


def _read_file(file: _File) -> Sample | None:
    """Read a sample of one file; None if it has no rows."""
    try:
        with file.open() as opened:
            if opened.read(4) == b"PAR1":
                opened.seek(0)
                return _read_parquet(file, opened)
            opened.seek(0)
            text = next(iter(unpack(file.object_key, opened, TEXT_BYTES)), b"")
            is_whole = len(text) < TEXT_BYTES
    except (OtherFormat, Damaged, pa.ArrowInvalid, OSError) as error:
        raise BadSample(f"{file.location}: {error}") from error
    except ClientError as error:
        raise BadSample(f"{file.location}: can't be read: {error.response['Error']['Code']}") from error
    if not is_whole:
        text = text[: text.rfind(b"\n") + 1] or text
    if b"\0" in text[:HEAD_BYTES]:
        raise BadSample(f"{file.location}: is binary; expected Parquet, CSV or JSON lines")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        place = text.count(b"\n", 0, error.start) + 1
        raise BadSample(f"{file.location}: line {place} is not UTF-8; write it as UTF-8") from error
    start = text.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if not start:
        return None
    if start == b"[":
        raise BadSample(f"{file.location}: is a JSON array; write one object a line")
    return _read_text(file, text, "jsonl" if start == b"{" else "csv")


def _read_parquet(file: _File, opened: Any) -> Sample | None:
    parquet = pq.ParquetFile(opened, pre_buffer=False, buffer_size=TEXT_BYTES)  # streams the pages
    if not parquet.metadata.num_rows:
        return None
    schema = parquet.schema_arrow
    names = _check_names(file, schema.names)
    with duckdb.connect() as con:
        columns = {name: _find_type(con, file, name, kind) for name, kind in zip(names, schema.types, strict=True)}
        batch = next(parquet.iter_batches(batch_size=ROWS))
        plain = [_plain(batch.column(n)) for n in range(batch.num_columns)]
        rows = pa.Table.from_arrays(plain, names=names)
    return Sample(file.location, file.object_key, "parquet", columns, rows)


def _plain(column: pa.Array) -> pa.Array:
    """Return a column in a type that DuckDB reads."""
    if pa.types.is_dictionary(column.type):
        return column.dictionary_decode()
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _find_type(con: duckdb.DuckDBPyConnection, file: _File, name: str, kind: pa.DataType) -> str:
    """Return the DuckDB type of an Arrow type."""
    if pa.types.is_null(kind):
        return "varchar"
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_float16(kind):
        return "float"
    try:
        found = con.from_arrow(pa.table({"c": pa.array([], kind)})).types[0]
    except (duckdb.Error, pa.ArrowException) as error:
        message = f"{file.location}: column {name!r} is {kind}, which DuckDB lacks"
        raise BadSample(f"{message}; write it as another type, e.g. double or text") from error
    return _spell(str(found))


def _spell(kind: str) -> str:
    known = {"TIMESTAMP WITH TIME ZONE": "timestamptz", "NULL": "varchar", '"NULL"': "varchar"}
    return known.get(kind, kind if "(" in kind and "DECIMAL" not in kind else kind.lower())


def _check_names(file: _File, names: list[str]) -> list[str]:
    seen: dict[str, str] = {}
    for n, name in enumerate(names, 1):
        if not name.strip():
            raise BadSample(f"{file.location}: column {n} has no name; name it")
        if name.lower() in seen:
            other = seen[name.lower()]
            raise BadSample(f"{file.location}: columns {other!r} and {name!r} have one name in SQL; rename one")
        seen[name.lower()] = name
    return names


def _read_text(file: _File, text: bytes, kind: Literal["csv", "jsonl"]) -> Sample | None:
    with tempfile.NamedTemporaryFile(suffix=".csv") as copy, duckdb.connect() as con:
        copy.write(text)
        copy.flush()
        con.execute("set TimeZone='UTC'")
        place, options = literal(copy.name), dict[str, Any]()
        try:
            if kind == "csv":
                options = _sniff(con, place)
                rows = con.sql(f"from read_csv({place}, all_varchar=true, {_as_sql(options)}) limit {ROWS}")
                guessed = con.sql(f"from read_csv({place}, sample_size=-1, {_as_sql(options)}) limit 0")
            else:
                rows = con.sql(f"from read_json({place}, format='newline_delimited', sample_size=-1) limit {ROWS}")
                guessed = rows
            table = rows.to_arrow_table()
        except duckdb.Error as error:
            what = "JSON lines" if kind == "jsonl" else "CSV"
            said = str(error).splitlines()[0].replace(copy.name, file.location)
            raise BadSample(f"{file.location}: can't be read as {what}: {said}") from error
        if not table.num_rows:
            return None
        names = _check_names(file, table.column_names)
        con.register("sample_rows", table)
        columns = {
            name: _narrow(con, table, name, _spell(str(guess)))
            for name, guess in zip(names, guessed.types, strict=True)
        }
        chosen = ", ".join(f"try_cast({identifier(name)} as {columns[name]}) as {identifier(name)}" for name in names)
        typed = con.sql(f"select {chosen} from sample_rows").to_arrow_table() if kind == "csv" else table
    other = {name: value for name, value in options.items() if value != _CSV[name]}
    return Sample(file.location, file.object_key, kind, columns, typed, other)


def _sniff(con: duckdb.DuckDBPyConnection, place: str) -> dict[str, Any]:
    sql = f"select Delimiter, Quote, Escape, HasHeader from sniff_csv({place}, sample_size=-1)"
    ((delimiter, quote, escape, header),) = con.execute(sql).fetchall()
    quote = quote if len(quote) == 1 and quote != "\0" else '"'  # "(empty)" where no field is quoted
    escape = escape if len(escape) == 1 and escape not in ("\0", quote) else None
    return {"delimiter": delimiter, "quote": quote, "escape": escape, "header": header}


def _as_sql(options: Mapping[str, Any]) -> str:
    names = {"delimiter": "delim", "quote": "quote", "escape": "escape"}
    texts = [f"{sql}={literal(options[name] or options['quote'])}" for name, sql in names.items()]
    return ", ".join([*texts, f"header={str(options['header']).lower()}"])


def _narrow(con: duckdb.DuckDBPyConnection, table: pa.Table, name: str, guess: str) -> str:
    """Return the type to declare for a guess: one that loses nothing of the text, and that a run reads alike."""
    column = identifier(name)
    texts = pa.types.is_string(table.schema.field(name).type)
    instant = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?"
    exact = {
        "date": r"\d{4}-\d\d-\d\d",
        "timestamp": instant,
        "timestamptz": instant + r"(Z|[+-]\d\d(:?\d\d)?)",
        "boolean": "true|false",
        **dict.fromkeys(("bigint", "integer", "double"), r"-?(0|[1-9]\d*)?(\.\d+)?([eE][+-]?\d+)?"),  # 007 is no number
        **dict.fromkeys(("time", "interval"), ""),
    }
    return guess if not texts or guess not in exact or _all_match(con, column, exact[guess]) else "varchar"


def _all_match(con: duckdb.DuckDBPyConnection, column: str, pattern: str) -> bool:
    sql = f"select coalesce(bool_and(regexp_full_match({column}, {literal(pattern)})), false) from sample_rows"
    return bool(con.execute(sql).fetchall()[0][0])
