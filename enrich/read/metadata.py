"""Fetch metadata: an Athena query becomes Parquet on S3 (UNLOAD through PyAthena), and that becomes an Arrow table."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyathena.error import Error as PyAthenaError

from enrich.errors import Failed, Stopped
from enrich.s3 import list_objects, split_location

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_BATCH_ROWS = 2048  # a vector of DuckDB's; a few long texts, stored once, may make very many bytes of rows
EMPTY = "empty.parquet"  # the columns of a query that found no rows: UNLOAD writes no file then

# Athena's result types, as GetQueryResults names them, to Arrow's: only the columns of an empty result need it.
_TYPES: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "real": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}


class Athena:
    """Runs metadata queries; takes a function that opens a PyAthena connection, opened at the first query."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None

    def unload(self, sql: str, location: str) -> None:
        """Write the rows of a query to a fresh S3 location, as Parquet.

        Raises:
            PyAthenaError: the query failed, was cancelled or refused.
        """
        # ArrowCursor would do the same, but reads S3 through a file system that ignores AWS_ENDPOINT_URL.
        self._execute(f"UNLOAD ({sql}) TO '{location}' WITH (format = 'PARQUET', compression = 'SNAPPY')")

    def describe(self, sql: str) -> list[tuple[str, str]]:
        """Return the (name, Athena type) of each column of a query.

        Raises:
            PyAthenaError: the query failed, was cancelled or refused.
        """
        cursor = self._execute(f"SELECT * FROM ({sql}) LIMIT 0")
        return [(column[0], column[1]) for column in cursor.description or []]

    def _execute(self, sql: str) -> Any:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection.cursor().execute(sql)


def digest_sql(sql: str) -> str:
    """Digest a query, to tell whether rows that were fetched earlier are an answer to it."""
    return hashlib.sha256(sql.encode()).hexdigest()[:16]


def fetch_metadata(athena: Athena, s3: S3Client, name: str, sql: str, location: str) -> None:
    """Fetch the rows of one metadata query to `location` ("s3://bucket/prefix/"), which must be empty.

    Raises:
        Stopped: Athena failed, cancelled or refused the query; the message names the metadata and Athena's reason.
    """
    try:
        athena.unload(sql, location)
        bucket, prefix = split_location(location)
        if not _list_files(s3, bucket, prefix):
            schema = pa.schema([(column, _arrow_type(kind)) for column, kind in athena.describe(sql)])
            buffer = io.BytesIO()
            pq.write_table(schema.empty_table(), buffer)
            s3.put_object(Bucket=bucket, Key=prefix + EMPTY, Body=buffer.getvalue())
    except PyAthenaError as error:
        raise Stopped(f"metadata {name!r}: Athena did not answer the query: {error}") from error


def read_metadata(s3: S3Client, locations: Mapping[str, str], *, max_bytes: int) -> dict[str, pa.Table]:
    """Read fetched metadata back as Arrow tables, by name.

    Raises:
        Failed: files are gone, or the tables would take more than `max_bytes` of memory together, which is told before
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
                f"metadata {name!r} does not fit{others} into the {max_bytes >> 20} MB that a run may hold of it; "
                "filter its query to what is used, or join in Athena and feed the result as the output"
            ) from None
    return tables


class _TooLarge(Exception):
    """There is no room for it."""


def _read_table(s3: S3Client, name: str, location: str, room: int) -> pa.Table:
    bucket, prefix = split_location(location)
    files = _list_files(s3, bucket, prefix)
    if not files:
        raise Failed(f"metadata {name!r}: {location} holds no files any more; replay the output to fetch it anew")
    if sum(files.values()) > room:  # compressed; there is no need to look inside
        raise _TooLarge
    pieces: list[pa.Table] = []
    for object_key in files:
        with tempfile.TemporaryFile() as file:
            for block in s3.get_object(Bucket=bucket, Key=object_key)["Body"].iter_chunks(1 << 20):
                file.write(block)
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            batches: list[pa.RecordBatch] = []
            for batch in parquet.iter_batches(_BATCH_ROWS, use_threads=False):
                batches.append(batch)
                room -= batch.nbytes
                if room < 0:
                    raise _TooLarge
            pieces.append(pa.Table.from_batches(batches, parquet.schema_arrow))
    return pa.concat_tables(pieces, promote_options="permissive")


def _list_files(s3: S3Client, bucket: str, prefix: str) -> dict[str, int]:
    """Return the object keys of the data, with their bytes."""
    found = {entry["Key"]: entry["Size"] for entry in list_objects(s3, bucket, prefix) if entry["Size"]}
    # Athena's own files beside the data (a manifest, say) are no rows
    return {key: size for key, size in found.items() if not key.endswith((".csv", ".metadata", ".txt"))}


def _arrow_type(kind: str) -> pa.DataType:
    kind = kind.lower()
    if kind.startswith("decimal("):
        precision, scale = kind[len("decimal(") : -1].split(",")
        return pa.decimal128(int(precision), int(scale))
    return _TYPES.get(kind.partition("(")[0], pa.string())
