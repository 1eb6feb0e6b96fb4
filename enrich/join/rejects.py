"""Write rejected predictions to S3 with their reasons, so that they can be replayed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from enrich.dataset.source_sql import KEPT_PARTITIONS, KEPT_PROBLEM, PREDICTION
from enrich.join.engine import Engine

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def build_prefix(dataset: str, run: int) -> str:
    """Return the prefix of a run's rejects."""
    return f"rejects/{dataset}/{run:08d}/"


def write_rejects(
    s3: S3Client, bucket: str, prefix: str, engine: Engine, chunk: pa.RecordBatch, rendered: pa.Table, first_row: int
) -> dict[str, int]:
    """Write the rejects of one chunk; return their number by reason.

    The file is named by the chunk's range of rows, so that a restarted run overwrites it. Each line is a JSON object:
    row, reason, detail, prediction (the original row), and where they apply `partitions` and `problem`
    (`enrich.dataset.source_sql`).
    """
    rejected = rendered.filter(pc.is_valid(rendered["reason"]))
    if rejected.num_rows == 0:
        return {}
    rows = rejected["row"].to_pylist()
    reasons = rejected["reason"].to_pylist()
    indexes = [row - first_row for row in rows]
    originals = engine.originals(chunk, indexes)
    problems = engine.problems(chunk, indexes)
    partitions = engine.partitions(chunk)
    of_all = {KEPT_PARTITIONS: partitions} if partitions else {}
    details = rejected["detail"].to_pylist()
    lines = io.BytesIO()
    for row, reason, detail, problem, original in zip(rows, reasons, details, problems, originals, strict=True):
        line = {"row": row, "reason": reason, "detail": detail, **of_all, PREDICTION: orjson.Fragment(original)}
        if problem is not None:
            line[KEPT_PROBLEM] = problem
        lines.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    last_row = first_row + chunk.num_rows - 1
    s3.put_object(Bucket=bucket, Key=f"{prefix}{first_row:012d}-{last_row:012d}.jsonl", Body=lines.getvalue())
    return count_reasons(rejected)


def count_reasons(rendered: pa.Table) -> dict[str, int]:
    """Count the rejects of a chunk by reason."""
    counted = pc.value_counts(rendered["reason"].drop_null())
    return {entry["values"]: entry["counts"] for entry in counted.to_pylist()}


def add_reasons(some: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Add two counts by reason."""
    return {reason: some.get(reason, 0) + more.get(reason, 0) for reason in some | more}
