"""Fetch metadata: an Athena query writes Parquet to S3 (UNLOAD), which is read back as an Arrow table."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from enrich.dataset.arrow_types import find_problem
from enrich.errors import Failed
from enrich.s3 import get, list_objects, put, split_location

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BATCH_ROWS = 2048  # DuckDB's vector size; small, because long texts that are stored once can expand to many bytes
_SYSTEM = 1  # ErrorCategory of faults of Athena; 2: faults of the user, 3: others
EMPTY = "empty.parquet"  # the columns of a query that found no rows: UNLOAD writes no file then


class QueryFailed(Exception):
    """A query failed, was cancelled, or was refused by Athena; the message is Athena's reason.

    Attributes:
        is_transient: the fault is Athena's own, or Athena reports that the query can be retried.
    """

    def __init__(self, reason: str, *, is_transient: bool = False) -> None:
        super().__init__(reason)
        self.is_transient = is_transient


class Athena:
    """Runs metadata queries in parallel; takes a function that opens a PyAthena connection, called at the first query.

    Queries are started and polled, not waited for: a query can outlive the invocation that started it.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None

    def start(self, sql: str, location: str) -> str:
        """Start a query that writes its rows to a new S3 location, as Parquet; return the id of its execution.

        Raises:
            QueryFailed: Athena refuses the query.
        """
        connection = self._open()
        where: dict[str, Any] = {"WorkGroup": connection.work_group} if connection.work_group else {}
        # Of PyAthena only the connection is used, which has the client, the workgroup and the location of results: its
        # cursors wait for a query, and its ArrowCursor reads S3 through a file system that ignores AWS_ENDPOINT_URL.
        try:
            started = connection.client.start_query_execution(
                QueryString=f"UNLOAD ({sql}) TO '{location}' WITH (format = 'PARQUET', compression = 'SNAPPY')",
                ResultConfiguration={"OutputLocation": connection.s3_staging_dir},
                **where,
            )
        except ClientError as error:
            raise _refused(error) from error
        return str(started["QueryExecutionId"])

    def is_done(self, query_id: str) -> bool:
        """Return whether a query has succeeded; False while it is queued or running.

        Raises:
            QueryFailed: it failed or was cancelled, or Athena no longer has it.
        """
        try:
            found = self._open().client.get_query_execution(QueryExecutionId=query_id)
        except ClientError as error:
            raise _refused(error) from error
        status = found["QueryExecution"]["Status"]
        if status["State"] in {"FAILED", "CANCELLED"}:
            detail = status.get("AthenaError", {})
            is_transient = detail.get("Retryable", False) or detail.get("ErrorCategory") == _SYSTEM
            raise QueryFailed(status.get("StateChangeReason", status["State"]), is_transient=is_transient)
        return bool(status["State"] == "SUCCEEDED")

    def cancel(self, query_id: str) -> None:
        """Stop a query whose result is no longer needed; a query that has ended is not affected."""
        self._open().client.stop_query_execution(QueryExecutionId=query_id)

    def _open(self) -> Any:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection


def _refused(error: ClientError) -> Exception:
    """Distinguish a query that Athena refuses from an outage of Athena."""
    refused = error.response["Error"]["Code"] == "InvalidRequestException"
    return QueryFailed(error.response["Error"].get("Message", "")) if refused else error


def digest_sql(sql: str) -> str:
    """Digest a query, to decide whether rows that were fetched earlier are its result."""
    return hashlib.sha256(sql.encode()).hexdigest()[:16]


def has_rows(s3: S3Client, location: str) -> bool:
    """Return whether a query that has ended found any rows: without rows, UNLOAD writes no file, so no columns."""
    return bool(_list_files(s3, *split_location(location)))


def build_columns_sql(sql: str) -> str:
    """Build a query for the columns of another one: it returns one row of nulls and scans nothing."""
    return f"SELECT q.* FROM (VALUES 1) AS one (n) LEFT JOIN (SELECT * FROM ({sql}) LIMIT 0) AS q ON true"


def save_columns(s3: S3Client, columns: str, location: str) -> None:
    """Save a table without rows at `location`, with the columns that `build_columns_sql` wrote to `columns`."""
    bucket, prefix = split_location(columns)
    (file,) = _list_files(s3, bucket, prefix)
    buffer = io.BytesIO()
    pq.write_table(pq.read_schema(io.BytesIO(get(s3, bucket, file))).empty_table(), buffer)
    bucket, prefix = split_location(location)
    put(s3, bucket, prefix + EMPTY, buffer.getvalue())


def read_metadata(
    s3: S3Client, locations: Mapping[str, str], *, max_bytes: int, gathered: Mapping[str, pa.Table] | None = None
) -> dict[str, pa.Table]:
    """Read fetched metadata back as Arrow tables, by name. `gathered`: tables of some, which are not read.

    Raises:
        Failed: files no longer exist or have a value that DuckDB would misread.
        MetadataDoesNotFit: the tables together would take more than `max_bytes` of memory; reading stops before.
    """
    tables: dict[str, pa.Table] = {**(gathered or {})}
    for name, location in locations.items():
        if name in tables:
            continue
        room = max_bytes - sum(table.nbytes for table in tables.values())
        try:
            tables[name] = _read_table(s3, name, location, room)
        except _TooLarge:
            others = f" beside {', '.join(tables)}" if tables else ""
            raise MetadataDoesNotFit(
                f"metadata {name!r} does not fit{others} into the {max_bytes >> 20} MB that a run has for metadata; "
                "filter its query to what is used, execute the run on Spark, or join in Athena and use the result as "
                "the output"
            ) from None
    return tables


class MetadataDoesNotFit(Failed):
    """The metadata of a run takes more memory than one process has for it."""


class _TooLarge(Exception):
    """The metadata does not fit into the memory that is left."""


def list_metadata(s3: S3Client, name: str, location: str) -> dict[str, int]:
    """Return the object keys of a metadata's files, with their bytes.

    Raises:
        Failed: the files no longer exist.
    """
    files = _list_files(s3, *split_location(location))
    if not files:
        raise Failed(f"metadata {name!r}: {location} no longer has files; replay the output to fetch it again")
    return files


def _read_table(s3: S3Client, name: str, location: str, room: int) -> pa.Table:
    bucket, _ = split_location(location)
    files = list_metadata(s3, name, location)
    if sum(files.values()) > room:  # already too large compressed, so there is no need to read it
        raise _TooLarge
    pieces: list[pa.Table] = []
    for object_key in files:
        with open_metadata(s3, bucket, object_key) as parquet:
            batches: list[pa.RecordBatch] = []
            for batch in read_batches(name, parquet):
                batches.append(batch)
                room -= batch.nbytes
                if room < 0:
                    raise _TooLarge
            pieces.append(pa.Table.from_batches(batches, parquet.schema_arrow))
    return pa.concat_tables(pieces, promote_options="permissive")


@contextmanager
def open_metadata(s3: S3Client, bucket: str, object_key: str) -> Iterator[pq.ParquetFile]:
    """Download a file of a metadata to scratch disk, and open it."""
    with tempfile.TemporaryFile() as file:
        for block in s3.get_object(Bucket=bucket, Key=object_key)["Body"].iter_chunks(1 << 20):
            file.write(block)
        yield pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, coerce_int96_timestamp_unit="us")


def read_batches(name: str, parquet: pq.ParquetFile, rows: int = _BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file of a metadata.

    Raises:
        Failed: a value would be misread by DuckDB.
    """
    for batch in parquet.iter_batches(rows, use_threads=False):
        _check_values(name, batch)
        yield batch


def _check_values(name: str, batch: pa.RecordBatch) -> None:
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        if problem := find_problem(values):
            raise Failed(f"metadata {name!r}: column {column!r} {problem}; convert it in the query, or filter its row")


def _list_files(s3: S3Client, bucket: str, prefix: str) -> dict[str, int]:
    """Return the object keys of the data, with their bytes."""
    found = {entry["Key"]: entry["Size"] for entry in list_objects(s3, bucket, prefix) if entry["Size"]}
    # Athena's own files beside the data, e.g. a manifest, are not rows.
    return {key: size for key, size in found.items() if not key.endswith((".csv", ".metadata", ".txt"))}
