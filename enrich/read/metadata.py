"""Fetch metadata: an Athena query writes Parquet to S3 (UNLOAD), which is read back as an Arrow table."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from enrich.dataset.arrow_types import find_problem
from enrich.errors import Failed
from enrich.s3 import get, list_objects, put, split_location

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BATCH_ROWS = 2048  # a vector of DuckDB's; a few long texts, stored once, may make very many bytes of rows
_SYSTEM = 1  # ErrorCategory of Athena's own faults; 2 is the user's, 3 any other
EMPTY = "empty.parquet"  # the columns of a query that found no rows: UNLOAD writes no file then


class QueryFailed(Exception):
    """Athena failed, cancelled or refused a query; the message is Athena's reason.

    Attributes:
        is_transient: the fault is Athena's own, or Athena says that the query may succeed if it is sent again.
    """

    def __init__(self, reason: str, *, is_transient: bool = False) -> None:
        super().__init__(reason)
        self.is_transient = is_transient


class Athena:
    """Runs metadata queries side by side; takes a function that opens a PyAthena connection, at the first query.

    A query is started and asked for, and not waited for: it outlives the invocation that started it.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None

    def start(self, sql: str, location: str) -> str:
        """Start to write the rows of a query to a fresh S3 location, as Parquet; return the id of its execution.

        Raises:
            QueryFailed: Athena refuses the query.
        """
        connection = self._open()
        where: dict[str, Any] = {"WorkGroup": connection.work_group} if connection.work_group else {}
        # PyAthena's cursors wait for a query, and its ArrowCursor reads S3 through a file system that ignores
        # AWS_ENDPOINT_URL; its connection has the client, the workgroup and the place for results.
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
        """Return whether a query has ended well; False while it is queued or running.

        Raises:
            QueryFailed: it failed or was cancelled, or Athena does not know it any more.
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
        """Stop a query of which the result is not needed any more; one that has ended stays as it is."""
        self._open().client.stop_query_execution(QueryExecutionId=query_id)

    def _open(self) -> Any:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection


def _refused(error: ClientError) -> Exception:
    """Distinguish a query that Athena refuses from an Athena that is unavailable."""
    refused = error.response["Error"]["Code"] == "InvalidRequestException"
    return QueryFailed(error.response["Error"].get("Message", "")) if refused else error


def digest_sql(sql: str) -> str:
    """Digest a query, to find out whether rows that were fetched earlier are an answer to it."""
    return hashlib.sha256(sql.encode()).hexdigest()[:16]


def has_rows(s3: S3Client, location: str) -> bool:
    """Return whether a query that has ended found any rows: UNLOAD writes no file, and so no columns, for none."""
    return bool(_list_files(s3, *split_location(location)))


def build_columns_sql(sql: str) -> str:
    """Build a query for the columns of another one: it finds one row, of nulls, at no scan."""
    return f"SELECT q.* FROM (VALUES 1) AS one (n) LEFT JOIN (SELECT * FROM ({sql}) LIMIT 0) AS q ON true"


def save_columns(s3: S3Client, columns: str, location: str) -> None:
    """Save what `build_columns_sql` wrote to `columns` as rows at `location`: none of them, but their columns."""
    bucket, prefix = split_location(columns)
    (file,) = _list_files(s3, bucket, prefix)
    buffer = io.BytesIO()
    pq.write_table(pq.read_schema(io.BytesIO(get(s3, bucket, file))).empty_table(), buffer)
    bucket, prefix = split_location(location)
    put(s3, bucket, prefix + EMPTY, buffer.getvalue())


def read_metadata(s3: S3Client, locations: Mapping[str, str], *, max_bytes: int) -> dict[str, pa.Table]:
    """Read fetched metadata back as Arrow tables, by name.

    Raises:
        Failed: files are gone, hold a value that the engine would misread, or the tables
            would take more than `max_bytes` of memory together, which is found out before
            they do.
    """
    tables: dict[str, pa.Table] = {}
    for name, location in locations.items():
        room = max_bytes - sum(table.nbytes for table in tables.values())
        try:
            tables[name] = _read_table(s3, name, location, room)
        except _TooLarge:
            others = f" beside {', '.join(tables)}" if tables else ""
            raise Failed(
                f"metadata {name!r} does not fit{others} into the {max_bytes >> 20} MB that a run can hold of it; "
                "filter its query to what is used, or join in Athena and feed the result as the output"
            ) from None
    return tables


class _TooLarge(Exception):
    """There is no room for it."""


def _read_table(s3: S3Client, name: str, location: str, room: int) -> pa.Table:
    bucket, prefix = split_location(location)
    files = _list_files(s3, bucket, prefix)
    if not files:
        raise Failed(f"metadata {name!r}: {location} has no files any more; replay the output to fetch it again")
    if sum(files.values()) > room:  # compressed; there is no need to look inside
        raise _TooLarge
    pieces: list[pa.Table] = []
    for object_key in files:
        with tempfile.TemporaryFile() as file:
            for block in s3.get_object(Bucket=bucket, Key=object_key)["Body"].iter_chunks(1 << 20):
                file.write(block)
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, coerce_int96_timestamp_unit="us")
            batches: list[pa.RecordBatch] = []
            for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
                batches.append(batch)
                room -= batch.nbytes
                if room < 0:
                    raise _TooLarge
                _check_values(name, batch)
            pieces.append(pa.Table.from_batches(batches, parquet.schema_arrow))
    return pa.concat_tables(pieces, promote_options="permissive")


def _check_values(name: str, batch: pa.RecordBatch) -> None:
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        if problem := find_problem(values):
            raise Failed(f"metadata {name!r}: column {column!r} {problem}; convert it in the query, or filter its row")


def _list_files(s3: S3Client, bucket: str, prefix: str) -> dict[str, int]:
    """Return the object keys of the data, with their bytes."""
    found = {entry["Key"]: entry["Size"] for entry in list_objects(s3, bucket, prefix) if entry["Size"]}
    # Athena's own files beside the data (a manifest, say) are no rows
    return {key: size for key, size in found.items() if not key.endswith((".csv", ".metadata", ".txt"))}
