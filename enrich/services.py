"""The external services that enrich uses, in one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from enrich.dataset.definition import Dataset
from enrich.ledger.lease import Clock, Lease, acquire_lease
from enrich.ledger.run_state import EngineKind
from enrich.ledger.store import Ledger
from enrich.progress import Progress
from enrich.read.metadata import Athena
from enrich.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_s3 import S3Client

    from enrich.write.writer import Transport


@dataclass(slots=True)
class Bus:
    """EventBridge's client. After a failed call it is not used until `rests_until` (epoch seconds)."""

    client: EventBridgeClient
    rests_until: float = 0.0


class Scheduler(Protocol):
    """Executes tasks (`enrich.run.pieces.tasks.Task`) in other processes, in any order; a task can be executed again.

    Attributes:
        slots: the largest number of tasks that are executed at a time.
        piece_bytes: the size of a piece of an output.
    """

    slots: int
    piece_bytes: int

    def run(self, tasks: Sequence[Any], keep: Callable[[int], None]) -> Mapping[str, Any]:
        """Return what one attempt of each task has returned, by the task's name.

        Args:
            tasks: all of one kind.
            keep: called at least every 10 seconds with the number of tasks that are done; when it raises, tasks that
                have not begun are cancelled.

        Raises:
            Stopped: all attempts of a task have failed, because a service they need does not answer.
            TaskBroke: they have failed for another reason: an exception, or the death of the process.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Clients, clock, random numbers and scratch disk; the fault simulation replaces them with doubles."""

    settings: Settings
    datasets: Mapping[str, Dataset]
    s3: S3Client
    dynamodb: DynamoDBClient
    ledger: Ledger
    athena: Athena
    open_transport: Callable[[float], Transport]  # takes the request time-out in seconds
    send: Callable[[dict[str, Any]], None]  # sends a message to enrich's own queue
    clock: Clock
    random: Random
    directory: Path  # folder on the scratch disk
    owner: str  # name of this invocation in leases
    deadline: float | None = None  # epoch seconds at which this invocation ends; None: never
    progress: Progress
    checkpoint_seconds: float = 15.0
    write_units: float | None = None  # limit per second; None: the writer finds a rate from throttling
    is_plan: bool = False  # nothing is written, so a message must not claim that rejects were written
    bus: Bus | None = None  # None: no events are sent
    scheduler: Scheduler | None = None  # only in a job
    start_job: Callable[[str], None] | None = None  # starts a job for a dataset; None: no job is deployed
    engine: EngineKind | None = None  # where a run is executed if that is not decided yet; None: its size decides

    @property
    def request_timeout(self) -> float:
        """The time-out of one request in seconds: five, or less if little of the invocation is left."""
        if self.deadline is None:
            return 5.0
        return min(5.0, max(0.2, (self.deadline - self.clock.now()) / 5))

    @property
    def has_job(self) -> bool:
        """Whether a job can execute a run: one is deployed, or this process is one."""
        return self.start_job is not None or self.scheduler is not None

    def acquire(self, dataset: str) -> Lease | None:
        """Acquire a dataset's lease; return None if another invocation holds it.

        Raises:
            OutOfTime: the deadline comes before the end of the lease's quiet period.
        """
        return acquire_lease(
            self.ledger, self.clock, dataset, self.owner, deadline=self.deadline, timeout=self.request_timeout
        )
