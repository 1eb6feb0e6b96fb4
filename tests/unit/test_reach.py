"""Which tests a mutant meets first (`tests/mutation/reach.py`)."""

from __future__ import annotations

import pytest

from tests.mutation.reach import Reach, read_lines

PAGE = "serve.web.page"


def _line(text: str) -> int:
    (found,) = [number for number, line in enumerate(read_lines(PAGE), 1) if line.strip().startswith(text)]
    return found


# a line that is changed, a line that runs, and whether a test that runs the second is about the first
PLACES = [
    (
        "size += len(entry.json.encode()) + bool(entries)  #",
        "size += len(entry.json.encode()) + bool(entries)  #",
        True,
    ),
    ("size += len(entry.json.encode()) + bool(entries)  #", "taken.add(item.sk)", False),
    ("MAX_QUERIES = 5", "for number in range(MAX_QUERIES):", True),
    ("MAX_QUERIES = 5", "taken.add(item.sk)", False),
    ("is_too_old: bool", 'pieces += [\'],"too_old"', True),
    ("def is_too_old(", "return now - as_of > max_age", True),
    ("missing: Sequence[str] | None = None", 'pieces.append(f\',"missing"', True),
    ("@property", "if self.missing is not None:", True),
]


@pytest.mark.parametrize(("changed", "runs", "expected"), PLACES)
def test_a_test_is_about_what_it_runs_and_about_constants_that_this_names(
    changed: str, runs: str, expected: bool
) -> None:
    """A statement in a function by its lines; one that runs on import by the lines that have its names."""
    reach = Reach()
    reach.add({"t.py::test_a": (0.5, {PAGE: [_line(runs)]})})
    changed_line = next(n for n, line in enumerate(read_lines(PAGE), 1) if line.strip().startswith(changed))
    assert bool(reach.find_of_change(PAGE, changed_line, [PAGE])) is expected
