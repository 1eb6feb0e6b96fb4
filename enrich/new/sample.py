"""Read a sample of a model's output, local or on S3: its format, columns, DuckDB types, and the first rows.

It reads the footer and the first rows of Parquet, the first megabyte of text, and in a folder the first part that is
not empty. The memory does not depend on the size of the file.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from enrich.dataset.as_of import AsOf
from enrich.dataset.definition import Source
from enrich.dataset.json_sql import identifier, literal
from enrich.dataset.type_names import parse_type
from enrich.errors import first_line
from enrich.new.object_keys import find_partitions, find_start, guess_as_of
from enrich.new.sql_names import spell_type
from enrich.read.chunks import BadOutput, check_schema, read_chunks
from enrich.read.decompress import Damaged, unpack
from enrich.read.magic import HEAD_BYTES, OtherFormat
from enrich.read.partitions import PARTITION_NULL, parse_partitions
from enrich.read.s3_object import Part, PartFile
from enrich.s3 import split_location
from wire.scratch import open_scratch

TEXT_BYTES = 1024 * 1024
MOST_TEXT = 16 * TEXT_BYTES  # of one row, as in a run over CSV
ROWS = 10_000
KEYS = re.compile(r"varchar|uuid|u?(tiny|small|big|huge)?int(eger)?")  # types of a subject or prediction_id
_INSTANT = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?"
_EXACT = {  # type that DuckDB guesses -> the texts that a run reads as this type without losing anything
    "date": r"\d{4}-\d\d-\d\d",
    "timestamp": _INSTANT,
    "timestamptz": _INSTANT + r"(Z|[+-]\d\d(:?\d\d)?)",
    "boolean": "true|false",
    **dict.fromkeys(("bigint", "integer", "ubigint", "hugeint"), r"-?(0|[1-9]\d*)"),  # 007 is not a number
    "double": r"-?(0|[1-9]\d*)?(\.\d+)?([eE][+-]?\d+)?",
    **dict.fromkeys(("time", "interval", "uuid"), ""),
}
_DIGITS = 15  # a double keeps every decimal number with this many digits
_CSV = {"delimiter": ",", "quote": '"', "escape": None, "header": True}  # the defaults of `Source`
_MOST_PARTS = 1000  # of a folder; enough to find one with rows


class BadSample(Exception):
    """The sample can't be used; the message names the place, what was found, and the remedy."""


@dataclass(frozen=True)
class Sample:
    """What a sample shows of a dataset.

    Attributes:
        location: the file that was read.
        object_key: its key, or its path within the given folder.
        format: the format of the file.
        as_of: the rule that the key suggests.
        columns: name -> DuckDB type; partitions `name=value` of the key come last.
        rows: the first rows, with the columns that can be a subject or prediction_id.
        options: attributes of `Source` for CSV that differs from RFC 4180 with a header line.
        marker: `_SUCCESS`, if there is such a file in the same folder.
    """

    location: str
    object_key: str
    format: Literal["parquet", "csv", "jsonl"]
    as_of: AsOf
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
        open_s3: opens the client; called only for a location on S3.

    Raises:
        BadSample: there is no file, or it has another format, a type that DuckDB lacks or no rows, or is damaged.
    """
    files = _list_s3(open_s3(), location) if location.startswith("s3://") else _list_local(location)
    names = {file.object_key.rpartition("/")[2] for file in files}
    parts = [file for file in files if _is_data(file.object_key)]
    if not parts:
        raise BadSample(f"{location}: there is no file; expected an output of the model, a file or a folder of parts")
    for file in parts:
        if file.size and (sample := _read_file(file)) is not None:
            marker = "_SUCCESS" if "_SUCCESS" in names else None
            return _add_partitions(replace(sample, marker=marker), [part.object_key for part in parts])
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
    """Return a path from its first segment with a date or a `name=value` on, otherwise within the given folder."""
    return find_start(path.resolve().as_posix()) or path.relative_to(base).as_posix()


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
            text, is_whole = _read_start(file, opened)
    except (OtherFormat, Damaged, pa.ArrowException, OSError) as error:
        raise BadSample(f"{file.location}: {error}") from error
    except ClientError as error:
        raise BadSample(f"{file.location}: can't be read: {error.response['Error']['Code']}") from error
    text = text.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in text[:HEAD_BYTES]:
        raise BadSample(f"{file.location}: is binary; expected Parquet, CSV or JSON lines")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        place = text.count(b"\n", 0, error.start) + 1
        raise BadSample(f"{file.location}: line {place} is not UTF-8; write it as UTF-8") from error
    start = text.lstrip(b" \t\r\n")[:1]
    if not start:
        return None
    if start == b"[":
        raise BadSample(f"{file.location}: is a JSON array; write one object per line")
    if start == b"{":
        return _read_text(file, text, "jsonl")
    return _read_text(file, text if is_whole else _cut_records(text), "csv")


def _read_start(file: _File, opened: Any) -> tuple[bytes, bool]:
    """Return about the first megabyte of a text, up to the end of a line, and whether that is the whole text."""
    text, is_whole = b"", True
    for block in unpack(file.object_key, opened, TEXT_BYTES):
        text += block
        if len(text) >= TEXT_BYTES and b"\n" in text:
            return text[: text.rfind(b"\n") + 1], False
        if len(text) > MOST_TEXT:
            raise BadSample(f"{file.location}: its first line is longer than 16 MB; write one row per line")
    return text, is_whole


def _cut_records(text: bytes) -> bytes:
    """Cut an incomplete CSV text at the end of a record: at a newline outside of quotes."""
    cut, quotes = text, text.count(b'"')
    while quotes % 2 and cut:
        before = cut[: cut.rfind(b"\n", 0, -1) + 1]
        quotes -= cut.count(b'"', len(before))
        cut = before
    return cut or text  # the writer does not quote


def _read_parquet(file: _File, opened: Any) -> Sample | None:
    parquet = pq.ParquetFile(opened, pre_buffer=False, buffer_size=TEXT_BYTES)  # streams the pages
    if not parquet.metadata.num_rows:
        return None
    schema = parquet.schema_arrow
    names = _check_names(file, schema.names)
    with duckdb.connect() as con:
        columns = {name: _find_type(con, file, name, kind) for name, kind in zip(names, schema.types, strict=True)}
    part = Part("", file.object_key, None, "", file.size)
    source = Source(prefix="", format="parquet", columns=columns)
    keys = {name: kind for name, kind in columns.items() if KEYS.fullmatch(kind)}
    try:
        check_schema(part, source, schema)  # as a run would
        chunks = read_chunks([part], replace(source, columns=keys), open_part=lambda _: file.open(), chunk_rows=ROWS)
        rows = next((pa.Table.from_batches([chunk]) for _, chunk in chunks), None) if keys else None
    except BadOutput as error:
        raise BadSample(f"{file.location}: {str(error).removeprefix(part.name).removeprefix(': ')}") from error
    rows = pa.table({name: [] for name in keys}) if rows is None else rows.select(list(keys))
    return Sample(file.location, file.object_key, "parquet", _guess(file), columns, rows)


def _guess(file: _File) -> AsOf:
    return guess_as_of(file.object_key, datetime.now(UTC))


def _find_type(con: duckdb.DuckDBPyConnection, file: _File, name: str, kind: pa.DataType) -> str:
    """Return the DuckDB type of an Arrow type."""
    with suppress(duckdb.Error, pa.ArrowException):
        found = con.from_arrow(pa.table({"c": pa.array([], _plain(kind))})).types[0]
        if parse_type(con, spelled := spell_type(found, text=False)):
            return spelled
    message = f"{file.location}: column {name!r} is {kind}, which DuckDB lacks"
    raise BadSample(f"{message}; write it as another type, e.g. double or text, with each name once")


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type that DuckDB reads after the conversion of a run (`enrich.dataset.arrow_types`)."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_decimal256(kind) and kind.precision <= 38:
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_struct(kind):
        return pa.struct([(kind.field(n).name, _plain(kind.field(n).type)) for n in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def _check_names(file: _File, names: Sequence[str]) -> Sequence[str]:
    seen: dict[str, str] = {}
    for n, name in enumerate(names, 1):
        if not name.strip():
            raise BadSample(f"{file.location}: column {n} has no name; name it (pandas: to_csv(index=False))")
        if name.lower() in seen:
            other = seen[name.lower()]
            raise BadSample(f"{file.location}: columns {other!r} and {name!r} have one name in SQL; rename one")
        seen[name.lower()] = name
    return names


def _read_text(file: _File, text: bytes, kind: Literal["csv", "jsonl"]) -> Sample | None:
    with tempfile.NamedTemporaryFile(suffix=".csv", dir=open_scratch()) as copy, duckdb.connect() as con:
        copy.write(text)
        copy.flush()
        con.execute("set TimeZone='UTC'")
        options = dict[str, Any]()
        try:
            if kind == "csv":
                options = _sniff(con, file, literal(copy.name))
                names, kinds, texts = _read_csv(con, file, literal(copy.name), options)
            else:
                names, kinds, texts = _read_json(con, file, literal(copy.name))
        except duckdb.Error as error:
            what = "JSON lines" if kind == "jsonl" else "CSV"
            said = first_line(error).replace(copy.name, file.location)
            expected = "one object per line" if kind == "jsonl" else "RFC 4180, as pandas does"
            raise BadSample(f"{file.location}: can't be read as {what}: {said}; write it as {expected}") from error
        if not texts.num_rows:
            return None
        con.register("sample_rows", texts)
        columns = {name: _narrow(con, name, found) for name, found in zip(names, kinds, strict=True)}
        keys = [name for name, found in columns.items() if KEYS.fullmatch(found)]
        chosen = ", ".join(f"try_cast({identifier(name)} as {columns[name]}) as {identifier(name)}" for name in keys)
        rows = con.sql(f"select {chosen} from sample_rows").to_arrow_table() if keys else pa.table({})
    other = {name: value for name, value in options.items() if value != _CSV[name]}
    return Sample(file.location, file.object_key, kind, _guess(file), columns, rows, other)


def _sniff(con: duckdb.DuckDBPyConnection, file: _File, place: str) -> dict[str, Any]:
    sql = f"select Delimiter, Quote, Escape, HasHeader, SkipRows from sniff_csv({place}, sample_size=-1)"
    ((delimiter, quote, escape, header, skipped),) = con.execute(sql).fetchall()
    if skipped:
        raise BadSample(
            f"{file.location}: its first lines ({skipped}) are neither rows nor a header; write it without them"
        )
    quote = quote if len(quote) == 1 and quote != "\0" else '"'  # "(empty)" if no field is quoted
    escape = escape if len(escape) == 1 and escape not in ("\0", quote) else None
    return {"delimiter": delimiter, "quote": quote, "escape": escape, "header": header}


def _read_csv(
    con: duckdb.DuckDBPyConnection, file: _File, place: str, options: Mapping[str, Any]
) -> tuple[Sequence[str], list[str], pa.Table]:
    """Return the names, guessed types and texts of the columns; DuckDB would rename the second of two equal names."""
    texts = con.sql(f"from read_csv({place}, all_varchar=true, {_as_sql(options)}) limit {ROWS}").to_arrow_table()
    bare = _as_sql({**options, "header": False})
    first = [name or "" for name in con.sql(f"from read_csv({place}, all_varchar=true, {bare}) limit 1").fetchall()[0]]
    # DuckDB takes the header line of pandas for a row, because the index has no name.
    is_pandas = first[0] == "" and all(re.match(r"[^\W\d]", name) for name in first[1:])
    names = first if options["header"] or is_pandas else texts.column_names
    guessed = con.sql(f"from read_csv({place}, sample_size=-1, {_as_sql(options)}) limit 0").types
    return _check_names(file, names), [spell_type(each, text=True) for each in guessed], texts.rename_columns(names)


def _as_sql(options: Mapping[str, Any]) -> str:
    names = {"delimiter": "delim", "quote": "quote", "escape": "escape"}
    texts = [f"{sql}={literal(options[name] or options['quote'])}" for name, sql in names.items()]
    # A run reads a quoted field as text: "" is not null.
    return ", ".join([*texts, f"header={str(options['header']).lower()}", "allow_quoted_nulls=false"])


def _read_json(con: duckdb.DuckDBPyConnection, file: _File, place: str) -> tuple[Sequence[str], list[str], pa.Table]:
    """Return the names, guessed types and texts of the members."""
    found = con.sql(f"select distinct unnest(json_keys(json)) from read_ndjson_objects({place})").fetchall()
    _check_names(file, sorted(name for (name,) in found))
    guessed = con.sql(f"from read_json({place}, format='newline_delimited', sample_size=-1) limit 0")
    kinds = [spell_type(each, text=True) for each in guessed.types]
    for n, (name, kind) in enumerate(zip(guessed.columns, kinds, strict=True)):
        if kind == "json":  # values of several types: as JSON, a run would parse its texts
            pointer = literal("/" + name.replace("~", "~0").replace("/", "~1"))  # RFC 6901
            sql = f"select distinct json_type(json, {pointer}) from read_ndjson_objects({place})"
            kinds[n] = "varchar" if ("VARCHAR",) in con.sql(sql).fetchall() else kind
    as_text = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in guessed.columns)
    sql = f"from read_json({place}, format='newline_delimited', columns={{{as_text}}}) limit {ROWS}"
    return guessed.columns, kinds, con.sql(sql).to_arrow_table()


def _narrow(con: duckdb.DuckDBPyConnection, name: str, guess: str) -> str:
    """Return the type to declare for a guessed type: it loses nothing of the texts, and a run reads them the same."""
    if guess not in _EXACT:
        return guess
    column = identifier(name)
    if not _holds(con, f"regexp_full_match({column}, {literal(_EXACT[guess])})"):
        return "varchar"
    digits = f"len(ltrim(regexp_replace({column}, '[eE].*$|[^0-9]', '', 'g'), '0'))"
    if guess != "double" or _holds(con, f"{digits} <= {_DIGITS}"):
        return guess
    is_whole = _holds(con, f"regexp_full_match({column}, {literal(_EXACT['hugeint'])}) and {digits} <= 38")
    return "hugeint" if is_whole else "varchar"


def _holds(con: duckdb.DuckDBPyConnection, predicate: str) -> bool:
    """Return whether a predicate holds for all values that are not null, and there is at least one."""
    return bool(con.execute(f"select coalesce(bool_and({predicate}), false) from sample_rows").fetchall()[0][0])


def _add_partitions(sample: Sample, object_keys: Sequence[str]) -> Sample:
    """Add the columns that are in the object keys."""
    kinds = find_partitions(object_keys, sample.as_of, sample.columns)
    rows, found = sample.rows, parse_partitions(sample.object_key)
    for name, kind in kinds.items():
        if KEYS.fullmatch(kind):
            text = found.get(name)
            value = pa.scalar(None if text == PARTITION_NULL else text, pa.string())
            rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
    return replace(sample, columns={**sample.columns, **kinds}, rows=rows)
