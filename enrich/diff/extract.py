"""Read and render one output as a run does, and write what is compared of each item to a Parquet file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enrich.dataset.compiler import KEY_SQL, MD5_SQL
from enrich.dataset.json_sql import literal
from enrich.diff.members import Member, find_members, render_extraction
from enrich.diff.sides import LocalPart, Side
from enrich.errors import Failed
from enrich.guard.statistics import Summary
from enrich.join.rejects import add_reasons, count_reasons
from enrich.join.rendering import DUPLICATE, render_chunk
from enrich.read.chunks import read_chunks
from enrich.read.s3_object import Part, PartFile
from enrich.run.context import RunContext
from enrich.run.metadata import pin_metadata
from enrich.run.prepare import pin_parts
from enrich.s3 import exists, split_location

_NO_ITEMS = pa.schema(
    [("row", pa.int64()), ("digest", pa.uint64()), *((name, pa.string()) for name in ("pk", "sk", "body", "reason"))]
).empty_table()
GROUP_ROWS = 16_384  # rows of a file that DuckDB writes: it keeps as many in memory per thread, of all columns
MEMORY_LIMIT = "128MB"  # memory of the diff's DuckDB; beyond it, it spills to scratch disk


@dataclass(frozen=True, slots=True)
class Extracted:
    """What one output would serve.

    Attributes:
        path: Parquet file with a row for each item: row, k1, k2 (its key's digest), digest (its body's), members.
        rows: number of rows of the output.
        items: that it would serve: rows that are not rejected; equal rows count once if the dataset says so.
        reasons: reject reason -> rows.
        members: the body's members, also if there are no rows.
        parts: the parts of the output.
        summary: statistics of what the dataset's guards measure, except `changed`.
    """

    path: Path
    rows: int
    items: int
    reasons: dict[str, int]
    members: Sequence[Member]
    parts: Sequence[Part]
    summary: Summary


def connect(directory: Path, *, memory_limit: str = MEMORY_LIMIT) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB that reads and writes files of scratch disk, and spills there."""
    con = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": memory_limit,
            "temp_directory": str(directory / "spill"),
            "threads": 2,
            "preserve_insertion_order": False,
        },
    )
    con.execute("set enable_progress_bar = false")
    return con


def pin_side(context: RunContext, side: Side, metadata: dict[str, str] | None) -> tuple[Sequence[Part], dict[str, str]]:
    """Return the parts of an output, and where the metadata that it is joined with is stored.

    Args:
        context: the context of the side.
        side: the output.
        metadata: to join with; None: what the context's run has, if it has any; else what a run started now would use.

    Raises:
        Overwritten: the output of a run was deleted or replaced.
        Failed: the metadata of the given run was deleted.
        Stopped: a metadata query failed or still runs.
    """
    parts = pin_parts(context) if side.parts is None else side.parts
    if metadata is None and context.run.metadata:
        gone = [
            name for name, at in context.run.metadata.items() if not exists(context.services.s3, *split_location(at))
        ]
        if gone:
            raise Failed(
                f"its metadata {', '.join(gone)} was deleted: the bucket keeps it for "
                "a month; leave --own-metadata out to join both with current metadata"
            )
    return parts, pin_metadata(context) if metadata is None else metadata


def read_side(context: RunContext, parts: Sequence[Part], start_row: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the chunks of an output with their first row numbers, wherever its parts are."""

    def open_part(part: Part) -> BinaryIO:
        if isinstance(part, LocalPart):
            return Path(part.object_key).open("rb")
        return BufferedReader(PartFile(context.services.s3, part), buffer_size=1 << 16)

    yield from read_chunks(parts, context.dataset.source, open_part=open_part, start_row=start_row)


def extract_side(context: RunContext, parts: Sequence[Part], directory: Path) -> Extracted:
    """Read, join and render an output; write what is compared of each item.

    Args:
        context: the context, with the metadata to join with.
        parts: the parts of the output.
        directory: an empty directory on scratch disk.
    """
    members = find_members(context.engine.body)
    rows, reasons = 0, dict[str, int]()
    parsed, columns = render_extraction(members, "body")
    # the inner SELECT parses a body once: as a column of its own it is not computed for each member again
    sql = (
        f"select {', '.join(['row', KEY_SQL, 'digest', *columns])} "
        f"from (select row, {MD5_SQL} as md5, digest, {parsed} as texts from rendered where reason is null)"
    )
    path, writer = directory / "items.parquet", None
    statistics = context.open_statistics()
    with closing(connect(directory)) as con:
        for first_row, chunk in read_side(context, parts):
            rendered = render_chunk(context.engine, chunk, first_row, digest=True)
            context.delta.note(rendered)
            if context.dataset.guards:
                statistics.add(rendered)
            reasons = add_reasons(reasons, count_reasons(rendered))
            con.register("rendered", rendered)
            found = con.sql(sql).to_arrow_table()
            writer = writer or pq.ParquetWriter(path, found.schema, compression="lz4")
            writer.write_table(found)
            rows = first_row + chunk.num_rows
            context.services.progress.rows(context.run, rows, sum(reasons.values()), None)
            context.lease.keep()
        if writer is None:
            con.register("rendered", _NO_ITEMS)
            writer = pq.ParquetWriter(path, con.sql(sql).to_arrow_table().schema)
        writer.close()
    duplicates = context.delta.duplicates(context.lease.keep)
    if duplicates:
        reasons = {**reasons, DUPLICATE[0]: len(duplicates)}
    items = rows - sum(reasons.values())
    if duplicates or context.dataset.equal_rows == "once":
        path, items = _drop_repeated(path, directory, duplicates)
    summary = statistics.summarize(duplicates=len(duplicates))
    return Extracted(path, rows, items, reasons, members, parts, summary)


def _drop_repeated(path: Path, directory: Path, duplicates: Sequence[int]) -> tuple[Path, int]:
    """For each key, keep the only row, or the first of equal ones; drop duplicates with different bodies."""
    kept = directory / "kept.parquet"
    with closing(connect(directory)) as con:
        con.register("duplicates", pa.table({"row": pa.array(duplicates, pa.int64())}))
        con.execute(
            f"copy (from read_parquet({literal(str(path))}) where row not in (from duplicates) and row in "
            f"(select min(row) from read_parquet({literal(str(path))}) group by k1, k2, digest)) "
            f"to {literal(str(kept))} (format parquet, compression lz4, row_group_size {GROUP_ROWS})"
        )
    path.unlink()
    return kept, pq.read_metadata(kept).num_rows


def render_rows(context: RunContext, parts: Sequence[Part], rows: Iterable[int]) -> dict[int, tuple[str, str, str]]:
    """Render some items of an output again: row -> pk, prediction_id, body."""
    wanted = sorted(set(rows))
    found: dict[int, tuple[str, str, str]] = {}
    if not wanted:
        return found
    first = 0 if context.dataset.derive else wanted[0]  # a pandas step must see the same chunks as before
    for first_row, chunk in read_side(context, parts, first):
        here = [row for row in wanted if first_row <= row < first_row + chunk.num_rows]
        if here:
            rendered = render_chunk(context.engine, chunk, first_row, digest=False)
            chosen = rendered.filter(pc.is_in(rendered["row"], pa.array(here, pa.int64())))
            found |= {each["row"]: (each["pk"], each["sk"], each["body"]) for each in chosen.to_pylist()}
        if first_row + chunk.num_rows > wanted[-1]:
            break
    return found
