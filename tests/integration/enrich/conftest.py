"""A small dataset of shops over the stand-in: its buckets, tables, queue, metadata in Glue, and the edges of a run."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyathena
import pytest

from enrich.dataset.definition import Dataset, FromKey, Metadata, Source, Tolerated
from enrich.intake.find import take_arrived
from enrich.intake.worker import run_dataset
from enrich.ledger.records import DatasetState, Run
from enrich.ledger.store import Ledger
from enrich.progress import Progress
from enrich.read.metadata import Athena
from enrich.services import Services
from enrich.settings import Settings
from infra.local.athena.server import run_athena
from serve.datasets import Served
from wire.credentials import find_source
from wire.endpoint import resolve
from wire.transport import Transport

NAME = "stock"
SERVED = Served(name=NAME, subject=("shop",), scope="stock:read")


def build_dataset(**changes: Any) -> Dataset:
    """Build the dataset of the tests: a forecast of how much of a product a shop will sell."""
    dataset = Dataset(
        served=SERVED,
        source=Source(
            prefix="stock/", format="parquet", columns={"shop": "varchar", "sku": "varchar", "units": "double"}
        ),
        as_of=FromKey("day={}"),
        ttl=timedelta(days=7),
        metadata={
            "products": Metadata("select sku, title from {database}.products", on="sku", max_age=timedelta(hours=1))
        },
        subject={"shop": "shop"},
        prediction_id="sku",
        body={"product": {"sku": "sku", "title": "products.title"}, "units": "units"},
        tolerated=Tolerated(share=0.6),
    )
    return replace(dataset, **changes)


class TimelessLedger(Ledger):
    """A ledger whose responses have no time: the tests advance their clock, and the stand-in's is the machine's."""

    def read_state(self, dataset: str) -> tuple[DatasetState, None]:
        return super().read_state(dataset)[0], None


@dataclass
class Shop:
    """The stand-in as one dataset sees it, with helpers for the tests."""

    aws: Any
    athena_url: str
    database: str
    settings: Settings
    scratch: Path
    dataset: Dataset
    sent: list[dict[str, Any]] = field(default_factory=list)
    offset: float = 0.0

    def now(self) -> float:
        return datetime.now(UTC).timestamp() + self.offset

    def sleep(self, seconds: float) -> None:
        self.offset += seconds

    def day(self, days_ago: int = 0) -> str:
        return (datetime.now(UTC) - timedelta(days=days_ago)).date().isoformat()

    def services(self, **changes: Any) -> Services:
        dynamodb, s3 = self.aws.client("dynamodb"), self.aws.client("s3")
        services = Services(
            settings=self.settings,
            datasets={self.dataset.name: self.dataset},
            s3=s3,
            dynamodb=dynamodb,
            ledger=TimelessLedger(dynamodb, self.settings.ledger),
            athena=Athena(self._connect),
            open_transport=self._transport,
            send=self.sent.append,
            clock=self,
            random=Random(1),
            directory=self.scratch,
            owner="test",
            progress=Progress(),
        )
        return replace(services, **changes)

    def put(self, object_key: str, rows: Mapping[str, list[Any]] | bytes) -> None:
        content = rows if isinstance(rows, bytes) else parquet(rows)
        self.aws.client("s3").put_object(Bucket=self.settings.outputs, Key=object_key, Body=content)

    def put_table(self, table: str, rows: Mapping[str, list[Any]]) -> None:
        """Replace the rows of a table in the lake."""
        location = self.aws.client("glue").get_table(DatabaseName=self.database, Name=table)["Table"]
        bucket, _, prefix = location["StorageDescriptor"]["Location"].removeprefix("s3://").partition("/")
        self.aws.client("s3").put_object(Bucket=bucket, Key=f"{prefix}part-0.parquet", Body=parquet(rows))

    def run(self, object_key: str, rows: Mapping[str, list[Any]] | bytes | None = None, **changes: Any) -> Run:
        """Put an output, handle its event, run pending outputs, and return its run as in the ledger."""
        if rows is not None:
            self.put(object_key, rows)
        services = self.services(**changes)
        run = take_arrived(services, self.settings.outputs, object_key)
        assert run is not None
        run_dataset(services, run.dataset)
        found = services.ledger.get_run(run.dataset, run.run)
        assert found is not None
        return found

    def items(self) -> dict[tuple[str, str], Any]:
        """Scan the table: (pk, sk) to the parsed body, None for a tombstone."""
        found: dict[tuple[str, str], Any] = {}
        for page in self.aws.client("dynamodb").get_paginator("scan").paginate(TableName=self.settings.table):
            for item in page["Items"]:
                found[item["pk"]["S"], item["sk"]["S"]] = json.loads(item["b"]["S"]) if "b" in item else None
        return found

    def rejects(self, run: Run) -> list[dict[str, Any]]:
        """Read the rejects of a run."""
        s3 = self.aws.client("s3")
        lines: list[dict[str, Any]] = []
        prefix = f"rejects/{run.dataset}/{run.run:08d}/"
        for entry in s3.list_objects_v2(Bucket=self.settings.bucket, Prefix=prefix).get("Contents", []):
            content = s3.get_object(Bucket=self.settings.bucket, Key=entry["Key"])["Body"].read()
            lines += [json.loads(line) for line in content.splitlines()]
        return lines

    def _connect(self) -> Any:
        return pyathena.connect(
            s3_staging_dir=f"s3://{self.settings.bucket}/athena/",
            region_name=self.aws.region,
            endpoint_url=self.athena_url,
            aws_access_key_id=self.aws.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.aws.env["AWS_SECRET_ACCESS_KEY"],
            poll_interval=0.02,
        )

    def _transport(self, timeout: float) -> Transport:
        endpoint = resolve("dynamodb", self.aws.region, self.aws.env)
        return Transport(endpoint, find_source(self.aws.env), timeout=timeout)


def parquet(rows: Mapping[str, list[Any]]) -> bytes:
    """Write columns as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(rows)), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def athena_url(aws: Any) -> Iterator[str]:
    """The local Athena over the session's stand-in."""
    with run_athena(aws.endpoint) as server:
        yield server.endpoint


@pytest.fixture
def shop(aws: Any, athena_url: str, tmp_path: Path) -> Shop:
    """A new world: it contains only the products."""
    lake, database = aws.bucket(), aws.name("shop").replace("-", "_")
    put_glue_table(aws, lake, database, "products", {"sku": ["a", "b", "c", "d"], "title": ["A", "B", "C", "D"]})
    settings = Settings(
        table=aws.table(ttl=False),
        ledger=aws.ledger(),
        bucket=aws.bucket(),
        outputs=aws.bucket(versioned=True),
        queue=aws.queue(),
        workgroup="primary",
    )
    dataset = build_dataset()
    products = replace(dataset.metadata["products"], sql=f"select sku, title from {database}.products")
    dataset = replace(dataset, metadata={"products": products})
    return Shop(aws, athena_url, database, settings, tmp_path, dataset)


def put_glue_table(aws: Any, bucket: str, database: str, table: str, rows: Mapping[str, list[Any]]) -> None:
    """Put a table of strings into the lake and register it."""
    glue = aws.client("glue")
    if database not in {found["Name"] for found in glue.get_databases()["DatabaseList"]}:
        glue.create_database(DatabaseInput={"Name": database})
    aws.client("s3").put_object(Bucket=bucket, Key=f"{table}/part-0.parquet", Body=parquet(rows))
    glue.create_table(
        DatabaseName=database,
        TableInput={
            "Name": table,
            "StorageDescriptor": {
                "Columns": [{"Name": name, "Type": "string"} for name in rows],
                "Location": f"s3://{bucket}/{table}/",
                "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
                "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
                "SerdeInfo": {"SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"},
            },
        },
    )
