"""Runs on Spark, with real executor processes, leave the same table as runs in one process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.datasets import load_datasets
from enrich.intake.find import find_output
from enrich.intake.queue import enqueue_output
from enrich.ledger.records import DatasetState
from enrich.ledger.store import Ledger
from enrich.read.metadata import digest_sql
from tests.spark.conftest import PROJECT, Stack

pytestmark = pytest.mark.slow
ROWS = 8_000  # moto's server writes some hundred items a second
DRIVER = "import sys; from enrich.spark.__main__ import main; sys.exit(main(sys.argv[1:]))"
LOCAL = """
import os, sys
from enrich.aws import open_services
from enrich.intake.worker import run_pending
for run in run_pending(open_services(os.environ, owner="local"), "stock"):
    print(run.state, run.error)
"""


def seed(stack: Stack) -> None:
    """Give a deployment the rows of its metadata query, as if it had been fetched just now."""
    table = pa.table({"sku": [f"s{n}" for n in range(ROWS)], "title": [f"Title {n}" for n in range(ROWS)]})
    bucket, buffer = stack.env["LARDER_BUCKET"], io.BytesIO()
    pq.write_table(table, buffer)
    stack.client("s3").put_object(Bucket=bucket, Key="metadata/stock/products/1/0.parquet", Body=buffer.getvalue())
    sql = load_datasets(PROJECT / "datasets")["stock"].metadata["products"].sql
    fetched = {
        "location": f"s3://{bucket}/metadata/stock/products/1/",
        "sql_digest": digest_sql(sql),
        "fetched_ms": int(time.time() * 1000),
    }
    ledger = Ledger(stack.client("dynamodb"), stack.env["LARDER_LEDGER"])
    ledger.commit(DatasetState(dataset="stock", metadata={"products": fetched}))


def write(stack: Stack, day: int, first: int, units: int) -> None:
    """Write an output that is `day` days old, with duplicates, values that are rejected, and rows without metadata."""
    numbers = [*range(first, ROWS), first + 7]
    rows = {
        "shop": [f"shop-{n % 97}" for n in numbers],
        "sku": [f"s{n}" if n % 1000 else "no id" for n in numbers],
        "units": pa.array([units if n % 5 else n * 1.1 if n % 777 else float("nan") for n in numbers], pa.float64()),
        "moment": pa.array([n * 86_400_123_456 for n in numbers], pa.timestamp("us")),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(rows), buffer, row_group_size=1000)
    at = datetime.now(UTC).date() - timedelta(days=day)
    stack.client("s3").put_object(
        Bucket=stack.env["LARDER_OUTPUTS"], Key=f"stock/day={at}/p.parquet", Body=buffer.getvalue()
    )
    enqueue(stack, f"stock/day={at}/p.parquet")


def enqueue(stack: Stack, object_key: str) -> None:
    from enrich.aws import open_services

    before = dict(os.environ)
    os.environ.update(stack.env)
    try:
        services = open_services(stack.env, owner="test")
        output = find_output(services, stack.env["LARDER_OUTPUTS"], object_key)
        assert output is not None
        enqueue_output(services, output)
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(stack: Stack) -> None:
    """Execute what is pending, in one process or on Spark."""
    job = ["-c", DRIVER, "--dataset", "stock", "--engine", "spark", "--piece-bytes", "20000"]
    env = {**os.environ, **stack.env, "PYTHONPATH": ".", "PYSPARK_PYTHON": sys.executable}
    env["PYSPARK_SUBMIT_ARGS"] = "--master local[2] --conf spark.ui.enabled=false pyspark-shell"
    done = subprocess.run(
        [sys.executable, *(job if stack.name == "job" else ["-c", LOCAL])], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def account(stack: Stack) -> list[Any]:
    """Return the ledger's counts of each run."""
    runs = Ledger(stack.client("dynamodb"), stack.env["LARDER_LEDGER"]).fetch_runs("stock")
    return [(run.run, run.state, run.rows, run.counts, run.reasons, run.because, run.units) for run in runs]


def rejects(stack: Stack) -> list[Any]:
    s3, bucket = stack.client("s3"), stack.env["LARDER_BUCKET"]
    found = s3.list_objects_v2(Bucket=bucket, Prefix="rejects/").get("Contents", [])
    lines = [s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read().splitlines() for each in found]
    return sorted((json.loads(line) for file in lines for line in file), key=lambda line: line["row"])


def strip(items: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: dict(row) for key, row in items.items()}


def test_same_table(stacks: Mapping[str, Stack]) -> None:
    """A first load, a snapshot that changes some items, and a withdrawal: items, counts and rejects are equal."""
    for stack in stacks.values():
        seed(stack)
    for day, first, units in ((3, 0, 1), (2, 1000, 1), (1, 1000, 2)):
        for stack in stacks.values():
            write(stack, day, first, units)
            run(stack)
        assert account(stacks["job"]) == account(stacks["local"])
        assert strip(stacks["job"].items()) == strip(stacks["local"].items())
        assert rejects(stacks["job"]) == rejects(stacks["local"])
    assert len(stacks["job"].items()) > ROWS * 0.9
