"""List, get, put and download objects on S3."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BLOCK_BYTES = 1 << 20  # of a download, read at a time


def list_objects(s3: S3Client, bucket: str, prefix: str) -> Iterator[Any]:
    """List the entries under a prefix (`Key`, `Size`, `ETag`, `LastModified`), in the order of their keys."""
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    while True:
        page = s3.list_objects_v2(**request)
        yield from page.get("Contents", [])
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def list_keys(s3: S3Client, bucket: str, prefix: str) -> list[str]:
    """List every object key under a prefix."""
    return [entry["Key"] for entry in list_objects(s3, bucket, prefix)]


def exists(s3: S3Client, bucket: str, prefix: str) -> bool:
    """Return whether there is any object under a prefix, or at an object key."""
    return bool(s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents"))


def get(s3: S3Client, bucket: str, object_key: str) -> bytes:
    """Get a small object."""
    return s3.get_object(Bucket=bucket, Key=object_key)["Body"].read()


def get_if_exists(s3: S3Client, bucket: str, object_key: str) -> bytes | None:
    """Get a small object; None if there is none."""
    body = _open(s3, bucket, object_key)
    return None if body is None else bytes(body.read())


def put(s3: S3Client, bucket: str, object_key: str, content: bytes) -> None:
    """Put a small object."""
    s3.put_object(Bucket=bucket, Key=object_key, Body=content)


def download(s3: S3Client, bucket: str, object_key: str, path: Path) -> bool:
    """Download an object to a file, block by block; return whether it exists."""
    body = _open(s3, bucket, object_key)
    if body is None:
        return False
    with path.open("wb") as file:
        for block in body.iter_chunks(BLOCK_BYTES):
            file.write(block)
    return True


def delete(s3: S3Client, bucket: str, object_keys: Collection[str]) -> list[str]:
    """Delete objects, 1,000 per request; return the object key and the error of each that S3 refused to delete."""
    refused, ordered = [], sorted(object_keys)
    for first in range(0, len(ordered), 1000):
        objects: list[Any] = [{"Key": object_key} for object_key in ordered[first : first + 1000]]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        refused += [f"{each.get('Key')}: {each.get('Code')}" for each in answer.get("Errors", [])]
    return refused


def split_location(location: str) -> tuple[str, str]:
    """Split "s3://bucket/prefix/" into bucket and prefix."""
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    return bucket, prefix


def _open(s3: S3Client, bucket: str, object_key: str) -> Any:
    """Open an object for reading; None if there is none."""
    try:
        return s3.get_object(Bucket=bucket, Key=object_key)["Body"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return None
        raise
