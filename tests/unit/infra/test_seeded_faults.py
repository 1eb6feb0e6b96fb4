"""The faults of `tox -e seeded-faults` apply: each text occurs exactly once in its file, and another replaces it."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.seeded.__main__ import NEAREST, ROOT, WRITERS, AnchorError, Fault, apply, read_faults

FAULTS = list(read_faults())


@pytest.mark.parametrize("file", sorted({fault.file for fault in FAULTS}))
def test_each_fault_has_its_anchor(file: str) -> None:
    """If the text of a fault has changed, it must be rewritten: it would seed nothing, or more than one fault."""
    text = (ROOT / file).read_text()
    counts = {fault.name: text.count(fault.old) for fault in FAULTS if fault.file == file}
    assert {name: count for name, count in counts.items() if count != 1} == {}
    assert not [fault.name for fault in FAULTS if fault.old == fault.new]


def test_there_are_enough_and_each_has_a_name() -> None:
    """Every kind of file has faults, and no fault is duplicated."""
    assert len(FAULTS) >= 80
    assert max(Counter((fault.file, fault.name) for fault in FAULTS).values()) == 1
    named = {path for paths in [*NEAREST.values(), *WRITERS.values()] for path in paths} | set(NEAREST)
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_fault_without_its_anchor_is_reported() -> None:
    """The message names the file, the fault and the text."""
    with pytest.raises(AnchorError, match=r"tox\.ini: a name: its text is there 0 times, not once: 'no such text'"):
        apply(Fault("a name", "tox.ini", "no such text", ""), ROOT)
