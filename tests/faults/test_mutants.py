"""Every mutant still changes the code: without this test, a mutant whose text has changed would never be found."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.mutants import MUTANTS, Mutant, NotApplicable
from tests.mutation.by_hand import list_mutants

ALL = [*MUTANTS, *(mutant for mutant, _ in list_mutants())]


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_mutant_changes_the_code(mutant: Mutant) -> None:
    """Its text occurs exactly once in its function, and the module compiles with the bug."""
    mutant.apply(mutant.read())


def test_names_are_unique() -> None:
    """A mutant is selected by its name."""
    assert len({mutant.name for mutant in ALL}) == len(ALL)


SOURCE = """
LIMIT = 1

def outer(x):
    return x + LIMIT

class Thing:
    def inner(self):
        return 1 + LIMIT
"""
STALE = {
    "the function was renamed": ("m:former", "LIMIT", "0"),
    "the method was renamed": ("m:Thing.former", "LIMIT", "0"),
    "the text moved to another function": ("m:outer", "1 +", "2 +"),
    "the text is there twice": ("m", "+ LIMIT", ""),
    "it is no Python": ("m:outer", "return", "retrun x"),
    "it changes nothing": ("m:outer", "x + LIMIT", "(x + LIMIT)"),
}


@pytest.mark.parametrize("case", STALE)
def test_stale_mutant_is_not_applicable(case: str) -> None:
    """A mutant that can't change the code as intended is reported."""
    with pytest.raises(NotApplicable):
        Mutant("stale", *STALE[case]).apply(SOURCE)


def test_only_its_function_is_changed() -> None:
    """The same text elsewhere in the module stays."""
    mutated = Mutant("fine", "m:Thing.inner", "LIMIT", "0").apply(SOURCE)
    assert mutated == SOURCE.replace("1 + LIMIT", "1 + 0")


def test_hunt_says_what_is_not_applicable() -> None:
    """A mutant that can't be installed is reported as not applicable, and not as found or survived."""
    hunt = (
        "import sys; from tests.faults import __main__ as main, mutants; "
        "main.MUTANTS = mutants.MUTANTS = (mutants.Mutant('stale', 'enrich.run.check:former', 'a', 'b'),); "
        "sys.argv[1:] = ['--mutants']; sys.exit(main.main())"
    )
    done = subprocess.run([sys.executable, "-c", hunt], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "stale: not applicable: there are 0 definitions of former, expected one",
        "0 found, 0 survived, 1 not applicable",
    ]
    assert done.returncode == 1
