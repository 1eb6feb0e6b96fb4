"""The command `backfill`: run the outputs of a time range, in the order in which they were made."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, date, datetime, timedelta

from enrich.cli.exit_codes import DONE, FAILED, INTERRUPTED, UsageError, print_error
from enrich.cli.table import BOLD, find_paint
from enrich.dataset.as_of import AsOf, LastModified, set_zone
from enrich.intake.backfill import Backfill, Step, find_backfill, find_failed, run_backfill
from enrich.ledger.run_state import RunState
from enrich.plan.backfill import (
    Estimate,
    describe_backfill,
    estimate,
    plan_backfill,
    render_backfill,
    render_end,
    render_price,
    render_step,
)
from enrich.services import Services


def execute_backfill(services: Services, options: argparse.Namespace) -> int:
    """Show what will run and its price, ask for confirmation on a terminal, and run it; return the exit code.

    Raises:
        UsageError: the time range is empty or not a time range.
        Stopped: a service that is needed is unavailable; the same command continues the backfill.
        LeaseLost: another invocation holds the dataset.
    """
    since, until = _parse_range(options, services.datasets[options.dataset].as_of, services.clock.now())
    found = find_backfill(services, options.dataset, since, until)
    for why in found.unreadable:
        print_error(why, FAILED)
    code = FAILED if found.unreadable else DONE  # it is not known which of them belong to the range
    if not found.to_run:
        return _show_nothing(services, options, found, code)
    if options.dry_run:
        return max(code, _plan(services, options, found))
    region = services.s3.meta.region_name
    estimated = estimate(services, found)
    services.progress.end()
    print_error(render_backfill(found, estimated, region, find_paint(sys.stderr)), DONE)
    if sys.stdin.isatty() and not options.yes:
        print("Run them? [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            return print_error("nothing was run", FAILED)
    return max(code, _run(services, options, found, estimated))


def _run(services: Services, options: argparse.Namespace, found: Backfill, estimated: Estimate) -> int:
    steps = list[Step]()
    try:
        for step in run_backfill(services, found, send=options.send):
            steps.append(step)
            services.progress.end()
            print_error(render_step(len(steps), len(found.to_run), step), DONE)
            if find_failed([step]):
                print_error((step.run and step.run.error) or "the run failed", FAILED)
                if not options.keep_going:
                    break
    except KeyboardInterrupt:
        return print_error("stopped; start the same backfill again: it continues from there", INTERRUPTED)
    finally:  # also if a service is unavailable: completed runs stay completed
        services.progress.end()
        if options.json:
            as_json = describe_backfill(
                found, services.s3.meta.region_name, estimated=estimated, steps=steps, dry_run=False
            )
            print(json.dumps(as_json))  # noqa: T201
        else:
            print(find_paint()(render_end(found, steps), BOLD))  # noqa: T201
    failed = find_failed(steps)
    if failed and not options.keep_going:
        number = failed[0].run.run if failed[0].run else 0
        return print_error(
            f"stopped at the first failure, run {number}; after a fix start the same backfill again: outputs "
            "that are done are not run again. --keep-going runs the other outputs first",
            FAILED,
        )
    return FAILED if failed else DONE


def _plan(services: Services, options: argparse.Namespace, found: Backfill) -> int:
    steps, region = plan_backfill(services, found), services.s3.meta.region_name
    services.progress.end()
    ends = [step.run for step in steps if step.run]
    if options.json:
        print(json.dumps(describe_backfill(found, region, estimated=None, steps=steps, dry_run=True)))  # noqa: T201
    else:
        print(render_backfill(found, None, region, find_paint()))  # noqa: T201
        for number, step in enumerate(steps, 1):
            print(render_step(number, len(steps), step))  # noqa: T201
        why = "as planned over a view; nothing was written"
        print(render_price(sum(run.units for run in ends), region, "a backfill would spend", why))  # noqa: T201
    for run in ends:
        if run.state is not RunState.DONE:
            print_error(f"s3://{run.bucket}/{run.object_key}: its run would end as {run.state}: {run.error}", FAILED)
    return FAILED if find_failed(steps) else DONE


def _show_nothing(services: Services, options: argparse.Namespace, found: Backfill, code: int) -> int:
    region = services.s3.meta.region_name
    if options.json:
        as_json = describe_backfill(found, region, estimated=None, steps=[], dry_run=options.dry_run)
        print(json.dumps(as_json))  # noqa: T201
        return code
    print(render_backfill(found, None, region, find_paint()))  # noqa: T201
    if not found.outputs:
        prefix = f"s3://{services.settings.outputs}/{services.datasets[found.dataset].source.prefix}"
        print(f"no output under {prefix} was made {_describe_range(found, options.until)}")  # noqa: T201
    return code


def _describe_range(found: Backfill, until: str | None) -> str:
    """Describe the time range; without --until it has no end."""
    since = found.since.isoformat()
    return f"from {since} to {found.until.isoformat()}" if until else f"since {since}"


def _parse_range(options: argparse.Namespace, rule: AsOf, now: float) -> tuple[datetime, datetime]:
    """Return the range: a date is the whole day, in the time zone of the dataset's as_of.

    Raises:
        UsageError: a text is neither a date nor an instant, or the range is empty.
    """
    zone = "UTC" if isinstance(rule, LastModified) else rule.zone
    since, _ = _parse_instant("--since", options.since, zone)
    _, until = _parse_instant("--until", options.until, zone) if options.until else (None, None)
    until = until or datetime.fromtimestamp(now, UTC) + timedelta(days=36_500)
    if since >= until:
        raise UsageError(f"--since {options.since} is later than --until {options.until}")
    return since, until


def _parse_instant(name: str, text: str, zone: str) -> tuple[datetime, datetime]:
    """Return the first instant of a date or an instant, and the first one after it."""
    try:
        if len(text) <= len("2026-11-20"):
            day = date.fromisoformat(text)
            first, after = (datetime(each.year, each.month, each.day) for each in (day, day + timedelta(days=1)))
            return set_zone(first, zone), set_zone(after, zone)
        instant = set_zone(datetime.fromisoformat(text), zone)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{name} {text!r} is neither a date such as 2026-11-20 nor an instant such as 2026-11-20T06:00:00Z"
        ) from None
    return instant, instant + timedelta(milliseconds=1)
