"""The arguments of `./larder up`; standard library only, so that they are checked before packages are installed."""

from __future__ import annotations

import argparse


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog="./larder up",
        description="Run a project's own datasets on this machine, with a stand-in for AWS, until Ctrl-C. It deploys "
        "datasets/, loads lake/DATABASE/TABLE.{parquet,csv,jsonl}, and uploads files that are put into outputs/; "
        "changed datasets are deployed again, a changed lake is loaded again.",
    )
    parser.add_argument(
        "--port", type=_port, default=8080, help="port of the API and /docs; 0: any free port (default: %(default)s)"
    )
    return parser


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError(text)
    return number


_port.__name__ = "port from 0 to 65535"  # argparse names it in its message
