"""Fetch datasets and their runs for the pages, and decide which need attention. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from enrich.errors import NewerFormat, first_line
from enrich.ledger.freshness import NEWEST, Freshness, FreshnessState, build_freshness
from enrich.ledger.records import Pending, Run
from enrich.ledger.run_state import Kind, RunState
from enrich.services import Services

# States in which a run waits for an operator, by their text in the ledger
ATTENTION = ("held", "failed")


@dataclass(frozen=True, slots=True)
class DatasetRuns:
    """A dataset and its runs in the ledger.

    Attributes:
        name: the dataset's name.
        freshness: the freshness of its newest published output.
        runs: newest first.
        pending: oldest first.
        problem: why the ledger could not be read; then everything else is empty.
    """

    name: str
    freshness: Freshness
    runs: Sequence[Run] = ()
    pending: Sequence[Pending] = ()
    problem: str | None = None

    @property
    def attention(self) -> list[Run]:
        """The runs that wait for an operator, newest first."""
        return [run for run in self.runs if is_open(run, self.runs)]


def fetch_dataset(services: Services, name: str, newest: int) -> DatasetRuns:
    """Fetch a dataset's newest runs; a dataset that can't be read is described, so that the others are shown."""
    try:
        runs = services.ledger.fetch_runs(name, newest=max(newest, NEWEST))
        pending = services.ledger.fetch_pending(name)
        held = [services.ledger.get_run(name, each.run) for each in services.ledger.fetch_held(name)]
    except (ClientError, BotoCoreError, NewerFormat) as error:
        return DatasetRuns(name, Freshness(FreshnessState.UNKNOWN), problem=first_line(error))
    fresh = build_freshness(runs, services.clock.now())
    shown = runs[:newest]
    numbers = {run.run for run in shown}
    shown += [run for run in held[::-1] if run is not None and run.run not in numbers]  # each waits for an operator
    return DatasetRuns(name, fresh, shown, pending)


def is_open(run: Run, runs: Sequence[Run]) -> bool:
    """Return whether a run waits for an operator: no later run has resolved it."""
    return run.state in ATTENTION and find_resolution(run, runs) is None


def find_resolution(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the earliest later run over the output, or one written in its place, that published or withdrew it."""
    later = [
        each
        for each in runs
        if each.run > run.run
        and (each.bucket, each.object_key) == (run.bucket, run.object_key)  # the same output, or one in its place
        and (each.state is RunState.DONE or each.state is RunState.WITHDRAWN or each.kind is Kind.REMOVAL)
    ]
    return min(later, key=lambda each: each.run, default=None)


def count_reasons(runs: Sequence[Run]) -> list[tuple[str, int, int]]:
    """Return each reject reason, its number of predictions, and the newest run that has it; most frequent first."""
    totals: dict[str, tuple[int, int]] = {}
    for run in runs:
        for reason, count in run.reasons.items():
            total, newest = totals.get(reason, (0, 0))
            totals[reason] = total + count, max(newest, run.run)
    return sorted(
        ((reason, total, newest) for reason, (total, newest) in totals.items()), key=lambda each: (-each[1], each[0])
    )
