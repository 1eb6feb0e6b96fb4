"""Read an output part by part as numbered chunks, in memory that does not depend on its size.

A chunk has the values of the file: typed columns from Parquet, text from CSV and from partitions in the object key, one
line per row from JSON lines. The engine converts them to the contract's types (`enrich.dataset.coercion`), and a value
that it can't convert rejects its row. A mistake that affects a whole file raises `BadOutput`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from enrich.dataset.arrow_types import NotTaken, choose_type, convert_column, mark_bad_values
from enrich.dataset.coercion import coerce_text, coerce_typed
from enrich.dataset.definition import Source
from enrich.dataset.empty_database import open_empty
from enrich.dataset.json_sql import SqlType, identifier
from enrich.dataset.source_sql import LINE, PROBLEM
from enrich.dataset.suggestions import suggest
from enrich.errors import first_line
from enrich.read.csv_syntax import CsvSyntax
from enrich.read.decompress import Damaged
from enrich.read.magic import HEAD_BYTES, OtherFormat, recognize
from enrich.read.partitions import PARTITION_NULL, parse_partitions
from enrich.read.reject_lines import restore_rejects
from enrich.read.row_groups import (
    WideRow,
    can_be_wide,
    count_rows,
    find_dictionaries,
    find_leaves,
    gather,
    join,
    read_few,
)
from enrich.read.s3_object import Part
from enrich.read.text import JSON_LINES, BadText, read_csv, read_lines

CHUNK_ROWS = 32_000
_ENCRYPTED = b"PARE"
CHUNK_BLOCKS = 4  # blocks of text per chunk: some 30,000 rows of 120 bytes

# With pre_buffer, or without a buffer size, pyarrow would hold a whole row group in memory.
# By default pyarrow reads INT96 as nanoseconds, which wrap around after the year 2262.
# A list takes two levels of the schema, and pyarrow's default limit is 100.
_OPTIONS: dict[str, Any] = {
    "pre_buffer": False,
    "buffer_size": 1 << 20,
    "coerce_int96_timestamp_unit": "us",
    "schema_depth_limit": 1000,
}

OpenPart = Callable[[Part], Any]  # returns a seekable binary file


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
    """Read parts in their order; yield each chunk with the number of its first row in the whole output.

    A text part of 0 bytes has no rows, since Spark writes an empty partition like that.

    Raises:
        BadOutput: a file does not match the contract.
    """
    row = 0  # of the part's first row in the output
    for part in parts:
        skip = max(0, start_row - row)
        at = 0
        for at, chunk in _read_part(part, source, open_part, skip, chunk_rows):
            if at + chunk.num_rows > skip and chunk.num_rows:
                begin = max(0, skip - at)
                yield row + at + begin, chunk.slice(begin)
            at += chunk.num_rows  # noqa: PLW2901 - where the next chunk, or the next part, begins
        row += at
        check_count(part, at, row)


def read_range(
    part: Part,
    source: Source,
    *,
    open_part: OpenPart,
    first_row: int = 0,
    end_row: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Read the chunks of one part that begin in a range of its rows; yield each with its first row in the part.

    They are chunks of `read_chunks`, whole, if `first_row` is 0 or from `find_cuts`.

    Raises:
        BadOutput: the file does not match the contract.
    """
    for at, chunk in _read_part(part, source, open_part, first_row, chunk_rows):
        if end_row is not None and at >= end_row:
            return
        if at >= first_row and chunk.num_rows:
            yield at, chunk


def find_cuts(
    part: Part, source: Source, *, open_part: OpenPart, ranges: int, most_rows: int, chunk_rows: int = CHUNK_ROWS
) -> list[int]:
    """Find the rows at which to cut a Parquet part into about `ranges` ranges of at most about `most_rows` rows.

    Raises:
        BadOutput: the file does not match the contract.
    """
    with open_part(part) as file:
        parquet = _open_parquet(part, file)
        kinds, _ = check_schema(part, source, parquet.schema_arrow)
        leaves = find_leaves(parquet.schema, list(kinds))
        chunk_rows = count_rows(parquet.metadata, leaves, chunk_rows)
        rows = parquet.metadata.num_rows
    wanted = min(most_rows, -(-rows // max(1, ranges)))
    return list(range(0, rows, max(1, -(-wanted // chunk_rows)) * chunk_rows)) or [0]


def _read_part(
    part: Part, source: Source, open_part: OpenPart, skip: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the chunks of a part from the row `skip` on, and possibly earlier ones."""
    if part.size == 0 and source.format == "parquet":
        raise BadOutput(f"{part.name} is empty (0 bytes); write a file without rows if there are no predictions")
    with open_part(part) as file:
        try:
            yield from _READERS[source.format](part, file, source, skip, chunk_rows)
        except (Damaged, BadText, OtherFormat) as error:
            raise BadOutput(f"{part.name}: {error}") from error


def check_count(part: Part, rows: int, rows_so_far: int) -> None:
    """Compare the rows of a part, and of all parts up to it, with the manifest.

    Raises:
        BadOutput: they differ.
    """
    _check_count(f"{part.name} has", rows, part.rows)
    _check_count(f"the parts up to {part.name} have", rows_so_far, part.rows_so_far)


def _check_count(what: str, rows: int, stated: int | None) -> None:
    if stated is not None and rows != stated:
        raise BadOutput(f"{what} {rows} rows, expected {stated} per the manifest; write the output again")


def _read_parquet(
    part: Part, file: Any, source: Source, skip: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield chunks with their first row in the part. Row groups before `skip` are not read."""
    parquet = _open_parquet(part, file)
    kinds, constants = check_schema(part, source, parquet.schema_arrow)
    metadata = parquet.metadata
    leaves = find_leaves(parquet.schema, list(kinds))
    texts = find_dictionaries(metadata, leaves)
    once = pq.ParquetFile(file, metadata=metadata, read_dictionary=texts, **_OPTIONS) if texts else parquet
    chunk_rows = count_rows(metadata, leaves, chunk_rows)
    first = at = 0
    while first < metadata.num_row_groups and at + metadata.row_group(first).num_rows <= skip:
        at += metadata.row_group(first).num_rows
        first += 1

    def is_measured(group: int) -> bool:
        return can_be_wide(once, group, leaves, chunk_rows)

    def read_group(group: int) -> Iterator[pa.RecordBatch]:
        yield from parquet.iter_batches(chunk_rows, row_groups=[group], columns=list(kinds), use_threads=False)

    def read_measured(group: int) -> Iterator[pa.RecordBatch]:
        pieces = (_convert(piece, kinds) for piece in read_few(once, group, list(kinds)))
        return gather(pieces, chunk_rows)

    try:
        begun = at
        # A measured group is cut by itself, so that its chunks are also the same wherever reading begins.
        for measured, members in groupby(range(first, metadata.num_row_groups), key=is_measured):
            if measured:
                chunks: Iterator[pa.RecordBatch] = chain.from_iterable(map(read_measured, members))
            else:
                batches = chain.from_iterable(map(read_group, members))
                chunks = (_convert(chunk, kinds) for chunk in _cut(batches, at, chunk_rows))
            for chunk in chunks:
                marked = mark_bad_values(chunk)
                names = [*source.columns, *([PROBLEM] if PROBLEM in marked.schema.names else [])]
                yield at, _add_constants(marked, names, constants)
                at += chunk.num_rows
        if at == begun:
            yield begun, pa.RecordBatch.from_pylist([], pa.schema([]))  # reports how many rows were skipped
    except WideRow as error:
        raise BadOutput(f"{part.name}: {error}") from error
    except pa.ArrowNotImplementedError as error:
        raise BadOutput(f"{part.name}: pyarrow can't read it ({first_line(error)}); write simpler types") from error
    except (pa.ArrowException, OSError) as error:
        raise BadOutput(f"{part.name}: damaged Parquet ({first_line(error)}); write it again") from error


def _open_parquet(part: Part, file: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, **_OPTIONS)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadOutput(f"{part.name} {_explain_not_parquet(file, error)}") from error


def _convert(chunk: pa.RecordBatch, kinds: dict[str, pa.DataType]) -> pa.RecordBatch:
    """Return the columns in the types that DuckDB takes."""
    columns = [convert_column(chunk.column(chunk.schema.get_field_index(name)), kind) for name, kind in kinds.items()]
    return pa.RecordBatch.from_arrays(columns, names=list(kinds))


def _read_csv(
    part: Part, file: Any, source: Source, _skip: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield chunks with their first row in the part. The whole part is read, to find where each row begins."""
    constants: dict[str, str] = {}

    def choose(first: list[str]) -> tuple[list[str], list[str]]:
        if source.header:
            _check_header(part, source, first)
        names = first if source.header else _name_fields(part, source, first)
        constants.update(check_names(part, source, names))
        return names, [name for name in source.columns if name not in constants]

    at = 0
    syntax = CsvSyntax(source.delimiter, source.quote, source.escape, source.null_words)
    rows = read_csv(part.object_key, file, syntax, source.null_words, choose, header=source.header)
    for chunk in _cut(rows, 0, chunk_rows, CHUNK_BLOCKS):
        yield at, _add_constants(chunk, [*source.columns, LINE, PROBLEM], constants)
        at += chunk.num_rows


def _name_fields(part: Part, source: Source, first: list[str]) -> list[str]:
    """Return the columns of a file without a header: those of the contract that are not in the object key.

    Raises:
        BadOutput: the file has a header.
    """
    partitions = parse_partitions(part.object_key)
    names = [name for name in source.columns if name not in partitions]
    if first == names:
        raise BadOutput(f"{part.name}: its first line has the names of the columns; set header=True")
    return names


def _check_header(part: Part, source: Source, first: list[str]) -> None:
    """Check that the first line is a header.

    Raises:
        BadOutput: the line names no column of the contract, or has another delimiter.
    """
    expected = {name.lower() for name in source.columns if name not in parse_partitions(part.object_key)}
    if not expected or expected & {name.lower() for name in first}:
        return
    if first[:1] and first[0].startswith("{"):
        raise BadOutput(f"{part.name}: {JSON_LINES}")
    for delimiter in ",;\t|\x01\x02\x1f:^~ ":
        if expected & {name.strip(" \"'").lower() for name in source.delimiter.join(first).split(delimiter)}:
            raise BadOutput(
                f"{part.name}: its header is not separated by {source.delimiter!r}; set delimiter={delimiter!r}"
            )
    raise BadOutput(
        f"{part.name}: its first line names no column, expected {', '.join(source.columns)}; write a header, or set "
        "header=False if the file has none and its fields are in the contract's order"
    )


def _read_lines(
    part: Part, file: Any, source: Source, _skip: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield chunks with their first row in the part; a column that is in the object key is not read from the lines."""
    partitions = parse_partitions(part.object_key)
    constants = {name: partitions[name] for name in source.columns if name in partitions}
    at = 0
    expected = [name for name in source.columns if name not in constants]
    for chunk in _cut(read_lines(part.object_key, file, expected), 0, chunk_rows, CHUNK_BLOCKS):
        yield at, _add_constants(chunk, [*constants, LINE, PROBLEM], constants)
        at += chunk.num_rows


def _read_rejects(
    part: Part, file: Any, source: Source, _skip: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield chunks with their first row in the part, with the columns that were in the object key of their output."""
    at = 0
    for chunk in _cut(read_lines(part.object_key, file), 0, chunk_rows, CHUNK_BLOCKS):
        for rows in restore_rejects(chunk, source.columns):
            yield at, rows
            at += rows.num_rows


_READERS = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_lines, "rejects": _read_rejects}


def _cut(
    batches: Iterator[pa.RecordBatch], at: int, chunk_rows: int, most: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Cut batches, the first of which begins at row `at`, at multiples of `chunk_rows`, or after `most` batches.

    So chunks begin and end at the same rows wherever a run continues. The files of its rejects are named by these rows.
    """
    held: list[pa.RecordBatch] = []
    room = chunk_rows - at % chunk_rows
    for batch in batches:
        while batch.num_rows >= room:
            yield join([*held, batch.slice(0, room)])
            batch, held, room = batch.slice(room), [], chunk_rows  # noqa: PLW2901 - what is left of it
        if batch.num_rows:
            held.append(batch)
            room -= batch.num_rows
        if len(held) == most:
            yield join(held)
            held, room = [], chunk_rows
    if held:
        yield join(held)


def check_schema(part: Part, source: Source, schema: pa.Schema) -> tuple[dict[str, pa.DataType], dict[str, str]]:
    """Check a typed file's columns against the contract; other columns are ignored.

    Returns:
        The columns to read, with the types to convert them to, and the columns in the object key, with their text.

    Raises:
        BadOutput: a column is missing or has another type, or is unknown and the dataset refuses unknown columns.
    """
    constants = check_names(part, source, schema.names)
    chosen: dict[str, pa.DataType] = {}
    with open_empty() as con:
        for name, declared in source.columns.items():
            kind = con.sql(f"select cast(null as {declared})").types[0]
            if name not in constants:
                chosen[name] = _choose_type(con, part, schema.field(name), declared, kind)
            elif coerce_text("x", kind) is None:
                raise BadOutput(
                    f"{part.name}: column {name!r} is text in the object key and can't become {declared}; "
                    "declare it varchar and cast it in the expressions"
                )
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
        raise BadOutput(f"{place} is {error}; the contract declares {declared}") from error
    except duckdb.Error as error:
        raise BadOutput(
            f"{place} is {field.type} and the contract declares {declared}: {first_line(error)}; write it as another "
            "type, or remove it from the contract"
        ) from error
    if coerce_typed(field.name, actual, kind) is None:
        if actual.id == "blob" and kind.id == "varchar":  # a cast of a BLOB to text escapes what is not ASCII
            name = identifier(field.name)
            raise BadOutput(
                f"{place} is {actual} (bytes that the file does not mark as text) and the contract declares "
                f"{declared}; declare it as blob and write decode({name}) in the expressions, or write it as text"
            )
        raise BadOutput(
            f"{place} is {actual} and the contract declares {declared}; write it as declared, or declare it as it is "
            "and cast it in the expressions"
        )
    return chosen


def check_names(part: Part, source: Source, found: Sequence[str]) -> dict[str, str]:
    """Check a file's column names against the contract; return the columns in the object key, with their text.

    Raises:
        BadOutput: a column is missing or repeated, or is unknown and the dataset refuses unknown columns.
    """
    partitions = parse_partitions(part.object_key)
    for name in source.columns:
        if found.count(name) > 1:
            raise BadOutput(f"{part.name}: column {name!r} occurs {found.count(name)} times; write it once")
        if name not in found and name not in partitions:
            raise BadOutput(f"{part.name}: column {name!r} is missing; {suggest(name, found)}")
    unknown = [name for name in found if name not in source.columns]
    if unknown and source.unknown_columns == "refuse":
        raise BadOutput(
            f"{part.name}: column {unknown[0]!r} is not in the contract; add it there or ignore unknown columns"
        )
    return {name: partitions[name] for name in source.columns if name not in found}


def _add_constants(batch: pa.RecordBatch, names: list[str], constants: dict[str, str]) -> pa.RecordBatch:
    arrays = []
    for name in names:
        if name in constants:
            text = None if constants[name] == PARTITION_NULL else constants[name]
            arrays.append(pa.repeat(pa.scalar(text, pa.string()), batch.num_rows))
        else:
            arrays.append(batch.column(batch.schema.get_field_index(name)))
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _explain_not_parquet(file: Any, error: Exception) -> str:
    """Describe what a file is instead, or what pyarrow can't read of it, with the remedy."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    found = recognize(head)
    if head.startswith(_ENCRYPTED) or "ncrypted" in str(error):
        return "is an encrypted Parquet file; write it without encryption, and let S3 encrypt it (SSE-KMS)"
    if found is None:
        return f"is not a Parquet file: {first_line(error)}; check the dataset's format"
    what, remedy = found
    if "Parquet" not in what:
        return f"is not a Parquet file: it {what}; {remedy or 'do not compress it: Parquet is compressed inside'}"
    if _ends_like_parquet(file):  # the footer is there
        return (
            f"has a column of a type that pyarrow can't read, or is damaged ({first_line(error)}); write the column as "
            "another type, or omit it: an integer of more than 64 bits as a decimal of at most 38 digits, or as text"
        )
    return f"is a damaged Parquet file ({first_line(error)}); write it again"


def _ends_like_parquet(file: Any) -> bool:
    file.seek(-4, 2)
    return bool(file.read(4) == b"PAR1")
