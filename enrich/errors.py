"""What can end a run before it is done, told apart by what helps: waiting, or somebody who mends something."""

from __future__ import annotations


class Stopped(Exception):
    """The run can go on later from its checkpoint: time is up, or something it needs is throttled or out of reach."""


class OutOfTime(Stopped):
    """The invocation ends; the run goes on in the next one."""


class Overwritten(Exception):
    """The object that the run began with is gone, or another one has taken its place."""


class Failed(Exception):
    """The run can't ever succeed as things stand: the output, the dataset or a permission must be mended first."""


class LeaseLost(Exception):
    """Another invocation holds the dataset by now; this one must not touch it any more."""


class TableStateUnknown(Exception):
    """Nobody knows what the table holds: before this run, every live output must be written again."""

    def __init__(self, fingerprints: str) -> None:
        super().__init__(f"fingerprints {fingerprints} do not tell what the table holds")
        self.fingerprints = fingerprints
