"""Commands that read or change a deployed stack: they plan, show or execute runs."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from botocore.exceptions import BotoCoreError, ClientError

from enrich.aws import open_services
from enrich.cli.exit_codes import BUSY, DONE, FAILED, INTERRUPTED, print_error
from enrich.cli.rejects import describe_rejects, read_rejects, render_rejects
from enrich.cli.statistics import describe_statistics
from enrich.cli.table import BOLD, find_paint
from enrich.cli.terminal import (
    ProgressLine,
    describe_freshness,
    describe_run,
    render_freshness,
    render_held,
    render_pending,
    render_run,
    render_runs,
    render_withdrawal,
)
from enrich.commands.backfill import execute_backfill
from enrich.commands.compare import ComparingTransport
from enrich.commands.console import console, report
from enrich.commands.diff import execute_diff
from enrich.commands.local import require_dataset
from enrich.dataset.mistakes import DatasetMistakes
from enrich.datasets import DatasetFileError, load_datasets
from enrich.errors import Failed, LeaseLost, NewerFormat, Stopped
from enrich.intake.find import find_output, sweep, take_arrived
from enrich.intake.held import approve, close_expired, reject
from enrich.intake.operations import describe_withdrawal, refresh, replay, replay_rejects, withdraw
from enrich.intake.prune import prune
from enrich.intake.recovery import heal
from enrich.intake.worker import run_pending
from enrich.ledger.freshness import NEWEST, build_freshness
from enrich.ledger.records import Run
from enrich.ledger.run_state import EngineKind, Kind, RunState
from enrich.plan.export import export
from enrich.plan.plan import plan, plan_withdrawal
from enrich.plan.report import describe_plan, render_plan
from enrich.s3 import split_location
from enrich.services import Services
from enrich.settings import SettingsError
from serve.item import NewerItem


def execute(options: argparse.Namespace) -> int:
    """Run a command on the stack that environment variables name; return its exit code.

    Raises:
        UsageError: the named dataset does not exist.
    """
    progress = ProgressLine()
    try:
        datasets = load_datasets()
        require_dataset(getattr(options, "dataset", None), datasets)
        owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        services = open_services(
            os.environ,
            owner=owner,
            progress=progress,
            write_units=getattr(options, "write_units", None),
            datasets=datasets,
            engine=_find_engine(options),
        )
        if services.engine is EngineKind.SPARK and options.command != "plan" and services.start_job is None:
            raise Failed(
                "--engine spark: this stack has no job; deploy it with JobWorkers, or set LARDER_JOB to the name of a "
                "job (docs/runbook.md, Run on Spark)"
            )
        if getattr(options, "compare", False):
            opened = services.open_transport
            services = replace(services, open_transport=lambda timeout: ComparingTransport(opened(timeout)))
        return _COMMANDS[options.command](services, options)
    except (DatasetFileError, Failed, NewerFormat, NewerItem, SettingsError) as error:
        return print_error(error, FAILED)
    except (Stopped, LeaseLost) as error:
        return print_error(error, BUSY)
    except (ClientError, BotoCoreError) as error:
        return print_error(f"a call to AWS failed: {error}", FAILED)
    except KeyboardInterrupt:
        return print_error("interrupted", INTERRUPTED)
    finally:
        progress.end()


def _find_engine(options: argparse.Namespace) -> EngineKind | None:
    if getattr(options, "compare", False):  # items are read in this process
        return EngineKind.LOCAL
    engine = getattr(options, "engine", None)
    return EngineKind(engine) if engine else None


def _run(services: Services, options: argparse.Namespace) -> int:
    bucket, object_key = split_location(options.output)
    run = take_arrived(services, bucket, object_key)
    if run is None:
        raise _no_output(services, options.output)
    if not run.state.is_open:
        return _show_closed(services, options, run)
    return _run_queued(services, options, [run])


def _show_closed(services: Services, options: argparse.Namespace, first: Run) -> int:
    """Show the newest run of an output that has already run: `run` does not run it again, `replay` does."""
    over = [run for run in services.ledger.fetch_runs(first.dataset) if run.identity == first.identity]
    run = max([first, *(each for each in over if each.kind is not Kind.REMOVAL)], key=lambda each: each.run)
    print(json.dumps([describe_run(run)]) if options.json else render_runs([run]))  # noqa: T201
    ended = f"run {run.run} of this output has already ended as {run.state}" if run.state.is_closed else ""
    again = f"`./larder replay {run.dataset} {run.run}` runs it again"
    if run.state is RunState.HELD:
        return print_error(run.error, FAILED)
    if run.state is RunState.FAILED:
        return print_error(f"{ended}, and nothing was run now: {run.error}\nAfter a fix {again}.", FAILED)
    if ended:
        return print_error(f"{ended}, and nothing was run now; {again}", DONE)
    return _run_queued(services, options, [run])


def _plan(services: Services, options: argparse.Namespace) -> int:
    output = find_output(services, *split_location(options.output))
    if output is None:
        raise _no_output(services, options.output)
    found = plan(services, output, show=options.show)
    region = options.region or services.s3.meta.region_name
    if options.json:
        print(json.dumps(describe_plan(found, region, options.per_month)))  # noqa: T201
    else:
        print(render_plan(found, region, options.per_month, find_paint()))  # noqa: T201
    return FAILED if found.run.state in {RunState.FAILED, RunState.OVERWRITTEN, RunState.HELD} else DONE


def _export(services: Services, options: argparse.Namespace) -> int:
    output = find_output(services, *split_location(options.output))
    if output is None:
        raise _no_output(services, options.output)
    found = export(services, output, options.to)
    counts = found.run.counts
    if options.json:
        members = {"location": found.location, "files": found.files, "items": found.items}
        print(json.dumps({"run": describe_run(found.run), **members}))  # noqa: T201
    else:
        print(  # noqa: T201
            f"{found.items:,} items in {found.files} files of {found.location}; {counts.rejected:,} rejected, "
            f"{counts.superseded:,} superseded. Import them into a new table (docs/runbook.md, Load a new table by "
            f"import), then `./larder run {options.output} --compare`"
        )
    return DONE


def _no_output(services: Services, name: str) -> Failed:
    return Failed(
        f"{name} is not an output; expected an existing object in s3://{services.settings.outputs}, under the prefix "
        f"of a dataset ({', '.join(sorted(dataset.source.prefix for dataset in services.datasets.values()))})"
    )


def _sweep(services: Services, options: argparse.Namespace) -> int:
    names = [options.dataset] if options.dataset else list(services.datasets)
    codes, shown = list[int](), list[Run]()
    for name in names:
        try:
            swept = sweep(services, name)
        except DatasetMistakes as error:  # only this dataset's: the others are swept
            codes.append(print_error(error, FAILED))
            continue
        heal(services, name)
        close_expired(services, name)
        prune(services, name)
        codes += [print_error(why, FAILED) for why in swept.unreadable]
        runs = _execute_queued(services, swept.runs, name)
        if not options.json:
            _show(options, runs, name)
        codes.append(_judge(runs, name))
        shown += runs
    if options.json:
        _show(options, shown, "")
    return max(codes, default=DONE)


def _replay(services: Services, options: argparse.Namespace) -> int:
    if options.what.isdigit():
        return _run_queued(
            services, options, [replay(services, _get_run(services, options.dataset, int(options.what)))]
        )
    return _run_queued(services, options, [replay_rejects(services, options.what)])


def _withdraw(services: Services, options: argparse.Namespace) -> int:
    bad = _get_run(services, options.dataset, options.run)
    if options.dry_run:
        runs = plan_withdrawal(services, bad)
        print(json.dumps([describe_run(run) for run in runs]) if options.json else render_runs(runs))  # noqa: T201
        units = sum(run.units for run in runs)
        return print_error(
            f"a withdrawal would execute these runs, with {units:,} write units; nothing was written", DONE
        )
    if sys.stdin.isatty() and not options.yes:
        found = describe_withdrawal(services, bad)
        print_error(render_withdrawal(bad, found.runs, found.restored), DONE)
        print("Withdraw it? [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            return print_error("nothing was withdrawn", FAILED)
    return _run_queued(services, options, [withdraw(services, bad)])


def _approve(services: Services, options: argparse.Namespace) -> int:
    return _run_queued(services, options, [approve(services, options.dataset, options.run)])


def _reject(services: Services, options: argparse.Namespace) -> int:
    _show(options, [reject(services, options.dataset, options.run)], options.dataset)
    return DONE


def _refresh(services: Services, options: argparse.Namespace) -> int:
    return _run_queued(services, options, [refresh(services, options.dataset, full=options.full)])


def _status(services: Services, options: argparse.Namespace) -> int:
    now, paint = services.clock.now(), find_paint()
    if options.run is not None:
        run = _get_run(services, options.dataset, options.run)
        measured = services.ledger.get_statistics(run.dataset, run.run)
        statistics = describe_statistics(measured) if measured else None
        record = {**describe_run(run), "statistics": statistics}
        print(json.dumps(record) if options.json else render_run(run, statistics, now, paint))  # noqa: T201
        return DONE
    names = [options.dataset] if options.dataset else sorted(services.datasets)
    found = {name: services.ledger.fetch_runs(name, newest=max(options.newest, NEWEST)) for name in names}
    held = {name: services.ledger.fetch_held(name) for name in names}
    pending = {name: services.ledger.fetch_pending(name) for name in names}
    fresh = {name: build_freshness(found[name], now) for name in names}
    if options.json:
        as_json = {
            name: {
                "freshness": describe_freshness(fresh[name]),
                "runs": [describe_run(run) for run in found[name][: options.newest]],
                "pending": [{"run": each.run, "queued_ms": each.queued_ms} for each in pending[name]],
                "held": [{"run": each.run, "held_ms": each.held_ms} for each in held[name]],
            }
            for name in names
        }
        print(json.dumps(as_json))  # noqa: T201
        return DONE
    for number, name in enumerate(names):
        print(f"{chr(10) if number else ''}{paint(name, BOLD)}  {render_freshness(fresh[name], paint)}")  # noqa: T201
        print(render_runs(found[name][: options.newest], now, paint))  # noqa: T201
        if pending[name]:
            print(f"\n{render_pending(pending[name], now)}")  # noqa: T201
        if held[name]:
            print(f"\n{render_held(held[name], now)}")  # noqa: T201
    return DONE


def _rejects(services: Services, options: argparse.Namespace) -> int:
    run = _get_run(services, options.dataset, options.run)
    found = read_rejects(services.s3, services.settings.bucket, run, limit=options.limit, reason=options.reason)
    if options.json:
        print(json.dumps(describe_rejects(run, found)))  # noqa: T201
    else:
        print(render_rejects(run, found, services.settings.bucket, find_paint()))  # noqa: T201
    return DONE


def _run_queued(services: Services, options: argparse.Namespace, queued: Sequence[Run]) -> int:
    """Execute pending runs and show them."""
    name = queued[0].dataset
    runs = _execute_queued(services, queued, name)
    _show(options, runs, name)
    return _judge(runs, name)


def _execute_queued(services: Services, queued: Sequence[Run], name: str) -> list[Run]:
    """Execute a dataset's pending runs. Return those of `queued`, the restores that they needed, and failed ones."""
    own = [run.run for run in queued]
    closed = list(run_pending(services, name, own))
    ended = {RunState.FAILED, RunState.HELD}
    shown = [run.run for run in closed if not own or run.kind is Kind.RESTORE or run.state in ended] + own
    return [run for run in (services.ledger.get_run(name, each) for each in dict.fromkeys(shown)) if run]


def _show(options: argparse.Namespace, runs: Sequence[Run], name: str) -> None:
    if options.json:
        print(json.dumps([describe_run(run) for run in runs]))  # noqa: T201
    elif runs:
        print(render_runs(runs, paint=find_paint()))  # noqa: T201
    else:
        print(f"{name}: nothing to do: every output has a run, and no run is pending")  # noqa: T201


def _judge(runs: Sequence[Run], name: str) -> int:
    """Print the errors of runs; return the exit code."""
    for run in runs:
        if run.state in {RunState.FAILED, RunState.HELD}:
            print_error(run.error or f"the run {run.state}", FAILED)
    if any(run.state.is_open and run.engine is EngineKind.SPARK for run in runs):
        return print_error(f"dataset {name}: a job on Spark executes the run; `./larder status {name}` shows it", BUSY)
    if any(run.state.is_open for run in runs):
        return print_error(
            f"dataset {name} is busy: the run is queued, and the holder of the dataset's lease will execute it", BUSY
        )
    return FAILED if any(run.state in {RunState.FAILED, RunState.HELD} for run in runs) else DONE


def _get_run(services: Services, dataset: str, number: int) -> Run:
    run = services.ledger.get_run(dataset, number)
    if run is None:
        raise Failed(
            f"the ledger has no run {number} of {dataset}; `./larder status {dataset}` lists them. Old runs are "
            "deleted (docs/decisions/old-runs.md)"
        )
    return run


_COMMANDS: Mapping[str, Callable[[Services, argparse.Namespace], int]] = {
    "plan": _plan,
    "export": _export,
    "diff": execute_diff,
    "status": _status,
    "rejects": _rejects,
    "run": _run,
    "backfill": execute_backfill,
    "sweep": _sweep,
    "replay": _replay,
    "withdraw": _withdraw,
    "approve": _approve,
    "reject": _reject,
    "refresh": _refresh,
    "console": console,
    "report": report,
}
