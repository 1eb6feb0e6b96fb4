"""A dataset with a step in pandas, which enrich's own requirements leave out: the step's columns are rendered."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from enrich.dataset.definition import Dataset, Derive, LastModified, Source
from enrich.join.derive import DeriveFailed
from enrich.join.engine import Engine
from serve.datasets import Served

SHOPS = Dataset(
    served=Served("shop-sales", ("shop",), "shop-sales:read"),
    source=Source(prefix="sales/", format="parquet", columns={"shop": "varchar", "id": "varchar", "sales": "double"}),
    as_of=LastModified(),
    ttl=timedelta(days=1),
    subject={"shop": "shop"},
    prediction_id="id",
    body={"sales": "sales"},
)


def render(directory: Path, dataset: Dataset, sales: list[float | None], first: int = 0) -> list[dict[str, Any]]:
    """Render a prediction for each value."""
    names = [str(number) for number in range(len(sales))]
    chunk = pa.RecordBatch.from_pydict(
        {"shop": ["a"] * len(sales), "id": names, "sales": pa.array(sales, pa.float64())}
    )
    with Engine(dataset, {}, directory=directory) as engine:
        rows: list[dict[str, Any]] = engine.render(chunk, first).to_pylist()
    return rows


def test_derive_adds_columns_with_pandas(tmp_path: Path) -> None:
    """The step sees the chunk as a DataFrame, nullable integers whole, and what it adds is joined and rendered."""
    seen: list[Any] = []

    def band(frame: Any) -> Any:
        seen.append(frame)
        return frame.assign(band=(frame["sales"] > 1.5).map({True: "high", False: "low"}), sales=frame["sales"] * 2)

    dataset = replace(SHOPS, derive=Derive(band, {"band": "varchar"}), body={"band": "band", "sales": "sales"})
    rows = render(tmp_path, dataset, [2.0, None], first=5)
    assert [(row["row"], row["body"]) for row in rows] == [
        (5, '{"band":"high","sales":4.0}'),
        (6, '{"band":"low","sales":null}'),
    ]
    assert list(seen[0].columns) == list(SHOPS.source.columns)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda frame: frame.head(1).assign(band="x"), "returned 1 rows, expected 2"),
        (lambda frame: frame, "returned no column 'band'"),
        (lambda frame: frame.assign(band=1 / 0), "ZeroDivisionError"),
    ],
)
def test_a_step_that_goes_wrong_names_the_dataset(tmp_path: Path, step: Any, message: str) -> None:
    """A step that raises, loses rows or forgets a column stops the run with an error of its own."""
    dataset = replace(SHOPS, derive=Derive(step, {"band": "varchar"}))
    with pytest.raises(DeriveFailed, match=f"shop-sales derive: .*{message}"):
        render(tmp_path, dataset, [2.0, 1.0])
