"""Pending work must progress: if an invocation ends for lack of time and has not moved its run, the history fails.

An invocation is excused once where the table refused or lost one of its requests, since it may have had no time left to
send it again, or where calls stalled for more than a third of its time; never twice in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from enrich.ledger.records import Run
from enrich.ledger.run_state import Stage

if TYPE_CHECKING:
    from tests.faults.history import Story
    from tests.faults.world import Actor

Position = tuple[Any, ...]
RunKey = tuple[str, int]  # dataset and number


def positions(story: Story) -> dict[RunKey, Position]:
    """Return the checkpoint of every run."""
    runs = [run for name in story.datasets for run in story.runs(name)]
    return {(run.dataset, run.run): _position(story, run) for run in runs}


def check_moved(story: Story, actor: Actor, lasts: float, dataset: str, before: Mapping[RunKey, Position]) -> None:
    """Fail the history if an invocation of `lasts` seconds held runs of a dataset, and moved none of them."""
    invocation = actor.name
    mine = [run for run in story.runs(dataset) if run.owner == invocation]
    if not mine or any(before.get((dataset, run.run)) != _position(story, run) for run in mine):
        return
    (run,) = mine
    recently = story.world.time - lasts / 3  # a call can have stalled since the last check
    if run.stage is Stage.PIN and story.athena.was_running(recently):  # it waited for Athena, which was making progress
        return
    position = (dataset, run.run, *_position(story, run))
    troubled = actor.stalled > lasts / 3 or any(each.troubled for each in story.transports.get(invocation, []))
    if not troubled or position in story.stood_still:
        story.world.fail(f"{invocation} ended for lack of time, and {dataset} run {run.run} had not moved")
    story.stood_still.add(position)


def _position(story: Story, run: Run) -> Position:
    return (
        run.state.is_open,
        run.stage,
        run.next_row,
        run.place,
        run.rows,
        run.generation,
        len(run.metadata),
        _count_files(story, run),
    )


def _count_files(story: Story, run: Run) -> int:
    """Return for how many buckets a run has saved its decisions, its removals, or its fingerprints."""
    work = f"work/{run.dataset}/{run.run:08d}/"
    prefixes = (f"{work}decided/", f"{work}removals/", f"fingerprints/{run.dataset}/{run.run:08d}-")
    return sum(1 for bucket, object_key in story.s3.objects if bucket == "larder" and object_key.startswith(prefixes))
