"""Render a plan as JSON values and as text."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import orjson

from enrich.cli.statistics import render_verdicts
from enrich.cli.table import BOLD, RED, Paint, plain, render_duration
from enrich.cli.terminal import describe_run
from enrich.ledger.run_state import EngineKind, RunState
from enrich.plan.cost import Cost, build_cost, read_prices
from enrich.plan.plan import Plan
from enrich.plan.samples import describe_samples, render_samples
from enrich.plan.scale import Estimate, Limit, Quotas, estimate, find_floor
from enrich.run.engine import read_rates

LARGE = 0.1  # share of the rows from which on a run goes to Spark; plans of at least that size show both engines
SHOWN_SECONDS = 10.0  # least duration that a hot subject must cause to be mentioned
DAILY = 30.0  # outputs per month if the ledger has too few runs to calculate it


def describe_plan(plan: Plan, region: str, per_month: float | None = None) -> dict[str, Any]:
    """Return a plan as JSON values; `per_month` overrides the value from the ledger."""
    runs = per_month or plan.per_month or DAILY
    cost = build_cost(plan.units, runs, region)
    return {
        "run": describe_run(plan.run),
        "already_run": plan.done,
        "written_because": {} if plan.done else dict(plan.run.because),
        "unchecked": plan.unchecked or None,
        "write_units": plan.units,
        "before": [describe_run(run) for run in plan.before],
        "write_units_before": sum(run.units for run in plan.before),
        "region": region,
        "runs_per_month": runs,
        "cost_usd": asdict(cost) if cost else None,
        "prices": {name: read_prices()[name] for name in ("source", "as_of")},
        "engine": plan.run.engine,
        "engines": [_describe_estimate(each) for each in _estimate(plan)],
        "largest_subject": {"share": plan.largest, "seconds": find_floor(plan.load)},
        "rates": {name: read_rates()[name] for name in ("source", "as_of")},
        "guards": orjson.loads(plan.statistics.verdicts) if plan.statistics else [],
        "samples": describe_samples(plan.samples) if plan.samples else None,
    }


def render_plan(plan: Plan, region: str, per_month: float | None = None, paint: Paint = plain) -> str:
    """Render a plan as text."""
    run, counts = plan.run, plan.run.counts
    lines = [f"s3://{run.bucket}/{run.object_key}, dataset {run.dataset}"]
    verdicts = render_verdicts(orjson.loads(plan.statistics.verdicts), paint) if plan.statistics else []
    if plan.done and run.state is RunState.HELD:
        held = [f"{lines[0]}: run {run.run} of it is held: {run.error}", *verdicts]
        return "\n".join([*held, "", paint(render_summary(plan, region), RED)])
    if plan.done:
        return (
            f"{lines[0]}: its run {run.run} is already closed ({run.state}); running it again does nothing\n\n"
            f"{render_summary(plan, region)}"
        )
    if plan.unchecked:
        unknown = (
            f"not checked here: {plan.unchecked}; only the run finds rejects, what is unchanged and what guards say"
        )
        return "\n".join(
            [*lines, unknown, *_render_unchecked(plan, region), "", paint(render_summary(plan, region), BOLD)]
        )
    if run.state is not RunState.DONE:
        ends = "be held" if run.state is RunState.HELD else f"end as {run.state}"
        failed = [f"{lines[0]}: the run would {ends}: {run.error}", *verdicts]
        failed += render_samples(plan.samples, paint) if plan.samples else []
        return "\n".join([*failed, "", paint(render_summary(plan, region), RED)])
    if plan.before:
        units = sum(each.units for each in plan.before)
        lines.append(f"{len(plan.before)} other runs run first, with {units:,} write units: {_render_before(plan)}")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(run.reasons.items()))
    why = ", ".join(f"{count:,} {name}" for name, count in plan.run.because.items())
    rows = [
        ("rows", run.rows or 0, ""),
        ("written", counts.written, why),
        ("unchanged", counts.unchanged, ""),
        ("superseded", counts.superseded, "a newer output names them"),
        ("expired", counts.expired, "the output is older than the ttl"),
        ("rejected", counts.rejected, reasons),
        ("removed", counts.removed, "the snapshot does not name them"),
        ("write units", plan.units, ""),
    ]
    lines += [f"  {name:12}{count:>14,}  {note if count else ''}".rstrip() for name, count, note in rows]
    runs = per_month or plan.per_month or DAILY
    lines += _render_cost(build_cost(plan.units, runs, region), region, runs)
    lines += _render_engines(plan)
    lines += ["guards", *verdicts] if verdicts else []
    if plan.samples:
        lines += render_samples(plan.samples, paint)
    lines.append(
        "nothing was written to the table or the ledger; metadata that was too old was fetched to a separate prefix"
    )
    return "\n".join([*lines, "", paint(render_summary(plan, region), BOLD)])


def render_summary(plan: Plan, region: str) -> str:
    """Render the last line: `Plan: 945 to write, 16 rejected, $0.0006`."""
    counts, cost = plan.run.counts, build_cost(plan.units, DAILY, region)
    if plan.unchecked:
        most = build_cost(plan.load.units, DAILY, region)
        price = f"at most ${most.run:,.4f}" if most else f"at most {plan.load.units:,} write units"
        return f"Plan: about {plan.estimated:,} rows on {_render_place(plan)}, not checked here, {price}"
    if plan.run.state is RunState.HELD:
        return f"Plan: {'held' if plan.done else 'the run would be held'}, nothing is written unless it is approved"
    if plan.done:
        return f"Plan: nothing to do, run {plan.run.run} of this output is closed ({plan.run.state})"
    if plan.run.state is not RunState.DONE:
        return f"Plan: the run would end as {plan.run.state}, nothing would be written"
    removed = f", {counts.removed:,} to remove" if counts.removed else ""
    price = f"${cost.run:,.4f}" if cost else f"{plan.units:,} write units"
    first = f" after {len(plan.before):,} other runs" if plan.before else ""
    return f"Plan: {counts.written:,} to write{removed}, {counts.rejected:,} rejected, {price}{first}"


def _estimate(plan: Plan) -> list[Estimate]:
    """Estimate both engines, that of the run first; none for a run that would not be executed."""
    if plan.done:
        return []
    engines = sorted(EngineKind, key=lambda each: each is not plan.run.engine)
    return [estimate(plan.load, each) for each in engines]


def _describe_estimate(found: Estimate) -> dict[str, Any]:
    return {
        "engine": found.engine,
        "seconds": found.seconds,
        "usd": found.usd,
        "pieces": found.pieces,
        "invocations": found.invocations,
        "first_limit": found.limit,
        "waits": dict(found.waits),
        "refused": found.refused or None,
    }


def _render_engines(plan: Plan) -> list[str]:
    """Render where the run is executed; for a large one, both engines."""
    chosen, other = _estimate(plan)
    is_large = plan.run.engine is EngineKind.SPARK or plan.load.rows > LARGE * read_rates()["local_rows"]
    lines = [_render_estimate(chosen), *([f"or {_render_estimate(other)}"] if is_large else [])]
    if chosen.waits.get(Limit.SUBJECT, 0.0) >= SHOWN_SECONDS:
        lines.append(
            f"one subject takes {plan.largest:.0%} of the write units, and DynamoDB accepts 1,000 a second of it: "
            f"at least {render_duration(find_floor(plan.load))} (docs/scale.md)"
        )
    return lines


def _render_unchecked(plan: Plan, region: str) -> list[str]:
    """Render what the run takes at least and at most."""
    engine, load = plan.run.engine or EngineKind.SPARK, plan.load
    cost = build_cost(load.units, DAILY, region)
    price = f", ${cost.run:,.4f}" if cost else ""
    least = estimate(replace(load, written=0, units=0), engine)
    return [
        f"  rows        {plan.estimated:>14,}  estimated from its bytes",
        f"  write units {load.units:>14,}  at most{price}, if all rows are written and each item has up to 1 KB",
        f"nothing changed: {_render_estimate(least)}",
        f"all written: {_render_estimate(estimate(load, engine))}",
    ]


def _render_place(plan: Plan) -> str:
    return "Spark" if plan.run.engine is EngineKind.SPARK else "one Lambda"


def _render_estimate(found: Estimate) -> str:
    """Render as `in one Lambda: about 12 s, $0.0005; first limit: processor`."""
    if found.engine is EngineKind.LOCAL:
        where = "in one Lambda" + (f", {found.invocations:,} invocations" if found.invocations > 1 else "")
    else:
        where = f"on Spark, {found.pieces:,} pieces on {Quotas().workers} workers"
    text = f"{where}: about {render_duration(found.seconds)}, ${found.usd:,.4f}; first limit: {found.limit}"
    return text + (f"; impossible: {found.refused}" if found.refused else "")


def _render_before(plan: Plan) -> str:
    return ", ".join(f"{run.kind} {run.run} ({run.state})" for run in plan.before)


def _render_cost(cost: Cost | None, region: str, per_month: float) -> list[str]:
    prices = read_prices()
    if cost is None:
        known = ", ".join(sorted(prices["regions"]))
        return [f"no price for {region}, only for {known}; add it to enrich/plan/prices.json, from {prices['source']}"]
    return [
        f"this run, on demand in {region}: ${cost.run:,.4f}",
        f"a month of {per_month:,.1f} such runs: ${cost.month:,.2f} on demand; ${cost.month_provisioned:,.2f} with "
        f"{cost.capacity:,} write units/s provisioned all month (a run takes an hour)",
        f"prices as of {prices['as_of']}, from AWS's price list (enrich/plan/prices.json)",
    ]
