"""Keep a dataset's fingerprints on S3, and know whether they tell what the table holds. I/O on S3 and DynamoDB."""

from __future__ import annotations

from enum import Enum, auto

from botocore.exceptions import ClientError

from enrich.delta.changes import Delta
from enrich.run.context import RunContext
from enrich.services import Services


def fetch_table_id(services: Services) -> str:
    """Fetch the table's id: a table that was restored or made anew has another one."""
    table = services.dynamodb.describe_table(TableName=services.settings.table)["Table"]
    return table.get("TableId") or table["TableArn"]


class FingerprintTrust(Enum):
    """What fingerprints tell about the table."""

    ALL = auto()
    ORDERS = auto()  # another table, or an older state of it: which order confirmed an item last, but no body
    NOTHING = auto()  # they are gone, or of another format


def read_fingerprints(context: RunContext, delta: Delta, object_key: str | None, table_id: str) -> FingerprintTrust:
    """Load fingerprints into `delta`, and tell what they are good for. Where there were none yet, they tell all."""
    if object_key is None:
        return FingerprintTrust.ALL
    try:
        answer = context.services.s3.get_object(Bucket=context.services.settings.bucket, Key=object_key)
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return FingerprintTrust.NOTHING
        raise
    path = context.scratch / "known.parquet"
    with path.open("wb") as file:
        for block in answer["Body"].iter_chunks(1 << 20):
            file.write(block)
    written_for = delta.load_known(path)
    if written_for is None:
        return FingerprintTrust.NOTHING
    if written_for != table_id:
        delta.forget_bodies()
        return FingerprintTrust.ORDERS
    return FingerprintTrust.ALL


def write_fingerprints(context: RunContext, delta: Delta, table_id: str) -> str:
    """Write the merged fingerprints and return their object key, which only the closing commit makes the dataset's."""
    object_key = f"fingerprints/{context.dataset.name}/{context.run.run:08d}-{context.run.attempts:02d}.parquet"
    path = delta.export_merged(table_id)
    context.services.s3.upload_file(str(path), context.services.settings.bucket, object_key)
    return object_key
