"""`python -m tests.bench.elements [ELEMENTS]`: CPU and peak RSS of joining lists of ten with 100,000 products."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from enrich.dataset.definition import Dataset, LastModified, Metadata, Source
from enrich.join.engine import Engine
from serve.datasets import Served

PRODUCTS, LENGTH, ROWS = 100_000, 10, 20_000  # metadata rows, elements of a list, rows of a chunk

DATASET = Dataset(
    served=Served("baskets", ("shop",), "baskets:read"),
    source=Source(
        prefix="baskets/",
        format="parquet",
        columns={"shop": "varchar", "id": "varchar", "items": "struct(sku varchar, score double)[]"},
    ),
    as_of=LastModified(),
    ttl=timedelta(days=1),
    metadata={"products": Metadata("select sku, title, price from r.p", on={"items.sku": "sku"}, each="items")},
    subject={"shop": "shop"},
    prediction_id="id",
    body={"items": "[{'sku': item.sku, 'title': products[i].title, 'price': products[i].price} for item, i in items]"},
)


def build_chunk(random: np.random.Generator, first: int) -> pa.RecordBatch:
    """Build a chunk whose elements are spread over all products."""
    keys = pa.array([f"sku-{n:07d}" for n in random.integers(0, PRODUCTS, ROWS * LENGTH)])
    elements = pa.StructArray.from_arrays([keys, pa.array(random.random(ROWS * LENGTH))], names=["sku", "score"])
    offsets = pa.array(range(0, ROWS * LENGTH + 1, LENGTH), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, elements)
    ids = pa.array([f"p{n}" for n in range(first, first + ROWS)])
    return pa.RecordBatch.from_arrays([pa.array(["s"] * ROWS), ids, lists], ["shop", "id", "items"])


def main() -> None:
    """Render the elements chunk by chunk, and print the CPU seconds and the peak RSS."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("elements", nargs="?", type=int, default=1_000_000)
    count, cpu, random = parser.parse_args().elements, 0.0, np.random.default_rng(1)
    names = range(PRODUCTS)
    table = pa.table(
        {
            "sku": [f"sku-{n:07d}" for n in names],
            "title": [f"Product number {n} with a title" for n in names],
            "price": random.random(PRODUCTS),
        }
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Engine(DATASET, {"products": table}, directory=Path(folder)) as engine,
    ):
        for first in range(0, count // LENGTH, ROWS):
            chunk = build_chunk(random, first)
            began = time.process_time()
            rendered = engine.render(chunk, first)
            cpu += time.process_time() - began
            if rendered["body"].null_count:
                raise SystemExit(f"rows were rejected: {rendered['detail'].drop_null()[0]}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{count:,} elements, {PRODUCTS:,} products: {cpu:.1f} CPU s, peak RSS {peak} MB")


if __name__ == "__main__":
    main()
