"""The command line of enrich. A command imports AWS and SQL libraries only when it runs, so that help is immediate."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from enrich.cli.arguments import count, positive, positive_int
from enrich.cli.exit_codes import BUSY, DONE, FAILED, USAGE, UsageError

__all__ = ["BUSY", "DONE", "FAILED", "USAGE", "build_parser", "main"]

LOCAL = ("new", "list", "check", "openapi")  # without AWS
_EXIT_CODES = """\
exit codes:
  0  done
  1  failed or held; the error is on standard error
  2  usage error
  3  queued: the dataset is busy or a service is unavailable; the next holder of the dataset's lease continues the run
  130 interrupted by Ctrl-C, which also ends console

The LARDER_* variables (docs/runbook.md) and AWS's own select the stack. NO_COLOR=1 turns colours off.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code (`enrich.cli.exit_codes`)."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        if options.command in LOCAL:
            from enrich.commands import local

            return local.execute(options)
        from enrich.commands import runs

        return runs.execute(options)
    except UsageError as error:
        parser.error(str(error))
    except BrokenPipeError:  # the reader, e.g. `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


class _Version(argparse.Action):
    """Prints the version, which is determined only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from enrich.cli.version import describe_version

        print(describe_version())
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Build the parser. Names of datasets are checked when a command runs: help reads no dataset."""
    examples = """\
examples:
  ./larder check                                     before a deployment
  ./larder plan s3://outputs/flight-delays/scored=2026-11-20/part-0.parquet --show 3
  ./larder console                                   every dataset, in a browser
  ./larder status                                    every dataset: freshness and failures
  ./larder status flight-delays 12                   one run in full
  ./larder rejects flight-delays 12                  why predictions were rejected
  ./larder approve flight-delays 12                  publish an output that the guards hold
  ./larder status --json | jq '.[].freshness.state'  docs/command-line.md describes the JSON

"""
    parser = argparse.ArgumentParser(
        prog="./larder",
        description="Find mistakes in datasets; plan, run and repair outputs; show what happened.",
        epilog=examples + _EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")

    def add(name: str, summary: str, example: str, *, json: bool = True, writes: bool = False) -> Any:
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: ./larder {name}{f' {example}' if example else ''}\n\n{_EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if json:
            command.add_argument("--json", action="store_true", help="print JSON (docs/command-line.md)")
        if writes or name == "plan":
            command.add_argument(
                "--engine", choices=["local", "spark"], help="where runs are executed (default: their size decides)"
            )
        if writes:
            command.add_argument(
                "--write-units", type=positive, metavar="N", help="spend at most N write units per second"
            )
            command.add_argument(
                "--compare", action="store_true", help="read items first and write those that differ: after an import"
            )
        return command

    new = add("new", "write datasets/NAME.py from a sample of the model's output", "churn --from out.csv", json=False)
    new.add_argument("name", help="name of the dataset, as in its path, e.g. churn-scores")
    new.add_argument("--from", dest="location", required=True, metavar="FILE|s3://...", help="an output, or a folder")
    new.add_argument("--subject", metavar="COLUMN", help="column that says whom a prediction belongs to")
    new.add_argument("--claim", help="claim of the token that has the same value (default: the column's name)")
    new.add_argument("--prediction-id", metavar="COLUMN", help="column that names a prediction within its subject")
    new.add_argument("--scope", help="scope that a token needs (default: NAME:read)")
    new.add_argument("--prefix", help="prefix of the outputs' object keys (default: from the sample, or NAME/)")
    new.add_argument(
        "--ttl-days", type=positive_int, default=7, metavar="N", help="days that an item lives (default 7)"
    )
    add("list", "list the datasets: outputs, claims, scope, ttl", "")
    add("check", "find mistakes in datasets, without AWS", "flight-delays").add_argument("dataset", nargs="?")
    openapi = add("openapi", "build openapi.yaml, which describes the datasets to consumers", "--write", json=False)
    openapi.add_argument("--write", action="store_true", help="write openapi.yaml and infra/gateway.yaml")

    url = "s3://outputs/flight-delays/scored=2026-11-20/part-0.parquet"
    planned = add("plan", "show what a run of an output would change and cost; writes nothing", f"{url} --show 3")
    planned.add_argument("output", help="s3://bucket/object_key")
    planned.add_argument(
        "--show", type=count, default=0, metavar="N", help="show N items each that are new, changed, removed, rejected"
    )
    planned.add_argument("--per-month", type=positive, metavar="N", help="outputs per month (default: from the ledger)")
    planned.add_argument("--region", help="region of the prices (default: the session's)")

    exported = add(
        "export", "write an output's items for ImportTable; changes nothing else", f"{url} --to s3://bucket/import/1/"
    )
    exported.add_argument("output", help="s3://bucket/object_key")
    exported.add_argument("--to", required=True, metavar="s3://...", help="prefix without objects, in this region")

    differ = add("diff", "show what two outputs would serve differently; writes nothing", f"flight-delays/12 {url}")
    for name in ("a", "b"):
        differ.add_argument(
            name, metavar=name.upper(), help="run (12 or DATASET/12), s3://bucket/object_key or prefix/, or a path"
        )
    differ.add_argument("--dataset", dest="of", metavar="NAME", help="dataset of both, if neither A nor B names it")
    differ.add_argument("--member", action="append", metavar="NAME", help="describe only this member; can be repeated")
    differ.add_argument(
        "--show", type=count, default=5, metavar="N", help="number of largest changes and samples of each kind (5)"
    )
    differ.add_argument("--show-data", action="store_true", help="show item keys, texts and bodies")
    differ.add_argument("--html", metavar="FILE", help="also write one self-contained HTML page")
    differ.add_argument(
        "--own-metadata",
        action="store_true",
        help="join each run with the metadata that it used, not with current metadata",
    )
    differ.add_argument("--exit-code", action="store_true", help="exit with 2 if they differ")

    status = add("status", "show runs and pending runs, or one run in full", "flight-delays 12")
    status.add_argument("dataset", nargs="?")
    status.add_argument("run", nargs="?", type=positive_int)
    status.add_argument("--newest", type=count, default=20, metavar="N", help="number of runs to show (default 20)")

    rejects = add("rejects", "show the predictions that a run rejected, and why", "flight-delays 12 --limit 5")
    rejects.add_argument("dataset")
    rejects.add_argument("run", type=positive_int)
    rejects.add_argument("--reason", help="only those with this reason")
    rejects.add_argument("--limit", type=count, default=20, metavar="N", help="number to show (default 20)")

    run = add("run", "run an output now", url, writes=True)
    run.add_argument("output", help="s3://bucket/object_key")
    filled = add(
        "backfill",
        "run the outputs of a time range, in the order in which they were made",
        "flight-delays --since 2026-11-01 --until 2026-11-20",
        writes=True,
    )
    filled.add_argument("dataset")
    filled.add_argument("--since", required=True, metavar="D", help="earliest as_of: a date, or an instant in RFC 3339")
    filled.add_argument("--until", metavar="D", help="latest as_of, included (default: the newest)")
    filled.add_argument("--dry-run", action="store_true", help="run it over a view, and show what it would do and cost")
    filled.add_argument("--yes", action="store_true", help="do not ask for confirmation on a terminal")
    filled.add_argument("--keep-going", action="store_true", help="continue after an output that fails")
    filled.add_argument(
        "--send", action="store_true", help="let the deployed function execute the runs, by messages to its queue"
    )
    swept = add("sweep", "find outputs for which no event arrived, and execute pending runs", "", writes=True)
    swept.add_argument("dataset", nargs="?")
    replayed = add(
        "replay", "run an output, or the rejects of a run, again after a fix", "flight-delays 12", writes=True
    )
    replayed.add_argument("dataset")
    replayed.add_argument("what", help="number of a run, or s3://bucket/rejects/DATASET/RUN/")
    withdrawn = add("withdraw", "withdraw a bad output: remove or restore its items", "flight-delays 12", writes=True)
    withdrawn.add_argument("dataset")
    withdrawn.add_argument("run", type=positive_int)
    withdrawn.add_argument("--dry-run", action="store_true", help="show what it would do; writes nothing")
    withdrawn.add_argument("--yes", action="store_true", help="do not ask for confirmation on a terminal")
    for name, summary in (
        ("approve", "publish the output of a held run although a guard failed"),
        ("reject", "close a held run; nothing of its output was published"),
    ):
        held = add(name, summary, "flight-delays 12", writes=name == "approve")
        held.add_argument("dataset")
        held.add_argument("run", type=positive_int)
    refreshed = add("refresh", "run the newest output again when only metadata changed", "flight-delays", writes=True)
    refreshed.add_argument("dataset")
    refreshed.add_argument("--full", action="store_true", help="write every item, changed or not")

    shown = add("console", "show datasets, runs and rejects in a browser, on this machine only", "", json=False)
    shown.add_argument("--port", type=_port, default=8090, metavar="N", help="default 8090; 0: any free port")
    shown.add_argument("--operate", action="store_true", help="offer replay, withdraw, ...; read-only without it")
    reported = add("report", "write the console's pages as files", "--out report/", json=False)
    reported.add_argument("dataset", nargs="?")
    reported.add_argument("--out", required=True, metavar="DIR|s3://...", help="folder, or bucket and prefix")
    for pages, newest in ((shown, 50), (reported, 20)):
        pages.add_argument(
            "--newest", type=count, default=newest, metavar="N", help=f"runs of each dataset (default {newest})"
        )
        pages.add_argument("--show-data", action="store_true", help="show subjects, bodies and values of rows")
        pages.add_argument("--region", help="region of the prices (default: the session's)")
        pages.add_argument(
            "--sample-rows", type=count, default=20_000, metavar="N",
            help="rows of each output from which distributions are computed (default 20000; 0: none)",
        )  # fmt: skip
    return parser


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65_535:
        raise ValueError(text)
    return number


_port.__name__ = "port (0 to 65535)"


if __name__ == "__main__":
    sys.exit(main())
