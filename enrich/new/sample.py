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
from enrich.dataset.json_sql import identifier
from enrich.dataset.type_names import parse_type
from enrich.new.object_keys import find_partitions, find_start, guess_as_of
from enrich.new.sql_names import spell_type
from enrich.new.text_table import BadTable, check_names, narrow, read_text_table
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
    names = schema.names
    try:
        check_names(names)
    except BadTable as error:
        raise BadSample(f"{file.location}: {error}") from error
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


def _read_text(file: _File, text: bytes, kind: Literal["csv", "jsonl"]) -> Sample | None:
    with tempfile.NamedTemporaryFile(suffix=f".{kind}", dir=open_scratch()) as copy, duckdb.connect() as con:
        copy.write(text)
        copy.flush()
        con.execute("set TimeZone='UTC'")
        try:
            table = read_text_table(con, Path(copy.name), kind, rows=ROWS)
        except BadTable as error:
            raise BadSample(f"{file.location}: {error}") from error
        texts = con.table("texts").to_arrow_table()
        if not texts.num_rows:
            return None
        columns = narrow(con, dict(zip(table.names, table.kinds, strict=True)))
        keys = [name for name, found in columns.items() if KEYS.fullmatch(found)]
        chosen = ", ".join(f"try_cast({identifier(name)} as {columns[name]}) as {identifier(name)}" for name in keys)
        rows = con.sql(f"select {chosen} from texts").to_arrow_table() if keys else pa.table({})
    other = {name: value for name, value in table.options.items() if value != _CSV[name]}
    return Sample(file.location, file.object_key, kind, _guess(file), columns, rows, other)


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
