"""Keep a dataset's fingerprints on S3, and know whether they tell what the table holds. I/O on S3 and DynamoDB."""

from __future__ import annotations

from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from enrich.delta.changes import Delta
from enrich.s3 import download

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client


def fetch_table_id(dynamodb: DynamoDBClient, table: str) -> str:
    """Fetch the table's id: a table that was restored or made anew has another one."""
    described = dynamodb.describe_table(TableName=table)["Table"]
    return described.get("TableId") or described["TableArn"]


class FingerprintTrust(Enum):
    """What fingerprints tell about the table."""

    ALL = auto()
    ORDERS = auto()  # another table, or an older state of it: which order confirmed an item last, but no body
    NOTHING = auto()  # they are gone, or of another format


def read_fingerprints(
    s3: S3Client, bucket: str, object_key: str | None, delta: Delta, *, table_id: str, scratch: Path
) -> FingerprintTrust:
    """Load fingerprints into `delta`, and return how far they can be trusted. No file yet: fully."""
    if object_key is None:
        return FingerprintTrust.ALL
    path = scratch / "known.parquet"
    if not download(s3, bucket, object_key, path):
        return FingerprintTrust.NOTHING
    written_for = delta.load_known(path)
    if written_for is None:
        return FingerprintTrust.NOTHING
    if written_for != table_id:
        delta.forget_bodies()
        return FingerprintTrust.ORDERS
    return FingerprintTrust.ALL


def write_fingerprints(s3: S3Client, bucket: str, object_key: str, delta: Delta, table_id: str) -> None:
    """Write the merged fingerprints; only the commit that closes the run makes them the dataset's."""
    s3.upload_file(str(delta.export_merged(table_id)), bucket, object_key)
