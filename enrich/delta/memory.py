"""The digests of live items by the digests of their inputs: such an item's body is known without rendering it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

MOST_ITEMS = 2_000_000  # 24 bytes each, in memory; of a dataset with more live items every row is rendered
_NOTHING = pa.schema([("k1", pa.uint64()), ("inputs", pa.uint64()), ("digest", pa.uint64())]).empty_table()


class Memory:
    """Columns k1, inputs and digest of live items, in the order of k1."""

    def __init__(self, items: pa.Table = _NOTHING, *, is_complete: bool = True) -> None:
        """Begin. `is_complete`: nearly every row that these items do not know is written, so it is worth keeping."""
        self.is_complete = is_complete
        self._k1, self._inputs, self._digest = (items[name].combine_chunks() for name in _NOTHING.column_names)

    def __len__(self) -> int:
        return len(self._k1)

    def find(self, k1: pa.Array, inputs: pa.Array) -> pa.Array:
        """Return the digest of each item with this key and these inputs; null for others."""
        last = pa.scalar(len(self) - 1, pa.uint64())
        place = pc.min_element_wise(pc.search_sorted(self._k1, pc.fill_null(k1, 0)), last)
        is_key = pc.equal(self._k1.take(place), k1)
        is_known = pc.fill_null(pc.and_(is_key, pc.equal(self._inputs.take(place), inputs)), False)
        return pc.if_else(is_known, self._digest.take(place), pa.scalar(None, pa.uint64()))
