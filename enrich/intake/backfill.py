"""Run many outputs of a dataset in the order in which they were made, one after the other.

The ledger is the only memory: an output whose run is done is not run again, so a backfill that was stopped anywhere
continues where it was when it is started again. An output is queued only when the one before it is closed: nothing that
comes after a failure is left in the queue.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from enrich.dataset.as_of import BadAsOf, FromColumn, FromKey, parse_as_of
from enrich.dataset.definition import Dataset
from enrich.dataset.field_types import require_types
from enrich.errors import Failed, Stopped
from enrich.intake.queue import enqueue_again, enqueue_output, repeat
from enrich.intake.worker import run_pending
from enrich.join.engine import BadInstant, Engine
from enrich.ledger.records import Run, find_withdrawn
from enrich.ledger.run_state import Kind, RunState
from enrich.read.chunks import BadOutput, read_chunks
from enrich.read.outputs import Listed, fetch_listed, fetch_output
from enrich.read.s3_object import PartFile
from enrich.services import Services
from serve.item import Order

POLL = 2.0  # seconds between checks of a run that another invocation executes
PATIENCE = 1800.0  # seconds without a change of the dataset's state: twice the longest duration of a Lambda


class Status(StrEnum):
    """What a backfill does with an output."""

    NEW = "new"  # it has no run
    OPEN = "open"  # its run is open: it is continued
    FAILED = "failed"  # its last run failed: it is run again
    DONE = "done"  # its run is done: not run again
    WITHDRAWN = "withdrawn"  # an operator withdrew it: not run
    HELD = "held"  # held until an operator approves or rejects it: not run
    REJECTED = "rejected"  # an operator rejected it: not run
    EXPIRED = "expired"  # it is older than the ttl, so its items would not be served: not run

    @property
    def runs(self) -> bool:
        """Whether a backfill runs such an output."""
        return self in {Status.NEW, Status.OPEN, Status.FAILED}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An output of the time range.

    Attributes:
        object_key: the output's object key.
        as_of: when it was made.
        status: what the backfill does with it.
        run: the newest run over it; None if it has none.
        size: bytes that are known without a request for each part.
        is_late: a newer output has begun to write: this output changes no item that the newer one names.
    """

    object_key: str
    as_of: datetime
    status: Status
    run: Run | None
    size: int
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class Backfill:
    """The outputs of a time range.

    Attributes:
        dataset: their dataset.
        since: the first instant of the range.
        until: the first instant after it.
        outputs: in the order of their as_of.
        unreadable: messages about outputs whose as_of can't be read.
        adds_none: late outputs add no item: a newer snapshot was published.
    """

    dataset: str
    since: datetime
    until: datetime
    outputs: list[Candidate]
    unreadable: list[str] = field(default_factory=list)
    adds_none: bool = False

    @property
    def to_run(self) -> list[Candidate]:
        """The outputs that are run, oldest first."""
        return [each for each in self.outputs if each.status.runs]


class Step(NamedTuple):
    """An output that was processed, and its run, closed or held; None if the output is gone."""

    output: Candidate
    run: Run | None


def find_backfill(services: Services, dataset_name: str, since: datetime, until: datetime) -> Backfill:
    """Find the outputs that were made from `since` to before `until`, and what is to be done with each.

    The dataset's `start` limits only the sweep: it is ignored here.

    Raises:
        DatasetMistakes: a value of the dataset has another type than its hint.
    """
    dataset = services.datasets[dataset_name]
    require_types(dataset)
    runs = services.ledger.fetch_runs(dataset_name)
    withdrawn = find_withdrawn(runs)
    newest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.run):
        if run.kind.is_over_output:
            newest[run.identity] = run
    seen = {
        (each.object_key, each.etag, each.arrived_ms, each.listing): newest.get(each.identity)
        for each in services.ledger.fetch_seen(dataset_name)
    }
    state, now = services.ledger.get_state(dataset_name), services.clock.now()
    found = Backfill(dataset_name, since, until, [], [], dataset.source.output == "snapshot" and bool(state.snapshot))
    for listed in fetch_listed(services.s3, dataset, services.settings.outputs):
        run_of_it = seen.get((listed.object_key, listed.etag, listed.arrived_ms, listed.listing))
        try:
            as_of = _find_as_of(services, dataset, listed, run_of_it)
            if as_of is None or not since <= as_of < until:
                continue
            if run_of_it is None:  # a listing can differ from what the run saw: only its identity decides
                output = fetch_output(services.s3, dataset, services.settings.outputs, listed.object_key)
                if output is None:
                    continue
                run_of_it = newest.get(output.identity)
        except Failed as error:
            found.unreadable.append(str(error))
            continue
        status = Status.WITHDRAWN if run_of_it and run_of_it.run in withdrawn else _judge(run_of_it)
        if status in {Status.NEW, Status.FAILED} and math.ceil((as_of + dataset.ttl).timestamp()) <= now:
            status = Status.EXPIRED
        is_late = _is_late(state.high_water, state.generation, as_of)
        found.outputs.append(Candidate(listed.object_key, as_of, status, run_of_it, listed.size, is_late))
    found.outputs.sort(key=lambda each: (each.as_of, each.object_key))
    return found


def _judge(run: Run | None) -> Status:
    if run is None:
        return Status.NEW
    if run.state.is_open:
        return Status.OPEN
    kept = {
        RunState.DONE: Status.DONE,
        RunState.WITHDRAWN: Status.WITHDRAWN,
        RunState.HELD: Status.HELD,
        RunState.REJECTED: Status.REJECTED,
    }
    return kept.get(run.state, Status.FAILED)


def _is_late(high_water: str, generation: int, as_of: datetime) -> bool:
    """Return whether a newer output has begun to write: then this output changes no item that the newer one wrote."""
    return bool(high_water) and (generation, _milliseconds(as_of)) < Order.parse(high_water)[:2]


def _milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def _find_as_of(services: Services, dataset: Dataset, listed: Listed, run: Run | None) -> datetime | None:
    """Return when an output was made, determined as its run does it; None if the output is gone.

    Raises:
        Failed: it has no as_of, or can't be read.
    """
    if run is not None and run.as_of_ms is not None:
        return datetime.fromtimestamp(run.as_of_ms / 1000, UTC)
    if isinstance(dataset.as_of, FromKey):
        try:
            return parse_as_of(dataset.as_of, listed.object_key)
        except BadAsOf as error:
            raise Failed(f"dataset {dataset.name}: {error}") from error
    if isinstance(dataset.as_of, FromColumn):
        return _read_as_of(services, dataset, listed)
    return datetime.fromtimestamp(listed.arrived_ms / 1000, UTC)


def _read_as_of(services: Services, dataset: Dataset, listed: Listed) -> datetime | None:
    """Read the first instant of the column that gives as_of: for Parquet, a footer and a chunk."""
    output = fetch_output(services.s3, dataset, services.settings.outputs, listed.object_key)
    if output is None:
        return None
    # only the columns are needed: nothing is joined or rendered
    only_columns = replace(
        dataset,
        metadata={},
        derive=None,
        subject=dict.fromkeys(dataset.served.subject, "'-'"),
        prediction_id="'-'",
        body={"none": "0"},
        guards=(),
    )
    try:
        with (
            tempfile.TemporaryDirectory(dir=services.directory) as scratch,
            Engine(only_columns, {}, directory=Path(scratch)) as engine,
        ):
            for _, chunk in read_chunks(
                output.parts, dataset.source, open_part=lambda part: BufferedReader(PartFile(services.s3, part))
            ):
                if found := engine.read_as_of(chunk):
                    return found[0]
    except (BadInstant, BadOutput) as error:
        raise Failed(f"dataset {dataset.name}, s3://{output.bucket}/{listed.object_key}: {error}") from error
    return datetime.fromtimestamp(listed.arrived_ms / 1000, UTC)


def run_backfill(services: Services, found: Backfill, *, send: bool = False) -> Iterator[Step]:
    """Run outputs one after the other, and yield each as soon as its run is closed; stop iterating to stop.

    If another invocation holds the dataset, wait for its run.

    Args:
        services: the stack's services.
        found: what to run.
        send: the deployed function executes the runs: send a message to its queue for each, and wait.

    Raises:
        Stopped: a service that is needed is unavailable, or another invocation's run makes no progress.
        LeaseLost: another invocation holds the dataset.
    """
    total = len(found.to_run)
    for number, output in enumerate(found.to_run, 1):
        services.progress.title = f"backfill {number} of {total}"
        run, state = None, RunState.OVERWRITTEN
        while state is RunState.OVERWRITTEN:  # the object that replaced it is an output of the range as well
            queued = queue_output(services, found.dataset, output)
            run = queued and _execute(services, queued, send=send)
            state = run.state if run else RunState.DONE
        yield Step(output, run)


def queue_output(services: Services, dataset: str, output: Candidate) -> Run | None:
    """Queue the run of an output, or return its existing run; None if the output is gone.

    An output that was replaced since it was found is run as it is now: the queue has no memory of the older one.
    """
    now = fetch_output(services.s3, services.datasets[dataset], services.settings.outputs, output.object_key)
    if now is None:
        return None
    run = output.run
    if run is None or run.identity != now.identity:
        return enqueue_output(services, now)
    return enqueue_again(services, repeat(run, Kind.REPLAY)) if output.status is Status.FAILED else run


def _execute(services: Services, queued: Run, *, send: bool) -> Run:
    """Execute a queued run, or wait until the deployed function has; return it closed or held."""
    dataset, run, version, changed_at = queued.dataset, queued, -1, services.clock.now()
    if send and queued.state.is_open:
        services.send({"continue": {"dataset": dataset}})
    while run.state.is_open:
        if not send:
            _exhaust(services, dataset, queued.run)
        run = services.ledger.get_run(dataset, queued.run) or run
        if not run.state.is_open:
            break
        services.progress.stage(run, f"{run.state}, waits for another invocation, {run.stage} {run.next_row:,}")
        now, state = services.clock.now(), services.ledger.get_state(dataset)
        if state.version != version:  # each step of any run changes it
            version, changed_at = state.version, now
        elif now - changed_at > PATIENCE:
            raise Stopped(
                f"dataset {dataset}, run {run.run} of s3://{run.bucket}/{run.object_key}: it is {run.state}, and "
                f"nothing changed for {PATIENCE / 60:.0f} minutes; look at the deployed function's log and its "
                "dead-letter queue, then start the same backfill again: it continues here"
            )
        services.clock.sleep(POLL)
    return run


def _exhaust(services: Services, dataset: str, own: int) -> None:
    """Execute everything that is pending, in order: otherwise it would wait for the next sweep."""
    for _ in run_pending(services, dataset, {own}):
        pass


def find_failed(steps: Sequence[Step]) -> list[Step]:
    """Return the outputs whose run failed, or is held by the dataset's guards."""
    return [step for step in steps if step.run is not None and step.run.state in {RunState.FAILED, RunState.HELD}]
