"""Random outputs with bad rows of every kind, in any order, replayed and withdrawn: the table equals pandas' result."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import replace
from random import Random
from typing import Any

import pandas as pd
import pytest

from enrich.dataset.definition import Tolerated
from enrich.intake import operations
from enrich.intake.worker import run_pending
from tests.integration.enrich.conftest import parquet

SHOPS = ["x", "y", "z", "ü/#%", None]
SKUS = ["a", "b", "c", "d", "unknown", "no id", "", None]
UNITS = [1.5, 0.1, 2**53, -0.0, None, math.nan, math.inf]
GARBAGE = "many"  # not a number
DAYS = 9  # the oldest two have already expired


def as_parquet(rows: list[list[Any]]) -> bytes:
    return parquet({name: [row[at] for row in rows] for at, name in enumerate(["shop", "sku", "units"])})


def as_csv(rows: list[list[Any]]) -> bytes:
    lines = io.StringIO(newline="")
    csv.writer(lines).writerows([["shop", "sku", "units"], *rows])
    return lines.getvalue().encode()


def as_jsonl(rows: list[list[Any]]) -> bytes:
    lines = [json.dumps(dict(zip(["shop", "sku", "units"], row, strict=True)), ensure_ascii=False) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def make_rows(random: Random, *, garbage: bool) -> list[list[Any]]:
    units = UNITS + [GARBAGE] * garbage
    rows = [
        [random.choice(choices) for choices in (SHOPS[:4] * 3 + SHOPS, SKUS[:4] * 4 + SKUS, units)] for _ in range(12)
    ]
    return [["x", "a", 7.0], *rows]  # one is always good, unless it comes twice


def find_good(rows: list[list[Any]]) -> pd.DataFrame:
    """Return which rows become items, computed with pandas."""
    frame = pd.DataFrame(rows, columns=["shop", "sku", "units"], dtype=object)
    number = frame["units"].map(lambda value: value is None or (value != GARBAGE and math.isfinite(value)))
    good = frame[frame["shop"].notna() & frame["sku"].isin(list("abcd")) & number]
    return good[~good.duplicated(["shop", "sku"], keep=False)]


@pytest.mark.parametrize(("form", "render"), [("parquet", as_parquet), ("csv", as_csv), ("jsonl", as_jsonl)])
def test_the_table_is_what_pandas_says(shop: Any, form: Any, render: Any) -> None:
    """In whatever order outputs, replays and a withdrawal come, items are the newest output's and counts are right."""
    random = Random(os.environ.get("LARDER_SEED", form))  # any other seed would do
    shop.dataset = replace(
        shop.dataset, source=replace(shop.dataset.source, format=form), tolerated=Tolerated(share=1.0)
    )
    outputs = {
        f"stock/day={shop.day(day)}/{n}": (day, make_rows(random, garbage=form != "parquet"))
        for n, day in enumerate(random.choices(range(DAYS), k=7))
    }
    for object_key, (_, rows) in outputs.items():
        shop.put(object_key, render(rows))
    events = [*outputs, *random.choices(list(outputs), k=3)]
    random.shuffle(events)
    newest: dict[str, int] = {}
    for object_key in events:
        run = shop.run(object_key)
        good = find_good(outputs[object_key][1])
        assert (run.state, run.counts.read) == ("done", 13), run.error
        rejected = set(range(13)) - set(good.index)
        assert {line["row"] for line in shop.rejects(run)} == rejected
        assert run.counts.rejected == len(rejected)
        newest.setdefault(object_key, run.run)
        if random.random() < 0.3:
            repeated = operations.replay(shop.services(), run)
            list(run_pending(shop.services(), "stock"))
            newest[object_key] = repeated.run
    withdrawn = random.choice(events)
    operations.withdraw(shop.services(), shop.services().ledger.get_run("stock", newest[withdrawn]))
    list(run_pending(shop.services(), "stock"))

    frames = [
        find_good(rows).assign(day=-day, run=newest[object_key])
        for object_key, (day, rows) in outputs.items()
        if object_key != withdrawn and day < 7
    ]
    last = pd.concat(frames).sort_values(["day", "run"], kind="stable").groupby(["shop", "sku"]).last(skipna=False)
    expected = {
        (f"stock#{'%C3%BC%2F%23%25' if owner.startswith('ü') else owner}", sku): {
            "product": {"sku": sku, "title": sku.upper()},
            "units": None if row["units"] is None else float(row["units"]),
        }
        for (owner, sku), row in last.iterrows()
    }
    assert {key: body for key, body in shop.items().items() if body is not None} == expected
