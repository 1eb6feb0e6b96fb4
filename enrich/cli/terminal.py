"""Show runs on the terminal: a progress line while they run, tables afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from enrich.cli.statistics import render_statistics
from enrich.cli.table import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    Paint,
    first_line,
    plain,
    printable,
    render_cell,
    render_duration,
    render_instant,
    render_table,
)
from enrich.ledger.freshness import Freshness, FreshnessState
from enrich.ledger.records import Held, Pending, Run
from enrich.ledger.run_state import Kind, RunState
from enrich.progress import Progress

_NUMBERS_OF_RUNS = {"run", "of_run"}
_COUNTS = ("written", "unchanged", "superseded", "expired", "rejected")


class ProgressLine(Progress):
    """A line on standard error that is overwritten; silent if standard error is not a terminal."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = 0.0
        self._first_row: int | None = None

    def stage(self, run: Run, stage: str) -> None:
        """Show that a stage begins."""
        self._stage, self._began, self._first_row = stage, time.monotonic(), None
        self._show(f"{self._name(run)}: {stage}")

    def rows(self, run: Run, done: int, rejected: int, rate: float | None) -> None:
        """Show rows done, rejects, rows per second, and the time left if the number of rows is known."""
        first = self._first_row = run.next_row if self._first_row is None else self._first_row
        speed = (done - first) / max(time.monotonic() - self._began, 1e-3)
        text = f"{self._name(run)}: {self._stage} {done:,} rows, {rejected:,} rejected, {speed:,.0f} rows/s"
        if rate:
            text += f", {rate:,.0f} write units/s"
        if run.rows and speed:
            text += f", {max(0, run.rows - done) / speed:,.0f} s left"
        self._show(text)

    def end(self) -> None:
        """Clear the line."""
        self._show("")

    def _name(self, run: Run) -> str:
        """Name a run, after the title; a run that is not in the ledger has no number."""
        name = f"{run.dataset} run {run.run}" if run.run else f"{run.dataset} {printable(run.object_key)}"
        return f"{self.title}: {name}" if self.title else name

    def _show(self, text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


STATE_COLOURS: dict[str, str] = {
    RunState.DONE: GREEN,
    RunState.FAILED: RED,
    RunState.PENDING: YELLOW,
    RunState.RUNNING: YELLOW,
    RunState.STOPPED: YELLOW,
    RunState.OVERWRITTEN: DIM,
    RunState.WITHDRAWN: DIM,
    RunState.HELD: RED,
    RunState.REJECTED: DIM,
}
FRESHNESS_COLOURS: dict[str, str] = {
    FreshnessState.ON_TIME: GREEN,
    FreshnessState.LATE: YELLOW,
    FreshnessState.EXPIRED: RED,
}


def render_runs(runs: Sequence[Run], now: float | None = None, paint: Paint = plain) -> str:
    """Render runs, one per line, each with the first line of its error below.

    Args:
        runs: newest first.
        now: epoch seconds; None omits the ages.
        paint: function that colours text.
    """
    if not runs:
        return "no runs"
    ages = ["age"] if now is not None else []
    head = ["run", "kind", "state", "as of", *ages, "took", "read", *_COUNTS, "output"]
    rows = [
        [run.run, run.kind, run.state, _as_of(run)]
        + ([render_duration(_age(run, now))] if now is not None else [])
        + [render_duration(find_duration(run, now)), run.counts.read]
        + [getattr(run.counts, name) for name in _COUNTS]
        + [run.object_key]
        for run in runs
    ]
    notes = {number: first_line(run.error) for number, run in enumerate(runs) if run.error}
    return render_table(head, rows, paint=paint, colours=STATE_COLOURS, notes=notes)


def find_duration(run: Run, now: float | None) -> float | None:
    """Return the seconds from a run's start until it ended or was held, or until now."""
    if run.started_ms is None:
        return None
    ended_ms = run.ended_ms or run.held_ms
    ended = ended_ms / 1000 if ended_ms is not None else now
    return None if ended is None else max(0.0, ended - run.started_ms / 1000)


def _age(run: Run, now: float) -> float:
    """Return the seconds since a run ended or was held; before that, since it was queued."""
    return max(0.0, now - (run.ended_ms or run.held_ms or run.queued_ms) / 1000)


def render_freshness(freshness: Freshness, paint: Paint = plain) -> str:
    """Render as one line how old the newest output is, and how often one is expected."""
    if freshness.state is FreshnessState.NONE:
        return "no output has been published yet"
    every = freshness.expected_every_s
    expected = f"one every {render_duration(every)} is expected" if every is not None else "no second output yet"
    left = freshness.expires_in_s
    expiry = ""
    if left is not None:
        life = render_duration(abs(left))
        expiry = f"; its items {f'expire in {life}' if left > 0 else f'expired {life} ago'}"
    return (
        f"{paint(freshness.state, FRESHNESS_COLOURS.get(freshness.state, ''))}: the newest output is "
        f"{render_duration(freshness.age_s)} old, {expected}{expiry}"
    )


def describe_freshness(freshness: Freshness) -> dict[str, Any]:
    """Return the freshness of a dataset as JSON values."""
    members = asdict(freshness)
    members["as_of"] = render_instant(members.pop("as_of_ms"))
    return members


def render_run(
    run: Run, statistics: Mapping[str, Any] | None = None, now: float | None = None, paint: Paint = plain
) -> str:
    """Render one run in full, in sections; `statistics` as `enrich.cli.statistics` describes them."""
    lines = [f"{run.dataset} run {run.run}: {paint(run.state, STATE_COLOURS[run.state])}"]
    if run.error:
        lines += ["", paint("Error", BOLD), *(f"  {printable(line)}" for line in run.error.splitlines())]
    for title, members in list_sections(run, now):
        lines += ["", paint(title, BOLD)]
        lines += [f"  {name.replace('_', ' '):13} {text}" for name, text in members]
    if statistics is not None:
        lines += ["", *render_statistics(statistics, paint)]
    return "\n".join(lines)


def list_sections(run: Run, now: float | None = None) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the rest of a run's record, without state and error: titles, each with names and texts."""
    members = describe_run(run)
    members["expires_at"] = render_instant(run.expires_at and run.expires_at * 1000)
    members["approved"] = run.approved or None  # most runs need no approval
    members["took"] = render_duration(find_duration(run, now))
    shown = {"dataset", "run", "state", "error"}
    listed = []
    sections = {**_SECTIONS, "Internal": [name for name in members if name not in shown]}
    for title, names in sections.items():
        found = [(name, members[name]) for name in names if name not in shown and members[name] not in _EMPTY]
        shown |= set(names)
        if found:
            listed.append((title, [(name, _member(name, value)) for name, value in found]))
    return listed


_EMPTY: tuple[Any, ...] = (None, "", {}, [])
_SECTIONS = {
    "Output": ["bucket", "object_key", "parts", "size", "arrived", "as_of", "expires_at", "kind", "of_run", "full"],
    "Predictions": ["rows", "counts", "because", "reasons", "units", "measured"],
    "Guards": ["shifts", "held", "approved"],
    "Time": ["queued", "started", "ended", "took", "stage", "next_row", "attempts", "failure", "failures", "owner"],
    "Metadata": ["metadata"],
}


def _member(name: str, value: Any) -> str:
    """Render one member of a run: counts as `3 written, 1 rejected`, run numbers without separators."""
    if name == "size":
        return f"{value:,} bytes"
    if name == "metadata":
        return ", ".join(f"{inner} {printable(text)}" for inner, text in value.items()) or "-"
    if isinstance(value, list):
        return "\n                ".join(map(printable, value))
    if isinstance(value, dict):
        return render_counts(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if name in _NUMBERS_OF_RUNS and value is not None else render_cell(value)


def render_counts(counts: Mapping[str, int]) -> str:
    """Render counts as `3 written, 1 rejected`."""
    return ", ".join(f"{number:,} {name}" for name, number in counts.items() if number) or "none"


def render_withdrawal(bad: Run, runs: Sequence[int], restored: Sequence[Run]) -> str:
    """Render what a withdrawal would do, for the confirmation."""
    again = f", {restored[0].object_key} to {restored[-1].object_key}" if restored else ""
    return (
        f"{bad.dataset}: withdraws s3://{bad.bucket}/{bad.object_key} with its runs {', '.join(map(str, runs))}, runs "
        f"{len(restored)} other live outputs again (oldest first{again}), and removes the items that only it named.\n"
        "--dry-run shows the items and the write units."
    )


def render_held(held: Sequence[Held], now: float) -> str:
    """Render the runs that wait for an operator, oldest first."""
    rows = [
        [each.run, render_instant(each.held_ms), render_duration(max(0.0, now - each.held_ms / 1000))] for each in held
    ]
    return render_table(["held run", "since", "age"], rows)


def render_pending(pending: Sequence[Pending], now: float) -> str:
    """Render pending runs, oldest first."""
    rows = [
        [each.run, render_instant(each.queued_ms), render_duration(max(0.0, now - each.queued_ms / 1000))]
        for each in pending
    ]
    return render_table(["pending run", "since", "age"], rows)


def describe_run(run: Run) -> dict[str, Any]:
    """Return a run as JSON values; instants and the order are text."""
    members = asdict(run)
    members["order"] = run.order.text if run.generation is not None and run.as_of_ms is not None else None
    for name in [name for name in members if name.endswith("_ms")]:
        members[name.removesuffix("_ms")] = render_instant(members.pop(name))
    members["as_of"] = _as_of(run)
    del members["version"]
    members["counts"]["read"] = run.counts.read
    return members


def _as_of(run: Run) -> str | None:
    """Return the run's as_of in RFC 3339. A removal has none: its record has 0, so that it counts as the oldest."""
    return None if run.kind is Kind.REMOVAL else render_instant(run.as_of_ms)
