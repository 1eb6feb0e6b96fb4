"""What waits must also move: an invocation that ends for lack of time has moved its run, or the history fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enrich.ledger.records import Run
from tests.faults.history import Story

Position = tuple[Any, ...]


def positions(story: Story) -> dict[tuple[str, int], Position]:
    """Return the checkpoint of every run."""
    runs = [run for name in story.datasets for run in story.ledger.fetch_runs(name)]
    return {(run.dataset, run.run): _position(run) for run in runs}


def check_moved(story: Story, invocation: str, dataset: str, before: Mapping[tuple[str, int], Position]) -> None:
    """Fail the history if an invocation had runs of a dataset in hand and none of them moved."""
    mine = [run for run in story.ledger.fetch_runs(dataset) if run.owner == invocation]
    if mine and all(before.get((dataset, run.run)) == _position(run) for run in mine):
        story.world.fail(f"{invocation} ended for lack of time, and {dataset} run {mine[0].run} had not moved")


def _position(run: Run) -> Position:
    return run.state.is_closed, run.stage, run.next_row, run.place, run.rows, run.generation, len(run.metadata)
