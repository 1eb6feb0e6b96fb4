"""Open the services on AWS: boto3 for most calls, `wire` for the writes, the machine's clock and random numbers."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import boto3
import pyathena
from botocore.config import Config

from enrich.dataset.definition import Dataset
from enrich.datasets import load_datasets
from enrich.ledger.run_state import EngineKind
from enrich.ledger.store import Ledger
from enrich.progress import Progress
from enrich.read.metadata import Athena
from enrich.read.outputs import HEADS_AT_ONCE
from enrich.services import Bus, Scheduler, Services
from enrich.settings import Settings
from enrich.write.writer import Transport
from wire.credentials import find_source
from wire.endpoint import Endpoint, resolve
from wire.scratch import open_scratch
from wire.transport import Transport as WireTransport

if TYPE_CHECKING:
    from mypy_boto3_glue import GlueClient

CONNECTIONS = 64  # to DynamoDB, with one request in flight each; the writer's window adapts below that
_FEW_RETRIES = Config(retries={"mode": "standard", "max_attempts": 2}, connect_timeout=2, read_timeout=3)
_RETRIES = Config(
    retries={"mode": "standard", "max_attempts": 8},
    connect_timeout=5,
    read_timeout=60,
    max_pool_connections=HEADS_AT_ONCE,
)


class MachineClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return epoch seconds."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def open_services(
    env: Mapping[str, str],
    *,
    owner: str,
    remaining_seconds: float | None = None,
    progress: Progress | None = None,
    write_units: float | None = None,
    datasets: Mapping[str, Dataset] | None = None,
    scheduler: Scheduler | None = None,
    engine: EngineKind | None = None,
) -> Services:
    """Open the services that environment variables name.

    Args:
        env: `LARDER_*` and AWS's own variables.
        owner: name of this invocation in leases.
        remaining_seconds: until this invocation ends; None: it has no deadline.
        progress: receives the progress of runs.
        write_units: limit of write units per second; None: the writer finds a rate from throttling.
        datasets: by name; None: those of `datasets/`.
        scheduler: executes tasks in a job on many machines.
        engine: where a run is executed if that is not decided yet; None: its size decides.

    Raises:
        SettingsError: a variable is missing.
        DatasetFileError: a file in `datasets/` defines no dataset.
    """
    settings = Settings.from_env(env)
    clock = MachineClock()
    clients = _clients()
    return Services(
        settings=settings,
        datasets=load_datasets() if datasets is None else datasets,
        s3=clients["s3"],
        dynamodb=clients["dynamodb"],
        ledger=Ledger(clients["dynamodb"], settings.ledger),
        athena=Athena(_connector(settings)),
        open_transport=_open_transport,
        send=_sender(clients["sqs"], settings.queue),
        clock=clock,
        random=random.Random(),  # noqa: S311 - spreads retries; not a secret
        directory=open_scratch(),
        owner=owner,
        deadline=None if remaining_seconds is None else clock.now() + remaining_seconds,
        progress=progress or Progress(),
        write_units=write_units,
        bus=_bus() if settings.bus else None,
        scheduler=scheduler,
        start_job=partial(start_job, _glue(), settings.job) if settings.job else None,
        engine=engine,
    )


def start_job(glue: GlueClient, job: str, dataset: str) -> None:
    """Start a job that executes a dataset's pending runs; a job that finds the lease held ends at once.

    If as many jobs are running as the job allows, none is started: the sweep tries again.
    """
    try:
        glue.start_job_run(JobName=job, Arguments={"--dataset": dataset})
    except glue.exceptions.ConcurrentRunsExceededException:
        return


@cache
def _clients() -> dict[str, Any]:
    """Open boto3's clients, once per process."""
    return {name: boto3.client(name, config=_RETRIES) for name in ("s3", "dynamodb", "sqs")}


@cache
def _bus() -> Bus:
    """Open boto3's client of EventBridge, once per process. A run must not wait for it: unsent events are kept."""
    return Bus(boto3.client("events", config=_FEW_RETRIES))


@cache
def _glue() -> GlueClient:
    """Open boto3's client of Glue, once per process."""
    return boto3.client("glue", config=_RETRIES)


def _connector(settings: Settings) -> Callable[[], Any]:
    def connect() -> Any:
        return pyathena.connect(
            work_group=settings.workgroup,
            s3_staging_dir=f"s3://{settings.bucket}/athena/",
            region_name=boto3.Session().region_name,
            poll_interval=0.3,
        )

    return connect


def _open_transport(timeout: float) -> Transport:
    region = boto3.Session().region_name or "us-east-1"
    return _transport(resolve("dynamodb", region, os.environ)).renew(timeout)


@cache
def _transport(endpoint: Endpoint) -> WireTransport:
    """Open the transport, once per process, which executes one run at a time."""
    return WireTransport(endpoint, find_source(os.environ), connections=CONNECTIONS)


def _sender(sqs: Any, queue: str) -> Callable[[dict[str, Any]], None]:
    def send(message: dict[str, Any]) -> None:
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(message))

    return send
