"""A complete Larder on the laptop: the deployed stack, and operations on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from enrich.ledger.records import Run
from enrich.ledger.store import Ledger
from examples.flights.datasets.flight_delays import flight_delays
from infra.bundle import Bundle
from infra.local.deploy import Stack, deploy
from infra.local.ministack import Ministack
from infra.local.stand_in import AUDIENCE, ISSUER, open_clients

PROJECT = Path(__file__).parent  # has the example's datasets and their contract
LAKE = "larder-demo-lake"
OPEN_STATES = ("pending", "running", "stopped")


class NotAsExpected(Exception):
    """A result differs from what the demo expects; the message has both."""


@dataclass(frozen=True)
class Site:
    """A deployed stack and clients of its services."""

    client: Callable[[str], Any]
    stack: Stack

    def put_output(self, object_key: str, content: bytes) -> None:
        """Write a file to the model's bucket, like the model."""
        self.client("s3").put_object(Bucket=self.stack["OutputsBucketName"], Key=object_key, Body=content)

    def find_run(self, object_key: str) -> Run | None:
        """Find the run of a file in the ledger."""
        ledger = Ledger(self.client("dynamodb"), self.stack["LedgerName"])
        runs = ledger.fetch_runs(flight_delays.name)
        return next((run for run in runs if run.object_key == object_key), None)

    def wait_for_run(
        self, object_key: str, show: Callable[[Run | None], object], seconds: float = 60, state: str = "done"
    ) -> Run:
        """Wait until the run of a file has a state.

        Raises:
            NotAsExpected: the run ended in another state, or took too long.
        """
        deadline = time.monotonic() + seconds
        run = None
        while time.monotonic() < deadline:
            run = self.find_run(object_key)
            show(run)
            if run and run.state == state:
                return run
            if run and run.state not in OPEN_STATES:
                raise NotAsExpected(f"run {run.run} of {object_key} ended as {run.state}: {run.error}\n{self.log()}")
            time.sleep(0.1)
        found = f"its run is {run.state} ({run.error or run.stage})" if run else "it has no run in the ledger"
        raise NotAsExpected(f"{object_key} was not {state} after {seconds:g} s: {found}\n{self.log()}")

    def set_rule(self, *, enabled: bool) -> None:
        """Enable or disable the EventBridge rule that sends events of new files to enrich."""
        events, name = self.client("events"), self.stack["OutputsRuleName"]
        if enabled:
            events.enable_rule(Name=name)
        else:
            events.disable_rule(Name=name)

    def sweep_now(self, now: datetime) -> None:
        """Create a schedule that invokes the sweep's target, with its input, in a second."""
        scheduler = self.client("scheduler")
        schedule = scheduler.get_schedule(Name=self.stack["SweepName"])
        at = now.astimezone(UTC) + timedelta(seconds=1)
        scheduler.create_schedule(
            Name=f"sweep-{at:%H%M%S}",
            ScheduleExpression=f"at({at:%Y-%m-%dT%H:%M:%S})",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target=schedule["Target"],
            ActionAfterCompletion="DELETE",
        )

    def count_items(self) -> int:
        """Count the items of the table."""
        pages = (
            self.client("dynamodb").get_paginator("scan").paginate(TableName=self.stack["TableName"], Select="COUNT")
        )
        return sum(page["Count"] for page in pages)

    def log(self) -> str:
        """Return the last lines that enrich logged."""
        logs = self.client("logs")
        try:
            found = logs.filter_log_events(logGroupName=self.stack["EnrichLogGroup"], limit=1000)["events"]
        except logs.exceptions.ClientError as error:
            return f"(no log: {error})"
        return "\n".join(event["message"].rstrip() for event in found[-20:])


def deploy_site(ministack: Ministack, bundles: dict[str, Bundle]) -> Site:
    """Create the lake's bucket and deploy the template with it."""
    client = open_clients(ministack)
    client("s3").create_bucket(Bucket=LAKE)
    parameters = {"LakeBucketName": LAKE, "Issuer": ISSUER, "Audience": AUDIENCE}
    return Site(client, deploy(client, ministack.endpoint, bundles=bundles, parameters=parameters))
