"""The outcome decided for each row, on scratch disk: added bucket by bucket, read by ranges of rows."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

ROWS = 1 << 20  # rows of the output per window; one window is in memory at a time, at 9 bytes per row


class Outcomes:
    """One file of row numbers and one of outcomes for each window of rows.

    A bucket has rows of every window, so files are appended to. They take 5 bytes per row.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._loaded: tuple[int, pa.Table] = -1, _table([], [])

    def add(self, row: pa.Array, outcome: pa.Array) -> None:
        """Add decided rows; `row` (int64) is ascending, `outcome` is uint8."""
        first = 0
        while first < len(row):
            window = row[first].as_py() // ROWS
            end = _find(row, (window + 1) * ROWS)
            offset = pc.subtract(row.slice(first, end - first), window * ROWS).cast(pa.uint32())
            self._append(self._path(window, "rows"), offset)
            self._append(self._path(window, "outcomes"), outcome.slice(first, end - first))
            first = end
        self._loaded = -1, self._loaded[1]

    def read(self, first_row: int, last_row: int) -> pa.Table:
        """Return columns row and outcome of the decided rows of a range, in order."""
        windows = range(first_row // ROWS, last_row // ROWS + 1)
        return pa.concat_tables([_cut(self._load(window), first_row, last_row) for window in windows])

    def _load(self, window: int) -> pa.Table:
        if self._loaded[0] != window:
            self._loaded = window, self._read_window(window)
        return self._loaded[1]

    def _read_window(self, window: int) -> pa.Table:
        if not self._path(window, "rows").exists():
            return _table([], [])
        offset = self._read(self._path(window, "rows"), pa.uint32())
        outcome = self._read(self._path(window, "outcomes"), pa.uint8())
        order = pc.sort_indices(offset)
        row = pc.add(offset.take(order).cast(pa.int64()), window * ROWS)
        return _table(row, outcome.take(order))

    def _path(self, window: int, column: str) -> Path:
        return self._directory / f"{window:06d}.{column}"

    @staticmethod
    def _append(path: Path, values: pa.Array) -> None:
        width = values.type.bit_width // 8
        first = values.offset * width
        with path.open("ab") as file:
            file.write(memoryview(values.buffers()[1])[first : first + len(values) * width])

    @staticmethod
    def _read(path: Path, kind: pa.DataType) -> pa.Array:
        content = path.read_bytes()
        return pa.Array.from_buffers(kind, len(content) * 8 // kind.bit_width, [None, pa.py_buffer(content)])


def _table(row: object, outcome: object) -> pa.Table:
    return pa.table({"row": pa.array(row, pa.int64()), "outcome": pa.array(outcome, pa.uint8())})


def _cut(table: pa.Table, first_row: int, last_row: int) -> pa.Table:
    row = table["row"].combine_chunks()
    first = _find(row, first_row)
    return table.slice(first, _find(row, last_row + 1) - first)


def _find(row: pa.Array, value: int) -> int:
    """Return where a row number is, or would be, among ascending ones."""
    return bisect_left(memoryview(row.buffers()[1]).cast("q")[row.offset :], value, hi=len(row)) if len(row) else 0
