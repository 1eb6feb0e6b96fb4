"""Compare the age of a dataset's newest output with the interval between its outputs so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import median

from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind, RunState

NEWEST = 15  # outputs from which the interval is calculated
LATE = 1.5  # intervals after which the next output is late


class FreshnessState(StrEnum):
    """Whether a dataset's newest output is as new as expected."""

    NONE = "no output"
    UNKNOWN = "unknown"  # fewer than two outputs: there is no interval to compare with
    ON_TIME = "on time"
    LATE = "late"
    EXPIRED = "expired"  # the items of the newest output are no longer served


@dataclass(frozen=True, slots=True)
class Freshness:
    """The newest output that was published.

    Attributes:
        state: whether it is as new as expected.
        as_of_ms: when the output was made.
        age_s: seconds since then.
        expected_every_s: median interval between the newest outputs.
        expires_in_s: seconds until the output's items expire; negative after that.
    """

    state: FreshnessState
    as_of_ms: int | None = None
    age_s: float | None = None
    expected_every_s: float | None = None
    expires_in_s: float | None = None


def find_interval(runs: Sequence[Run]) -> float | None:
    """Return the median of seconds between the newest outputs; None if there are fewer than two."""
    made = sorted({run.as_of_ms for run in runs if run.kind is Kind.OUTPUT and run.as_of_ms is not None})[-NEWEST:]
    gaps = [later - earlier for earlier, later in pairwise(made)]
    return median(gaps) / 1000 if gaps else None


def build_freshness(runs: Sequence[Run], now: float) -> Freshness:
    """Compare the newest published output of a dataset with the interval of its outputs.

    Args:
        runs: the newest runs of one dataset.
        now: epoch seconds.
    """
    done = [run for run in runs if run.state is RunState.DONE and run.kind.is_over_output and run.as_of_ms is not None]
    if not done:
        return Freshness(FreshnessState.NONE)
    newest = max(done, key=lambda run: (run.as_of_ms, run.run))
    age = now - (newest.as_of_ms or 0) / 1000
    interval = find_interval(runs)
    left = newest.expires_at - now if newest.expires_at is not None else None
    if left is not None and left <= 0:
        state = FreshnessState.EXPIRED
    elif interval is None:
        state = FreshnessState.UNKNOWN
    else:
        state = FreshnessState.LATE if age > LATE * interval else FreshnessState.ON_TIME
    return Freshness(state, newest.as_of_ms, age, interval, left)
