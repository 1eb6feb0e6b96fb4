"""Render the chunks of an output for the check and write stages, once if the scratch disk has room to cache them.

Rendering is a third of a run's CPU. The cache ends with the invocation: a run that continues in another one renders
again.
"""

from __future__ import annotations

import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from enrich.join.engine import Engine
from enrich.write.item_size import find_too_large, find_too_long
from serve.item import MAX_BODY_BYTES

DUPLICATE = (
    "duplicate",
    (
        "other rows of this output have the same subject and prediction_id; write one of them, or set the dataset's "
        'equal_rows="once" if their bodies are equal'
    ),
)
TOO_LARGE = "too-large", "the item is larger than DynamoDB's 400 KB, even as gzip"
TOO_LONG = "too-large", f"the body is larger than the {MAX_BODY_BYTES >> 20} MB of JSON text that can be served"
MAX_CACHE_BYTES = 1024 * 1024 * 1024
MAX_DISK_SHARE = 0.25  # of the free disk space: fingerprints and DuckDB's temporary files need the rest
_COLUMNS = ["row", "pk", "sk", "body", "rank", "reason", "detail"]


def render_chunk(
    engine: Engine, chunk: pa.RecordBatch, first_row: int, *, digest: bool, rows: pa.Array | None = None
) -> pa.Table:
    """Render a chunk, or those of its rows, as `Engine.render` does, and reject the items that are too large."""
    if rows is None:
        rendered = engine.render(chunk, first_row, digest=digest)
    else:
        rendered = engine.render_rows(chunk, first_row, rows, digest=digest)
    return reject_large(rendered)


def reject_large(rendered: pa.Table) -> pa.Table:
    """Reject the items that are too large to be stored or served."""
    for rule, rows in ((TOO_LONG, find_too_long(rendered)), (TOO_LARGE, find_too_large(rendered))):
        if rows:
            rendered = _reject(rendered, rows, *rule)
    return rendered


def reject_duplicates(rendered: pa.Table, first_row: int, duplicates: Sequence[int]) -> pa.Table:
    """Reject rows that share an item key. `duplicates`: their row numbers in the whole output, ascending."""
    if not rendered.num_rows:
        return rendered
    last_row = rendered["row"][-1].as_py()
    rows = duplicates[bisect_left(duplicates, first_row) : bisect_left(duplicates, last_row + 1)]
    return _reject(rendered, rows, *DUPLICATE) if rows else rendered


class RenderedCache:
    """Bounded disk cache of what the check stage has rendered, by the first row of the chunk.

    `checked` has the first row and the number of rows of each chunk that was checked in this invocation.
    """

    def __init__(self, directory: Path, *, shift: int = 0) -> None:
        """Begin with the files that are in the folder. `shift`: of the rows, since these were kept."""
        self._directory = directory
        self._shift = shift
        self._room = min(MAX_CACHE_BYTES, int(MAX_DISK_SHARE * shutil.disk_usage(directory).free))
        self.checked: list[tuple[int, int]] = []

    def keep(self, first_row: int, rows: int, rendered: pa.Table) -> None:
        """Keep the rendered rows of a chunk of so many rows, if there is room for them."""
        self.checked.append((first_row, rows))
        if not rendered.num_rows or rendered.nbytes > self._room:  # before the file is written: it is never too large
            return
        chosen, path = rendered.select(_COLUMNS), self._path(first_row)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, chosen.schema, options=options) as writer:
            writer.write_table(chosen)
        self._room -= path.stat().st_size

    def take(self, first_row: int, rows: pa.Array) -> pa.Table | None:
        """Remove and return what is cached of the chunk that begins at `first_row`; None unless `rows` are among it."""
        path = self._path(first_row)
        try:
            with pa.memory_map(str(path)) as file:
                rendered = pa.ipc.open_file(file).read_all()
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)  # another attempt of a task can have taken it too
        if self._shift:
            rendered = rendered.set_column(0, "row", pc.add(rendered["row"], self._shift))
        return rendered if pc.all(pc.is_in(rows, rendered["row"].combine_chunks())).as_py() else None

    def _path(self, first_row: int) -> Path:
        return self._directory / f"{first_row - self._shift:012d}.arrow"


class CheckedRenderer(NamedTuple):
    """Renders chunks for publishing exactly as they were checked."""

    engine: Engine
    cache: RenderedCache
    duplicates: Sequence[int]  # row numbers in the whole output, ascending

    def render_checked(self, read: Callable[[], pa.RecordBatch], first_row: int, rows: pa.Array) -> pa.Table:
        """Render at least these rows of a chunk, from the cache if they are there, and reject those that share a key.

        `read` returns the chunk.
        """
        rendered = self.cache.take(first_row, rows)
        if rendered is None:
            rendered = render_chunk(self.engine, read(), first_row, digest=False, rows=rows)
        return reject_duplicates(rendered, first_row, self.duplicates)


def _reject(rendered: pa.Table, rows: Iterable[int], reason: str, detail: str) -> pa.Table:
    hit = pc.and_(pc.is_in(rendered["row"], pa.array(rows, pa.int64())), pc.is_null(rendered["reason"]))
    for name, value in (("reason", reason), ("detail", detail)):
        column = pc.if_else(hit, pa.scalar(value, pa.string()), rendered[name])
        rendered = rendered.set_column(rendered.schema.get_field_index(name), name, column)
    return rendered
