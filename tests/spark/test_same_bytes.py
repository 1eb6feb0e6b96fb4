"""Any output gives the same bytes in one process and on Spark: items, rejects and fingerprints."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from enrich.dataset.definition import Dataset, FromKey, Metadata, Source, Tolerated
from enrich.intake.find import take_arrived
from enrich.intake.worker import run_pending
from enrich.ledger.run_state import EngineKind
from enrich.run.pieces import gather
from enrich.services import Services
from serve.datasets import Served
from tests.bench.services import FolderS3
from tests.spark.shared_folder import open_world, perform, read_rejects, take_writes

pyspark = pytest.importorskip("pyspark.sql")
pytestmark = pytest.mark.slow

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1))


class Column(NamedTuple):
    """A declared type, how Arrow stores it, and its values; `plain`: also in CSV and JSON lines."""

    declared: str
    stored: Any
    values: st.SearchStrategy[Any]
    plain: bool = False


COLUMNS = {
    "naive": Column("timestamp", pa.timestamp("us"), INSTANTS),
    "nanos": Column("timestamp_ns", pa.timestamp("ns"), INSTANTS),
    "zoned": Column("timestamptz", pa.timestamp("us", "UTC"), INSTANTS.map(lambda at: at.replace(tzinfo=UTC))),
    "amount": Column("decimal(20,3)", pa.decimal128(20, 3), st.decimals(-(10**15), 10**15, places=3)),
    "large": Column("bigint", pa.int64(), st.integers(-(2**63), 2**63 - 1), plain=True),
    "unsigned": Column("ubigint", pa.uint64(), st.integers(0, 2**64 - 1)),
    "single": Column("float", pa.float32(), st.floats(width=32)),
    "number": Column("double", pa.float64(), st.floats()),
    "text": Column("varchar", pa.string(), TEXT),
    "word": Column("varchar", pa.string(), st.text("abcäß漢😀 ", min_size=1, max_size=5), plain=True),
    "yes": Column("boolean", pa.bool_(), st.booleans(), plain=True),
    "day": Column("date", pa.date32(), st.dates(date(1970, 1, 1), date(2200, 1, 1))),
    "nested": Column(
        "struct(a bigint, b varchar[])",
        pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]),
        st.fixed_dictionaries(
            {"a": st.integers(-(2**40), 2**40), "b": st.lists(st.one_of(st.none(), TEXT), max_size=3)}
        ),
    ),
}
PRODUCTS = {
    "sku": Column("varchar", pa.string(), st.sampled_from([f"s{n}" for n in range(12)])),
    "title": Column("varchar", pa.string(), TEXT),
    "since": Column("timestamp", pa.timestamp("us"), INSTANTS),
    "price": Column("decimal", pa.decimal128(12, 2), st.decimals(-1000, 1000, places=2)),
}
KEYS = st.tuples(
    st.sampled_from(["x", "y", "ä", "", None]), st.one_of(st.none(), st.sampled_from([f"s{n}" for n in range(400)]))
)


class Example(NamedTuple):
    """An output in parts, its dataset and metadata."""

    dataset: Dataset
    parts: Sequence[bytes]
    products: pa.Table


def render_part(source_format: str, columns: dict[str, pa.Array], group: int) -> bytes:
    """Write one part."""
    table = pa.table(columns)
    buffer = io.BytesIO()
    if source_format == "parquet":
        pq.write_table(table, buffer, row_group_size=group)
        return buffer.getvalue()
    rows = table.to_pylist()
    if source_format == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(["" if value is None else str(value).lower() if value in (True, False) else value
                      for value in row.values()] for row in rows)  # fmt: skip
    return text.getvalue().encode()


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """Draw a dataset, and an output of it."""
    source_format = draw(st.sampled_from(["parquet", "parquet", "csv", "jsonl"]))
    possible = [name for name, each in COLUMNS.items() if each.plain or source_format == "parquet"]
    chosen = sorted(draw(st.sets(st.sampled_from(possible), min_size=1, max_size=5)))
    products = {}
    skus = draw(st.lists(PRODUCTS["sku"].values, unique=True, max_size=8))
    for name, column in PRODUCTS.items():
        values = skus if name == "sku" else [draw(st.one_of(st.none(), column.values)) for _ in skus]
        products[name] = pa.array(values, column.stored)
    dataset = Dataset(
        served=Served(name="stock", subject=("shop",), scope="stock:read"),
        source=Source(
            prefix="stock/",
            format=cast(Any, source_format),
            columns={"shop": "varchar", "sku": "varchar", **{name: COLUMNS[name].declared for name in chosen}},
            marker="_SUCCESS",
        ),
        as_of=FromKey("day={}"),
        ttl=timedelta(days=7),
        metadata={
            "products": Metadata("select * from products", on="sku", missing=draw(st.sampled_from(["null", "reject"])))
        },
        subject={"shop": "shop"},
        prediction_id="sku",
        body={
            **{name: name for name in chosen},
            "product": {"title": "products.title", "since": "products.since", "price": "products.price"},
        },
        tolerated=Tolerated(share=1.0),
    )
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        keys = draw(st.lists(KEYS, max_size=40))
        columns = {"shop": pa.array([each[0] for each in keys], pa.string()),
                   "sku": pa.array([each[1] for each in keys], pa.string())}  # fmt: skip
        for name in chosen:
            values = [draw(st.one_of(st.none(), COLUMNS[name].values)) for _ in keys]
            columns[name] = pa.array(values, COLUMNS[name].stored)
        parts.append(render_part(source_format, columns, draw(st.integers(1, 20))))
    return Example(dataset, parts, pa.table(products))


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.pop("SPARK_HOME", None)
    session = (
        pyspark.SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.executorEnv.PYTHONPATH", str(Path(__file__).parents[2]))
        .getOrCreate()
    )
    yield session
    session.stop()


def run(services: Services, s3: FolderS3, example: Example, number: int) -> Any:
    """Put the output of a day and run it; return the ledger's account of the run."""
    folder = f"stock/day={datetime.now(UTC).date() - timedelta(days=3 - number)}/"
    for part, content in enumerate(example.parts):
        s3.put_object("outputs", f"{folder}part-{part}.{example.dataset.source.format}", content)
    s3.put_object("outputs", f"{folder}_SUCCESS", b"")
    taken = take_arrived(services, "outputs", f"{folder}_SUCCESS")
    assert taken is not None
    (done,) = run_pending(services, "stock")
    return done.state, done.rows, done.counts, done.reasons, done.because, done.units, done.error


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # to shrink an example would take an hour
    print_blob=True,
)
@given(example=examples())
def test_any_output_gives_the_same_bytes(spark: Any, monkeypatch: pytest.MonkeyPatch, example: Example) -> None:
    """Items and rejects are equal after a first load; then each engine finds nothing to write over the other's.

    The third path is that of metadata that fits into no memory.
    """
    from enrich.spark import scheduler as module

    local, spark_ = EngineKind.LOCAL, EngineKind.SPARK
    with tempfile.TemporaryDirectory() as name:
        found, again = list[Any](), list[Any]()
        for first, second, most_bytes in ((local, spark_, None), (spark_, local, None), (spark_, spark_, 0)):
            folder = Path(name) / f"{len(found)}"
            services, s3 = open_world(folder, example.dataset, {"products": example.products})
            with monkeypatch.context() as patched:
                patched.setattr(module, "perform", partial(perform, folder, example.dataset))
                if most_bytes is not None:
                    patched.setattr(gather, "MOST_BYTES", most_bytes)
                scheduler = module.SparkScheduler(spark.sparkContext, {}, piece_bytes=1500)
                engines = {local: services, spark_: replace(services, scheduler=scheduler, engine=spark_)}
                account = run(engines[first], s3, example, 1)
                found.append((account, take_writes(folder), read_rejects(folder)))
                again.append((run(engines[second], s3, example, 2), take_writes(folder)))
        assert found[1] == found[0]
        assert found[2] == found[0]
        assert again[1] == again[0]
        assert again[2] == again[0]
        assert again[0][1] == {}
        assert found[0][0][0] == "done"
