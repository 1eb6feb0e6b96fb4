"""Read what a line of a rejects file says of its row beside the row itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from enrich.dataset.source_sql import KEPT_PARTITIONS, KEPT_PROBLEM, LINE, PROBLEM


class _Kept(NamedTuple):
    partitions: dict[str, str | None]
    problem: str | None


_NOTHING = _Kept({}, None)
_MEMBERS = tuple(f'"{name}"' for name in (KEPT_PARTITIONS, KEPT_PROBLEM))


def restore_rejects(lines: pa.RecordBatch, columns: Collection[str]) -> Iterator[pa.RecordBatch]:
    """Yield lines as the chunk that they were rejected from: with its columns from the object key, and its problems.

    The lines of a file are of one chunk, so they have the same values from the object key. Where they differ, because
    files were put together by hand, another chunk begins.

    Args:
        lines: from `read_lines`.
        columns: names of the contract.
    """
    kept = [_parse(line, columns) for line in lines.column(LINE).to_pylist()]
    first = 0
    for partitions, rows in groupby(kept, key=lambda each: each.partitions):
        problems = pa.array([each.problem for each in rows], pa.string())
        chunk = lines.slice(first, len(problems))
        first += len(problems)
        arrays = [pa.repeat(pa.scalar(value, pa.string()), len(problems)) for value in partitions.values()]
        arrays += [chunk.column(LINE), pc.coalesce(chunk.column(PROBLEM), problems)]
        yield pa.RecordBatch.from_arrays(arrays, names=[*partitions, LINE, PROBLEM])


def _parse(line: str, columns: Collection[str]) -> _Kept:
    """Parse a line, unless it has none of these members, as most lines, and all that release 0.1.0 wrote."""
    if not any(name in line for name in _MEMBERS):
        return _NOTHING
    try:
        found: Any = orjson.loads(line)
    except orjson.JSONDecodeError:  # its row is not readable either
        return _NOTHING
    found = found if isinstance(found, dict) else {}
    partitions, problem = found.get(KEPT_PARTITIONS), found.get(KEPT_PROBLEM)
    if not isinstance(partitions, dict):
        partitions = {}
    known = {name: value for name, value in partitions.items() if name in columns and isinstance(value, str | None)}
    return _Kept(known, problem if isinstance(problem, str) else None)
