"""Write what a query leaves on S3: the CSV of a SELECT, the Parquet and the manifest of an UNLOAD. An edge."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from infra.local.athena.errors import QueryFailedError
from infra.local.athena.statement import Unload
from infra.local.athena.values import column_texts

ROWS_PER_FILE = 1_000_000


def write_csv(s3: Any, location: str, names: list[str], texts: list[list[str | None]]) -> None:
    """Write a result as Athena does: a header, each value quoted, null as nothing at all.

    Args:
        s3: a boto3 S3 client.
        location: the object, `s3://bucket/key.csv`.
        names: the columns.
        texts: per column, the values.
    """
    lines = [",".join(map(_quote, names))]
    lines += [",".join(map(_quote, row)) for row in zip(*texts, strict=True)]
    _put(s3, location, ("\n".join(lines) + "\n").encode())


def write_unload(s3: Any, unload: Unload, query_id: str, rows: pa.Table) -> list[str]:
    """Write the rows of an UNLOAD as Parquet below its location; no rows, no file.

    Returns:
        The objects written, as `s3://` locations.

    Raises:
        QueryFailedError: something lies below the location already.
    """
    place = urlsplit(unload.location)
    try:
        found = s3.list_objects_v2(Bucket=place.netloc, Prefix=place.path.lstrip("/"), MaxKeys=1)
    except ClientError as error:
        raise QueryFailedError(f"HIVE_FILESYSTEM_ERROR: {unload.location}: {error}") from error
    if found.get("Contents"):
        raise QueryFailedError(f"HIVE_PATH_ALREADY_EXISTS: Target directory already exists: {unload.location}")
    written = []
    for number, first in enumerate(range(0, rows.num_rows, ROWS_PER_FILE)):
        content = io.BytesIO()
        part = rows.slice(first, ROWS_PER_FILE)
        # Trino's Hive writer has timestamps as INT96, so a reader of ours meets them as nanoseconds.
        pq.write_table(part, content, compression=unload.codec, use_deprecated_int96_timestamps=True)
        location = f"{unload.location}{query_id.replace('-', '_')}_{number:05d}"
        _put(s3, location, content.getvalue())
        written.append(location)
    return written


def write_manifest(s3: Any, location: str, written: list[str]) -> None:
    """Write the list of what an UNLOAD wrote, a location a line."""
    _put(s3, location, "".join(f"{line}\n" for line in written).encode())


def texts_of(rows: pa.Table) -> list[list[str | None]]:
    """Render all columns of a result."""
    return [column_texts(column) for column in rows.columns]


def _quote(value: str | None) -> str:
    return "" if value is None else '"' + value.replace('"', '""') + '"'


def _put(s3: Any, location: str, content: bytes) -> None:
    place = urlsplit(location)
    try:
        s3.put_object(Bucket=place.netloc, Key=place.path.lstrip("/"), Body=content)
    except ClientError as error:
        raise QueryFailedError(f"Unable to write to {location}: {error}") from error
