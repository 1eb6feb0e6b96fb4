"""Keep a dataset's fingerprints on S3, and know whether they tell what the table holds. I/O on S3 and DynamoDB."""

from __future__ import annotations

from enum import Enum, auto

from botocore.exceptions import ClientError

from enrich.active import Active
from enrich.delta import Delta
from enrich.edges import Edges


def fetch_table_id(edges: Edges) -> str:
    """Fetch the table's id: a table that was restored or made anew has another one."""
    table = edges.dynamodb.describe_table(TableName=edges.settings.table)["Table"]
    return table.get("TableId") or table["TableArn"]


class Told(Enum):
    """What fingerprints tell about the table."""

    ALL = auto()
    ORDERS = auto()  # another table, or an older state of it: which order confirmed an item last, but no body
    NOTHING = auto()  # they are gone, or of another format


def read_fingerprints(active: Active, delta: Delta, object_key: str | None, table_id: str) -> Told:
    """Load fingerprints into `delta`, and tell what they are good for. Where there were none yet, they tell all."""
    if object_key is None:
        return Told.ALL
    try:
        answer = active.edges.s3.get_object(Bucket=active.edges.settings.bucket, Key=object_key)
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return Told.NOTHING
        raise
    path = active.scratch / "known.parquet"
    with path.open("wb") as file:
        for block in answer["Body"].iter_chunks(1 << 20):
            file.write(block)
    written_for = delta.load_known(path)
    if written_for is None:
        return Told.NOTHING
    if written_for != table_id:
        delta.forget_bodies()
        return Told.ORDERS
    return Told.ALL


def write_fingerprints(active: Active, delta: Delta, table_id: str) -> str:
    """Write the merged fingerprints and return their object key, which only the closing commit makes the dataset's."""
    object_key = f"fingerprints/{active.dataset.name}/{active.run.run:08d}-{active.run.attempts:02d}.parquet"
    path = delta.export_merged(table_id)
    active.edges.s3.upload_file(str(path), active.edges.settings.bucket, object_key)
    return object_key
