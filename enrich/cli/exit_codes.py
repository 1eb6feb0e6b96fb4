"""Exit codes of the command line."""

from __future__ import annotations

import sys

DONE, FAILED, USAGE, BUSY = 0, 1, 2, 3
DIFFERENT = 2  # of `diff --exit-code`, as in diff tools and `terraform plan`
INTERRUPTED = 130  # by Ctrl-C: 128 and the number of SIGINT


class UsageError(Exception):
    """An argument names what does not exist, e.g. a dataset; the message lists what exists."""


def print_error(message: object, code: int) -> int:
    """Print a message on standard error; return the code."""
    print(message, file=sys.stderr)  # noqa: T201
    return code
