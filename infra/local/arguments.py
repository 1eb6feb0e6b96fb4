"""The arguments of `./larder up`; standard library only, so that they are checked before packages are installed."""

from __future__ import annotations

import argparse

from server.ports import parse_port


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog="./larder up",
        description="Run a project's own datasets on this machine, with a stand-in for AWS, until Ctrl-C. It deploys "
        "datasets/, loads lake/DATABASE/TABLE.{parquet,csv,jsonl}, and uploads files that are put into outputs/; "
        "changed datasets are deployed again, a changed lake is loaded again.",
    )
    parser.add_argument(
        "--port",
        type=parse_port,
        default=8080,
        help="port of the API and /docs; 0: any free port (default: %(default)s)",
    )
    return parser
