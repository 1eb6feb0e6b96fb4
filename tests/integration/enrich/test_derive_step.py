"""A dataset with a step in pandas, which enrich's own requirements do not include: the step's columns are rendered."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from enrich.dataset.arrow_types import choose_type, convert_column
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
    """The step gets the chunk as a DataFrame with nullable integers; the columns that it adds are rendered."""
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
        (lambda _: sys.exit(3), "SystemExit: 3"),
        (lambda _: None, "returned NoneType, expected a DataFrame"),
        (lambda frame: frame["shop"], "returned Series, expected a DataFrame"),
        (lambda frame: frame.assign(band="x").iloc[::-1], "returned the rows in another order"),
        (
            lambda frame: frame.assign(band="x").iloc[:, [*range(len(frame.columns) + 1), 0]],
            "returned column '.*' twice",
        ),
    ],
)
def test_a_step_that_goes_wrong_names_the_dataset(tmp_path: Path, step: Any, message: str) -> None:
    """If a step raises, loses rows or forgets a column, the run stops with an error that says so."""
    dataset = replace(SHOPS, derive=Derive(step, {"band": "varchar"}))
    with pytest.raises(DeriveFailed, match=f"shop-sales derive: .*{message}"):
        render(tmp_path, dataset, [2.0, 1.0])


# the declared type, values as Arrow; pandas has no exact form of them
KEPT = [
    ("bigint[]", pa.array([[9007199254740993, None], None])),
    ("ubigint", pa.array([2**64 - 1, None], pa.uint64())),
    ("ubigint[]", pa.array([[2**64 - 1, None], []], pa.list_(pa.uint64()))),
    ("double", pa.array([None, 0.1])),
    ("float", pa.array([None, 0.1], pa.float32())),
    ("map(varchar, bigint)", pa.array([[("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.int64()))),
    ("struct(n bigint, m double[])", pa.array([{"n": 2**53 + 1, "m": [0.5, None]}, None])),
    ("struct(n bigint, m boolean)[]", pa.array([[{"n": 2**53 + 1, "m": None}], [None]])),
    ("decimal(38,3)", pa.array([Decimal("12345678901234567890.125"), None], pa.decimal128(38, 3))),
    ("timestamp", pa.array([datetime(9999, 12, 31, 23, 59, 59, 999999), datetime(1, 1, 1)], pa.timestamp("us"))),
    ("timestamptz_ns", pa.array([1, None], pa.timestamp("ns", "UTC"))),
    ("date", pa.array([date(9999, 12, 31), date(1, 1, 1)])),
    ("time_ns", pa.array([1, None], pa.time64("ns"))),
    ("blob", pa.array([b"\xff", None])),
    ("uuid", pa.array(["00000000-0000-0000-0000-000000000001", None])),
    ("enum('a')", pa.array(["a", None])),
    ("boolean", pa.array([True, None])),
]


def columns_of(values: list[tuple[str, pa.Array]]) -> tuple[dict[str, str], pa.RecordBatch]:
    """Return the declared columns and a chunk that has them, plus the subject and the prediction_id."""
    kinds = {f"c{n}": kind for n, (kind, _) in enumerate(values)}
    arrays = {"shop": pa.array(["a", "a"]), "id": pa.array(["1", "2"])}
    arrays |= {
        f"c{n}": convert_column(array, choose_type(array.type, type_of(kind))) for n, (kind, array) in enumerate(values)
    }
    return {"shop": "varchar", "id": "varchar", **kinds}, pa.RecordBatch.from_pydict(arrays)


def type_of(kind: str) -> Any:
    """Return DuckDB's type."""
    with duckdb.connect() as con:
        return con.sql(f"select cast(null as {kind})").types[0]


def test_columns_that_the_step_did_not_change_are_unchanged(tmp_path: Path) -> None:
    """Whatever pandas makes of them on the way; also if the step returns its rows with another index."""
    columns, chunk = columns_of(KEPT)
    plain = replace(SHOPS, source=replace(SHOPS.source, columns=columns), body={name: name for name in columns})
    steps: list[Any] = [
        lambda frame: frame.assign(band="x"),
        lambda frame: frame.copy().assign(band="x").set_index("id", drop=False),
    ]
    with Engine(plain, {}, directory=tmp_path) as engine:
        expected = engine.render(chunk, 0)["body"].to_pylist()
    assert None not in expected
    for step in steps:
        with Engine(replace(plain, derive=Derive(step, {"band": "varchar"})), {}, directory=tmp_path) as engine:
            assert engine.render(chunk, 0)["body"].to_pylist() == expected


def test_nan_and_null_stay_apart(tmp_path: Path) -> None:
    """A NaN of the file rejects its row, although pandas calls it missing; a null stays a null."""
    dataset = replace(SHOPS, derive=Derive(lambda frame: frame.assign(band=1), {"band": "bigint"}))
    rows = render(tmp_path, dataset, [float("nan"), None])
    assert [(row["reason"], row["body"]) for row in rows] == [("not-a-number", None), (None, '{"sales":null}')]


def test_an_object_that_the_step_changes_in_place_is_changed(tmp_path: Path) -> None:
    """What the step returns is compared with a copy of its input, not with the changed object."""

    def double(frame: Any) -> Any:
        for value in frame["v"]:
            value["n"] *= 2
        return frame.assign(half=[np.float16(0.5)])

    source = replace(SHOPS.source, columns={"shop": "varchar", "id": "varchar", "v": "struct(n bigint)"})
    derive = Derive(double, {"half": "float"})
    dataset = replace(SHOPS, source=source, derive=derive, body={"v": "v", "half": "half"})
    chunk = pa.RecordBatch.from_pydict({"shop": ["a"], "id": ["1"], "v": [{"n": 1}]})
    with Engine(dataset, {}, directory=tmp_path) as engine:
        assert engine.render(chunk, 0)["body"].to_pylist() == ['{"v":{"n":2},"half":0.5}']


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["x", 1], "column 'band' can't be read back"),
        ([[1], [2]], r"column 'band' is BIGINT\[\], expected VARCHAR"),
        ([Decimal(10**40), None], "column 'band' is decimal256"),
    ],
)
def test_what_a_step_returns_has_one_type(tmp_path: Path, values: list[Any], message: str) -> None:
    """A column that Arrow or the engine can't represent fails the run, with its name."""
    dataset = replace(SHOPS, derive=Derive(lambda frame: frame.assign(band=values), {"band": "varchar"}))
    with pytest.raises(DeriveFailed, match=f"shop-sales derive: {message}"):
        render(tmp_path, dataset, [2.0, 1.0])
