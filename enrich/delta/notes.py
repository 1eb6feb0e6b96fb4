"""Notes on each row: first a log on scratch disk in the order of rows, then files by bucket, also stored on S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enrich.delta.buckets import KEY_BITS, divide

# `kept` is false for a rejected row; its item, if there is one, stays until it expires. It is null for a row that
# repeats an earlier one, if the dataset counts equal rows once.
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("k1", pa.uint64()),
        ("k2", pa.uint64()),
        ("digest", pa.uint64()),
        ("kept", pa.bool_()),
        ("pk", pa.string()),
        ("sk", pa.string()),
        ("inputs", pa.uint64()),  # null if unknown: not every row has a digest of its inputs
    ]
)
LAST_ROW = (1 << 63) - 1
GROUP_ROWS = 128 * 1024  # collected in memory before they are written
DISTRIBUTED_ROWS = 64 * 1024  # distributed to buckets at a time; four times as many take 75 MB more
# Digests do not compress, and trying takes a tenth of the time of a write.
_WRITING = {
    "compression": {**dict.fromkeys(SCHEMA.names, "zstd"), **dict.fromkeys(("k1", "k2", "digest", "inputs"), "none")},
    "use_dictionary": ["pk"],
    "column_encoding": {"row": "DELTA_BINARY_PACKED"},
}


class Piece(NamedTuple):
    """A file of the log, and the range of its rows that count."""

    path: Path
    first_row: int
    last_row: int

    @property
    def sql(self) -> str:
        """SQL relation of its rows."""
        has_inputs = "inputs" in pq.read_schema(self.path).names  # earlier releases did not note them
        chosen = ", ".join(SCHEMA.names if has_inputs else [*SCHEMA.names[:-1], "null::ubigint as inputs"])
        between = f"row between {self.first_row} and {self.last_row}"
        return f"(select {chosen} from read_parquet('{self.path}') where {between})"


class Log:
    """Noted rows in the order of rows, in files on scratch disk: one for each checkpoint."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self.pieces: list[Piece] = []
        self.rows = 0

    def add(self, noted: pa.Table) -> None:
        """Add noted rows, with the columns of `SCHEMA`."""
        self._waiting.append(noted.cast(SCHEMA))
        self.rows += noted.num_rows
        if sum(table.num_rows for table in self._waiting) >= GROUP_ROWS:
            self._flush()

    def export(self) -> Path:
        """Return a file of the rows that were added since the last export; it stays part of the log."""
        self._flush().close()
        self._writer = None
        path = self._next_path()
        self.pieces.append(Piece(path, 0, LAST_ROW))
        return path

    def import_file(self, path: Path, first_row: int, last_row: int) -> None:
        """Add a range of the rows of an exported file to the log; the file is moved."""
        piece = Piece(path.rename(self._next_path()), first_row, last_row)
        self.pieces.append(piece)
        self.rows += pq.read_metadata(piece.path).num_rows

    def close_piece(self) -> None:
        """Write the rows that were not exported yet."""
        if self._writer is not None or self._waiting:
            self.export()

    def close(self) -> None:
        """Close the file that is being written."""
        if self._writer is not None:
            self._writer.close()

    def _next_path(self) -> Path:
        return self._directory / f"{len(self.pieces):06d}.parquet"

    def _flush(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._next_path(), SCHEMA, **_WRITING)
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting = []
        return self._writer

    def distribute(self, bits: int, directory: Path, step: Callable[[], None]) -> dict[int, Path]:
        """Distribute the log to one file per bucket, and delete each piece of the log when it is done.

        Returns the files by the prefix of their bucket: Arrow streams in the order of rows. `step` is called after each
        piece.
        """
        paths = {bucket.prefix: directory / f"{bucket.name}.arrow" for bucket in divide(bits)}
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with ExitStack() as stack:
            writers = {
                prefix: stack.enter_context(
                    pa.ipc.new_stream(stack.enter_context(pa.OSFile(str(path), "wb")), SCHEMA, options=options)
                )
                for prefix, path in paths.items()
            }
            for piece in self.pieces:
                for rows in _read(piece):
                    bucket = pc.shift_right(rows["k1"], pa.scalar(KEY_BITS - bits, pa.uint64()))
                    order = pc.sort_indices(bucket)  # stable
                    ordered, first = rows.take(order), 0
                    runs = pc.run_end_encode(bucket.combine_chunks().take(order))
                    for prefix, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
                        writers[prefix].write_table(ordered.slice(first, end - first))
                        first = end
                piece.path.unlink()
                step()
        self.pieces = []
        return paths


def _read(piece: Piece) -> Iterator[pa.Table]:
    with pq.ParquetFile(piece.path, pre_buffer=False) as file:  # otherwise the whole file is read into memory first
        for batch in file.iter_batches(batch_size=DISTRIBUTED_ROWS):
            table = pa.table(batch)
            wanted = (pc.field("row") >= piece.first_row) & (pc.field("row") <= piece.last_row)
            if (found := table.filter(wanted)).num_rows:
                if "inputs" not in found.column_names:
                    found = found.append_column("inputs", pa.nulls(found.num_rows, pa.uint64()))
                yield found.cast(SCHEMA).combine_chunks()
