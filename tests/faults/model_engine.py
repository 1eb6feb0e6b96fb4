"""Stand-ins for reading and rendering: plain JSON rows, so that a history takes milliseconds. They have no faults."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from enrich.dataset.compiler import name_measured
from enrich.dataset.definition import Dataset
from enrich.dataset.inputs import build_basis
from enrich.read.chunks import BadOutput
from enrich.read.pieces import Range
from serve.item import PREDICTION_ID, build_pk

CHUNK_ROWS = 4
PADDING = "x" * 60_000  # makes items of this many write units, so that a chunk is written in several slices
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("pk", pa.string()),
        ("sk", pa.string()),
        ("body", pa.string()),
        ("rank", pa.string()),
        ("digest", pa.uint64()),
        ("bytes", pa.int64()),
        ("inputs", pa.uint64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


class Chunk(list[Any]):
    """Rows `[subject, prediction_id, value]`."""

    @property
    def num_rows(self) -> int:
        return len(self)


def read_chunks(
    parts: Sequence[Any], source: Any, *, open_part: Any, start_row: int = 0
) -> Iterator[tuple[int, Chunk]]:
    """Read rows of JSON, in chunks."""
    rows = [row for part in parts for row in _read_part(part, source, open_part)]
    for first in range(start_row, len(rows), CHUNK_ROWS):
        yield first, Chunk(rows[first : first + CHUNK_ROWS])


def _read_part(part: Any, source: Any, open_part: Any) -> list[Any]:
    with open_part(part) as file:
        content = file.read()
    if content == b"corrupt":
        raise BadOutput(f"{part.name} is corrupt")
    if source.format == "rejects":
        return [json.loads(line)["prediction"] for line in content.splitlines()]
    return json.loads(content) if content else []


def cut_output(parts: Sequence[Any], source: Any, *, open_part: Any, piece_bytes: int) -> list[tuple[Range, ...]]:
    """Cut each part after every `piece_bytes` rows, and let some pieces have the end of one part and the next."""
    pieces: list[tuple[Range, ...]] = []
    held: list[Range] = []
    for number, part in enumerate(parts):
        rows = len(_read_part(part, source, open_part))
        cuts = range(piece_bytes, rows, piece_bytes)
        ranges = [Range(number, first, end) for first, end in zip([0, *cuts], [*cuts, None], strict=True)]
        pieces += [tuple(held + ranges[:1]), *((each,) for each in ranges[1:-1])] if cuts else []
        held = [*([] if cuts else held), ranges[-1]]
    return [*pieces, tuple(held)] if held else pieces


def read_piece(
    parts: Mapping[int, Any], source: Any, piece: Sequence[Range], *, open_part: Any
) -> Iterator[tuple[Range, int, Chunk]]:
    """Read the rows of a piece in chunks."""
    for each in piece:
        rows = _read_part(parts[each.part], source, open_part)
        end = len(rows) if each.end_row is None else each.end_row
        for first in range(each.first_row, end, CHUNK_ROWS):
            yield each, first, Chunk(rows[first : min(end, first + CHUNK_ROWS)])


class ModelEngine:
    """Renders rows as the engine would."""

    constant_id = None  # its prediction_id is a column
    has_inputs = True

    def __init__(
        self, dataset: Dataset, metadata: Mapping[str, pa.Table], *, directory: Path, gathered: Mapping[str, Any]
    ) -> None:
        assert directory.is_dir()
        assert not gathered  # no metadata is large
        self._dataset = dataset
        self._metadata = [table.to_pylist() for table in metadata.values()]
        self._basis = build_basis({"definition": [dataset.rank, dict(dataset.body)], "renderer": 1, "duckdb": 1})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_inputs(self, chunk: Chunk, first_row: int) -> pa.Table:
        found = self.render(chunk, first_row)
        names = [name for name in found.column_names if name.startswith(name_measured(""))]
        keys = [_digest_key(row["pk"], row["sk"]) for row in found.select(["pk", "sk"]).to_pylist()]
        for name, values in zip(("k1", "k2"), zip(*keys, strict=True), strict=True):
            found = found.append_column(name, pa.array(values, pa.uint64()))
        return found.select(["row", "pk", "sk", "k1", "k2", "inputs", *names])

    def render_rows(self, chunk: Chunk, first_row: int, rows: pa.Array, *, digest: bool) -> pa.Table:
        return self.render_picked(self.pick_rows(chunk, first_row, rows), digest=digest)

    def pick_rows(self, chunk: Chunk, first_row: int, rows: pa.Array) -> pa.Table:
        picked = [json.dumps(chunk[row - first_row]) for row in rows.to_pylist()]
        return pa.table({"row": rows, "json": pa.array(picked, pa.string())})

    def render_picked(self, picked: pa.Table, *, digest: bool) -> pa.Table:
        empty = self.render(Chunk([["", None, None]]), 0, digest=digest)[:0]
        rows = zip(picked["row"].to_pylist(), map(json.loads, picked["json"].to_pylist()), strict=True)
        return pa.concat_tables([empty, *(self.render(Chunk([values]), row, digest=digest) for row, values in rows)])

    def _digest_inputs(self, subject: str, prediction_id: str | None, value: str | None) -> int:
        inputs = [self._basis, subject, prediction_id, value, self._metadata]
        return _digest(json.dumps(inputs))

    def render(self, chunk: Chunk, first_row: int, *, digest: bool = True) -> pa.Table:
        rows = []
        for at, (subject, prediction_id, value) in enumerate(chunk):
            reason = render_reason(prediction_id, value)
            body = None if reason else render_body(self._dataset, value, self._metadata)
            number = _digest(body or "") if digest else None
            inputs = self._digest_inputs(subject, prediction_id, value) if digest else None
            pk = build_pk(self._dataset.name, [subject])
            rank = None if reason else render_rank(self._dataset, prediction_id, value)
            rows.append([first_row + at, pk, prediction_id, body, rank, number, 1, inputs, reason, reason])
        columns = list(zip(*rows, strict=True))
        rendered = pa.table([pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)], SCHEMA)
        for of in {guard.of for guard in self._dataset.guards if guard.of} if digest else ():
            numbers = [float(value[1:]) if value else None for _, _, value in chunk]
            rendered = rendered.append_column(name_measured(of), pa.array(numbers, pa.float64()))
        return rendered

    def originals(self, chunk: Chunk, rows: list[int]) -> list[str]:
        return [json.dumps(chunk[row]) for row in rows]

    def problems(self, chunk: Chunk, rows: list[int]) -> list[str | None]:
        del chunk
        return [None] * len(rows)

    def partitions(self, chunk: Chunk) -> dict[str, str | None]:
        del chunk
        return {}


def _digest_key(pk: str, sk: str | None) -> tuple[int | None, int | None]:
    if sk is None:
        return None, None
    digest = hashlib.md5(f"{pk}\0{sk}".encode()).digest()[::-1]
    return int.from_bytes(digest[:8]), int.from_bytes(digest[8:])


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.md5(text.encode()).digest()[:8], "little")


def render_body(dataset: Dataset, value: str, metadata: Sequence[Any]) -> str:
    """Return the body of a value, joined with the rows of all metadata."""
    body = {"value": value, "metadata": metadata}
    return json.dumps(body | {"padding": PADDING} if "padding" in dataset.body else body)


def render_rank(dataset: Dataset, prediction_id: str, value: str) -> str | None:
    """Return the place of an item in the ranked list, as it is stored; None if the dataset has no rank.

    Several values have the same rank: their items are in order of their ids.
    """
    if dataset.rank is None:
        return None
    number = int(value[1:]) % 2
    return f"{dataset.rank_tag}:1{9 - number if dataset.rank.endswith(' desc') else number}:{prediction_id}"


def render_reason(prediction_id: str | None, value: str | None) -> str | None:
    """Return why a row becomes no item, if it does not."""
    if prediction_id is None or not PREDICTION_ID.match(prediction_id):
        return "null-key" if prediction_id is None else "bad-prediction-id"
    return "bad-value" if value is None else None
