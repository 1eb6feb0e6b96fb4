"""Play one history and judge it; imports the code under test only then, so that a mutant can be put into it before."""

from __future__ import annotations

import traceback


def judge(seed: int) -> tuple[int, list[str]]:
    """Play one history and return what it broke."""
    from tests.faults.history import played, say_again
    from tests.faults.oracle import check

    try:
        with played(seed) as story:
            problems = check(story)
            if not problems:
                say_again(story)
                problems = check(story)
            return seed, problems
    except Exception:
        return seed, [traceback.format_exc()]
