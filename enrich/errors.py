"""Exceptions that end a run early, by remedy: retry, or operator action."""

from __future__ import annotations


class Stopped(Exception):
    """Retry: the run continues later from its checkpoint. A service it needs throttles or is unavailable."""


class Refused(Stopped):
    """Retry a few times: a service refuses a request of the run. If it refuses each time, the run fails."""


class OutOfTime(Stopped):
    """Retry at once: the invocation ends, and the run continues in the next one."""


class TaskBroke(Exception):
    """Retry a few times: each attempt of one task of a job failed, and no service was the cause.

    Attributes:
        name: the task's.
    """

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(cause)
        self.name = name


class Overwritten(Exception):
    """No remedy needed: the run's object was deleted, or replaced by another one that has a run of its own."""


class Failed(Exception):
    """Operator action: the run can't succeed until the output, the dataset or a permission is fixed."""


class LeaseLost(Exception):
    """Retry: another invocation holds the dataset; this one must stop."""


class TableStateUnknown(Exception):
    """Rebuild first: the fingerprints do not describe the table, so every live output must be written again.

    Attributes:
        fingerprints: their object key; None if there are none.
        table_id: id of the table that they do not describe.
    """

    def __init__(self, fingerprints: str | None, table_id: str) -> None:
        super().__init__(f"fingerprints {fingerprints} do not describe table {table_id}")
        self.fingerprints = fingerprints
        self.table_id = table_id


class HandOver(Exception):
    """Start a job: a run must be executed in pieces, by a process that has executors."""

    def __init__(self, dataset: str, run: int) -> None:
        super().__init__(f"dataset {dataset}, run {run}: a job executes it")


class NewerFormat(Exception):
    """Deploy a newer release: a record has a format that this release does not know. Nothing was changed."""


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error without a full stop, since the message that quotes it continues.

    Later lines show internal details, such as the generated SQL.
    """
    return str(error).split("\n")[0].rstrip(". ")
