"""Read a Parquet file's row groups in batches of limited decoded size, however its values are stored.

A file of some hundred KB can contain rows of many GB: a dictionary stores a text, and a run length stores a number,
once for any number of values; and many narrow rows can hide a few wide ones. The footer gives an upper bound for the
memory of a chunk. If the bound is high, texts are read as dictionaries, a few rows at a time, and measured before they
are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as kinds

CHUNK_BYTES = 8 * 1024 * 1024  # of a decoded chunk; rendering takes many times that
MAX_UNMEASURED = 32 * 1024 * 1024  # bytes that a chunk can take, by the footer, without being measured
MAX_ROW = 64 * 1024 * 1024  # bytes, as for a line of text (`enrich.read.text`)
FEW_ROWS = 128  # rows to read at a time if they are measured; costs 0.3 us per row more than 32,000 at a time
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}  # bytes in Arrow
_OFFSET = 8  # bytes of a value's place in a list, and of a text's
_DICTIONARY_TEXTS = {"NONE", "STRING", "ENUM", "BSON"}  # logical types that pyarrow reads as dictionaries


class WideRow(ValueError):
    """A row takes too much memory; the message has its number in its row group, its size and the remedy."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column of values, nested at any depth in a column of the file.

    Attributes:
        number: its position among the file's leaves.
        path: its name in the file.
        width: bytes of each value in Arrow; 0 if they differ.
        is_repeated: it is within a list or a map.
        is_text: pyarrow can read it as a dictionary.
    """

    number: int
    path: str
    width: int
    is_repeated: bool
    is_text: bool


def find_leaves(schema: pq.ParquetSchema, names: Sequence[str]) -> list[Leaf]:
    """Find the leaves of columns; a name with a dot can also match the leaves of another column."""
    leaves = []
    for number in range(len(schema)):
        column = schema.column(number)
        if any(column.path == name or column.path.startswith(f"{name}.") for name in names):
            width = (
                column.length
                if column.physical_type == "FIXED_LEN_BYTE_ARRAY"
                else _WIDTHS.get(column.physical_type, 0)
            )
            is_text = column.physical_type == "BYTE_ARRAY" and column.logical_type.type in _DICTIONARY_TEXTS
            leaves.append(Leaf(number, column.path, width, column.max_repetition_level > 0, is_text))
    return leaves


def count_rows(metadata: pq.FileMetaData, leaves: Sequence[Leaf], most: int) -> int:
    """Return how many rows of the file's mean width make a chunk: at least 1, and at most `most`."""
    rows = size = 0
    for n in range(metadata.num_row_groups):
        group = metadata.row_group(n)
        rows += group.num_rows
        size += sum(_measure_stored(group.column(leaf.number), leaf) for leaf in leaves)
    return max(1, min(most, CHUNK_BYTES // max(1, size // max(1, rows))))


def find_dictionaries(metadata: pq.FileMetaData, leaves: Sequence[Leaf]) -> list[str]:
    """Return the paths of the leaves that a row group stores as a dictionary of texts."""
    groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
    return [
        leaf.path
        for leaf in leaves
        if leaf.is_text and any(group.column(leaf.number).has_dictionary_page for group in groups)
    ]


def can_be_wide(once: pq.ParquetFile, group: int, leaves: Sequence[Leaf], chunk_rows: int) -> bool:
    """Return whether a chunk of a row group can take more than `MAX_UNMEASURED` bytes, as far as the file shows.

    Args:
        once: the file, opened to read texts as dictionaries.
        group: number of the row group.
        leaves: the leaves to read. Flat ones of a fixed width take the same memory in all rows.
        chunk_rows: the most rows in a chunk.
    """
    stored = once.metadata.row_group(group)
    bound: int = 0
    repeated: list[tuple[Leaf, int, int]] = []
    for leaf in leaves:
        column = stored.column(leaf.number)
        if leaf.width:
            bound += column.num_values * (leaf.width + _OFFSET) if leaf.is_repeated else 0
            continue
        bound += int(column.total_uncompressed_size)
        values = column.num_values if leaf.is_repeated else min(chunk_rows, column.num_values)
        if column.has_dictionary_page:
            repeated.append((leaf, values, column.total_uncompressed_size))
    # No text is longer than everything that is stored. The dictionaries are read only if that could be too much.
    if bound > MAX_UNMEASURED or bound + sum(values * size for _, values, size in repeated) <= MAX_UNMEASURED:
        return bound > MAX_UNMEASURED
    longest = _measure_longest(once, group, [leaf for leaf, _, _ in repeated])
    return bound + sum(values * longest.get(leaf.path, size) for leaf, values, size in repeated) > MAX_UNMEASURED


def read_few(parquet: pq.ParquetFile, group: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a row group in batches that take at most `CHUNK_BYTES`, or have one row.

    Raises:
        WideRow: a row takes more than `MAX_ROW`.
    """
    row = 0
    for batch in parquet.iter_batches(FEW_ROWS, row_groups=[group], columns=list(columns), use_threads=False):
        for piece in _halve(batch):
            if piece.num_rows == 1 and (size := sum(map(measure, piece.columns))) > MAX_ROW:
                raise WideRow(
                    f"row {row} of row group {group} takes {size >> 20} MB, expected at most {MAX_ROW >> 20} MB; write "
                    "less into a row, or remove the column from the contract"
                )
            yield piece
            row += piece.num_rows


def gather(pieces: Iterator[pa.RecordBatch], chunk_rows: int) -> Iterator[pa.RecordBatch]:
    """Join pieces into chunks of at most `chunk_rows` rows and, unless a single piece is larger, `CHUNK_BYTES`."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for piece in pieces:
        if held and (rows + piece.num_rows > chunk_rows or size + piece.nbytes > CHUNK_BYTES):
            yield join(held)
            held, rows, size = [], 0, 0
        held.append(piece)
        rows += piece.num_rows
        size += piece.nbytes
    if held:
        yield join(held)


def join(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Join batches with the same schema into one."""
    return batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def measure(array: pa.Array) -> int:
    """Return the bytes of an array, with each text of a dictionary counted as often as it is used."""
    kind = array.type
    if kinds.is_dictionary(kind):
        if kinds.is_nested(kind.value_type) or not _has_length(kind.value_type):
            return int(array.nbytes)
        lengths = pc.binary_length(array.dictionary).cast(pa.int64())
        return (pc.sum(lengths.take(array.indices)).as_py() or 0) + _OFFSET * len(array)
    if kinds.is_struct(kind):
        return sum(map(measure, array.flatten()))
    if kinds.is_map(kind):
        entries = array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
        return measure(entries)
    if kinds.is_nested(kind):
        return measure(array.flatten()) + _OFFSET * len(array)
    return int(array.nbytes)


def _has_length(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind) for is_kind in (kinds.is_string, kinds.is_large_string, kinds.is_binary, kinds.is_large_binary)
    )


def _halve(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.num_rows <= 1 or sum(map(measure, batch.columns)) <= CHUNK_BYTES:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _halve(batch.slice(0, half))
    yield from _halve(batch.slice(half))


def _measure_stored(column: Any, leaf: Leaf) -> int:
    """Return the bytes of a leaf in a row group, as far as the footer shows; texts of a dictionary as stored."""
    if leaf.width:
        return int(column.num_values) * (leaf.width + (_OFFSET if leaf.is_repeated else 0))
    return int(column.total_uncompressed_size) + int(column.num_values)


def _measure_longest(once: pq.ParquetFile, group: int, leaves: Sequence[Leaf]) -> dict[str, int]:
    """Return the bytes of the longest text of each leaf's dictionary, if pyarrow returns the dictionary."""
    longest = {}
    for leaf in leaves:
        first = next(once.iter_batches(1, row_groups=[group], columns=[leaf.path], use_threads=False), None)
        found = [] if first is None else list(_find_dictionaries(first.columns))
        # without a value in the first row, pyarrow has not read the dictionary
        if len(found) == 1 and len(found[0]):
            longest[leaf.path] = pc.max(pc.binary_length(found[0])).as_py() or 0
    return longest


def _find_dictionaries(arrays: Sequence[pa.Array]) -> Iterator[pa.Array]:
    for array in arrays:
        kind = array.type
        if kinds.is_dictionary(kind):
            if _has_length(kind.value_type):
                yield array.dictionary
        elif kinds.is_struct(kind):
            yield from _find_dictionaries([array.field(n) for n in range(kind.num_fields)])
        elif kinds.is_map(kind):
            yield from _find_dictionaries([array.keys, array.items])
        elif kinds.is_nested(kind):
            yield from _find_dictionaries([array.values])
