"""A dataset of shops over models of S3, DynamoDB and Athena in which nothing goes wrong: real runs, in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from enrich.dataset.definition import Dataset, FromKey, Metadata, Source, Tolerated
from enrich.intake import operations
from enrich.intake.find import find_output
from enrich.intake.queue import enqueue_output
from enrich.intake.worker import run_pending
from enrich.ledger.records import Run
from enrich.ledger.store import Ledger
from enrich.plan.plan import Plan, plan
from enrich.progress import Progress
from enrich.services import Services
from enrich.settings import Settings
from serve.datasets import Served
from tests.doubles.modelled_table import ModelledTable
from tests.doubles.services import ModelDynamo, ModelS3
from tests.faults.world import Calm

SETTINGS = Settings(
    table="items", ledger="ledger", bucket="larder", outputs="outputs", queue="queue", workgroup="primary"
)
TTL = timedelta(days=7)
DATASET = Dataset(
    served=Served(name="stock", subject=("shop",), scope="stock:read"),
    source=Source(prefix="stock/", format="parquet", columns={"shop": "varchar", "sku": "varchar", "units": "double"}),
    as_of=FromKey("day={}"),
    ttl=TTL,
    metadata={"products": Metadata("select sku, title from products", on="sku")},
    subject={"shop": "shop"},
    prediction_id="sku",
    body={"title": "products.title", "units": "units"},
    tolerated=Tolerated(share=0.6),
)
ROWS: dict[str, list[Any]] = {"shop": ["x", "x", "y"], "sku": ["a", "b", "a"], "units": [1.0, 2.0, 3.0]}
PRODUCTS = {"sku": ["a", "b", "c", "d"], "title": ["A", "B", "C", "D"]}


@dataclass
class Clockwork(Calm):
    """A world in which every call succeeds, and time passes only during a wait."""

    table: ModelledTable

    @property
    def time(self) -> float:
        return self.table.now  # advances when a writer waits

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.table.now += seconds


@dataclass
class SmallShop:
    """The world as one dataset sees it. `day` is the number of days ago."""

    directory: Path
    dataset: Dataset = DATASET
    table: ModelledTable = field(default_factory=ModelledTable)

    def __post_init__(self) -> None:
        self.table.now = 1_800_000_000.0
        self.world = Clockwork(self.table)
        self.s3 = ModelS3(cast(Any, self.world), versioned={SETTINGS.outputs})
        self.dynamo = ModelDynamo(cast(Any, self.world))
        self.ledger = Ledger(cast(Any, self.dynamo), SETTINGS.ledger)

    def services(self) -> Services:
        return Services(
            settings=SETTINGS,
            datasets={self.dataset.name: self.dataset},
            s3=cast(Any, self.s3),
            dynamodb=cast(Any, self.dynamo),
            ledger=self.ledger,
            athena=cast(Any, self),
            open_transport=lambda _timeout: self.table,
            send=lambda _message: None,
            clock=self.world,
            random=Random(1),
            directory=self.directory,
            owner="test",
            progress=Progress(),
        )

    def start(self, _sql: str, location: str) -> str:
        """Finish a metadata query at once."""
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        self.s3.put(bucket, f"{prefix}0.parquet", parquet(PRODUCTS))
        return location

    def is_done(self, _query_id: str) -> bool:
        return True

    def key(self, day: int = 0) -> str:
        return f"stock/day={datetime.fromtimestamp(self.world.time, UTC).date() - timedelta(days=day)}/p.parquet"

    def put(self, object_key: str, content: bytes) -> None:
        self.s3.put(SETTINGS.outputs, object_key, content)

    def run(self, rows: Mapping[str, list[Any]] | bytes, day: int = 0) -> Run:
        """Put an output of a day, and run what is pending; return its run as in the ledger."""
        self.put(self.key(day), rows if isinstance(rows, bytes) else parquet(rows))
        return self.go(self.key(day))

    def go(self, object_key: str) -> Run:
        """Run an output that is in the bucket, and everything else that is pending."""
        services = self.services()
        output = find_output(services, SETTINGS.outputs, object_key)
        assert output is not None
        return self._drain(enqueue_output(services, output))

    def enqueue(self, rows: Mapping[str, list[Any]], day: int = 0) -> Run:
        """Put an output of a day and queue its run, which is not executed."""
        self.put(self.key(day), parquet(rows))
        output = find_output(self.services(), SETTINGS.outputs, self.key(day))
        assert output is not None
        return enqueue_output(self.services(), output)

    def refresh(self, *, full: bool) -> Run:
        return self._drain(operations.refresh(self.services(), "stock", full=full))

    def plan(self, object_key: str) -> Plan:
        services = self.services()
        output = find_output(services, SETTINGS.outputs, object_key)
        assert output is not None
        return plan(services, output)

    def plan_rows(self, rows: Mapping[str, list[Any]], day: int = 0) -> int:
        """Put an output of a day, and return the write units that its run would spend."""
        self.put(self.key(day), parquet(rows))
        return self.plan(self.key(day)).units

    def _drain(self, run: Run) -> Run:
        list(run_pending(self.services(), "stock"))
        found = self.ledger.get_run("stock", run.run)
        assert found is not None
        return found

    def written(self) -> list[str]:
        """Return `shop/sku` of what was written since the last call, once for each write."""
        found = sorted(f"{pk.partition('#')[2]}/{sk}" for pk, sk in self.table.puts.elements())
        self.table.puts.clear()
        return found


def parquet(rows: Mapping[str, list[Any]]) -> bytes:
    """Write columns as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(rows)), buffer)
    return buffer.getvalue()
