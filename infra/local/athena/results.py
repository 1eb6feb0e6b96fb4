"""Write the Parquet files and the manifest of an UNLOAD to S3."""

from __future__ import annotations

import io
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from infra.local.athena.errors import QueryFailedError
from infra.local.athena.statement import Unload

ROWS_PER_FILE = 1_000_000


def write_unload(s3: Any, unload: Unload, query_id: str, rows: pa.Table) -> list[str]:
    """Write the rows of an UNLOAD as Parquet files below its location; without rows no file is written.

    Returns:
        The objects written, as `s3://` locations.

    Raises:
        QueryFailedError: there are already objects below the location, or S3 refuses the request.
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
        # Trino's Hive writer writes timestamps as INT96, which pyarrow reads as nanoseconds.
        pq.write_table(part, content, compression=unload.codec, use_deprecated_int96_timestamps=True)
        location = f"{unload.location}{query_id.replace('-', '_')}_{number:05d}"
        _put(s3, location, content.getvalue())
        written.append(location)
    return written


def write_manifest(s3: Any, location: str, written: list[str]) -> None:
    """Write the list of the files of an UNLOAD, one location per line."""
    _put(s3, location, "".join(f"{line}\n" for line in written).encode())


def _put(s3: Any, location: str, content: bytes) -> None:
    place = urlsplit(location)
    try:
        s3.put_object(Bucket=place.netloc, Key=place.path.lstrip("/"), Body=content)
    except ClientError as error:
        raise QueryFailedError(f"Unable to write to {location}: {error}") from error
