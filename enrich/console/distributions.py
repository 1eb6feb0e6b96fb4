"""Compare the columns of the newest outputs, from a bounded sample of the rows of each. I/O on S3; nothing is written.

A sample is the first rows of an output, or rows at several places of a Parquet file, which can be read from any row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError

from enrich.console.privacy import find_subject_columns
from enrich.dataset.definition import Dataset
from enrich.dataset.json_sql import identifier
from enrich.dataset.source_sql import PROBLEM, build_read
from enrich.errors import Failed, Overwritten, Stopped, first_line
from enrich.join.engine import connect_duckdb
from enrich.ledger.records import Run
from enrich.read.chunks import BadOutput, read_chunks
from enrich.read.outputs import fetch_output
from enrich.read.s3_object import Part, PartFile
from enrich.run.parts import load_parts
from enrich.services import Services

SAMPLED_ROWS = 20_000  # of each output
COMPARED_RUNS = 4
BINS = 24
_PLACES = 4  # of a Parquet file
_TAILS = 0.005  # share of rows below the first bin, and above the last one: an outlier would flatten all others
_INTEGERS = frozenset(f"{sign}{size}int" for sign in ("", "u") for size in ("tiny", "small", "big", "huge"))
_NUMBERS = _INTEGERS | {"integer", "uinteger", "float", "double", "decimal"}
_MEMORY = "256MB"


@dataclass(frozen=True, slots=True)
class Summary:
    """One column in the sample of one run: only aggregates, no value of a row.

    Attributes:
        values: number of values that are not null.
        nulls: share of rows that are null, 0 to 1.
        distinct: number of different values.
        share_true: share of the values that are true, for a BOOLEAN.
        mean, low, median, high: for numbers; `low` and `high` are the 5th and the 95th percentile.
        bins: number of values in each of `BINS` intervals of the comparison's range.
    """

    values: int
    nulls: float
    distinct: int
    share_true: float | None = None
    mean: float | None = None
    low: float | None = None
    median: float | None = None
    high: float | None = None
    bins: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """One column in each run's sample, newest run last; `bounds` are those of the bins, None if there are none."""

    name: str
    kind: str
    bounds: tuple[float, float] | None
    summaries: Sequence[Summary]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Samples beside each other: the runs (newest last), rows of each sample, the columns, and what failed by run."""

    runs: Sequence[Run]
    rows: Sequence[int]
    columns: Sequence[Column]
    problems: Sequence[tuple[Run, str]]


def choose_runs(runs: Sequence[Run]) -> list[Run]:
    """Choose the newest runs over different whole outputs that were read to their end, oldest first."""
    chosen: dict[str, Run] = {}
    for run in sorted(runs, key=lambda each: each.run, reverse=True):
        if run.kind.is_over_output and run.rows:
            chosen.setdefault(run.identity, run)
    return sorted(list(chosen.values())[:COMPARED_RUNS], key=lambda each: (each.as_of_ms or 0, each.run))


def compare_runs(services: Services, dataset: Dataset, runs: Sequence[Run], rows: int = SAMPLED_ROWS) -> Comparison:
    """Read a sample of the output of each run and summarize its columns; a run that can't be read is in `problems`."""
    compared, problems, counts = list[Run](), list[tuple[Run, str]](), list[int]()
    with tempfile.TemporaryDirectory(dir=services.directory) as folder:
        con = connect_duckdb(Path(folder), memory_limit=_MEMORY)
        try:
            kinds = _find_kinds(con, dataset)
            # A column that the subject is built from is an identifier, even if it is a number
            names = set(find_subject_columns(dataset))
            for run in runs:
                try:
                    counts.append(_load(con, f"run{len(compared)}", dataset, kinds, services, run, rows))
                    compared.append(run)
                except (
                    BadOutput, BotoCoreError, ClientError, Failed, Overwritten, Stopped, TypeError, duckdb.Error
                ) as error:  # fmt: skip
                    problems.append((run, first_line(error)))
            tables = [f"run{number}" for number in range(len(compared))]
            columns = [
                _summarize(con, tables, name, kind.id, is_name=name in names) for name, kind in kinds.items() if tables
            ]
        except duckdb.Error as error:  # DuckDB does not know a type of the dataset, or memory is used up
            compared, counts, columns, problems = [], [], [], [(run, first_line(error)) for run in runs]
        finally:
            con.close()
    return Comparison(compared, counts, columns, problems)


def _find_kinds(con: duckdb.DuckDBPyConnection, dataset: Dataset) -> dict[str, Any]:
    """Return the declared columns that can be summarized: numbers, booleans and text."""
    nulls = ", ".join(f"cast(null as {kind}) as {identifier(name)}" for name, kind in dataset.source.columns.items())
    relation = con.sql(f"select {nulls}")
    found = dict(zip(relation.columns, relation.types, strict=True))
    return {name: kind for name, kind in found.items() if kind.id in {*_NUMBERS, "boolean", "varchar"}}


def _load(
    con: duckdb.DuckDBPyConnection,
    table: str,
    dataset: Dataset,
    kinds: dict[str, Any],
    services: Services,
    run: Run,
    rows: int,
) -> int:
    """Make a table of a sample; return the number of its rows.

    Raises:
        Overwritten: the output is no longer the one that was run.
        BadOutput: a file can't be read.
        TypeError: a column's type can't be converted to the declared one.
    """
    source = replace(dataset.source, unknown_columns="ignore")
    parts = _find_parts(services, dataset, run)
    chosen = ", ".join(map(identifier, kinds)) or "1 as row"  # of an output whose columns are all of other types
    for number, chunk in enumerate(_read_sample(services, source, parts, run.rows or 0, rows)):
        numbered = pa.Table.from_batches([chunk]).append_column("larder.row", pa.nulls(chunk.num_rows, pa.int64()))
        con.register("larder.chunk", numbered)
        read = build_read(con, source, kinds, dict.fromkeys(kinds, 1))
        select = f"select {chosen} from ({read}) where {identifier(PROBLEM)} is null"
        con.execute(f"insert into {table} {select}" if number else f"create or replace table {table} as {select}")
    return int(con.execute(f"select count(*) from {table}").fetchall()[0][0])


def _find_parts(services: Services, dataset: Dataset, run: Run) -> list[Part]:
    """Return the parts that a run pinned; if their list was deleted, the parts that the output has now."""
    if (pinned := load_parts(services, run.dataset, run.run)) is not None:
        return pinned
    output = fetch_output(services.s3, dataset, run.bucket, run.object_key)
    if output is None or output.identity != run.identity:
        raise Overwritten(f"s3://{run.bucket}/{run.object_key} is no longer the object that run {run.run} read")
    return list(output.parts)


def _read_sample(
    services: Services, source: Any, parts: Sequence[Part], total: int, rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield chunks of a sample, the first of them even if it has no rows."""
    places = _PLACES if source.format == "parquet" and total > rows else 1
    for place in range(places):
        wanted = max(1, rows // places)
        chunks = read_chunks(
            parts,
            source,
            open_part=lambda part: _open(services, part),
            start_row=total * place // places,
            chunk_rows=min(wanted, 32_000),
        )
        for _, chunk in chunks:
            yield chunk.slice(0, wanted)
            wanted -= chunk.num_rows
            if wanted <= 0:
                break


def _open(services: Services, part: Part) -> BinaryIO:
    return BufferedReader(PartFile(services.s3, part, read_ahead=1 << 20), buffer_size=1 << 16)


def _summarize(con: duckdb.DuckDBPyConnection, tables: Sequence[str], name: str, kind: str, *, is_name: bool) -> Column:
    column = identifier(name)
    counts = f"count({column}), coalesce(1 - count({column}) / nullif(count(*), 0), 0), count(distinct {column})"
    if is_name or kind not in _NUMBERS:
        share = f"avg({column}::integer)" if kind == "boolean" and not is_name else "null::double"
        rows = [con.execute(f"select {counts}, {share} from {table}").fetchall()[0] for table in tables]
        return Column(name, kind, None, [Summary(*row) for row in rows])
    value = f"case when isfinite({column}::double) then {column}::double end"
    bounds = _find_bounds(con, tables, value)
    summaries = []
    for table in tables:
        values, nulls, distinct, mean, quantiles = con.execute(
            f"select {counts}, avg(v), quantile_cont(v, [0.05, 0.5, 0.95]) "
            f"from (select {column}, {value} as v from {table})"
        ).fetchall()[0]
        bins = _count_bins(con, table, value, bounds) if bounds else []
        low, median, high = quantiles or (None, None, None)
        summaries.append(Summary(values, nulls, distinct, None, mean, low, median, high, bins))
    return Column(name, kind, bounds, summaries)


def _find_bounds(con: duckdb.DuckDBPyConnection, tables: Sequence[str], value: str) -> tuple[float, float] | None:
    every = " union all ".join(f"select {value} as v from {table}" for table in tables)
    found = con.execute(f"select quantile_cont(v, [{_TAILS}, {1 - _TAILS}]) from ({every})").fetchall()[0][0]
    if found is None:
        return None
    low, high = found
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _count_bins(con: duckdb.DuckDBPyConnection, table: str, value: str, bounds: tuple[float, float]) -> list[int]:
    """Count the values of each bin; those outside of the bounds are in the first and the last one."""
    low, high = bounds
    place = "least(greatest(floor((v - $low) / ($high - $low) * $bins), 0), $bins - 1)::integer"
    counted = con.execute(
        f"select {place} as bin, count(*) from (select {value} as v from {table}) where v is not null group by bin",
        {"low": low, "high": high, "bins": BINS},
    ).fetchall()
    found = dict(counted)
    return [found.get(number, 0) for number in range(BINS)]
