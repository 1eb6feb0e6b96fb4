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
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from enrich.aws import open_services
from enrich.cli.terminal import ProgressLine, describe, render_pending, render_run, render_runs
from enrich.dataset.expressions import DatasetMistakes
from enrich.dataset.validation import check_datasets
from enrich.datasets import DATASETS
from enrich.errors import Failed, LeaseLost, Stopped
from enrich.intake.find import find_output, sweep, take_arrived
from enrich.intake.operations import refresh, replay, replay_rejects, withdraw
from enrich.intake.recovery import heal
from enrich.intake.worker import run_pending
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind, RunState
from enrich.plan.plan import plan
from enrich.plan.report import describe_plan, render_plan
from enrich.s3 import split_location
from enrich.services import Services
from enrich.settings import SettingsError
from serve.datasets import SERVED

DONE, FAILED, USAGE, BUSY = 0, 1, 2, 3
_EPILOG = """\
exit codes: 0 done; 1 it failed, and the message says why; 2 the command's words are off; 3 it is queued: the dataset is
busy, or what it needs is out of reach for now, and whoever runs the dataset next goes on with it.

Which stack it works on is told by the LARDER_* variables (docs/runbook.md) and AWS's own.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    words = _parser().parse_args(arguments)
    if words.command == "check":
        return _check(words)
    if words.command == "openapi":
        return _openapi(words)
    progress = ProgressLine()
    try:
        owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        services = open_services(
            os.environ, owner=owner, progress=progress, write_units=getattr(words, "write_units", None)
        )
        return int(words.do(services, words))
    except (Failed, SettingsError) as error:
        return _say(error, FAILED)
    except (Stopped, LeaseLost) as error:
        return _say(error, BUSY)
    except (ClientError, BotoCoreError) as error:
        return _say(f"AWS did not do what was asked: {error}", FAILED)
    finally:
        progress.end()


def _run(services: Services, words: argparse.Namespace) -> int:
    bucket, object_key = split_location(words.output)
    run = take_arrived(services, bucket, object_key)
    if run is None:
        raise _no_output(services, words.output)
    return _work(services, words, [run])


def _plan(services: Services, words: argparse.Namespace) -> int:
    output = find_output(services, *split_location(words.output))
    if output is None:
        raise _no_output(services, words.output)
    found = plan(services, output)
    region = words.region or services.s3.meta.region_name
    if words.json:
        print(json.dumps(describe_plan(found, region, words.per_month)))
    else:
        print(render_plan(found, region, words.per_month))
    return FAILED if found.run.state in {RunState.FAILED, RunState.OVERWRITTEN} else DONE


def _no_output(services: Services, name: str) -> Failed:
    return Failed(
        f"{name} is no output: not there, not in s3://{services.settings.outputs}, or not under the prefix "
        f"of a dataset ({', '.join(sorted(dataset.source.prefix for dataset in services.datasets.values()))})"
    )


def _sweep(services: Services, words: argparse.Namespace) -> int:
    names = [words.dataset] if words.dataset else list(services.datasets)
    codes = []
    for name in names:
        swept = sweep(services, name)
        heal(services, name)
        codes += [_say(why, FAILED) for why in swept.unreadable]
        codes.append(_work(services, words, swept.runs, name))
    return max(codes)


def _replay(services: Services, words: argparse.Namespace) -> int:
    if words.what.isdigit():
        return _work(services, words, [replay(services, _get_run(services, words.dataset, int(words.what)))])
    return _work(services, words, [replay_rejects(services, words.what)])


def _withdraw(services: Services, words: argparse.Namespace) -> int:
    return _work(services, words, [withdraw(services, _get_run(services, words.dataset, words.run))])


def _refresh(services: Services, words: argparse.Namespace) -> int:
    return _work(services, words, [refresh(services, words.dataset, full=words.full)])


def _status(services: Services, words: argparse.Namespace) -> int:
    if words.run is not None:
        run = _get_run(services, words.dataset, words.run)
        print(json.dumps(describe(run)) if words.json else render_run(run))
        return DONE
    names = [words.dataset] if words.dataset else list(services.datasets)
    found = {name: services.ledger.fetch_runs(name, newest=words.newest) for name in names}
    pending = {name: services.ledger.fetch_pending(name) for name in names}
    if words.json:
        as_json = {
            name: {
                "runs": [describe(run) for run in found[name]],
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


def _work(services: Services, words: argparse.Namespace, queued: Sequence[Run], dataset: str | None = None) -> int:
    """Run what is pending; show what became of the queued runs and of restores for them, and what else failed."""
    name = dataset or queued[0].dataset
    own = [run.run for run in queued]
    closed = run_pending(services, name, own)
    shown = [run.run for run in closed if run.kind is Kind.RESTORE or run.state is RunState.FAILED] + own
    runs = [run for run in (services.ledger.get_run(name, each) for each in dict.fromkeys(shown)) if run]
    print(json.dumps([describe(run) for run in runs]) if words.json else render_runs(runs))
    for run in runs:
        if run.state is RunState.FAILED:
            _say(run.error or "the run failed", FAILED)
    if any(not run.state.is_closed for run in runs):
        return _say(f"dataset {name} is busy; the run is queued, and whoever runs the dataset goes on with it", BUSY)
    return FAILED if any(run.state is RunState.FAILED for run in runs) else DONE


def _check(words: argparse.Namespace) -> int:
    names = [words.dataset] if words.dataset else list(DATASETS)
    served = {name: each for name, each in SERVED.items() if not words.dataset or name == words.dataset}
    try:
        import yaml  # needed here only, and no part of the bundle

        document = yaml.safe_load((Path(__file__).parent.parent / "openapi.yaml").read_text(encoding="utf-8"))
        mistakes = check_datasets({name: DATASETS[name] for name in names}, served, document)
    except ImportError as error:
        return _say(error, USAGE)
    if words.json:
        print(json.dumps([asdict(mistake) for mistake in mistakes]))
    else:
        print("\n".join(map(str, mistakes)) if mistakes else f"{', '.join(names)}: no mistakes found")
    return FAILED if mistakes else DONE


def _openapi(words: argparse.Namespace) -> int:
    try:
        from enrich.openapi import document as contract  # what it needs is no part of the bundle

        found = contract.build_contract(DATASETS[words.dataset])
        written = contract.write(Path(__file__).parent.parent / "openapi.yaml", found) if words.write else False
    except ImportError as error:
        return _say(error, USAGE)
    except (DatasetMistakes, contract.NoPlace) as error:
        return _say(error, FAILED)
    if not words.write:
        print(contract.render_parts(found))
    elif not written:
        print(f"openapi.yaml describes {words.dataset} already; nothing was written")
        return DONE
    else:
        print(f"openapi.yaml: wrote the tag, the paths and the schemas of {words.dataset}; read them over")
    for place in found.unknown:
        _say(f"{words.dataset} {place}: say in openapi.yaml what it is, or cast it in the metadata query", DONE)
    return DONE


def _get_run(services: Services, dataset: str, number: int) -> Run:
    run = services.ledger.get_run(dataset, number)
    if run is None:
        raise Failed(f"the ledger has no run {number} of {dataset}; `python -m enrich status {dataset}` lists them")
    return run


def _say(what: object, code: int) -> int:
    print(what, file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m enrich", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = sorted(DATASETS)

    def add(name: str, do: object, about: str, *, runs: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(do=do)
        command.add_argument("--json", action="store_true", help="answer in JSON")
        if runs:
            command.add_argument("--write-units", type=float, metavar="N", help="spend at most N write units a second")
        return command

    check = commands.add_parser("check", help="find mistakes in datasets, without AWS", description="Find mistakes.")
    check.add_argument("dataset", nargs="?", choices=names)
    check.add_argument("--json", action="store_true", help="answer in JSON")
    about = "describe a dataset to consumers, as openapi.yaml does"
    openapi = commands.add_parser("openapi", help=about, description=about)
    openapi.add_argument("dataset", choices=names)
    openapi.add_argument("--write", action="store_true", help="write it into openapi.yaml")
    run = add("run", _run, "run an output now")
    run.add_argument("output", help="s3://bucket/object_key")
    look = add("plan", _plan, "tell what running an output would do and cost; writes nothing", runs=False)
    look.add_argument("output", help="s3://bucket/object_key")
    look.add_argument("--per-month", type=float, metavar="N", help="outputs a month (default: as the ledger has it)")
    look.add_argument("--region", help="whose prices (default: the session's)")
    command = add("sweep", _sweep, "find outputs that no event told of, and run what is pending")
    command.add_argument("dataset", nargs="?", choices=names)
    status = add("status", _status, "show runs and what is pending; one run in full", runs=False)
    status.add_argument("dataset", nargs="?", choices=names)
    status.add_argument("run", nargs="?", type=int)
    status.add_argument("--newest", type=int, default=20, metavar="N", help="show so many runs (default 20)")
    again = add("replay", _replay, "run an output, or the rejects of a run, again after a fix")
    again.add_argument("dataset", choices=names)
    again.add_argument("what", help="number of the run, or s3://bucket/rejects/DATASET/RUN/")
    back = add("withdraw", _withdraw, "take a bad output back")
    back.add_argument("dataset", choices=names)
    back.add_argument("run", type=int)
    fresh = add("refresh", _refresh, "run the newest output again when only metadata changed")
    fresh.add_argument("dataset", choices=names)
    fresh.add_argument("--full", action="store_true", help="write every item, changed or not")
    return parser


if __name__ == "__main__":
    sys.exit(main())
