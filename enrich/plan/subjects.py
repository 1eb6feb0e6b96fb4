"""Find the share of write requests that the largest subject has, in fixed memory."""

from __future__ import annotations

import re
from collections import Counter

from serve.item import PK

KEPT = 10_000  # subjects that are counted at a time: a share is at most a ten-thousandth too low
_SUBJECT = re.compile(rb'"%b":\{"S":"((?:[^"\\]|\\.)*)"' % PK.encode())  # of an item: within a body, quotes are escaped


class SubjectCounter:
    """Counts the items of subjects in requests. If there are too many subjects, small ones are forgotten.

    Then the same number is subtracted from each, so that every kept count is too low by at most a `KEPT`-th of all
    items (Misra and Gries, "Finding repeated elements", 1982).
    """

    def __init__(self) -> None:
        self._counts: Counter[bytes] = Counter()
        self._items = 0

    def look(self, payload: bytes) -> None:
        """Count the items of a request."""
        found = _SUBJECT.findall(payload)
        self._counts.update(found)
        self._items += len(found)
        if len(self._counts) > 2 * KEPT:
            less = self._counts.most_common(KEPT + 1)[-1][1]
            self._counts = Counter({each: count - less for each, count in self._counts.items() if count > less})

    @property
    def largest(self) -> float:
        """The share of the largest subject; 0 without items."""
        return max(self._counts.values(), default=0) / self._items if self._items else 0.0
