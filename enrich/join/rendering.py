"""Rendered chunks of pass 1, on scratch disk as far as there is room, so that pass 2 renders nothing twice. An edge.

Rendering is a third of a run's CPU. A run that goes on in another invocation has none of them, and renders again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa

MOST_BYTES = 1024 * 1024 * 1024
MOST_SHARE = 0.25  # of the disk that is free: fingerprints and DuckDB's spill need the rest
_COLUMNS = ["row", "pk", "sk", "body", "reason", "detail"]


class Kept:
    """Rendered chunks by their first row."""

    def __init__(self, directory: Path, most_bytes: int | None = None) -> None:
        self._directory = directory
        room = min(MOST_BYTES, int(MOST_SHARE * shutil.disk_usage(directory).free))
        self._room = room if most_bytes is None else most_bytes

    def keep(self, first_row: int, rendered: pa.Table) -> None:
        """Keep a chunk if there is room for it."""
        self._room -= rendered.nbytes
        if self._room < 0:
            self._room = 0  # the first chunks are kept, and no small ones among those that follow
            return
        chosen = rendered.select(_COLUMNS)
        with pa.OSFile(str(self._path(first_row)), "wb") as file, pa.ipc.new_file(file, chosen.schema) as writer:
            writer.write_table(chosen)

    def take(self, first_row: int, rows: int) -> pa.Table | None:
        """Return the chunk that begins at a row, if it was kept with so many rows, and forget it."""
        path = self._path(first_row)
        if not path.exists():
            return None
        with pa.OSFile(str(path), "rb") as file:
            rendered = pa.ipc.open_file(file).read_all()
        path.unlink()
        return rendered if rendered.num_rows == rows else None

    def _path(self, first_row: int) -> Path:
        return self._directory / f"{first_row:012d}.arrow"
