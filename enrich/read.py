"""Read an output part by part as numbered chunks, in memory that does not grow with it. Edge: files.

A chunk holds what the file holds: typed columns from Parquet, text from CSV and from partitions in the object key, one
line a row from JSON lines. The engine turns it into the contract's types (`enrich.coerce`), so that a value it can't
take rejects its row; what is wrong with a whole file is `BadOutput`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from enrich.coerce import PARTITION_NULL, coerce_text, coerce_typed
from enrich.dataset import Source
from enrich.expressions import suggest
from enrich.part import Part

CHUNK_ROWS = 50_000

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
    read = {"parquet": _read_parquet}[source.format]
    row = 0
    for part in parts:
        if part.size == 0:
            raise BadOutput(f"{part.name} is empty (0 bytes); an output without predictions is a file without rows")
        with open_part(part) as file:
            for skipped, chunk in read(part, file, source, max(0, start_row - row), chunk_rows):
                row += skipped
                if chunk is not None:
                    yield row, chunk
                    row += chunk.num_rows


def _read_parquet(
    part: Part, file: Any, source: Source, start: int, chunk_rows: int
) -> Iterator[tuple[int, pa.RecordBatch | None]]:
    """Give (rows skipped, chunk); row groups before `start` are not read."""
    try:
        # pre_buffer would hold a whole row group, and so would a column chunk without a buffer size
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, memory_map=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadOutput(
            f"{part.name} is not a Parquet file ({_first_line(error)}); check the dataset's format"
        ) from error
    names, constants = check_schema(part, source, parquet.schema_arrow)
    sizes = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    first = 0
    while first < len(sizes) and sum(sizes[: first + 1]) <= start:
        first += 1
    before = sum(sizes[:first])
    skip = max(0, start - before)
    yield before, None
    groups = list(range(first, len(sizes)))
    try:
        for batch in parquet.iter_batches(chunk_rows, row_groups=groups, columns=names, use_threads=False):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                yield batch.num_rows, None
                continue
            yield skip, _add_constants(batch.slice(skip), source, constants)
            skip = 0
    except pa.ArrowException as error:
        raise BadOutput(f"{part.name}: damaged Parquet ({_first_line(error)}); write it again") from error


def check_schema(part: Part, source: Source, schema: pa.Schema) -> tuple[list[str], dict[str, str]]:
    """Check a typed file's columns against the contract; return those to read, and those that the object key gives.

    Raises:
        BadOutput: a column is missing, of another kind, or not in the contract that refuses it.
    """
    constants = check_names(part, source, schema.names)
    with duckdb.connect() as con:
        relation = con.from_arrow(schema.empty_table())
        actual = dict(zip(relation.columns, relation.types, strict=True))
        for name, declared in source.columns.items():
            kind = con.sql(f"select cast(null as {declared})").types[0]
            if name in constants:
                if coerce_text("x", kind) is None:
                    raise BadOutput(f"{part.name}: column {name!r} stands in the object key and can't be {declared}")
            elif coerce_typed(name, actual[name], kind) is None:
                raise BadOutput(
                    f"{part.name}: column {name!r} is {actual[name]} and the contract says {declared}; write it so, or "
                    "declare it as it is and cast it in the expressions"
                )
    return [name for name in source.columns if name not in constants], constants


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


def _add_constants(batch: pa.RecordBatch, source: Source, constants: dict[str, str]) -> pa.RecordBatch:
    arrays = []
    for name in source.columns:
        if name in constants:
            text = None if constants[name] == PARTITION_NULL else constants[name]
            arrays.append(pa.repeat(pa.scalar(text, pa.string()), batch.num_rows))
        else:
            arrays.append(batch.column(batch.schema.get_field_index(name)))
    return pa.RecordBatch.from_arrays(arrays, names=list(source.columns))


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0]
