"""The command line of enrich: check, openapi, plan, run, sweep, status, replay, withdraw, refresh."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict

from botocore.exceptions import BotoCoreError, ClientError

from enrich.aws import open_services
from enrich.cli.terminal import ProgressLine, describe_run, render_pending, render_run, render_runs, render_withdrawal
from enrich.dataset.expressions import DatasetMistakes
from enrich.dataset.validation import check_datasets, read_document
from enrich.datasets import DatasetFileError, find_project, load_datasets
from enrich.errors import Failed, LeaseLost, Stopped
from enrich.intake.find import find_output, sweep, take_arrived
from enrich.intake.operations import describe_withdrawal, refresh, replay, replay_rejects, withdraw
from enrich.intake.recovery import heal
from enrich.intake.worker import run_pending
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind, RunState
from enrich.plan.plan import plan, plan_withdrawal
from enrich.plan.report import describe_plan, render_plan
from enrich.s3 import split_location
from enrich.services import Services
from enrich.settings import SettingsError

DONE, FAILED, USAGE, BUSY = 0, 1, 2, 3
_EPILOG = """\
exit codes: 0 done; 1 failed, with the error on standard error; 2 usage error; 3 queued: the dataset is busy or a
service is unavailable, and the next holder of the dataset's lease continues the run.

The LARDER_* variables (docs/runbook.md) and AWS's own select the stack.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        datasets = load_datasets()
    except DatasetFileError as error:
        return _print_error(error, FAILED)
    options = _parser(sorted(datasets)).parse_args(arguments)
    options.datasets = datasets
    if options.command == "check":
        return _check(options)
    if options.command == "openapi":
        return _openapi(options)
    progress = ProgressLine()
    try:
        owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        services = open_services(
            os.environ,
            owner=owner,
            progress=progress,
            write_units=getattr(options, "write_units", None),
            datasets=datasets,
        )
        return int(options.execute(services, options))
    except (Failed, SettingsError) as error:
        return _print_error(error, FAILED)
    except (Stopped, LeaseLost) as error:
        return _print_error(error, BUSY)
    except (ClientError, BotoCoreError) as error:
        return _print_error(f"a call to AWS failed: {error}", FAILED)
    finally:
        progress.end()


def _run(services: Services, options: argparse.Namespace) -> int:
    bucket, object_key = split_location(options.output)
    run = take_arrived(services, bucket, object_key)
    if run is None:
        raise _no_output(services, options.output)
    if run.state.is_closed:
        return _show_closed(services, options, run)
    return _run_queued(services, options, [run])


def _show_closed(services: Services, options: argparse.Namespace, first: Run) -> int:
    """Show the newest run of an output that was run before: running it again is what `replay` is for."""
    over = [run for run in services.ledger.fetch_runs(first.dataset) if run.identity == first.identity]
    run = max([first, *(each for each in over if each.kind is not Kind.REMOVAL)], key=lambda each: each.run)
    print(json.dumps([describe_run(run)]) if options.json else render_runs([run]))
    ended = f"run {run.run} of this output ended before as {run.state}" if run.state.is_closed else ""
    again = f"`python -m enrich replay {run.dataset} {run.run}` runs it again"
    if run.state is RunState.FAILED:
        return _print_error(f"{ended}, and nothing was run now: {run.error}\nAfter a fix {again}.", FAILED)
    if ended:
        return _print_error(f"{ended}, and nothing was run now; {again}", DONE)
    return _run_queued(services, options, [run])


def _plan(services: Services, options: argparse.Namespace) -> int:
    output = find_output(services, *split_location(options.output))
    if output is None:
        raise _no_output(services, options.output)
    found = plan(services, output)
    region = options.region or services.s3.meta.region_name
    if options.json:
        print(json.dumps(describe_plan(found, region, options.per_month)))
    else:
        print(render_plan(found, region, options.per_month))
    return FAILED if found.run.state in {RunState.FAILED, RunState.OVERWRITTEN} else DONE


def _no_output(services: Services, name: str) -> Failed:
    return Failed(
        f"{name} is no output; expected an object that exists in s3://{services.settings.outputs}, under the prefix of "
        f"a dataset ({', '.join(sorted(dataset.source.prefix for dataset in services.datasets.values()))})"
    )


def _sweep(services: Services, options: argparse.Namespace) -> int:
    names = [options.dataset] if options.dataset else list(services.datasets)
    codes = []
    for name in names:
        swept = sweep(services, name)
        heal(services, name)
        codes += [_print_error(why, FAILED) for why in swept.unreadable]
        codes.append(_run_queued(services, options, swept.runs, name))
    return max(codes)


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
        print(json.dumps([describe_run(run) for run in runs]) if options.json else render_runs(runs))
        units = sum(run.units for run in runs)
        return _print_error(
            f"a withdrawal would execute these runs, with {units:,} write units; nothing was written", DONE
        )
    if sys.stdin.isatty() and not options.yes:
        found = describe_withdrawal(services, bad)
        _print_error(render_withdrawal(bad, found.runs, found.restored), DONE)
        print("Withdraw it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            return _print_error("nothing was withdrawn", FAILED)
    return _run_queued(services, options, [withdraw(services, bad)])


def _refresh(services: Services, options: argparse.Namespace) -> int:
    return _run_queued(services, options, [refresh(services, options.dataset, full=options.full)])


def _status(services: Services, options: argparse.Namespace) -> int:
    if options.run is not None:
        run = _get_run(services, options.dataset, options.run)
        print(json.dumps(describe_run(run)) if options.json else render_run(run))
        return DONE
    names = [options.dataset] if options.dataset else list(services.datasets)
    found = {name: services.ledger.fetch_runs(name, newest=options.newest) for name in names}
    pending = {name: services.ledger.fetch_pending(name) for name in names}
    if options.json:
        as_json = {
            name: {
                "runs": [describe_run(run) for run in found[name]],
                "pending": [{"run": each.run, "queued_ms": each.queued_ms} for each in pending[name]],
            }
            for name in names
        }
        print(json.dumps(as_json))
        return DONE
    for name in names:
        print(f"{name}\n{render_runs(found[name])}")
        if pending[name]:
            print(f"\n{render_pending(pending[name], services.clock.now())}")
    return DONE


def _run_queued(
    services: Services, options: argparse.Namespace, queued: Sequence[Run], dataset: str | None = None
) -> int:
    """Execute pending runs; show the queued runs, the restores they needed, and all other runs that failed."""
    name = dataset or queued[0].dataset
    own = [run.run for run in queued]
    closed = list(run_pending(services, name, own))
    shown = [run.run for run in closed if not own or run.kind is Kind.RESTORE or run.state is RunState.FAILED] + own
    runs = [run for run in (services.ledger.get_run(name, each) for each in dict.fromkeys(shown)) if run]
    if options.json:
        print(json.dumps([describe_run(run) for run in runs]))
    else:
        print(render_runs(runs) if runs else f"{name}: no output without a run, and no pending run; nothing to do")
    for run in runs:
        if run.state is RunState.FAILED:
            _print_error(run.error or "the run failed", FAILED)
    if any(not run.state.is_closed for run in runs):
        return _print_error(
            f"dataset {name} is busy: the run is queued, and the holder of the dataset's lease executes it", BUSY
        )
    return FAILED if any(run.state is RunState.FAILED for run in runs) else DONE


def _check(options: argparse.Namespace) -> int:
    datasets = options.datasets
    names = [options.dataset] if options.dataset else sorted(datasets)
    try:
        mistakes = check_datasets(datasets, read_document(find_project() / "openapi.yaml"))  # all: prefixes must differ
    except ImportError as error:
        return _print_error(error, USAGE)
    if options.dataset:
        mistakes = [
            each for each in mistakes if each.place == options.dataset or each.place.startswith(f"{options.dataset} ")
        ]
    if options.json:
        print(json.dumps([asdict(mistake) for mistake in mistakes]))
    elif mistakes:
        print("\n".join(map(str, mistakes)))
    else:
        print(f"{', '.join(names)}: no mistakes found" if names else "datasets/ has no dataset; add one")
    return FAILED if mistakes else DONE


def _openapi(options: argparse.Namespace) -> int:
    try:
        from enrich.openapi.document import build_document, find_untyped  # its dependencies are not in the bundle

        text = build_document(options.datasets.values())
        untyped = find_untyped(options.datasets.values())
        if options.write:
            from infra.gateway import write_contract

            written = write_contract(find_project(), text)
            print("\n".join(f"wrote {path}" for path in written) or "openapi.yaml is up to date; nothing was written")
        else:
            print(text, end="")
    except ImportError as error:
        return _print_error(error, USAGE)
    except DatasetMistakes as error:
        return _print_error(error, FAILED)
    for mistake in untyped:
        _print_error(mistake, DONE)
    return DONE


def _get_run(services: Services, dataset: str, number: int) -> Run:
    run = services.ledger.get_run(dataset, number)
    if run is None:
        raise Failed(f"the ledger has no run {number} of {dataset}; `python -m enrich status {dataset}` lists them")
    return run


def _print_error(message: object, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m enrich", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, execute: object, summary: str, *, runs: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(execute=execute)
        command.add_argument("--json", action="store_true", help="print JSON")
        if runs:
            command.add_argument(
                "--write-units", type=float, metavar="N", help="spend at most N write units per second"
            )
        return command

    check = commands.add_parser(
        "check", help="find mistakes in datasets, without AWS", description="Find mistakes in datasets, without AWS."
    )
    check.add_argument("dataset", nargs="?", choices=names)
    check.add_argument("--json", action="store_true", help="print JSON")
    summary = "build openapi.yaml, which describes the datasets to consumers, from datasets/"
    openapi = commands.add_parser("openapi", help=summary, description=summary)
    openapi.add_argument("--write", action="store_true", help="write openapi.yaml and infra/gateway.yaml")
    run = add("run", _run, "run an output now")
    run.add_argument("output", help="s3://bucket/object_key")
    planned = add("plan", _plan, "show what a run of an output would change and cost; writes nothing", runs=False)
    planned.add_argument("output", help="s3://bucket/object_key")
    planned.add_argument("--per-month", type=float, metavar="N", help="outputs per month (default: from the ledger)")
    planned.add_argument("--region", help="region of the prices (default: the session's)")
    command = add("sweep", _sweep, "find outputs for which no event arrived, and execute pending runs")
    command.add_argument("dataset", nargs="?", choices=names)
    status = add("status", _status, "show runs and pending runs, or one run in full", runs=False)
    status.add_argument("dataset", nargs="?", choices=names)
    status.add_argument("run", nargs="?", type=int)
    status.add_argument("--newest", type=int, default=20, metavar="N", help="number of runs to show (default 20)")
    repeated = add("replay", _replay, "run an output, or the rejects of a run, again after a fix")
    repeated.add_argument("dataset", choices=names)
    repeated.add_argument("what", help="number of a run, or s3://bucket/rejects/DATASET/RUN/")
    withdrawn = add("withdraw", _withdraw, "withdraw a bad output: remove or restore its items")
    withdrawn.add_argument("dataset", choices=names)
    withdrawn.add_argument("run", type=int)
    withdrawn.add_argument("--dry-run", action="store_true", help="show what it would do; writes nothing")
    withdrawn.add_argument("--yes", action="store_true", help="do not ask for confirmation on a terminal")
    refreshed = add("refresh", _refresh, "run the newest output again when only metadata changed")
    refreshed.add_argument("dataset", choices=names)
    refreshed.add_argument("--full", action="store_true", help="write every item, changed or not")
    return parser


if __name__ == "__main__":
    sys.exit(main())
