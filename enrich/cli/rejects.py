"""Read the rejects of a run from S3, for the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enrich.cli.table import Paint, plain, printable, render_table
from enrich.cli.terminal import render_counts
from enrich.dataset.source_sql import KEPT_PARTITIONS, PREDICTION
from enrich.join.rejects import build_prefix
from enrich.ledger.records import Run
from enrich.ledger.run_state import RunState

WIDTH = 100  # characters of a prediction's JSON


@dataclass(frozen=True, slots=True)
class Rejects:
    """Rejects of a run.

    Attributes:
        reasons: reason -> number of rejected predictions in the whole run.
        lines: the first rejects, as stored (`write_rejects`).
        unreadable: number of lines that are not JSON, because the file was edited by hand.
    """

    reasons: Mapping[str, int]
    lines: list[dict[str, Any]]
    unreadable: int = 0


def read_rejects(s3: Any, bucket: str, run: Run, *, limit: int, reason: str | None = None) -> Rejects:
    """Read up to `limit` rejects of a run, in the order of its rows.

    Args:
        s3: a boto3 client, or a view of one.
        bucket: Larder's own bucket.
        run: a record of the ledger, which has the numbers by reason.
        limit: greatest number of lines to return.
        reason: only lines with this reason.
    """
    lines, unreadable = list[dict[str, Any]](), 0
    for object_key in _list_files(s3, bucket, build_prefix(run.dataset, run.run)) if limit else []:
        body = s3.get_object(Bucket=bucket, Key=object_key)["Body"]
        try:
            for line in body.iter_lines():
                try:
                    found = json.loads(line)
                except ValueError:
                    unreadable += 1
                    continue
                if reason is None or found.get("reason") == reason:
                    lines.append(found)
                if len(lines) == limit:
                    return Rejects(run.reasons, lines, unreadable)
        finally:
            body.close()
    return Rejects(run.reasons, lines, unreadable)


def _list_files(s3: Any, bucket: str, prefix: str) -> list[str]:
    """List the files, in the order of their rows."""
    found: list[str] = []
    more: dict[str, Any] = {}
    while True:
        page = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, **more)
        found += [entry["Key"] for entry in page.get("Contents", [])]
        if not page.get("IsTruncated"):
            return sorted(found)
        more = {"ContinuationToken": page["NextContinuationToken"]}


def describe_rejects(run: Run, rejects: Rejects) -> dict[str, Any]:
    """Return rejects as JSON values."""
    return {"dataset": run.dataset, "run": run.run, "reasons": dict(rejects.reasons), "rejects": rejects.lines}


def render_rejects(run: Run, rejects: Rejects, bucket: str, paint: Paint = plain) -> str:
    """Render rejects as a table, with the command that replays them."""
    total = sum(rejects.reasons.values())
    head = f"{run.dataset} run {run.run}: {total:,} of {run.rows or 0:,} predictions rejected"
    if not total:
        return head
    lines = [f"{head}: {render_counts(rejects.reasons)}"]
    if run.state in {RunState.HELD, RunState.REJECTED}:
        return "\n".join([*lines, "none is stored: nothing of the output was published"])
    if rejects.lines:
        lines += ["", render_lines(rejects.lines, paint)]
        lines.append(f"{len(rejects.lines):,} shown")
    else:
        lines.append("no stored reject matches: they have expired in the bucket, or none has this reason")
    if rejects.unreadable:
        lines.append(f"{rejects.unreadable:,} lines are not JSON and were left out: the files were changed by hand")
    location = f"s3://{bucket}/{build_prefix(run.dataset, run.run)}"
    lines += ["", f"all of them: {location}", f"after a fix: ./larder replay {run.dataset} {location}"]
    return "\n".join(lines)


def render_lines(lines: list[dict[str, Any]], paint: Paint = plain) -> str:
    """Render stored rejects as a table, with the values from the object key that are not in the predictions."""
    shown = ["row", "reason", "detail"]
    of_row = [KEPT_PARTITIONS] if any(KEPT_PARTITIONS in each for each in lines) else []
    of_row.append(PREDICTION)
    rows = [[*map(each.get, shown), *(shorten(each.get(name)) for name in of_row)] for each in lines]
    return render_table([*shown, *of_row], rows, paint=paint)


def shorten(value: Any) -> str:
    """Render a value as JSON on one line of bounded length."""
    text = printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
