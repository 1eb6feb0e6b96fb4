"""The arguments of `./larder demo`; standard library only, so that they are checked before packages are installed."""

from __future__ import annotations

import argparse
from datetime import date


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog="./larder demo", description="Predict real flights and serve them, on this machine, step by step."
    )
    parser.add_argument(
        "--once", action="store_true", help="end after the last stage, with status 0 only if every step succeeded"
    )
    parser.add_argument(
        "--date",
        type=date.fromisoformat,
        help="use the schedule of this date as if it were today's (outputs older than a week would expire)",
    )
    parser.add_argument("--airline", default="UA", help="airline of the token (%(default)s)")
    return parser
