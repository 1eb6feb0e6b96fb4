"""The metadata queries of all datasets run on the local Athena with the example's lake, as enrich sends them."""

from __future__ import annotations

import io
from datetime import date
from typing import Any

import pyarrow.parquet as pq
import pytest

from enrich.datasets import load_datasets
from examples.flights import lake
from infra.local.athena.server import run_athena
from infra.local.athena.statement import parse_statement

DATASETS = load_datasets()
QUERIES = {
    f"{dataset.name}.{name}": metadata.sql
    for dataset in DATASETS.values()
    for name, metadata in dataset.metadata.items()
}


@pytest.fixture(scope="module")
def loaded(aws: Any) -> Any:
    bucket = aws.bucket()
    lake.load(aws.client("s3"), aws.client("glue"), bucket, lake.build_tables(date(2026, 3, 1)))
    with run_athena(aws.endpoint) as server:
        yield bucket, aws.client("athena", endpoint_url=server.endpoint)


@pytest.mark.parametrize("sql", QUERIES.values(), ids=QUERIES)
def test_a_metadata_query_is_athena_sql(sql: str) -> None:
    """It parses in Athena's dialect, names its columns, and reads tables of the catalog."""
    statement = parse_statement(f"unload ({sql}) to 's3://bucket/there' with (format = 'PARQUET')", "default")
    assert statement.tables


@pytest.mark.parametrize("name", QUERIES)
def test_a_metadata_query_finds_rows(aws: Any, loaded: Any, name: str) -> None:
    """It runs over the example's lake and unloads Parquet with rows."""
    bucket, athena = loaded
    place = f"unloaded/{name}/"
    query_id = athena.start_query_execution(
        QueryString=f"UNLOAD ({QUERIES[name]}) TO 's3://{bucket}/{place}' WITH (format = 'PARQUET')",
        ResultConfiguration={"OutputLocation": f"s3://{bucket}/results/"},
    )["QueryExecutionId"]
    status = {"State": "QUEUED"}
    while status["State"] in {"QUEUED", "RUNNING"}:
        status = athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]["Status"]
    assert status["State"] == "SUCCEEDED", status
    [entry] = aws.client("s3").list_objects_v2(Bucket=bucket, Prefix=place)["Contents"]
    content = aws.client("s3").get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
    assert pq.read_table(io.BytesIO(content)).num_rows > 0
