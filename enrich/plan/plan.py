"""Plan an output: execute the real stages over copy-on-write views of S3 and the ledger.

No item, ledger record, lease or reject is written. The only exception is metadata that is too old, which is fetched as
in a run: its UNLOAD writes to a separate prefix in Larder's bucket, which nothing else reads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from enrich.errors import Failed
from enrich.intake.operations import withdraw
from enrich.intake.queue import enqueue_output
from enrich.intake.worker import run_pending
from enrich.join.engine import MAX_METADATA_BYTES
from enrich.ledger.freshness import find_interval
from enrich.ledger.records import Run, RunStatistics
from enrich.ledger.run_state import EngineKind, RunState, Stage
from enrich.ledger.store import Ledger
from enrich.plan.dry_run import DiscardTransport, OverlayDynamo, OverlayS3
from enrich.plan.samples import Sampler, Samples
from enrich.plan.scale import Load
from enrich.plan.subjects import SubjectCounter
from enrich.progress import Progress
from enrich.read.metadata import MetadataDoesNotFit, read_metadata
from enrich.read.outputs import Output
from enrich.run.engine import choose_engine, estimate_rows
from enrich.run.failures import FAILURES
from enrich.run.lifecycle import open_context
from enrich.run.pieces.gather import find_exchange
from enrich.services import Services

MONTH_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of planning an output.

    Attributes:
        run: the output's run as the ledger would record it: counts, reasons of writes and rejects, write units.
        before: runs that would run first: pending ones, and those that restore a table that no fingerprints describe.
        done: the output has a run that is closed or held; running it again does nothing.
        per_month: outputs per month, from the ledger; None if it has fewer than two.
        samples: examples of items and rejects, if requested.
        statistics: the output's statistics and the guards' verdicts; None if the dataset has no guards.
        largest: share of the items that the largest subject has.
        unchecked: why the output can't be checked here, though a job can; empty if it was checked.
        estimated: rows of an output that was not checked, from its bytes.
    """

    run: Run
    before: Sequence[Run]
    done: bool
    per_month: float | None
    samples: Samples | None = None
    statistics: RunStatistics | None = None
    largest: float = 0.0
    unchecked: str = ""
    estimated: int = 0

    @property
    def units(self) -> int:
        """The write units that would be spent."""
        return 0 if self.done else self.run.units

    @property
    def load(self) -> Load:
        """What the run would do; of an output that was not checked, at most: all rows written, of one unit each."""
        if self.unchecked:
            rows = self.estimated
            return Load(rows=rows, size=self.run.size, written=rows, units=rows)
        run, written = self.run, self.run.counts.written + self.run.counts.removed
        return Load(rows=run.rows or 0, size=run.size, written=written, units=self.units, largest=self.largest)


def plan(services: Services, output: Output, *, show: int = 0) -> Plan:
    """Plan an output.

    Args:
        services: the services of the stack.
        output: the output to plan.
        show: number of samples of each kind to collect, with the stored items that they would replace.

    Raises:
        Stopped: a service that the run needs is unavailable.
    """
    runs = services.ledger.fetch_runs(output.dataset)
    known = services.ledger.get_seen(output.dataset, output.identity)
    earlier = services.ledger.get_run(output.dataset, known.run) if known else None
    per_month = _per_month(runs)
    if earlier is not None and not earlier.state.is_open:
        statistics = services.ledger.get_statistics(output.dataset, earlier.run)
        return Plan(earlier, [], done=True, per_month=per_month, statistics=statistics)
    with tempfile.TemporaryDirectory(dir=services.directory) as folder:
        inner = open_overlay(services, output.dataset, Path(folder))
        mine = enqueue_output(inner, output)
        sampler = Sampler(output.dataset, mine.run, show)
        subjects = SubjectCounter()
        looks = [subjects.look, sampler.take] if show else [subjects.look]
        inner = replace(inner, open_transport=lambda _timeout: DiscardTransport(*looks))
        closed = list(run_pending(inner, output.dataset))
        run = inner.ledger.get_run(output.dataset, mine.run) or mine
        # the view has no job, so it was executed here
        run = replace(run, engine=_choose_engine(services, inner, run, output))
        if why := _find_unchecked(inner, run):
            run = replace(run, state=RunState.PENDING, stage=Stage.CHECK, error=None, ended_ms=None, rows=None)
            rows = estimate_rows(output.parts, services.datasets[output.dataset].source)
            return Plan(run, [], done=False, per_month=per_month, unchecked=why, estimated=rows)
        before = [each for each in closed if each.run != mine.run]
        samples = sampler.compare(services, inner.s3, run) if show else None
        statistics = inner.ledger.get_statistics(output.dataset, mine.run)
        return Plan(
            run,
            before,
            done=False,
            per_month=per_month,
            samples=samples,
            statistics=statistics,
            largest=subjects.largest,
        )


def _choose_engine(services: Services, inner: Services, run: Run, output: Output) -> EngineKind:
    """Choose as the run itself would; what an operator asks for is planned in a stack without a job, too."""
    if services.engine is not None:
        return services.engine
    chooser = replace(inner, start_job=services.start_job)
    try:
        return choose_engine(chooser, services.datasets[output.dataset], run, output.parts)
    except Failed:  # its metadata no longer exists: it would fail before it is handed over
        return EngineKind.LOCAL


def _find_unchecked(inner: Services, run: Run) -> str:
    """Return why the run was not checked here, although a job can check it; empty if it was, or if no job can.

    A job exchanges large metadata. What it would not exchange must fit here as there.
    """
    if run.state.is_open:  # an earlier run was handed over
        return "a job executes an earlier run of the dataset first"
    lease = inner.acquire(run.dataset) if run.state is RunState.FAILED and run.stage is Stage.CHECK else None
    if run.engine is not EngineKind.SPARK or lease is None:
        return ""
    with (
        tempfile.TemporaryDirectory(dir=inner.directory) as scratch,
        open_context(inner, lease, run, Path(scratch)) as context,
    ):
        try:
            read_metadata(inner.s3, run.metadata, max_bytes=MAX_METADATA_BYTES)
        except MetadataDoesNotFit:
            with suppress(*FAILURES):
                names = ", ".join(find_exchange(context).of)
                with context.compile(context.scratch):
                    return f"metadata {names} does not fit into one process, and a job exchanges it"
        except FAILURES:
            pass
    return ""


def plan_withdrawal(services: Services, bad: Run) -> list[Run]:
    """Return the runs that a withdrawal would execute, closed: restores, and the removal of the items.

    Raises:
        Failed: as in `enrich.intake.operations.withdraw`.
        Stopped: a service that a run needs is unavailable.
    """
    with tempfile.TemporaryDirectory(dir=services.directory) as folder:
        inner = open_overlay(services, bad.dataset, Path(folder))
        queued = withdraw(inner, bad)
        return list(run_pending(inner, bad.dataset)) or [queued]


class _WithoutRate(Progress):
    """Reports the progress of a plan without a write rate, since a plan writes to no table."""

    def __init__(self, shown: Progress) -> None:
        self.stage = shown.stage  # type: ignore[method-assign]
        self.end = shown.end  # type: ignore[method-assign]
        self._rows = shown.rows

    def rows(self, run: Run, done: int, rejected: int, rate: float | None) -> None:
        """Report rows done and rejected."""
        del rate
        self._rows(run, done, rejected, None)


def open_overlay(services: Services, dataset: str, folder: Path) -> Services:
    """Return services whose writes stay in copy-on-write views."""
    (folder / "s3").mkdir()
    (folder / "scratch").mkdir()
    dynamodb = cast(Any, OverlayDynamo(services.dynamodb, services.settings.ledger))
    return replace(
        services,
        is_plan=True,
        settings=replace(services.settings, bus=""),  # a plan has no events
        bus=None,
        s3=cast(Any, OverlayS3(services.s3, folder / "s3")),
        dynamodb=dynamodb,
        ledger=Ledger(dynamodb, services.settings.ledger),
        open_transport=lambda _timeout: DiscardTransport(),
        send=lambda _message: None,
        directory=folder / "scratch",
        # under the current owner's name, a held lease does not block the plan
        owner=services.ledger.get_state(dataset).lease_owner or services.owner,
        deadline=None,
        progress=_WithoutRate(services.progress),
        write_units=None,
        scheduler=None,
        start_job=None,  # a plan reads the whole output here
    )


def _per_month(runs: Sequence[Run]) -> float | None:
    """Return the number of outputs in 30 days, from the median interval between the newest ones."""
    interval = find_interval(runs)
    return MONTH_S / interval if interval else None
