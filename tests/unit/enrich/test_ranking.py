"""A rank: an item's place sorts as DuckDB's ORDER BY, for each type; a type without an order is a mistake."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrich.dataset.definition import Dataset
from enrich.dataset.validation import check_dataset
from enrich.join.engine import Engine
from serve.item import RANK_PLACE, build_rank_tag
from tests.unit.enrich.small_shop import DATASET

ALONE = replace(DATASET, metadata={}, body={"sku": "sku"})
EDGES = (0, 1, -1, 2**31 - 1, 2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63 - 2)
DOUBLES = (0.0, -0.0, 1e-320, -1e-320, 1.5, -1.5, 0.1, 1e308, -1e308, math.nextafter(1.5, 2), 5e-324)
DECIMALS = "0 -0.01 0.01 90071992547409.93 90071992547409.92 -90071992547409.93 99999999999999.99"
INSTANTS = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
    datetime(2026, 1, 2, tzinfo=UTC),
]
EAST = INSTANTS[2].astimezone(timezone(timedelta(hours=5)))
NANOS = (0, 1, -1, 999, 1000, 1001, -999, -1000, -1001, 1_700_000_000_123_456_789)


def decimals(texts: str, precision: int, scale: int) -> pa.Array:
    """Build decimals from their texts."""
    return pa.array([Decimal(text) for text in texts.split()], pa.decimal128(precision, scale))


def column(kind: str) -> pa.Array:
    """Build values of a type, with nulls and equal ones among them."""
    wide = [*EDGES, 2**64, -(2**64), 2**127 - 1, -(2**127), 2**100 + 1, 2**100]
    values: dict[str, Any] = {
        "boolean": pa.array([True, False]),
        "tinyint": pa.array([-128, 0, 127], pa.int8()),
        "uinteger": pa.array([0, 2**32 - 1], pa.uint32()),
        "bigint": pa.array(EDGES, pa.int64()),
        "ubigint": pa.array([0, 2**53 + 1, 2**53, 2**64 - 1, 2**64 - 2], pa.uint64()),
        "float": pa.array([0.1, -0.1, 3e38, -3e38, 1e-45, 0.0], pa.float32()),
        "double": pa.array(DOUBLES),
        "decimal(9,2)": decimals("0 -0.01 9999999.99 0.1 -9.5", 9, 2),
        "decimal(16,2)": decimals(DECIMALS, 16, 2),
        "decimal(38,38)": pa.array([Decimal("0.1"), Decimal(f"0.{'9' * 38}"), Decimal("-0.5")], pa.decimal128(38, 38)),
        "decimal(38,0)": pa.array([Decimal(10**38 - 1), Decimal(1 - 10**38), Decimal(10**37)], pa.decimal128(38, 0)),
        "date": pa.array([date(1, 1, 1), date(1969, 12, 31), date(9999, 12, 31), date(2026, 1, 2)]),
        "timestamp": pa.array([one.replace(tzinfo=None) for one in INSTANTS], pa.timestamp("us")),
        "timestamptz": pa.array([*INSTANTS, EAST], pa.timestamp("us", "UTC")),
        "timestamp_s": pa.array([-1, 0, 1, 1_700_000_000], pa.timestamp("s")),
        "timestamp_ns": pa.array(NANOS, pa.timestamp("ns")),
    }  # fmt: skip
    if kind in {"hugeint", "uhugeint"}:  # Arrow has no such types
        return pa.array([str(one) for one in wide if kind == "hugeint" or one >= 0])
    return values[kind]


KINDS = (
    "boolean", "tinyint", "uinteger", "bigint", "ubigint", "hugeint", "uhugeint", "float", "double", "decimal(9,2)",
    "decimal(16,2)", "decimal(38,38)", "decimal(38,0)", "date", "timestamp", "timestamptz", "timestamp_s",
    "timestamp_ns",
)  # fmt: skip


def rank_rows(tmp_path: Path, rank: str, columns: dict[str, tuple[str, pa.Array]]) -> list[dict[str, Any]]:
    """Render rows with these columns (their declared types, and values)."""
    count = len(next(iter(columns.values()))[1])
    source = replace(
        DATASET.source, columns={"shop": "varchar", "sku": "varchar", **{n: k for n, (k, _) in columns.items()}}
    )
    dataset = replace(ALONE, source=source, rank=rank)
    table = {"shop": ["x"] * count, "sku": [f"{n * 7 % count:03d}" for n in range(count)]}
    with Engine(dataset, {}, directory=tmp_path) as engine:
        found: list[dict[str, Any]] = engine.render(
            pa.table({**table, **{name: values for name, (_, values) in columns.items()}}), 0
        ).to_pylist()
    return found


@pytest.mark.parametrize("direction", ["", " desc", " nulls first", " desc nulls first"])
@pytest.mark.parametrize("kind", KINDS)
def test_places_sort_as_order_by_does(tmp_path: Path, kind: str, direction: str) -> None:
    """For each type, to the last bit; equal values and nulls are in order of prediction_id."""
    values = column(kind)
    values = pa.concat_arrays([values, values, pa.nulls(2, values.type)])
    values = values.take(pa.array(Random(kind).sample(range(len(values)), len(values))))
    is_text = kind in {"hugeint", "uhugeint"}
    expression = f"cast(v as {kind})" if is_text else "v"
    rows = rank_rows(tmp_path, f"{expression}{direction}", {"v": ("varchar" if is_text else kind, values)})
    assert [row["detail"] for row in rows] == [None] * len(values)
    expected = pa.table({"sku": [row["sk"] for row in rows], "v": values})
    with duckdb.connect() as con:
        con.register("expected", expected)
        nulls = "" if "nulls" in direction else " nulls last"
        order = f"cast(v as {kind}){direction}{nulls}, sku"
        ordered = [sku for (sku,) in con.execute(f"select sku from expected order by {order}").fetchall()]
    assert [row["sk"] for row in sorted(rows, key=lambda row: row["rank"])] == ordered
    tag = build_rank_tag(f"{expression}{direction}")
    for row in rows:
        assert row["rank"].startswith(f"{tag}:")
        assert RANK_PLACE.match(row["rank"].removeprefix(f"{tag}:")), "what serve takes for a place"
        assert len(row["rank"]) <= 1024, "DynamoDB's quota for an index's sort key"


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(-3, 3) | st.none(), st.floats(-2, 2) | st.none()), min_size=1, max_size=30))
def test_a_later_term_orders_rows_that_tie_in_the_first(tmp_path_factory: pytest.TempPathFactory, pairs: Any) -> None:
    """Also if the first is null, whose part of the place is shorter."""
    first, second = zip(*pairs, strict=True)
    columns = {"a": ("integer", pa.array(first, pa.int32())), "b": ("double", pa.array(second, pa.float64()))}
    rows = rank_rows(tmp_path_factory.mktemp("rank"), "a desc nulls first, b", columns)

    def key(row: dict[str, Any]) -> Any:
        a, b = pairs[row["row"]]
        return (a is not None, -(a or 0), b is None, (b or 0.0) + 0.0, row["sk"])

    assert sorted(rows, key=lambda row: row["rank"]) == sorted(rows, key=key)


def test_a_column_of_another_type_keeps_the_order(tmp_path: Path) -> None:
    """Items that were written before a column's type changed are still in their places among the others."""
    days = pa.array([date(2026, 1, 1 + n) for n in range(8)])
    numbers = pa.array([float(n - 4) for n in range(8)])
    for earlier, later, values in (
        ("integer", "double", numbers),
        ("decimal(9,2)", "double", numbers),
        ("bigint", "double", numbers),
        ("date", "timestamp", days),
    ):
        places = []
        for kind, first in ((earlier, 0), (later, 1)):
            some = values.take(pa.array(range(first, 8, 2)))
            rows = rank_rows(tmp_path, f"cast(v as {kind})", {"v": ("date" if values is days else "double", some)})
            places += [(row["rank"].partition(":")[2], some[row["row"]].as_py()) for row in rows]
        assert [value for _, value in sorted(places)] == values.to_pylist()


def test_a_value_without_an_order_rejects_its_row(tmp_path: Path) -> None:
    """NaN, infinity and years that JSON lacks; the row has the place, the expression and the reason."""
    rows = rank_rows(tmp_path, "v * 2 desc", {"v": ("double", pa.array([math.nan, math.inf, 1e308, 1.0]))})
    assert [row["reason"] for row in rows] == ["not-a-number"] * 3 + [None]
    assert rows[0]["detail"] == "rank ((v * 2)) is NaN or infinite"
    assert (rows[0]["rank"], rows[0]["body"]) == (None, None)
    rows = rank_rows(tmp_path, "v", {"v": ("timestamp", pa.array([10**18, 0], pa.timestamp("us")))})
    assert [row["reason"] for row in rows] == ["bad-value", None]
    rows = rank_rows(tmp_path, "cast(v as integer)", {"v": ("varchar", pa.array(["x", "7"]))})
    assert [row["reason"] for row in rows] == ["bad-value", None]
    assert "rank: the expression" in rows[0]["detail"]


MISTAKES = (
    ("unit desc", "there is no column 'unit'; did you mean 'units'?"),
    ("units des", "'units des' is not SQL"),
    ("units desc;", "'units desc;' is more than an order; write it as 'score desc, distance'"),
    ("units desc limit 3", "is more than an order"),
    ("units desc; select 1", "is more than an order"),
    ("", "is empty"),
    ("-- units", "is empty"),
    ("1", "1 names no column: all items would have the same rank"),
    ("units, 'x' desc", "'x' names no column"),
    ("all", "contains `*`; name the columns"),
    ("sum(units)", "sum() is an aggregate"),
    ("row_number() over (order by units)", "is a window function"),
    ("random() * units", "random() can return another value each time"),
    ("sku desc", "sku is VARCHAR, which has no order in a ranked list; name numbers, booleans, dates or instants"),
    ("[units]", "is DOUBLE[], which has no order"),
    (", ".join(["units"] * 9), "has 9 terms; leave out all but 8"),
    ("products.titel", "metadata 'products' has no column 'titel'; did you mean 'title'?"),
    ("title desc", "there is no column 'title'"),
)


@pytest.mark.parametrize(("rank", "message"), MISTAKES, ids=[rank for rank, _ in MISTAKES])
def test_mistakes_are_found_by_check(rank: str, message: str) -> None:
    """Each has its place and its remedy."""
    (mistake,) = check_dataset(replace(DATASET, rank=rank))
    assert str(mistake).startswith("stock rank: ")
    assert message in str(mistake)


@pytest.mark.parametrize(
    "rank", ["units desc", "products.title desc nulls first", "round(units, 1), units desc", "UNITS"]
)
def test_a_good_rank_has_no_mistakes(rank: str) -> None:
    """Columns, metadata whose type only a run knows, several terms."""
    assert check_dataset(replace(DATASET, rank=rank)) == []


@pytest.mark.parametrize("rank", [7, ["units desc"], True])
def test_a_rank_is_a_text(rank: Any) -> None:
    """Another type is a mistake, as for any option."""
    (mistake,) = check_dataset(replace(DATASET, rank=rank))
    assert "stock rank is " in f"{mistake}".replace(":", "")


def test_metadata_of_a_run_is_ranked(tmp_path: Path) -> None:
    """Also if it is not in the body; if its type has no order, which `check` can't know, the run fails."""
    dataset: Dataset = replace(DATASET, rank="products.price desc", body={"price": "products.price"})
    chunk = pa.table({"shop": ["x"] * 3, "sku": ["a", "b", "c"], "units": [1.0] * 3})
    sql = dataset.metadata["products"]
    dataset = replace(dataset, metadata={"products": replace(sql, sql="select sku, price from products")})
    products = {"products": pa.table({"sku": ["a", "b", "c"], "price": [2, 3, None]})}
    with Engine(dataset, products, directory=tmp_path) as engine:
        rows = engine.render(chunk, 0).to_pylist()
    assert [row["sk"] for row in sorted(rows, key=lambda row: row["rank"])] == ["b", "a", "c"]
    texts = {"products": pa.table({"sku": ["a"], "price": ["2"]})}
    with pytest.raises(Exception, match=re.escape("rank: products.price is VARCHAR, which has no order")):
        Engine(dataset, texts, directory=tmp_path)


def test_without_a_rank_nothing_changes(tmp_path: Path) -> None:
    """There is no place, and the digest is of the body only: fingerprints of earlier releases stay right."""
    with Engine(ALONE, {}, directory=tmp_path) as engine:
        (row,) = engine.render(pa.table({"shop": ["x"], "sku": ["a"], "units": [1.0]}), 0).to_pylist()
    assert row["rank"] is None
