"""Read an output part by part as numbered chunks, in memory that does not grow with it. Edge: files.

A chunk holds what the file holds: typed columns from Parquet, text from CSV and from partitions in the object key, one
line a row from JSON lines. The engine turns it into the contract's types (`enrich.dataset.coercion`), so that a value
it can't take rejects its row; what is wrong with a whole file is `BadOutput`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from enrich.dataset.arrow_types import NotTaken, choose_type, convert_column, mark_bad_values
from enrich.dataset.coercion import PARTITION_NULL, coerce_text, coerce_typed
from enrich.dataset.definition import Source
from enrich.dataset.expressions import suggest
from enrich.dataset.json_sql import SqlType
from enrich.dataset.source_sql import LINE, PROBLEM
from enrich.read.decompress import Damaged
from enrich.read.s3_object import Part
from enrich.read.text import BadText, read_csv, read_lines

CHUNK_ROWS = 32_000
CHUNK_BYTES = 8 * 1024 * 1024  # of a chunk of wide rows, as the file's metadata has it; rendering takes many times that
CHUNK_BLOCKS = 4  # of text: some 30,000 rows of 120 bytes

OpenPart = Callable[[Part], Any]  # gives a seekable binary file


class BadOutput(ValueError):
    """A file of the output can't be read at all; the message names the object, the column or row, and the remedy."""


def read_chunks(
    parts: Sequence[Part],
    source: Source,
    *,
    open_part: OpenPart,
    start_row: int = 0,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Read parts in their order; give each chunk with the number of its first row in the whole output.

    Raises:
        BadOutput: a file is not what the contract says.
    """
    row = 0  # of the part's first row in the output
    for part in parts:
        if part.size == 0:
            raise BadOutput(f"{part.name} is empty (0 bytes); an output without predictions is a file without rows")
        skip = max(0, start_row - row)
        with open_part(part) as file:
            try:
                at = 0
                for at, chunk in _READERS[source.format](part, file, source, skip, chunk_rows):
                    if at + chunk.num_rows > skip and chunk.num_rows:
                        begin = max(0, skip - at)
                        yield row + at + begin, chunk.slice(begin)
                    at += chunk.num_rows  # noqa: PLW2901 - where the next chunk, or the next part, begins
            except (Damaged, BadText) as error:
                raise BadOutput(f"{part.name}: {error}") from error
        row += at


def _read_parquet(
    part: Part, file: Any, source: Source, skip: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Give chunks with their first row in the part. Row groups before `skip` are not read."""
    try:
        # pre_buffer would hold a whole row group, and so would a column chunk without a buffer size
        # INT96 as nanoseconds, which pyarrow makes of it by default, wraps round after the year 2262
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, coerce_int96_timestamp_unit="us")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadOutput(
            f"{part.name} is not a Parquet file ({_first_line(error)}); check the dataset's format"
        ) from error
    kinds, constants = check_schema(part, source, parquet.schema_arrow)
    groups = [parquet.metadata.row_group(n) for n in range(parquet.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    wide = sum(group.total_byte_size for group in groups) // max(1, rows)
    chunk_rows = max(1, min(chunk_rows, CHUNK_BYTES // max(1, wide)))
    first = before = 0
    while first < len(groups) and before + groups[first].num_rows <= skip:
        before += groups[first].num_rows
        first += 1
    try:
        left = list(range(first, len(groups)))
        batches = parquet.iter_batches(chunk_rows, row_groups=left, columns=list(kinds), use_threads=False)
        at = before
        for chunk in _cut(batches, before, chunk_rows):
            arrays = [convert_column(chunk.column(chunk.schema.get_field_index(name)), kinds[name]) for name in kinds]
            taken = mark_bad_values(pa.RecordBatch.from_arrays(arrays, names=list(kinds)))
            names = [*source.columns, *([PROBLEM] if PROBLEM in taken.schema.names else [])]
            yield at, _add_constants(taken, names, constants)
            at += chunk.num_rows
        if at == before:
            yield before, pa.RecordBatch.from_pylist([], pa.schema([]))  # tells how many rows were passed over
    except pa.ArrowNotImplementedError as error:
        raise BadOutput(f"{part.name}: pyarrow can't read it ({_first_line(error)}); write plainer types") from error
    except (pa.ArrowException, OSError) as error:
        raise BadOutput(f"{part.name}: damaged Parquet ({_first_line(error)}); write it again") from error


def _read_csv(
    part: Part, file: Any, source: Source, _skip: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Give chunks with their first row in the part; all of it is read, since only reading tells where a row begins."""
    constants: dict[str, str] = {}

    def check_header(found: list[str]) -> list[str]:
        constants.update(check_names(part, source, found))
        return [name for name in source.columns if name not in constants]

    at = 0
    for chunk in _cut(read_csv(part.object_key, file, source.delimiter, check_header), 0, chunk_rows, CHUNK_BLOCKS):
        yield at, _add_constants(chunk, [*source.columns, LINE, PROBLEM], constants)
        at += chunk.num_rows


def _read_lines(
    part: Part, file: Any, source: Source, _skip: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Give chunks with their first row in the part; a column that the object key gives is not looked for in lines."""
    partitions = parse_partitions(part.object_key) if source.format == "jsonl" else {}
    constants = {name: partitions[name] for name in source.columns if name in partitions}
    at = 0
    for chunk in _cut(read_lines(part.object_key, file), 0, chunk_rows, CHUNK_BLOCKS):
        yield at, _add_constants(chunk, [*constants, LINE, PROBLEM], constants)
        at += chunk.num_rows


_READERS = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_lines, "rejects": _read_lines}


def _cut(
    batches: Iterator[pa.RecordBatch], at: int, chunk_rows: int, most: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Cut batches, the first of which begins at row `at`, at multiples of `chunk_rows`, or after `most` batches.

    So chunks begin and end at the same rows wherever a run goes on from; its rejects are named by them.
    """
    held: list[pa.RecordBatch] = []
    room = chunk_rows - at % chunk_rows
    for batch in batches:
        while batch.num_rows >= room:
            yield _join([*held, batch.slice(0, room)])
            batch, held, room = batch.slice(room), [], chunk_rows  # noqa: PLW2901 - what is left of it
        if batch.num_rows:
            held.append(batch)
            room -= batch.num_rows
        if len(held) == most:
            yield _join(held)
            held, room = [], chunk_rows
    if held:
        yield _join(held)


def _join(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def check_schema(part: Part, source: Source, schema: pa.Schema) -> tuple[dict[str, pa.DataType], dict[str, str]]:
    """Check a typed file's columns against the contract; what it does not name is not looked at.

    Returns:
        The columns to read, with the types to convert them to, and those that the object key gives.

    Raises:
        BadOutput: a column is missing, of another kind, or not in the contract that refuses it.
    """
    constants = check_names(part, source, schema.names)
    chosen: dict[str, pa.DataType] = {}
    with duckdb.connect() as con:
        for name, declared in source.columns.items():
            kind = con.sql(f"select cast(null as {declared})").types[0]
            if name not in constants:
                chosen[name] = _choose_type(con, part, schema.field(name), declared, kind)
            elif coerce_text("x", kind) is None:
                raise BadOutput(f"{part.name}: column {name!r} stands in the object key and can't be {declared}")
    return chosen, constants


def _choose_type(
    con: duckdb.DuckDBPyConnection, part: Part, field: pa.Field, declared: str, kind: SqlType
) -> pa.DataType:
    place = f"{part.name}: column {field.name!r}"
    try:
        chosen = choose_type(field.type, kind)
        schema = pa.schema([pa.field(field.name, chosen)])
        (actual,) = con.from_arrow(pa.RecordBatchReader.from_batches(schema, [])).types
    except NotTaken as error:
        raise BadOutput(f"{place} is {error}; the contract says {declared}") from error
    except duckdb.Error as error:
        raise BadOutput(
            f"{place} is {field.type} and the contract says {declared}: {_first_line(error)}; write it as another "
            "type, or take it out of the contract"
        ) from error
    if coerce_typed(field.name, actual, kind) is None:
        raise BadOutput(
            f"{place} is {actual} and the contract says {declared}; write it so, or declare it as it is and cast it "
            "in the expressions"
        )
    return chosen


def check_names(part: Part, source: Source, found: Sequence[str]) -> dict[str, str]:
    """Check a file's column names against the contract; return the columns that the object key gives, with their text.

    Raises:
        BadOutput: a column is missing, there twice, or not in the contract that refuses it.
    """
    partitions = parse_partitions(part.object_key)
    for name in source.columns:
        if found.count(name) > 1:
            raise BadOutput(f"{part.name}: column {name!r} is there {found.count(name)} times; write it once")
        if name not in found and name not in partitions:
            raise BadOutput(f"{part.name}: column {name!r} is missing; {suggest(name, found)}")
    unknown = [name for name in found if name not in source.columns]
    if unknown and source.unknown_columns == "refuse":
        raise BadOutput(
            f"{part.name}: column {unknown[0]!r} is not in the contract; add it there or ignore unknown columns"
        )
    return {name: partitions[name] for name in source.columns if name not in found}


def parse_partitions(object_key: str) -> dict[str, str]:
    """Parse Hive-style partitions, `dt=2026-01-01/`, from an object key; values may be percent-encoded."""
    return {name: unquote(value) for name, value in re.findall(r"(?:^|/)([^/=]+)=([^/]*)(?=/)", object_key)}


def _add_constants(batch: pa.RecordBatch, names: list[str], constants: dict[str, str]) -> pa.RecordBatch:
    arrays = []
    for name in names:
        if name in constants:
            text = None if constants[name] == PARTITION_NULL else constants[name]
            arrays.append(pa.repeat(pa.scalar(text, pa.string()), batch.num_rows))
        else:
            arrays.append(batch.column(batch.schema.get_field_index(name)))
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0]
