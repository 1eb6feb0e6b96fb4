"""What a backfill would do and cost: estimated from the ledger, or exactly, by running it over copy-on-write views."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enrich.cli.table import BOLD, YELLOW, Paint, plain, printable, render_duration, render_table
from enrich.cli.terminal import describe_run
from enrich.intake.backfill import Backfill, Candidate, Status, Step, find_failed, queue_output
from enrich.intake.find import find_output
from enrich.intake.worker import run_pending
from enrich.ledger.freshness import NEWEST
from enrich.ledger.records import Run
from enrich.ledger.run_state import RunState
from enrich.plan.cost import build_cost, read_prices
from enrich.plan.plan import open_overlay, plan
from enrich.services import Services

_LINES = 30  # number of outputs that are listed before a backfill; JSON lists all


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a backfill will cost.

    Attributes:
        units: an upper bound of the write units, as if every row were written; None if it can't be calculated.
        seconds: duration of all runs, one after the other, at the speed of earlier runs; None if there are none.
        why: what the numbers are calculated from, or why there are none.
    """

    units: int | None
    seconds: float | None
    why: str


def estimate(services: Services, found: Backfill) -> Estimate:
    """Estimate from the newest runs of the dataset; without any, from a plan of the first output.

    Raises:
        Stopped: a service that the plan needs is unavailable.
    """
    size = sum(each.size for each in found.to_run if not (each.is_late and found.adds_none))
    done = [run for run in services.ledger.fetch_runs(found.dataset) if run.state is RunState.DONE and run.size]
    written = [run for run in done if run.counts.written and run.rows][:NEWEST]
    if written:
        units = sum(run.units / run.counts.written * (run.rows or 0) for run in written)
        took = sum((run.ended_ms or 0) - (run.started_ms or 0) for run in written) / 1000
        per_byte, whole = units / sum(run.size for run in written), sum(run.size for run in written)
        why = f"from the {len(written)} newest runs, if every row were written"
        return Estimate(math.ceil(per_byte * size), took / whole * size, why)
    output = find_output(services, services.settings.outputs, found.to_run[0].object_key)
    if output is None or not output.size:
        return Estimate(None, None, "no earlier run, and the first output has no bytes")
    planned = plan(services, output)
    run = planned.run
    if planned.unchecked:
        return Estimate(None, None, f"the first output can't be checked here: {planned.unchecked}")
    if run.state is not RunState.DONE:
        return Estimate(None, None, f"a run of the first output would end as {run.state}: {run.error}")
    return Estimate(math.ceil(run.units / output.size * size), None, "from a plan of the first output")


def plan_backfill(services: Services, found: Backfill) -> list[Step]:
    """Run all outputs over copy-on-write views; return them with their closed runs.

    A late output can write less than this: the views do not have the items that are newer than it.

    Raises:
        Stopped: a service that a run needs is unavailable.
    """
    steps = []
    with tempfile.TemporaryDirectory(dir=services.directory) as folder:
        inner = open_overlay(services, found.dataset, Path(folder))
        for number, output in enumerate(found.to_run, 1):
            services.progress.title = f"plan {number} of {len(found.to_run)}"
            queued = queue_output(inner, found.dataset, output)
            for _ in run_pending(inner, found.dataset):
                pass
            steps.append(Step(output, queued and inner.ledger.get_run(found.dataset, queued.run)))
    return steps


def describe_backfill(
    found: Backfill, region: str, *, estimated: Estimate | None, steps: Sequence[Step], dry_run: bool
) -> dict[str, Any]:
    """Return a backfill as JSON values: what was found, what it costs, and the runs that were executed or planned."""
    runs = [step.run for step in steps if step.run]
    units = sum(run.units for run in runs) if dry_run else estimated.units if estimated else None
    cost = build_cost(units, 1, region) if units is not None else None
    return {
        "dataset": found.dataset,
        "since": found.since.isoformat().replace("+00:00", "Z"),
        "until": found.until.isoformat().replace("+00:00", "Z"),
        "dry_run": dry_run,
        "outputs": [_describe_output(each) for each in found.outputs],
        "unreadable": found.unreadable,
        "write_units": units,
        "cost_usd": cost.run if cost else None,
        "runs": [describe_run(run) for run in runs],
        "left": len(found.to_run) - len(steps),
    }


def _describe_output(output: Candidate) -> dict[str, Any]:
    return {
        "object_key": output.object_key,
        "as_of": output.as_of.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "status": output.status,
        "run": output.run.run if output.run else None,
        "late": output.is_late,
        "size": output.size,
    }


def render_backfill(found: Backfill, estimated: Estimate | None, region: str, paint: Paint = plain) -> str:
    """Render what a backfill does, before it is confirmed."""
    head = f"{found.dataset}: {len(found.to_run):,} of {len(found.outputs):,} outputs to run, in this order"
    lines = [paint(head, BOLD)]
    rows = [
        [each.as_of.isoformat(), each.status, "late" if each.is_late else "", each.object_key] for each in found.to_run
    ]
    if rows:
        lines.append(render_table(["as of", "", "", "output"], rows[:_LINES], paint=paint))
    if len(rows) > _LINES:
        lines.append(f"and {len(rows) - _LINES:,} more, up to {rows[-1][0]}")
    kept = Counter(each.status for each in found.outputs if not each.status.runs)
    lines += [f"{count:,} left alone: {_KEPT[status]}" for status, count in sorted(kept.items())]
    if late := sum(each.is_late for each in found.to_run):
        what = "add no item, since a newer snapshot names them all" if found.adds_none else _LATE
        lines.append(paint(f"{late:,} are older than an output that is already served (late): they {what}", YELLOW))
    if estimated:
        lines.append(render_price(estimated.units, region, "at most", estimated.why))
    if estimated and estimated.seconds:
        lines.append(f"about {render_duration(estimated.seconds)}, at the speed of those runs")
    return "\n".join(lines)


_LATE = "overwrite no item of a newer output, and add those that none has"
_KEPT = {
    Status.DONE: "their runs are done",
    Status.WITHDRAWN: "an operator withdrew them",
    Status.HELD: "guards hold them; `./larder approve` publishes one, `./larder reject` closes it",
    Status.REJECTED: "an operator rejected them",
    Status.EXPIRED: "they are older than the ttl, so their items would not be served",
}


def render_price(units: int | None, region: str, how: str, why: str) -> str:
    """Render write units with their price on demand."""
    if units is None:
        return f"no price: {printable(why)}"
    cost = build_cost(units, 1, region)
    price = f"${cost.run:,.4f} on demand in {region}" if cost else f"no price for {region}"
    dated = f", prices as of {read_prices()['as_of']}" if cost else ""
    return f"{how} {units:,} write units, {price} ({printable(why)}{dated})"


def render_step(number: int, total: int, step: Step) -> str:
    """Render an output that was processed, as one line."""
    head = f"{number} of {total}  {step.output.as_of.isoformat()}  {printable(step.output.object_key)}"
    if step.run is None:
        return f"{head}: it is gone; nothing was run"
    counts = step.run.counts
    names = ("written", "unchanged", "superseded", "expired", "rejected", "removed")
    outcome = ", ".join(f"{getattr(counts, name):,} {name}" for name in names if getattr(counts, name)) or "no rows"
    return f"{head}: run {step.run.run} {step.run.state}, {outcome}"


def render_end(found: Backfill, steps: Sequence[Step]) -> str:
    """Render the last line: `Backfill: 12 of 12 done, 9,120 written, 9,120 write units`."""
    runs: list[Run] = [step.run for step in steps if step.run]
    done = sum(run.state is RunState.DONE for run in runs)
    failed, left = len(find_failed(steps)), len(found.to_run) - len(steps)
    more = f", {failed:,} failed or held" if failed else ""
    more += f", {left:,} not begun" if left else ""
    written, units = sum(run.counts.written for run in runs), sum(run.units for run in runs)
    return f"Backfill: {done:,} of {len(found.to_run):,} done{more}, {written:,} written, {units:,} write units"
