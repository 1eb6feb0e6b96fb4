"""Thirty histories, and a few bugs that they must find; `tox -e faults` plays as many as you like."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.faults.judge import judge

SEEDS = 30
AT_ONCE = 10


@pytest.mark.parametrize("start", range(0, SEEDS, AT_ONCE))
def test_histories_break_no_promise(start: int) -> None:
    """Whatever goes wrong, the table ends as the newest outputs say, and every count is correct."""
    broken = {seed: problems for seed, problems in map(judge, range(start, start + AT_ONCE)) if problems}
    assert broken == {}


@pytest.mark.long
@pytest.mark.parametrize("name", ["checkpoint-before-write"])
def test_a_bug_is_found(name: str) -> None:
    """The simulation can fail: a bug in the code breaks a promise within a few histories."""
    done = _play("--mutant", name, "--stop", "--seeds", "40", "--jobs", "1")
    assert done.returncode == 1, done.stderr
    assert "1 broke a promise" in done.stdout


@pytest.mark.long
def test_a_trace_says_what_happened() -> None:
    """`--trace` prints a history by time and actor: outputs, messages, runs, writes, faults, and what broke."""
    mutant = ["--mutant", "skipped-condition"]
    found = _play(*mutant, "--stop", "--seeds", "40", "--jobs", "1")
    seed = re.search(r"seed (\d+):\n  (.+)", found.stdout)
    assert seed, found
    traced = _play("--trace", seed[1], *mutant)
    assert traced.returncode == 1, traced.stderr
    story, _, broken = traced.stdout.partition("Broken promises:\n")
    assert seed[2] in broken
    for line in (
        r"world +dataset one: (partial|snapshot) outputs",
        r"model +writes (one|two)/at=\S+: as of ",
        r"world +queues an event of (one|two)/at=",
        r"invocation-\d+ +begins, for \d+ s, with ",
        r"invocation-\d+ +(one|two) run \d+: .*state 'running'",
        r"invocation-\d+ +(one|two) run \d+: stage 'write'.*",
        r"invocation-\d+ +sends a (conditional )?write of (one|two)#",
        r"table +lands: the (conditional )?write of (one|two)#",
        r"invocation-\d+ +ends, and has deleted its message",
    ):
        assert re.search(rf"^day \d \d\d:\d\d:\d\d\.\d\d\d  {line}", story, re.MULTILINE), line


def _play(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.faults", *words], capture_output=True, text=True, check=False)
