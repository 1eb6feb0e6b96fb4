"""Build the event that reports a run's state (docs/run-event.schema.json)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from enrich.ledger.records import Run
from enrich.settings import Settings
from notify.bus import render_time

KIND = "Larder Run State Change"
MAX_ERROR = 1000  # characters of the first line of an error


def build_run_event(settings: Settings, run: Run, state: str, at_ms: int) -> dict[str, Any]:
    """Build the event's detail.

    Args:
        settings: the settings of this deployment.
        run: the run, as it is committed.
        state: the state to report.
        at_ms: the time of the change, in epoch milliseconds.
    """
    has_order = run.generation is not None and run.as_of_ms is not None
    return {
        "id": f"{run.dataset}/{run.run}/{run.version + 1}",
        "environment": settings.environment,
        "dataset": run.dataset,
        "run": run.run,
        "kind": run.kind,
        "of_run": run.of_run,
        "state": state,
        "time": render_time(at_ms / 1000),
        "output": f"s3://{run.bucket}/{run.object_key}",
        "as_of": _render(run.as_of_ms),
        "order": run.order.text if has_order else None,
        "expires_at": _render(run.expires_at * 1000 if run.expires_at is not None else None),
        "rows": run.rows,
        "counts": asdict(run.counts),
        "reasons": run.reasons,
        "started_at": _render(run.started_ms),
        "ended_at": _render(run.ended_ms),
        "shifts": list(run.shifts),
        "error": first_line(run.error) if run.error else None,
        "version": run.code_version,
    }


def first_line(error: str) -> str:
    """Return the first line of an error, shortened: the ledger has all of it."""
    line = error.partition("\n")[0]
    return line if len(line) <= MAX_ERROR else f"{line[:MAX_ERROR]} ..."


def _render(epoch_ms: int | None) -> str | None:
    return None if epoch_ms is None else render_time(epoch_ms / 1000)
