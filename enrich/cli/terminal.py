"""Show runs on the terminal: a progress line while they run, tables afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from enrich.ledger.records import Pending, Run
from enrich.ledger.run_state import Kind
from enrich.progress import Progress

_NUMBERS_OF_RUNS = {"run", "of_run"}


class ProgressLine(Progress):
    """A line on standard error that is overwritten; silent if standard error is not a terminal."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = 0.0
        self._first_row: int | None = None

    def stage(self, run: Run, stage: str) -> None:
        """Show that a stage begins."""
        self._stage, self._began, self._first_row = stage, time.monotonic(), None
        self._show(f"{run.dataset} run {run.run}: {stage}")

    def rows(self, run: Run, done: int, rejected: int, rate: float | None) -> None:
        """Show rows done, rejects, rows per second, and the time left if the number of rows is known."""
        first = self._first_row = run.next_row if self._first_row is None else self._first_row
        speed = (done - first) / max(time.monotonic() - self._began, 1e-3)
        text = f"{run.dataset} run {run.run}: {self._stage} {done:,} rows, {rejected:,} rejected, {speed:,.0f} rows/s"
        if rate:
            text += f", {rate:,.0f} write units/s"
        if run.rows and speed:
            text += f", {max(0, run.rows - done) / speed:,.0f} s left"
        self._show(text)

    def end(self) -> None:
        """Clear the line."""
        self._show("")

    def _show(self, text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


def render_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Render rows as columns of text; numbers are right-aligned."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [list(head), *texts]) for at in range(len(head))]
    right = [all(isinstance(row[at], int | float | None) for row in rows) for at in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in line).rstrip()
        for line in (list(zip(cells, widths, right, strict=True)) for cells in [list(head), *texts])
    ]
    return "\n".join(lines)


def render_runs(runs: Sequence[Run]) -> str:
    """Render runs, one per line."""
    if not runs:
        return "no runs"
    head = [
        "run",
        "kind",
        "state",
        "as of",
        "read",
        "written",
        "unchanged",
        "superseded",
        "expired",
        "rejected",
        "output",
    ]
    rows = [
        [
            run.run,
            run.kind,
            run.state,
            _as_of(run),
            run.counts.read,
            run.counts.written,
            run.counts.unchanged,
            run.counts.superseded,
            run.counts.expired,
            run.counts.rejected,
            run.object_key,
        ]
        for run in runs
    ]
    return render_table(head, rows)


def render_run(run: Run) -> str:
    """Render one run in full, one member per line."""
    texts: dict[str, str] = {}
    for name, value in describe_run(run).items():
        texts[name.replace("_", " ")] = _member(name, value)
    texts["expires at"] = _text(_instant(run.expires_at and run.expires_at * 1000))
    width = max(map(len, texts))
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in texts.items())


def _member(name: str, value: Any) -> str:
    """Render one member of a run: counts as `3 written, 1 rejected`, and numbers that name something as they are."""
    if name == "size":
        return f"{value:,} bytes"
    if name == "metadata":
        return ", ".join(f"{inner} {text}" for inner, text in value.items()) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{number:,} {inner}" for inner, number in value.items() if number) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if name in _NUMBERS_OF_RUNS and value is not None else _text(value)


def render_withdrawal(bad: Run, runs: Sequence[int], restored: Sequence[Run]) -> str:
    """Render what a withdrawal does, before it is confirmed."""
    again = f", {restored[0].object_key} to {restored[-1].object_key}" if restored else ""
    return (
        f"{bad.dataset}: withdraws s3://{bad.bucket}/{bad.object_key} with its runs {', '.join(map(str, runs))}, runs "
        f"{len(restored)} other live outputs again (oldest first{again}), and removes the items that only it named.\n"
        "--dry-run shows the items and the write units."
    )


def render_pending(pending: Sequence[Pending], now: float) -> str:
    """Render pending runs, oldest first."""
    rows = [[each.run, _instant(each.queued_ms), f"{max(0, now - each.queued_ms / 1000):,.0f} s"] for each in pending]
    return render_table(["pending run", "since", "age"], rows)


def describe_run(run: Run) -> dict[str, Any]:
    """Return a run as JSON values; instants and the order are text."""
    members = asdict(run)
    members["order"] = run.order.text if run.generation is not None and run.as_of_ms is not None else None
    for name in [name for name in members if name.endswith("_ms")]:
        members[name.removesuffix("_ms")] = _instant(members.pop(name))
    members["as_of"] = _as_of(run)
    del members["version"]
    members["counts"]["read"] = run.counts.read
    return members


def _as_of(run: Run) -> str | None:
    """Return when the run's output was made; a removal, which has no as_of, is recorded with 0 to be the oldest."""
    return None if run.kind is Kind.REMOVAL else _instant(run.as_of_ms)


def _instant(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)
