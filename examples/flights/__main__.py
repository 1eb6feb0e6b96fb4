"""The model's command line: train it, score the flights of three days, write the metadata tables."""

from __future__ import annotations

import argparse
from datetime import UTC, date, datetime
from pathlib import Path

from examples.flights.lake import build_tables
from examples.flights.model import DIRECTORY, load_or_train
from examples.flights.outputs import build_output, object_key, to_parquet


def main(arguments: list[str] | None = None) -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="python -m examples.flights", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train the model, or show the existing one")
    for name, what in {
        "score": "score the flights of the three days after --date into one Parquet file",
        "metadata": "write airlines, airports, planes, and the weather around --date as Parquet files",
    }.items():
        command = commands.add_parser(name, help=what)
        command.add_argument("--date", type=date.fromisoformat, default=datetime.now(UTC).date(), help="default: today")
        command.add_argument("--to", type=Path, default=DIRECTORY, help="the directory to write to (%(default)s)")
    given = parser.parse_args(arguments)
    if given.command == "metadata":
        for table_name, table in build_tables(given.date).items():
            _write(given.to / "reference" / table_name / "part-0.parquet", to_parquet(table), table.num_rows)
        return
    model, was_there = load_or_train(say=print)
    print(f"model {model.version}" + (" (trained before)" if was_there else ""), *model.report.lines(), sep="\n  ")
    if given.command == "score":
        output = build_output(model, given.date)
        _write(given.to / object_key(given.date), to_parquet(output), output.num_rows)


def _write(path: Path, content: bytes, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{path}: {rows:,} rows, {len(content):,} bytes")


if __name__ == "__main__":
    main()
