"""A deployed Larder for tests: small metadata, outputs of a few rows, and requests of consumers."""

from __future__ import annotations

import functools
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq

from enrich.ledger.store import Ledger
from examples.flights import lake
from examples.flights.http import Answer, get
from examples.flights.outputs import SCHEMA
from examples.flights.tokens import Issuer, open_issuer
from infra.local.athena.server import AthenaServer
from infra.local.deploy import Stack, deploy
from infra.local.ministack import REGION, run_ministack
from infra.translate import Template

ISSUER, AUDIENCE = "https://issuer.example.com/", "larder"
DATASET = "flight-delays"
MARCH = datetime(2030, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Deployed:
    """A stack, its clients, and an issuer whose key it trusts."""

    client: Callable[[str], Any]
    stack: Stack
    issuer: Issuer

    def put(self, object_key: str, body: bytes) -> str:
        """Write an object as the model does."""
        self.client("s3").put_object(Bucket=self.stack["OutputsBucketName"], Key=object_key, Body=body)
        return object_key

    def enrich(self, event: Mapping[str, Any]) -> str:
        """Invoke enrich with an event; return its error, or an empty text."""
        answer = self.client("lambda").invoke(
            FunctionName=self.stack["EnrichFunctionName"], Payload=json.dumps(event).encode()
        )
        said = json.loads(answer["Payload"].read() or b"null")
        return str(said.get("errorMessage", said)) if answer.get("FunctionError") else ""

    def run(self, object_key: str) -> str:
        """Invoke enrich for an object; return its error, or an empty text."""
        return self.enrich({"bucket": self.stack["OutputsBucketName"], "object_key": object_key})

    def state(self, object_key: str) -> str:
        """Return the state of an object's newest run; an empty text if the ledger has none."""
        runs = Ledger(self.client("dynamodb"), self.stack["LedgerName"]).fetch_runs(DATASET)
        return next((run.state for run in runs if run.object_key == object_key), "")

    def wait(self, object_key: str, seconds: float = 120) -> str:
        """Wait until an object's run is closed, and return its state."""
        deadline = time.monotonic() + seconds
        while (state := self.state(object_key)) in ("", "pending", "running", "stopped"):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return state

    def get(self, path: str = "", *, carrier: str | None = "B6") -> Answer:
        """Send a GET to the API, with a carrier's token or without."""
        token = self.issuer.sign(carrier, time.time()) if carrier else None
        return get(f"{self.stack.base_url}/flight-delays{path}", token)


@contextmanager
def run_stand_in(log: Path, *, auth: bool = False, region: str = REGION) -> Iterator[tuple[Callable[[str], Any], str]]:
    """Run the stand-in with a local Athena for its functions; yield a factory of clients, and the endpoint."""
    athena = AthenaServer()
    try:
        env = {"AWS_ENDPOINT_URL_ATHENA": athena.endpoint, "AUTH": str(auth).lower()}
        with run_ministack(log, env=env) as ministack:
            athena.start(ministack.endpoint)
            session = boto3.Session("test", "test", region_name=region)
            yield (
                functools.cache(functools.partial(session.client, endpoint_url=ministack.endpoint)),
                ministack.endpoint,
            )
    finally:
        athena.close()


def deploy_larder(
    client: Callable[[str], Any],
    endpoint: str,
    name: str,
    *,
    parameters: Mapping[str, str] | None = None,
    template: Template | None = None,
) -> Deployed:
    """Deploy a stack with its own lake."""
    bucket = f"{name}-lake"
    client("s3").create_bucket(Bucket=bucket)
    tables = {table: pa.Table.from_pylist([_ROWS[table]], schema) for table, schema in lake.TABLES.items()}
    lake.load(client("s3"), client("glue"), bucket, tables)
    given = {"Service": name, "LakeBucketName": bucket, "Issuer": ISSUER, "Audience": AUDIENCE, **(parameters or {})}
    stack = deploy(client, endpoint, name=name, parameters=given, template=template)
    return Deployed(client, stack, open_issuer(client("ssm"), stack["KeyStorePath"], ISSUER, AUDIENCE))


def ask(url: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """Send a request; no status raises an error. The names of the response's headers are in lower case."""
    request = urllib.request.Request(url, headers=dict(headers or {}), method=method)
    try:
        found = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        found = error
    with found:
        return Answer(url, found.status, {name.lower(): value for name, value in found.headers.items()}, found.read())


def find_resource(client: Callable[[str], Any], stack: str, logical_id: str) -> str:
    """Return the physical id of a stack's resource."""
    found = client("cloudformation").describe_stack_resource(StackName=stack, LogicalResourceId=logical_id)
    physical_id: str = found["StackResourceDetail"]["PhysicalResourceId"]
    return physical_id


def object_key(days_ago: int = 0, part: int = 0) -> str:
    """Build the object key of an output of some days ago."""
    return f"{DATASET}/scored={date.today() - timedelta(days=days_ago)}/part-{part}.parquet"


def parquet(rows: int = 3, *, delay: float = 5.0, bad: int = 0) -> bytes:
    """Build an output; `bad` rows have no carrier, and are rejected."""
    row = {
        "flight_date": MARCH.date(), "carrier": "B6", "origin": "JFK", "dest": "JFK", "tailnum": "N1",
        "scheduled_departure": MARCH, "scheduled_arrival": MARCH, "distance_miles": 100.0, "predicted_delay": delay,
        "late_probability": 0.5, "model_version": "1",
    }  # fmt: skip
    target = io.BytesIO()
    flights = [{**row, "flight": number, "carrier": "B6" if number >= bad else None} for number in range(rows)]
    pq.write_table(pa.Table.from_pylist(flights, SCHEMA), target)
    return target.getvalue()


_ROWS: dict[str, dict[str, Any]] = {
    "airlines": {"carrier": "B6", "name": "JetBlue Airways"},
    "airports": {"faa": "JFK", "name": "John F Kennedy Intl", "lat": 40.6, "lon": -73.8},
    "planes": {"tailnum": "N1", "manufacturer": "EMBRAER", "model": "ERJ 190", "year": 2010, "seats": 100},
    "weather": {"origin": "JFK", "hour": MARCH.replace(tzinfo=None), "temp": 40.0},
}
