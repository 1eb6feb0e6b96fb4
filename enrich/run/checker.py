"""Check chunks of an output: render them, except rows whose inputs are those of a live item, and note all rows.

The digest of such an item's body is that of a row which had the same inputs, and the same rules. So it is the digest
that rendering this row would give, whichever fingerprints it was read from.

A SELECT takes 9 ms however few rows it renders, so the few rows of several chunks are rendered together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from enrich.delta.changes import Delta
from enrich.guard.statistics import Statistics
from enrich.join.rendering import reject_large, render_chunk
from enrich.run.context import RunContext
from enrich.run.fingerprints import load_memory

_WORTH = 0.5  # share of a chunk that must be known: else looking rows up costs more than it saves
_PAUSE = 15  # chunks that are rendered whole after one of which less was known
_FEW = 2_000  # rows of a chunk that wait
_MOST_CHUNKS = 16  # whose rows wait: together not more than one chunk
_MOST_BYTES = 4 * 1024 * 1024  # of waiting rows, and of what is measured of their chunks
_KEYS = ["pk", "sk", "k1", "k2", "inputs"]


class _Waiting(NamedTuple):
    """A chunk of which a few rows are to be rendered; `found`: the numbers that are measured of all its rows."""

    first_row: int
    rows: int
    picked: pa.Table
    found: pa.Table | None


class Checker:
    """Checks the chunks of an output, in their order."""

    def __init__(
        self,
        context: RunContext,
        delta: Delta,
        statistics: Statistics | None,
        keep: Callable[[int, int, pa.Table], None],
    ) -> None:
        """Begin.

        Args:
            context: the run's context.
            delta: for the notes.
            statistics: None if none are taken.
            keep: called with the first row of each chunk, its number of rows, and those that had to be rendered, as
                `render_chunk` returns them; in the order of the chunks.

        Attributes:
            is_worth_keeping: whether most of what is rendered is written. Of a large dataset most of it can be
                unchanged: then keeping it costs more than rendering the few rows again.
        """
        self._engine = context.engine
        self._delta = delta
        self._statistics = statistics
        self._keep = keep
        self._memory = context.kept.memory(context, delta) if context.kept else load_memory(context, delta)
        self.is_worth_keeping = self._memory.is_complete
        self._pause = 0
        self._is_whole = context.dataset.derive is not None  # a step gets whole chunks
        self._waiting: list[_Waiting] = []
        self._bytes = 0

    def check(self, chunk: pa.RecordBatch, first_row: int) -> None:
        """Note all rows of a chunk; if few must be rendered, these are noted at the latest by `flush`."""
        found, rows = self._note_unrendered(chunk, first_row)
        if rows is None or len(rows) > (0 if self._is_whole else _FEW):
            self.flush()
            rendered = render_chunk(self._engine, chunk, first_row, digest=True, rows=rows)
            self._delta.note(rendered)
            self._finish(first_row, chunk.num_rows, found, rendered)
            return
        picked = self._engine.pick_rows(chunk, first_row, rows)
        if self._waiting and self._waiting[0].picked.schema != picked.schema:
            self.flush()
        self._waiting.append(_Waiting(first_row, chunk.num_rows, picked, found))
        self._bytes += picked.nbytes + (0 if found is None else found.nbytes)
        if len(self._waiting) == _MOST_CHUNKS or self._bytes > _MOST_BYTES:
            self.flush()

    def flush(self) -> None:
        """Render and note the rows that wait. Only then is all that `check` got noted, measured and kept."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if not waiting:
            return
        picked = pa.concat_tables([each.picked for each in waiting])
        rendered, first = reject_large(self._engine.render_picked(picked, digest=True)), 0
        if rendered.num_rows:
            self._delta.note(rendered)
        for each in waiting:
            self._finish(each.first_row, each.rows, each.found, rendered.slice(first, each.picked.num_rows))
            first += each.picked.num_rows

    def _finish(self, first_row: int, rows: int, found: pa.Table | None, rendered: pa.Table) -> None:
        if self._statistics is not None:
            self._statistics.add(rendered if found is None else _measure(found, rendered))
        self._keep(first_row, rows, rendered)

    def _note_unrendered(self, chunk: pa.RecordBatch, first_row: int) -> tuple[pa.Table | None, pa.Array | None]:
        """Note the rows that are known; return the numbers that are measured of all rows, and which rows to render.

        None: no numbers, or all rows.
        """
        if not len(self._memory):
            return None, None
        if self._pause:
            self._pause -= 1
            return None, None
        found = self._engine.read_inputs(chunk, first_row)
        if found is None:
            return None, None
        rows = self._delta.note_unrendered(found, self._memory)
        if len(rows) > (1 - _WORTH) * chunk.num_rows:
            self._pause = _PAUSE
        return None if self._statistics is None else found.drop_columns(_KEYS), rows


def _measure(found: pa.Table, rendered: pa.Table) -> pa.Table:
    """Return the numbers that guards measure of all rows of a chunk, in order, with the reasons of the rejects."""
    known = found.filter(pc.invert(pc.is_in(found["row"], rendered["row"].combine_chunks())))
    known = known.append_column("reason", pa.nulls(known.num_rows, pa.string()))
    return pa.concat_tables([known, rendered.select(known.column_names)]).sort_by("row")
