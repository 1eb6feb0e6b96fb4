"""Tell what happened: one JSON line per event, and metrics in CloudWatch's embedded format, on standard output."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Any

from enrich.events import Message
from enrich.records import Run
from enrich.settings import Settings

NAMESPACE = "Larder"
COUNTS = ("written", "unchanged", "superseded", "expired", "rejected", "removed")


def log_line(settings: Settings, event: str, **members: Any) -> None:
    """Print one event; members are JSON values, and hold no predictions."""
    line = {"service": "enrich", "environment": settings.environment, "event": event, **members}
    print(json.dumps(line, default=str), file=sys.stdout, flush=True)  # noqa: T201 - a Lambda's log is its standard output


def log_failure(settings: Settings, message: Message, error: Exception) -> None:
    """Print why a message has to come again."""
    log_line(
        settings,
        "message failed",
        level="error",
        message_id=message.message_id,
        error=type(error).__name__,
        detail=str(error),
    )


def log_run(settings: Settings, run: Run) -> None:
    """Print a closed run, with its counts as metrics by dataset."""
    values = {f"Predictions{name.capitalize()}": value for name, value in asdict(run.counts).items()}
    values |= {
        "RunsClosed": int(run.state == "done"),
        "RunsFailed": int(run.state == "failed"),
        "RunSeconds": ((run.ended_ms or 0) - (run.started_ms or 0)) / 1000,
    }
    metrics = [{"Name": name, "Unit": "Seconds" if name == "RunSeconds" else "Count"} for name in values]
    log_line(
        settings,
        "run closed",
        level="error" if run.state == "failed" else "info",
        Environment=settings.environment,
        Dataset=run.dataset,
        run=run.run,
        state=run.state,
        object_key=run.object_key,
        rows=run.rows,
        reasons=run.reasons,
        error=run.error,
        **values,
        _aws={
            "Timestamp": int(time.time() * 1000),
            "CloudWatchMetrics": [
                {"Namespace": NAMESPACE, "Dimensions": [["Environment", "Dataset"]], "Metrics": metrics}
            ],
        },
    )
