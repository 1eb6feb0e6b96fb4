"""`python -m tests.bench.hot_subject [ROWS]`: write an output of which one subject has half, to a modelled table.

The table accepts 40,000 write units a second, a partition 1,000. Time is the model's, so that the load of the machine
does not matter. Orders of the rows: as they come, in a random order of sort keys or in ascending order; or strided, as
pieces do that are written at the same time from different places of the output.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from enrich.write.requests import interleave
from enrich.write.writer import Writer
from serve.item import Order
from tests.doubles.modelled_table import ModelledTable

ROWS = 400_000
CHUNK_ROWS = 20_000
TABLE_UNITS, PARTITION_UNITS = 40_000, 1_000
SPLIT_SECONDS = 60.0  # assumed: AWS says only that it takes minutes of sustained traffic
STRIDES = 36  # slots of ten workers
ORDER = Order(1, 1000, 1)


class Result(NamedTuple):
    """What a load took: seconds of the model, the floor of the hot subject, its partitions at the end."""

    seconds: float
    floor: float
    partitions: int


def measure(rows: int, *, ascending: bool, strides: int = 1, splits_after: float = float("inf")) -> Result:
    """Write `rows` items, of which every second one is of the hot subject."""
    numbers = list(range(rows))
    if not ascending:
        random.Random(1).shuffle(numbers)
    table = ModelledTable(units_per_second=TABLE_UNITS, units_per_pk=PARTITION_UNITS, splits_after=splits_after)
    began = table.now
    writer = Writer(table, "larder", clock=table.clock, random=random.Random(1).random)
    for chunk in list_chunks(numbers, strides):
        writer.put(chunk, order=ORDER, expires_at=2_000_000_000, conditional=False)
    assert writer.flush().written == rows
    floor = rows / 2 / PARTITION_UNITS
    return Result(table.now - began, floor, len(table.partitions["d#hot"]))


def list_chunks(numbers: Sequence[int], strides: int) -> Iterator[pa.Table]:
    """Yield chunks with subjects interleaved; with strides, each takes rows from as many places of the output."""
    length = -(-len(numbers) // strides)
    order = [numbers[at] for first in range(length) for at in range(first, len(numbers), length)]
    for first in range(0, len(order), CHUNK_ROWS):
        part = order[first : first + CHUNK_ROWS]
        chunk = pa.table(
            {
                "row": pa.array(part, pa.int64()),
                "pk": ["d#hot" if n % 2 else f"d#{n % 9973}" for n in part],
                "sk": [f"{n:09d}" for n in part],
                "body": [f'{{"n":{n}}}' for n in part],
                "rank": pa.nulls(len(part), pa.string()),
                "entries": pa.array([0] * len(part), pa.int64()),
            }
        )
        yield chunk.take(interleave(chunk["pk"]))


CASES = {
    "no split": {"ascending": False},
    "split for heat, random sort keys": {"ascending": False, "splits_after": SPLIT_SECONDS},
    "split for heat, ascending sort keys": {"ascending": True, "splits_after": SPLIT_SECONDS},
    f"split for heat, ascending, {STRIDES} strides": {
        "ascending": True,
        "splits_after": SPLIT_SECONDS,
        "strides": STRIDES,
    },
}


def main() -> None:
    """Print a row for each case."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    print("| case | seconds | of the floor | partitions of the subject |\n|---|---|---|---|")
    for name, given in CASES.items():
        found = measure(rows, **given)  # type: ignore[arg-type]
        share = found.seconds / found.floor
        print(f"| {name} | {found.seconds:,.0f} | {share:.2f} | {found.partitions} |", flush=True)


if __name__ == "__main__":
    main()
