"""Log one JSON line per event to standard output, with metrics in CloudWatch's embedded metric format."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from enrich.ledger.records import Held, OutboxEntry, Pending, Run
from enrich.ledger.run_state import Kind, RunState
from enrich.settings import Settings

NAMESPACE = "Larder"
SERVICE = "enrich"
COUNTS = ("written", "unchanged", "superseded", "expired", "rejected", "removed")


def log_line(settings: Settings, event: str, **members: Any) -> None:
    """Log an event; `members` are JSON values that contain no prediction."""
    line = {"service": SERVICE, "environment": settings.environment, "event": event, **members}
    print(json.dumps(line, default=str), file=sys.stdout, flush=True)  # noqa: T201 - a Lambda's log is its standard output


def log_failure(settings: Settings, message_id: str, error: Exception) -> None:
    """Log why a message failed; SQS redelivers it."""
    log_line(
        settings,
        "message failed",
        level="error",
        message_id=message_id,
        error=type(error).__name__,
        detail=str(error),
    )


def log_run(settings: Settings, run: Run) -> None:
    """Log a run that was closed or held, with its counts as metrics by dataset."""
    is_held = run.state is RunState.HELD
    values = {f"Predictions{name.capitalize()}": value for name, value in asdict(run.counts).items()}
    values |= {
        "RunsClosed": int(run.state is RunState.DONE),
        "RunsFailed": int(run.state is RunState.FAILED),
        "RunsHeld": int(is_held),
        "RunSeconds": ((run.ended_ms or run.held_ms or 0) - (run.started_ms or 0)) / 1000,
        "RejectRatio": run.counts.rejected / run.rows if run.rows else 0.0,
    }
    log_line(
        settings,
        "run held" if is_held else "run closed",
        level="error" if run.state is RunState.FAILED else "warning" if is_held else "info",
        run=run.run,
        state=run.state,
        object_key=run.object_key,
        rows=run.rows,
        reasons=run.reasons,
        shifts=run.shifts,
        error=run.error,
        **_metrics(settings, run.dataset, values),
    )


def log_swept(settings: Settings, dataset: str, outputs: int, unreadable: Sequence[str]) -> None:
    """Log the result of a sweep: the number of outputs without a run, and the errors of outputs that can't be read."""
    level = "error" if unreadable else "info"
    log_line(settings, "swept", level=level, dataset=dataset, outputs=outputs, unreadable=list(unreadable[:10]))


def log_pending(
    settings: Settings,
    dataset: str,
    pending: Sequence[Pending],
    held: Sequence[Held],
    runs: Sequence[Run],
    now: float,
) -> None:
    """Log how long a dataset's oldest pending and held outputs have waited, and when its last output was published.

    Each is 0 if there is none: alarms need data points at all times, and a new dataset is not stale. `runs` are the
    newest ones; if none of them published an output, the oldest of them gives a lower bound.
    """
    waited = max((now - each.queued_ms / 1000 for each in pending), default=0.0)
    stood = max((now - each.held_ms / 1000 for each in held), default=0.0)
    published = [
        run.ended_ms for run in runs if run.state is RunState.DONE and run.kind is Kind.OUTPUT and run.ended_ms
    ]
    last = max(published) if published else min((run.queued_ms for run in runs), default=now * 1000)
    values = {
        "OldestPendingSeconds": max(waited, 0.0),
        "OldestHeldSeconds": max(stood, 0.0),
        "HoursSinceOutput": max(now - last / 1000, 0.0) / 3600,
    }
    log_line(settings, "pending", **_metrics(settings, dataset, values))


def log_unsent(settings: Settings, dataset: str, unsent: Sequence[OutboxEntry], now: float) -> None:
    """Log how long the oldest event in a dataset's outbox has waited; 0 if there is none."""
    waited = max((now - each.at_ms / 1000 for each in unsent), default=0.0)
    values = {"OldestUnsentEventSeconds": max(waited, 0.0)}
    log_line(settings, "outbox", unsent=len(unsent), **_metrics(settings, dataset, values))


def _metrics(settings: Settings, dataset: str, values: Mapping[str, float]) -> dict[str, Any]:
    """Build the members from which CloudWatch extracts metrics: over all datasets, and by dataset."""
    dimensions = {"Service": SERVICE, "Environment": settings.environment, "Dataset": dataset}
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["Service", "Environment"], ["Service", "Environment", "Dataset"]],
        "Metrics": [{"Name": name, "Unit": _unit(name)} for name in values],
    }
    return {
        **dimensions,
        **values,
        "_aws": {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]},
    }


def _unit(name: str) -> str:
    if name.endswith("Seconds"):
        return "Seconds"
    return "None" if name.startswith("Hours") or name.endswith("Ratio") else "Count"
