"""A mistake in a dataset, by place and remedy. Standard library only: commands that need no SQL report mistakes too."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a dataset: its place, what was found, and the remedy."""

    place: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}; {self.remedy}"


class DatasetMistakes(ValueError):
    """The dataset can't be compiled; the message lists every mistake."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


def suggest(name: str, known: Collection[str]) -> str:
    """Suggest a known name for an unknown one."""
    close = [each for each in known if each.lower() == name.lower()] or get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known)) or 'none'}"
