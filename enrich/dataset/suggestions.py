"""Guess which name was meant by an unknown one. Standard library only, and any Python 3: `larder` uses it too."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def find_close(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is closest to an unknown one, whatever their case; None: no name is close.

    Args:
        name: the unknown name.
        known: the names that exist.
        cutoff: least similarity, as difflib's ratio from 0 to 1.
    """
    spelled = {each.lower(): each for each in known}
    close = get_close_matches(name.lower(), spelled, n=1, cutoff=cutoff)
    return spelled[close[0]] if close else None


def suggest(name: str, known: Iterable[str]) -> str:
    """Suggest the closest known name for an unknown one, or list all."""
    known = sorted(known)
    close = find_close(name, known)
    return f"did you mean {close!r}?" if close else f"known are {', '.join(known) or 'none'}"
