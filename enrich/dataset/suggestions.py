"""Suggest a known name for an unknown one. Standard library only, and any Python 3: `larder` uses it too."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches


def find_close(name: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that differs only in case, otherwise the most similar one; None if none is close.

    Args:
        name: the unknown name.
        known: the names that exist.
        cutoff: minimum similarity, as difflib's ratio from 0 to 1.
    """
    close = [each for each in known if each.lower() == name.lower()] or get_close_matches(name, known, 1, cutoff)
    return close[0] if close else None


def suggest(name: str, known: Collection[str]) -> str:
    """Suggest the closest known name for an unknown one; if none is close, list all."""
    close = find_close(name, known)
    return f"did you mean {close!r}?" if close else f"known are {', '.join(sorted(known)) or 'none'}"
