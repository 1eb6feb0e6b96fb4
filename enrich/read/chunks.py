"""Read an output part by part as numbered chunks, in memory that does not grow with it.

A chunk holds what the file holds: typed columns from Parquet, text from CSV and from partitions in the object key, one
line a row from JSON lines. The engine turns it into the contract's types (`enrich.dataset.coercion`), so that a value
it can't take rejects its row; what is wrong with a whole file is `BadOutput`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enrich.dataset.arrow_types import NotTaken, choose_type, convert_column, mark_bad_values
from enrich.dataset.coercion import PARTITION_NULL, coerce_text, coerce_typed
from enrich.dataset.definition import Source
from enrich.dataset.json_sql import SqlType
from enrich.dataset.mistakes import suggest
from enrich.dataset.source_sql import LINE, PROBLEM
from enrich.errors import first_line
from enrich.read.csv_syntax import CsvSyntax
from enrich.read.decompress import Damaged
from enrich.read.magic import HEAD_BYTES, OtherFormat, recognize
from enrich.read.s3_object import Part
from enrich.read.text import BadText, read_csv, read_lines

CHUNK_ROWS = 32_000
CHUNK_BYTES = 8 * 1024 * 1024  # of a chunk of wide rows, as the file's metadata has it; rendering takes many times that
MAX_REPEATED = 64 * 1024 * 1024  # bytes that a chunk's repeated texts may take, each as long as it is
MAX_DICTIONARY = 2 * 1024 * 1024  # bytes of a column's dictionary in a row group: writers end it at 1 MB
CHUNK_BLOCKS = 4  # of text: some 30,000 rows of 120 bytes

_TEXTS = {pa.string(), pa.large_string(), pa.binary(), pa.large_binary()}

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

    A part of 0 bytes has no rows if it is text: that is how Spark writes an empty partition.

    Raises:
        BadOutput: a file is not what the contract says.
    """
    row = 0  # of the part's first row in the output
    for part in parts:
        if part.size == 0 and source.format == "parquet":
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
            except (Damaged, BadText, OtherFormat) as error:
                raise BadOutput(f"{part.name}: {error}") from error
        row += at


def _read_parquet(
    part: Part, file: Any, source: Source, skip: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Give chunks with their first row in the part. Row groups before `skip` are not read."""
    try:
        # pre_buffer would hold a whole row group, and so would a column chunk without a buffer size
        # INT96 as nanoseconds, which pyarrow makes of it by default, wraps round after the year 2262
        options: Any = {"pre_buffer": False, "buffer_size": 1 << 20, "coerce_int96_timestamp_unit": "us"}
        parquet = pq.ParquetFile(file, **options)
        texts = [field.name for field in parquet.schema_arrow if field.name in source.columns and field.type in _TEXTS]
        once = pq.ParquetFile(file, metadata=parquet.metadata, read_dictionary=texts, **options) if texts else parquet
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadOutput(f"{part.name} is not a Parquet file: {_explain_not_parquet(file, error)}") from error
    kinds, constants = check_schema(part, source, parquet.schema_arrow)
    groups = [parquet.metadata.row_group(n) for n in range(parquet.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    wide = sum(group.total_byte_size for group in groups) // max(1, rows)
    chunk_rows = max(1, min(chunk_rows, CHUNK_BYTES // max(1, wide)))
    first = before = 0
    while first < len(groups) and before + groups[first].num_rows <= skip:
        before += groups[first].num_rows
        first += 1

    def read_group(reader: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
        yield from reader.iter_batches(chunk_rows, row_groups=[group], columns=list(kinds), use_threads=False)

    def repeats(group: int) -> bool:
        rows: int = groups[group].num_rows
        return _measure_repeated(once, group, texts) * min(chunk_rows, rows) > MAX_REPEATED

    try:
        at = before
        # A group whose rows repeat long texts is cut by itself: its chunks, too, are the same wherever reading begins.
        for repeated, members in groupby(range(first, len(groups)), key=repeats):
            batches = chain.from_iterable(map(partial(read_group, once if repeated else parquet), members))
            chunks = chain.from_iterable(map(_halve, batches)) if repeated else _cut(batches, at, chunk_rows)
            for chunk in chunks:
                taken = _take_columns(chunk, kinds)
                names = [*source.columns, *([PROBLEM] if PROBLEM in taken.schema.names else [])]
                yield at, _add_constants(taken, names, constants)
                at += chunk.num_rows
        if at == before:
            yield before, pa.RecordBatch.from_pylist([], pa.schema([]))  # shows how many rows were passed over
    except pa.ArrowNotImplementedError as error:
        raise BadOutput(f"{part.name}: pyarrow can't read it ({first_line(error)}); write plainer types") from error
    except (pa.ArrowException, OSError) as error:
        raise BadOutput(f"{part.name}: damaged Parquet ({first_line(error)}); write it again") from error


def _take_columns(chunk: pa.RecordBatch, kinds: dict[str, pa.DataType]) -> pa.RecordBatch:
    """Return the columns in the types that the engine takes, with the rows marked that hold values it would misread."""
    columns = [convert_column(chunk.column(chunk.schema.get_field_index(name)), kind) for name, kind in kinds.items()]
    return mark_bad_values(pa.RecordBatch.from_arrays(columns, names=list(kinds)))


def _measure_repeated(once: pq.ParquetFile, group: int, texts: list[str]) -> int:
    """Return how many bytes a row takes at most in the columns whose texts a row group may store once for many rows."""
    stored = once.metadata.row_group(group)
    chosen, bound = [], 0
    for n in range(stored.num_columns):
        column = stored.column(n)
        # a writer that fills its dictionary continues with plain values, which are as large in the file as in memory
        limit = MAX_DICTIONARY + 4 * column.num_values
        size = column.total_uncompressed_size
        if column.path_in_schema in texts and column.has_dictionary_page and size <= limit:
            chosen.append(column.path_in_schema)
            bound += size
    if not chosen or bound * stored.num_rows <= MAX_REPEATED:
        return 0
    first = next(once.iter_batches(1, row_groups=[group], columns=chosen, use_threads=False), None)
    if first is None:
        return 0
    dictionaries = [first.column(first.schema.get_field_index(name)).dictionary for name in chosen]
    return sum(pc.max(pc.binary_length(each)).as_py() or 0 for each in dictionaries)


def _halve(chunk: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Halve a chunk until its repeated texts, each as long as it is, fit into `CHUNK_BYTES`.

    A file of some hundred KB can have tens of thousands of rows of as many bytes each.
    """
    size = 0
    for column in chunk.columns:
        if pa.types.is_dictionary(column.type) and column.type.value_type in _TEXTS:
            lengths = pc.binary_length(column.dictionary).cast(pa.int64())
            size += pc.sum(lengths.take(column.indices)).as_py() or 0
    if size <= CHUNK_BYTES or chunk.num_rows == 1:
        yield chunk
        return
    half = chunk.num_rows // 2
    yield from _halve(chunk.slice(0, half))
    yield from _halve(chunk.slice(half))


def _read_csv(
    part: Part, file: Any, source: Source, _skip: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Give chunks with their first row in the part; all of it is read, since only reading shows where a row begins."""
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
    """Return the columns of a file without a header: those of the contract that the object key does not give.

    Raises:
        BadOutput: it has a header.
    """
    partitions = parse_partitions(part.object_key)
    names = [name for name in source.columns if name not in partitions]
    if first == names:
        raise BadOutput(f"{part.name}: its first line has the names of the columns; set header=True")
    return names


def _check_header(part: Part, source: Source, first: list[str]) -> None:
    """Check that the first line is a header.

    Raises:
        BadOutput: it names no column of the contract, or has another delimiter.
    """
    expected = {name.lower() for name in source.columns if name not in parse_partitions(part.object_key)}
    if not expected or expected & {name.lower() for name in first}:
        return
    for delimiter in ",;\t|\x01":
        if expected & {name.strip(" \"'").lower() for name in source.delimiter.join(first).split(delimiter)}:
            raise BadOutput(
                f"{part.name}: its header is not separated by {source.delimiter!r}; set delimiter={delimiter!r}"
            )
    raise BadOutput(
        f"{part.name}: its first line has no name of a column, expected {', '.join(source.columns)}; write a "
        "header, or set header=False if the file has none and its fields are in the contract's order"
    )


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

    So chunks begin and end at the same rows wherever a run continues from; its rejects are named by them.
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
        raise BadOutput(f"{place} is {error}; the contract says {declared}") from error
    except duckdb.Error as error:
        raise BadOutput(
            f"{place} is {field.type} and the contract says {declared}: {first_line(error)}; write it as another "
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


def _explain_not_parquet(file: Any, error: Exception) -> str:
    """Say what a file is instead, and what to do."""
    file.seek(0)
    found = recognize(file.read(HEAD_BYTES))
    if found is None:
        return f"{first_line(error)}; check the dataset's format"
    what, remedy = found
    if "Parquet" in what:
        return f"it is damaged ({first_line(error)}); write it again"
    return f"it {what}; {remedy or 'write it without: Parquet is compressed inside'}"
