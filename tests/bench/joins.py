"""`python -m tests.bench.joins [--json FILE] [--rounds N]`: CPU of rendering a row, by number of metadata.

Each metadata has 1,000 rows and gives one member of the body. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from statistics import median

import pyarrow as pa

from enrich.dataset.definition import Dataset, LastModified, Metadata, Source
from enrich.join.engine import Engine
from serve.datasets import Served

COUNTS = (0, 1, 10, 50)  # metadata; 0 is the limit: rendering alone
MEMORY = "1GB"
KEYS, ROWS = 1_000, 20_000  # rows of each metadata, rows of a chunk


def build_dataset(count: int) -> Dataset:
    """Build a dataset with so many metadata."""
    names = [f"m{number}" for number in range(count)]
    return Dataset(
        served=Served("scores", ("shop",), None),
        source=Source(
            prefix="scores/",
            format="parquet",
            columns={"shop": "varchar", "id": "varchar", "sku": "varchar", "score": "double"},
        ),
        as_of=LastModified(),
        ttl=timedelta(days=1),
        metadata={name: Metadata(f"select sku, title from r.{name}", on="sku") for name in names},
        subject={"shop": "shop"},
        prediction_id="id",
        body={"score": "score"} | {name: f"{name}.title" for name in names},
    )


def main() -> None:
    """Print the table, and write JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keys = [f"sku-{number:04d}" for number in range(KEYS)]
    table = pa.table({"sku": keys, "title": [f"Title number {number}" for number in range(KEYS)]})
    rows = range(ROWS)
    columns = [["s"] * ROWS, [f"p{row}" for row in rows], [keys[row % KEYS] for row in rows], [row / 7 for row in rows]]
    chunk = pa.RecordBatch.from_arrays([pa.array(column) for column in columns], ["shop", "id", "sku", "score"])
    found: dict[int, list[float]] = {count: [] for count in COUNTS}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        engines = {}
        for count in COUNTS:
            dataset, place = build_dataset(count), Path(folder) / str(count)
            place.mkdir()
            engines[count] = stack.enter_context(
                Engine(dataset, dict.fromkeys(dataset.metadata, table), directory=place, memory_limit=MEMORY)
            )
        for turn in range(arguments.rounds + 1):
            for count, engine in engines.items():
                began = time.process_time()
                rendered = engine.render(chunk, 0)
                if turn:  # the first round warms up
                    found[count].append((time.process_time() - began) / ROWS * 1e6)
                if rendered["body"].null_count:
                    raise SystemExit(f"rows were rejected: {rendered['detail'].drop_null()[0]}")
    results = [{"metadata": count, "cpu_us": median(figures)} for count, figures in found.items()]
    print(f"{'metadata':>10}{'CPU us a row':>16}")
    for one in results:
        print(f"{one['metadata']:10}{one['cpu_us']:16.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"joins": results}, indent=1))


if __name__ == "__main__":
    main()
