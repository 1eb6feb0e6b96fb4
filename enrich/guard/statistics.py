"""Statistics of an output's values: collected chunk by chunk, saved with checkpoints, summarized for the ledger."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from enrich.dataset.compiler import name_measured
from enrich.guard.cells import find_cells, find_number

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
GROUPS = 100  # groups of about equal size in the summary of a distribution; a frequent number has its own
_MERGED_ROWS = 65_536  # cells that are counted before they are merged
_COUNTED = pa.schema([("cell", pa.int32()), ("count", pa.int64())])


@dataclass(frozen=True, slots=True)
class Distribution:
    """The distribution of one value over an output.

    Attributes:
        rows: predictions that become items.
        nulls: those of them whose value is null, NaN or infinite. If all are, the other numbers are None.
        percentiles: name (`p1` to `p99`) -> value.
        groups: pairs of a cell (`enrich.guard.cells`) and the number of values in it and in those since the pair
            before.
    """

    rows: int
    nulls: int
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    percentiles: Mapping[str, float] = field(default_factory=dict)
    groups: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics of an output, with a group per cell; they are merged when they are dumped for the next run.

    Attributes:
        rows: predictions that become items.
        values: by the name of the column or member.
        changed: share of the live items named by the output whose body it changes; None if there were none, or if no
            guard asks for it.
    """

    rows: int
    values: Mapping[str, Distribution] = field(default_factory=dict)
    changed: float | None = None

    def dump(self) -> str:
        """Return them as JSON text, with at most `2 * GROUPS` groups for each value."""
        values = {name: asdict(replace(each, groups=_shorten(each))) for name, each in self.values.items()}
        return orjson.dumps({"rows": self.rows, "values": values, "changed": self.changed}).decode()

    @classmethod
    def load(cls, text: str) -> Summary:
        """Build them from what `dump` returned; members that a newer release added are ignored."""
        members = orjson.loads(text)
        values = {name: _build(Distribution, each) for name, each in members["values"].items()}
        summary: Summary = _build(cls, {**members, "values": values})
        return summary


def _shorten(of: Distribution) -> Sequence[Sequence[int]]:
    return group_cells(of.groups, (of.rows - of.nulls) / GROUPS)


def _build(kind: Any, members: Mapping[str, Any]) -> Any:
    return kind(**{name: members[name] for name in kind.__dataclass_fields__ if name in members})


@dataclass(slots=True)
class _Collected:
    """What was collected of one value; bounded, because the number of cells is."""

    nulls: int = 0
    total: float = 0.0
    min: float | None = None
    max: float | None = None
    counted: list[pa.Table] = field(default_factory=list)

    def add(self, numbers: pa.Array) -> None:
        is_finite = pc.is_finite(numbers)
        count = pc.sum(is_finite).as_py() or 0
        self.nulls += len(numbers) - count
        finite = numbers if count == len(numbers) else numbers.filter(pc.fill_null(is_finite, False))
        if not len(finite):
            return
        found = pc.min_max(finite).as_py()
        self.total += pc.sum(finite).as_py()
        self.min = min([found["min"], *([] if self.min is None else [self.min])])
        self.max = max([found["max"], *([] if self.max is None else [self.max])])
        counts = pc.value_counts(find_cells(finite))
        self.counted.append(pa.table([counts.field(0), counts.field(1)], schema=_COUNTED))
        if sum(table.num_rows for table in self.counted) > _MERGED_ROWS:
            self.counted = [self.cells()]

    def cells(self) -> pa.Table:
        """Return the counts of cells, each once and in order."""
        whole = pa.concat_tables([_COUNTED.empty_table(), *self.counted])
        merged = whole.group_by("cell").aggregate([("count", "sum")]).rename_columns({"count_sum": "count"})
        return merged.select(_COUNTED.names).sort_by("cell")

    def summarize(self, rows: int) -> Distribution:
        cells = self.cells()
        pairs = list(zip(cells["cell"].to_pylist(), cells["count"].to_pylist(), strict=True))
        ends = list(accumulate(number for _, number in pairs))
        count = ends[-1] if ends else 0
        if not count or self.min is None or self.max is None:
            return Distribution(rows, self.nulls)
        percentiles = {
            f"p{each}": min(max(find_number(pairs[bisect_left(ends, each / 100 * count)][0]), self.min), self.max)
            for each in PERCENTILES
        }
        return Distribution(rows, self.nulls, self.min, self.max, self.total / count, percentiles, pairs)


class Statistics:
    """Statistics of the predictions of an output that become items."""

    def __init__(self, values: Iterable[str]) -> None:
        """Start without rows. `values`: names of the columns and members to measure."""
        self.rows = 0
        self._values = {name: _Collected() for name in values}

    def add(self, rendered: pa.Table) -> None:
        """Add a rendered chunk: column reason, and those of `name_measured`."""
        if rendered["reason"].null_count < rendered.num_rows:
            rendered = rendered.filter(pc.is_null(rendered["reason"]))
        self.rows += rendered.num_rows
        for name, collected in self._values.items():
            collected.add(rendered[name_measured(name)].combine_chunks())

    def dump(self) -> bytes:
        """Return everything as JSON, for the invocation that continues."""
        values = {
            name: {**{each: getattr(of, each) for each in ("nulls", "total", "min", "max")}, **of.cells().to_pydict()}
            for name, of in self._values.items()
        }
        return orjson.dumps({"rows": self.rows, "values": values})

    def load(self, content: bytes) -> bool:
        """Continue from what `dump` returned; return False if it measured other values."""
        members = orjson.loads(content)
        if members["values"].keys() != self._values.keys():
            return False
        self.rows = members["rows"]
        for name, of in members["values"].items():
            counted = pa.table({each: of.pop(each) for each in _COUNTED.names}, _COUNTED)
            of["total"] = math.nan if of["total"] is None else of["total"]  # the sum of numbers near 1e308
            self._values[name] = _Collected(**of, counted=[counted])
        return True

    def merge(self, content: bytes) -> None:
        """Add what `dump` returned for other rows, which measured the same values."""
        other = Statistics(self._values)
        other.load(content)
        self.rows += other.rows
        for name, of in self._values.items():
            more = other._values[name]
            of.nulls += more.nulls
            of.total += more.total
            of.min = min((each for each in (of.min, more.min) if each is not None), default=None)
            of.max = max((each for each in (of.max, more.max) if each is not None), default=None)
            of.counted = [pa.concat_tables([of.cells(), more.cells()])]

    def summarize(self, *, duplicates: int = 0, changed: float | None = None) -> Summary:
        """Return what the ledger keeps.

        Args:
            duplicates: number of rows that were rejected later; the distributions include them.
            changed: as in `Summary`.
        """
        values = {name: each.summarize(self.rows) for name, each in self._values.items()}
        return Summary(self.rows - duplicates, values, changed)


def group_cells(pairs: Iterable[Sequence[int]], size: float) -> list[tuple[int, int]]:
    """Join neighbouring pairs of a cell and a count into groups of about a size; a larger cell is its own group."""
    groups: list[tuple[int, int]] = []
    is_open = False
    for cell, count in pairs:
        if is_open and count < size:
            groups[-1] = (cell, groups[-1][1] + count)
        else:
            groups.append((cell, count))
        is_open = groups[-1][1] < size
    return groups
