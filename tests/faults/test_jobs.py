"""The write budget of a job: over all its pieces it is never passed, and nearly all of it is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

from enrich.ledger.run_state import EngineKind
from tests.faults.history import build_story, modelled, poll
from tests.faults.jobs import Jobs, Meter
from tests.faults.outputs import write_rows
from tests.faults.world import START, Chances

ROWS = 96
UNITS = 24.0  # per second


def test_budget_is_kept_and_used(tmp_path: Path) -> None:
    """A run of twelve pieces on four slots uses at least 90 % of the budget, from its first write to its last."""
    random = Random("budget")
    with modelled():
        story = build_story(1, tmp_path, None)
        story.world.chances = Chances(calls_per_second=300.0)
        story.jobs = jobs = Jobs(story, random)
        jobs.slots, jobs.piece_rows, jobs.write_units, jobs.engines = 4, [8], UNITS, [EngineKind.SPARK]
        jobs.settle()
        dataset = story.datasets["one"] = replace(story.datasets["one"], rank=None, guards=())
        rows = [[f"s{n}", f"p{n}", "v1"] for n in range(ROWS)]
        story.puts.append(write_rows(story.s3, dataset, random, START, rows))
        story.queue.deliver({"sweep": dataset.name})
        story.world.at(START, lambda: poll(story, random))
        story.world.run(until=START + 3600)
    assert [run.state for run in story.runs("one")] == ["done"]
    (meter,) = jobs.meters
    first, last = meter.sent[0][0], meter.sent[-1][0]
    assert sum(units for _, units in meter.sent) == ROWS
    assert meter.excess is None
    assert ROWS / (UNITS * (last - first)) >= 0.9


def test_excess_is_found() -> None:
    """A slot that sends before its last request is paid for passes the limit; another slot may send then."""
    meter = Meter(10.0, 2)
    for slot, time in ((0, 0.0), (1, 0.0), (0, 1.0), (1, 1.5)):
        meter.count(slot, time, 5)
    assert meter.excess is None
    meter.count(0, 1.5, 5)
    assert meter.excess is not None
