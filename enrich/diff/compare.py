"""Join the items of two outputs by their keys, in DuckDB, and summarize how they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa

from enrich.dataset.json_sql import literal
from enrich.diff.distributions import BINS, DECILES, QUANTILES, find_cuts, find_edges, find_psi, pick_quantiles
from enrich.diff.extract import GROUP_ROWS, Extracted, connect
from enrich.diff.members import Kind, Member, name_columns, name_compared

MEMORY_LIMIT = "256MB"
# Rows of an output that are joined at once: DuckDB fails if much more must spill than it has memory.
JOINED_ROWS = 4_000_000
TOP_VALUES = 12  # values of a category
MOST_VALUES = 100  # different values of a category with a PSI: names and ids have none
_BATCH = 1 << 16  # values fetched at once


@dataclass(frozen=True, slots=True)
class Counts:
    """Items by how they differ."""

    same: int
    changed: int
    only_in_a: int
    only_in_b: int

    @property
    def differ(self) -> bool:
        """Whether any item is served differently."""
        return bool(self.changed or self.only_in_a or self.only_in_b)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a member in one output: how many, how many nulls, their mean and quantiles; None without any."""

    values: int
    nulls: int
    mean: float | None
    quantiles: dict[str, float]


class Change(NamedTuple):
    """A number that changed: the rows of the item in both outputs, and both values."""

    row_a: int
    row_b: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a category, and how many items have it."""

    value: str
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class MemberDiff:
    """How a member differs.

    Attributes:
        changed: items of both outputs in which it differs.
        psi: None if a side has no values, if it is neither number nor category, and for a category with more than
            `MOST_VALUES` values.
        numbers: of a number, in A and B.
        histogram: of a number: the edges of its bins, and how many values each has in A and B. The first and the last
            bin include all values beyond them.
        largest: the largest changes of a number.
        distinct: of a category: its number of different values in A and B.
        top: of a category: its most frequent values; no null is among them.
        nulls: in A and B.
    """

    member: Member
    changed: int
    nulls: tuple[int, int]
    psi: float | None = None
    numbers: tuple[Numbers, Numbers] | None = None
    histogram: tuple[list[float], list[int], list[int]] | None = None
    largest: list[Change] = field(default_factory=list)
    distinct: tuple[int, int] | None = None
    top: list[Value] = field(default_factory=list)


class Pair(NamedTuple):
    """An item that differs: its rows (None: not in that output), and the places that changed."""

    row_a: int | None
    row_b: int | None
    changed: tuple[str, ...] = ()


class Comparison:
    """Two extracted outputs, joined; a context manager."""

    def __init__(self, a: Extracted, b: Extracted, directory: Path) -> None:
        self._extracted, self._members = {"a": a, "b": b}, a.members
        self._con = connect(directory, memory_limit=MEMORY_LIMIT)
        for name, side in self._extracted.items():
            self._con.execute(f"create view {name} as from read_parquet({literal(str(side.path))})")
        self._join(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._con.close()

    def _join(self, directory: Path) -> None:
        """Join by key, a part of the keys at a time, and keep items that differ: equal bodies have equal members."""
        columns = [column for n, member in enumerate(self._members) for column in name_columns(member, n)]
        chosen = [f"{side}.{column} as {side}_{column}" for column in columns for side in ("a", "b")]
        wanted = ", ".join(["a.row as row_a", "b.row as row_b", *chosen])
        rounds = math.ceil(max(1, *(side.items for side in self._extracted.values())) / JOINED_ROWS)
        paths = [literal(str(directory / f"pairs-{n}.parquet")) for n in range(rounds)]
        for n, path in enumerate(paths):
            a, b = (f"(from {side} where k1 % {rounds} = {n}) {side}" for side in ("a", "b"))
            self._con.execute(
                f"copy (select {wanted} from {a} full join {b} using (k1, k2) "
                "where a.row is null or b.row is null or a.digest <> b.digest) "
                f"to {path} (format parquet, compression lz4, row_group_size {GROUP_ROWS})"
            )
        self._con.execute(f"create view pairs as from read_parquet([{', '.join(paths)}])")
        self._con.execute("create view changed as from pairs where row_a is not null and row_b is not null")

    def counts(self) -> Counts:
        """Count the items by how they differ."""
        only_a, only_b, changed = self._one(
            "select count(*) filter (where row_b is null), count(*) filter (where row_a is null), "
            "count(*) filter (where row_a is not null and row_b is not null) from pairs"
        )
        return Counts(self._extracted["a"].items - only_a - changed, changed, only_a, only_b)

    def members(self, show: int) -> Iterator[MemberDiff]:
        """Yield how each member differs, with up to `show` of the largest changes of a number."""
        if not self._members:
            return
        counts = [f"count(*) filter (where {self._differs(n)})" for n in range(len(self._members))]
        changed = self._one(f"select {', '.join(counts)} from changed")
        values = {
            side: self._one(
                "select "
                + ", ".join(f"count({name_compared(member, n)})" for n, member in enumerate(self._members))
                + f" from {side}"
            )
            for side in ("a", "b")
        }
        for n, member in enumerate(self._members):
            found = values["a"][n], values["b"][n]
            nulls = self._extracted["a"].items - found[0], self._extracted["b"].items - found[1]
            base = MemberDiff(member, changed[n], nulls)
            if member.kind is Kind.NUMBER:
                yield self._compare_numbers(base, n, found, show)
            elif member.kind is Kind.CATEGORY:
                yield self._compare_categories(base, n, found)
            else:
                yield base

    def pairs(self, show: int) -> dict[str, list[Pair]]:
        """Return the first `show` items each that are changed, only in A, and only in B."""
        places = ", ".join(f"case when {self._differs(n)} then {n} end" for n in range(len(self._members)))
        changed = self._con.execute(
            f"select row_a, row_b, [{places}] from changed order by row_a limit ?", [show]
        ).fetchall()
        found = {
            "changed": [
                Pair(a, b, tuple(self._members[n].place for n in numbers if n is not None)) for a, b, numbers in changed
            ]
        }
        for name, mine, other in (("only_in_a", "row_a", "row_b"), ("only_in_b", "row_b", "row_a")):
            sql = f"select row_a, row_b from pairs where {other} is null order by {mine} limit ?"
            found[name] = [Pair(a, b) for a, b in self._con.execute(sql, [show]).fetchall()]
        return found

    def _differs(self, n: int) -> str:
        column = name_compared(self._members[n], n)
        return f"a_{column} is distinct from b_{column}"

    def _compare_numbers(self, base: MemberDiff, n: int, values: tuple[int, int], show: int) -> MemberDiff:
        column = f"m{n}"
        quantiles, deciles = [], []
        for side, count in zip("ab", values, strict=True):
            picked = self._quantiles(side, column, count, [*QUANTILES.values(), *DECILES])
            quantiles.append(dict(zip(QUANTILES, picked, strict=False)))
            deciles.append(picked[len(QUANTILES) :])
        means = [_finite(self._one(f"select avg({column}) from {side}")[0]) for side in ("a", "b")]
        numbers = [
            Numbers(count, nulls, mean, each)
            for count, nulls, mean, each in zip(values, base.nulls, means, quantiles, strict=True)
        ]
        largest = self._con.execute(
            f"select row_a, row_b, a_{column}, b_{column} from changed where a_{column} <> b_{column} "
            f"order by abs(b_{column} - a_{column}) desc, row_a limit ?",
            [show],
        ).fetchall()
        return MemberDiff(
            base.member,
            base.changed,
            base.nulls,
            psi=self._find_psi(column, deciles[0], base.nulls) if all(values) else None,
            numbers=(numbers[0], numbers[1]),
            histogram=self._histogram(column, [each for each in quantiles if each]),
            largest=[Change(*each) for each in largest],
        )

    def _quantiles(self, side: str, column: str, count: int, fractions: Sequence[float]) -> list[float]:
        if not count:
            return []
        order = sorted(range(len(fractions)), key=lambda n: fractions[n])
        reader = self._con.sql(f"select {column} from {side} where {column} is not null order by 1").to_arrow_reader(
            _BATCH
        )
        with closing(reader):
            picked = pick_quantiles(map(_view, reader), count, [fractions[n] for n in order])
        return [value for _, value in sorted(zip(order, picked, strict=True))]

    def _find_psi(self, column: str, deciles: Sequence[float], nulls: tuple[int, int]) -> float | None:
        """Return the PSI over bins that each have a tenth of A's values; nulls have their own bin."""
        bounds, own = find_cuts(deciles)
        steps = [f"({column} > {each!r}::double)::int" for each in bounds]
        steps += [f"({column} >= {each!r}::double)::int" for each in own]
        counts = [self._count_bins(side, column, " + ".join(steps), len(steps) + 1) for side in ("a", "b")]
        return find_psi([*counts[0], nulls[0]], [*counts[1], nulls[1]])

    def _histogram(
        self, column: str, quantiles: Sequence[dict[str, float]]
    ) -> tuple[list[float], list[int], list[int]] | None:
        if not quantiles:
            return None
        edges = find_edges(min(each["p01"] for each in quantiles), max(each["p99"] for each in quantiles))
        if edges is None:
            return None
        width = (edges[-1] - edges[0]) / BINS
        place = f"least({BINS - 1}, greatest(0, floor(({column} - {edges[0]!r}::double) / {width!r}::double)))"
        a, b = (self._count_bins(side, column, place, BINS) for side in ("a", "b"))
        return edges, a, b

    def _count_bins(self, side: str, column: str, place: str, bins: int) -> list[int]:
        counts = [0] * bins
        sql = f"select {place} as bin, count(*) from {side} where {column} is not null group by 1"
        for bin_, count in self._con.execute(sql).fetchall():
            counts[int(bin_)] = count
        return counts

    def _compare_categories(self, base: MemberDiff, n: int, values: tuple[int, int]) -> MemberDiff:
        """Compare the values of a category; texts with the same first `LABEL_CHARACTERS` characters count as one."""
        column = f"m{n}"
        both = " union all ".join(f"(select {column} as value, '{side}' as side from {side})" for side in ("a", "b"))
        self._con.execute(
            "create or replace temp table groups as select value, count(*) filter (where side = 'a') as a_n, "
            f"count(*) filter (where side = 'b') as b_n from ({both}) where value is not null group by 1"
        )
        distinct = self._one("select count(*) filter (where a_n > 0), count(*) filter (where b_n > 0) from groups")
        found = self._con.execute(
            f"from groups order by greatest(a_n, b_n) desc, value limit {MOST_VALUES + 1}"
        ).fetchall()
        psi = None
        if len(found) <= MOST_VALUES and all(values):
            psi = find_psi([*(row[1] for row in found), base.nulls[0]], [*(row[2] for row in found), base.nulls[1]])
        return MemberDiff(
            base.member,
            base.changed,
            base.nulls,
            psi=psi,
            distinct=(distinct[0], distinct[1]),
            top=[Value(*row) for row in found[:TOP_VALUES]],
        )

    def _one(self, sql: str) -> tuple[Any, ...]:
        (row,) = self._con.execute(sql).fetchall()  # fetch all: an unfinished result blocks the next query
        return row


def _view(batch: pa.RecordBatch) -> Sequence[float]:
    """Return the doubles of a batch of one column without nulls, without copying them."""
    column = batch.column(0)
    return memoryview(column.buffers()[1]).cast("d")[column.offset : column.offset + len(column)]


def _finite(value: float | None) -> float | None:
    return value if value is not None and value - value == 0 else None
