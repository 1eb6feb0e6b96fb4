"""Play one history and judge it; the code under test is imported only then, so that a mutant can be installed."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.world import Note


def judge(seed: int, notes: list[Note] | None = None) -> tuple[int, list[str]]:
    """Play one history and return what it broke; what happened is added to `notes`, if given."""
    from tests.faults.history import played, say_again
    from tests.faults.oracle import check

    try:
        with played(seed, notes) as story:
            problems = check(story)
            if not problems:
                say_again(story)
                problems = check(story)
            return seed, problems
    except Exception:
        return seed, [traceback.format_exc()]
