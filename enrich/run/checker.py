"""Check chunks of an output: render them, except rows whose inputs are those of a live item, and note all rows.

The digest of such an item's body is that of a row which had the same inputs, and the same rules. So it is the digest
that rendering this row would give, whichever fingerprints it was read from.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from enrich.delta.changes import Delta
from enrich.guard.statistics import Statistics
from enrich.join.rendering import render_chunk
from enrich.run.context import RunContext
from enrich.run.fingerprints import load_memory

_WORTH = 0.5  # share of a chunk that must be known: else looking rows up costs more than it saves
_PAUSE = 15  # chunks that are rendered whole after one of which less was known


class Checker:
    """Checks the chunks of an output, in their order."""

    def __init__(self, context: RunContext, delta: Delta, statistics: Statistics | None) -> None:
        """Begin. `statistics`: None if none are taken."""
        self._engine = context.engine
        self._delta = delta
        self._statistics = statistics
        self._memory = context.kept.memory(context, delta) if context.kept else load_memory(context, delta)
        self._pause = 0

    def check(self, chunk: pa.RecordBatch, first_row: int) -> pa.Table:
        """Note all rows of a chunk; return those that had to be rendered, as `render_chunk` does."""
        found, rows = self._note_unrendered(chunk, first_row)
        rendered = render_chunk(self._engine, chunk, first_row, digest=True, rows=rows)
        if rendered.num_rows:
            self._delta.note(rendered)
        if self._statistics is not None:
            self._statistics.add(rendered if found is None else _measure(found, rendered))
        return rendered

    def _note_unrendered(self, chunk: pa.RecordBatch, first_row: int) -> tuple[pa.Table | None, pa.Array | None]:
        """Note the rows that are known; return what was read of all rows, and which to render. None: all of them."""
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
        return found, rows


def _measure(found: pa.Table, rendered: pa.Table) -> pa.Table:
    """Return the numbers that guards measure of all rows of a chunk, in order, with the reasons of the rejects."""
    names = [name for name in found.column_names if name not in {"pk", "sk", "k1", "k2", "inputs"}]
    known = found.select(names).filter(pc.invert(pc.is_in(found["row"], rendered["row"].combine_chunks())))
    known = known.append_column("reason", pa.nulls(known.num_rows, pa.string()))
    return pa.concat_tables([known, rendered.select(known.column_names)]).sort_by("row")
