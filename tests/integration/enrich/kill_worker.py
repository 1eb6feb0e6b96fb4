"""A process that runs one output, or all, slowly, and reports its first written request: to be killed by tests."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import boto3
import pyathena

from enrich.intake.backfill import find_backfill, run_backfill
from enrich.intake.find import take_arrived
from enrich.intake.worker import run_dataset
from enrich.progress import Progress
from enrich.read.metadata import Athena
from enrich.services import Services
from enrich.settings import Settings
from tests.integration.enrich.conftest import TimelessLedger, build_dataset
from wire.credentials import find_source
from wire.endpoint import resolve
from wire.transport import Transport


class Slow(Transport):
    """At most two requests at a time; creates a file as soon as the first write is confirmed."""

    has_written: Path

    def wait(self, timeout: float) -> Any:
        answered = super().wait(timeout)
        if answered and not self.has_written.exists():
            self.has_written.write_text("written")
        return answered


class Clock:
    """The machine's time, plus the time that the tests have advanced it."""

    def __init__(self, offset: float) -> None:
        self._offset = offset

    def now(self) -> float:
        return time.time() + self._offset

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def main(order: dict[str, Any]) -> None:
    """Run the output that the order names, or all of them."""
    import os

    dataset = build_dataset()
    products = replace(dataset.metadata["products"], sql=f"select sku, title from {order['database']}.products")
    dataset = replace(dataset, metadata={"products": products})
    settings = Settings(**order["settings"])
    dynamodb = boto3.client("dynamodb")
    Slow.has_written = Path(order["has_written"])

    def open_transport(timeout: float) -> Transport:
        endpoint = resolve("dynamodb", os.environ["AWS_REGION"], os.environ)
        return Slow(endpoint, find_source(os.environ), connections=2, timeout=timeout)

    services = Services(
        settings=settings,
        datasets={dataset.name: dataset},
        s3=boto3.client("s3"),
        dynamodb=dynamodb,
        ledger=TimelessLedger(dynamodb, settings.ledger),
        athena=Athena(
            lambda: pyathena.connect(
                s3_staging_dir=f"s3://{settings.bucket}/athena/", endpoint_url=order["athena"], poll_interval=0.02
            )
        ),
        open_transport=open_transport,
        send=lambda _: None,
        clock=Clock(order["offset"]),
        random=Random(1),
        directory=Path(order["has_written"]).parent,
        owner=f"worker {os.getpid()}",
        progress=Progress(),
        checkpoint_seconds=0.05,
    )
    if "object_key" not in order:
        found = find_backfill(
            services, dataset.name, datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        )
        for step in run_backfill(services, found):
            print(step.output.object_key)
        return
    run = take_arrived(services, settings.outputs, order["object_key"])
    assert run is not None
    run_dataset(services, run.dataset)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
