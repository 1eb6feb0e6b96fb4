"""`./larder score`: publish models and choose which version serves. Not in the bundle; `--help` imports little."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import date
from typing import Any

from enrich.cli.exit_codes import FAILED, INTERRUPTED, UsageError, print_error

EXIT_CODES = """\
exit codes:
  0  done
  1  refused or failed; the error is on standard error. A refused command does not change which versions serve.
     check: a version can't serve; drift: a distribution has changed
  2  usage error

LARDER_BUCKET (or --bucket) and AWS's own variables select the stack; `./larder env STACK` prints them.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    from score.publish.commands import execute

    try:
        return execute(options)
    except UsageError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return print_error(
            "stopped; the versions that serve are intact; run the command again, it is safe to repeat", INTERRUPTED
        )
    except BrokenPipeError:  # the reader, e.g. `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    """Build the parser. Names of models are checked when a command runs: help reads no definition."""
    parser = argparse.ArgumentParser(
        prog="./larder score",
        description="Publish models for scoring in real time, and choose which version serves.",
        epilog="""\
examples:
  ./larder score publish iris iris.joblib --rows held-out.parquet    convert, prove, write a version
  ./larder score list iris                                           versions, and which of them serve
  ./larder score canary iris 3f2a90c1d45e6b78 0.05                   5 % of the callers
  ./larder score promote iris 3f2a90c1d45e6b78                       live in every container within 30 s
  ./larder score rollback iris                                       the version that was live before
  ./larder score drift iris --rows last-week.parquet                 compare with the training data
  ./larder score kept iris --since 2026-11-01                        print the query for a training set

"""
        + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")

    def add(name: str, summary: str, example: str, details: str = "", *, writes: bool = False) -> Any:
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.{details}",
            epilog=f"example: ./larder score {name} {example}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--bucket", metavar="NAME", help="bucket of the models (default: LARDER_BUCKET)")
        command.add_argument("--json", action="store_true", help="print JSON")
        if writes:
            command.add_argument("--by", metavar="WHO", help="name to record in the alias (default: the user's name)")
        return command

    publish = add(
        "publish",
        "convert a model to ONNX, prove it, and write a version",
        "iris iris.joblib --rows held-out.parquet",
        """

MODEL is defined in models/. FILE is a fitted scikit-learn pipeline (.joblib), LightGBM (.txt), XGBoost (.json,
.ubj), a folder or URI of MLflow, or an .onnx file. The converted model is compared with the original on held-out
rows, at the limits of the definition (bounds, choices, missing values), and on rows at the original's thresholds.
If a label differs, or a number differs by more than 1e-5, it is refused, and the worst row is printed. The version
serves after it is promoted.

A .joblib file is a pickle: loading it RUNS the CODE in it. Publish only files that you trust.
It needs the packages of score/publish/requirements.txt.""",
        writes=True,
    )
    publish.add_argument("model", metavar="MODEL")
    publish.add_argument("file", metavar="FILE")
    publish.add_argument("--rows", required=True, metavar="FILE", help="held-out rows: .parquet, .csv or .jsonl")
    publish.add_argument("--training", metavar="FILE", help="training rows, for drift and explain (default: --rows)")
    publish.add_argument("--labels", metavar="A,B,...", help="names of the classes, in the model's order")
    publish.add_argument("--sign", metavar="FILE", help="private key (Ed25519, PEM) that signs the manifest")
    publish.add_argument("--promote", action="store_true", help="then make the version live")
    publish.add_argument("--dry-run", action="store_true", help="convert and prove; write nothing, call no AWS")

    add("list", "list models, or the versions of a model and which of them serve", "iris").add_argument(
        "model", metavar="MODEL", nargs="?"
    )
    promoted = add("promote", "make a version live", "iris 3f2a90c1d45e6b78", writes=True)
    promoted.add_argument("model", metavar="MODEL")
    promoted.add_argument("version", metavar="VERSION")
    add(
        "rollback",
        "make the previous version live; end canary and shadow",
        "iris",
        "\n\nA second rollback is refused, so that a repeated command does not restore the bad version.",
        writes=True,
    ).add_argument("model", metavar="MODEL")
    for name, what, share in (
        ("canary", "let a version answer a share of the callers", "0.05"),
        ("shadow", "let a version also score a share of the requests; callers do not see it", "0.1"),
    ):
        command = add(name, what, f"iris 3f2a90c1d45e6b78 {share}", writes=True)
        command.add_argument("model", metavar="MODEL")
        command.add_argument("version", metavar="VERSION", nargs="?")
        command.add_argument("share", metavar="SHARE", nargs="?", type=float, help="above 0, up to 1")
        command.add_argument("--off", action="store_true", help=f"end the {name}")
    add(
        "check",
        "check that the versions that an alias names can serve: definition, manifest, file, golden rows",
        "iris",
    ).add_argument("model", metavar="MODEL", nargs="?")
    kept = add(
        "kept",
        "print an Athena query that makes a training set from kept features",
        "iris --since 2026-11-01",
        "\n\nThe model must have keep=Keep(...). Days are in UTC; both are included.",
    )
    kept.add_argument("model", metavar="MODEL")
    kept.add_argument("--since", type=_day, metavar="DAY", help="first day (default: 30 days ago)")
    kept.add_argument("--until", type=_day, metavar="DAY", help="last day (default: today)")
    kept.add_argument("--table", metavar="DATABASE.TABLE", help="table (default: LARDER_KEPT_TABLE)")
    drift = add(
        "drift",
        "compare rows with the training data of a version: PSI of each feature",
        "iris --rows last-week.parquet",
        "\n\nA distribution whose PSI is above 0.2 has changed; the exit code is then 1.",
    )
    drift.add_argument("model", metavar="MODEL")
    drift.add_argument("--rows", required=True, metavar="FILE", help="rows of features: .parquet, .csv or .jsonl")
    drift.add_argument("--version", metavar="VERSION", help="compare with this version (default: the live one)")
    drift.add_argument("--above", type=float, default=0.2, metavar="PSI", help="a larger PSI is a change (default 0.2)")
    return parser


def _day(text: str) -> date:
    return date.fromisoformat(text)


_day.__name__ = "day such as 2026-11-01"  # argparse names it in its message


if __name__ == "__main__":
    sys.exit(main())
