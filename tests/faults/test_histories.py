"""A few hundred histories, and a few bugs that they must find; `tox -e faults` plays as many as you like."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.judge import judge

SEEDS = 200
AT_ONCE = 10


@pytest.mark.parametrize("start", range(0, SEEDS, AT_ONCE))
def test_histories_break_no_promise(start: int) -> None:
    """Whatever goes wrong, the table ends as the newest outputs say, and every count is true."""
    broken = {seed: problems for seed, problems in map(judge, range(start, start + AT_ONCE)) if problems}
    assert broken == {}


@pytest.mark.parametrize("name", ["skipped-condition", "checkpoint-before-write"])
def test_a_bug_is_found(name: str) -> None:
    """The simulation can fail: a bug that is put into the code breaks a promise within a few histories."""
    command = [sys.executable, "-m", "tests.faults", "--mutant", name, "--stop", "--seeds", "40", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "1 broke a promise" in done.stdout
