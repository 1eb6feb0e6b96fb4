"""Cut an output into pieces that can be read independently, in the same chunks as the whole output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from enrich.dataset.definition import Source
from enrich.read.chunks import OpenPart, find_cuts, read_range
from enrich.read.s3_object import Part

PIECE_BYTES = 32 * 1024 * 1024  # of an output, in a piece: about a million rows of Parquet
MOST_ROWS = 1 << 20  # in a range of a Parquet part


class Range(NamedTuple):
    """Rows of one part: those of the chunks that begin from `first_row` on and before `end_row` (None: no end)."""

    part: int  # number of the part
    first_row: int = 0
    end_row: int | None = None


def cut_output(
    parts: Sequence[Part], source: Source, *, open_part: OpenPart, piece_bytes: int
) -> list[tuple[Range, ...]]:
    """Cut an output into pieces of about `piece_bytes`, in its order: ranges of a large Parquet part, or whole parts.

    Only large Parquet parts are opened, for their footers. Text is read from its beginning, so a part is not cut.

    Raises:
        BadOutput: a file does not match the contract.
    """
    pieces: list[tuple[Range, ...]] = []
    held: list[Range] = []
    size = 0
    for number, part in enumerate(parts):
        if held and size + part.size > piece_bytes:
            pieces.append(tuple(held))
            held, size = [], 0
        if source.format == "parquet" and part.size > piece_bytes:
            ranges = -(-part.size // piece_bytes)
            cuts = find_cuts(part, source, open_part=open_part, ranges=ranges, most_rows=MOST_ROWS)
            pieces += [(Range(number, first, end),) for first, end in zip(cuts, [*cuts[1:], None], strict=True)]
        else:
            held.append(Range(number))
            size += part.size
    return [*pieces, tuple(held)] if held else pieces


def read_piece(
    parts: Mapping[int, Part], source: Source, piece: Sequence[Range], *, open_part: OpenPart
) -> Iterator[tuple[Range, int, pa.RecordBatch]]:
    """Read the chunks of a piece; yield each with its range and its first row in the part.

    Raises:
        BadOutput: a file does not match the contract.
    """
    for each in piece:
        chunks = read_range(
            parts[each.part], source, open_part=open_part, first_row=each.first_row, end_row=each.end_row
        )
        for at, chunk in chunks:
            yield each, at, chunk
