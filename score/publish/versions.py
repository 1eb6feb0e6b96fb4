"""Versions of models on S3. The manifest is written last: without it a version does not exist.

A version is written once, and its name is a digest of the file; so a publish that was killed at any point can be
repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from score.manifest import Manifest, ManifestError, dump_manifest, parse_manifest
from score.paths import PREFIX, VERSION, manifest_key, model_key, versions_prefix
from score.publish.errors import Refused

# S3 responds 412 if the condition of a write is not met, and 409 if another write of the object is in progress.
PRECONDITION = ("PreconditionFailed", "412")
CONFLICT = ("ConditionalRequestConflict", "409")
MISSING = ("NoSuchKey", "NoSuchBucket", "404", "NotFound")
_INTERPRETATION = ("task", "labels", "inputs", "output")  # members that decide what the file's numbers mean


class Stored(NamedTuple):
    """An object that was read: its bytes, and its ETag for a conditional write."""

    body: bytes
    etag: str


def read_object(s3: Any, bucket: str, object_key: str) -> Stored | None:
    """Read an object; None if there is none.

    Raises:
        Refused: the bucket does not exist.
    """
    try:
        found = s3.get_object(Bucket=bucket, Key=object_key)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "NoSuchBucket":
            raise Refused(f"s3://{bucket}: there is no such bucket; give the stack's with --bucket") from error
        if code in MISSING:
            return None
        raise
    return Stored(found["Body"].read(), found["ETag"])


def write_version(s3: Any, bucket: str, manifest: Manifest, model_bytes: bytes) -> bool:
    """Write a version if it does not exist; return whether it was written.

    Raises:
        Refused: the object exists with other bytes, or the version exists with other labels, inputs or another task.
    """
    model, version = manifest.model, manifest.version
    _write_once(s3, bucket, model_key(model, version), model_bytes, "application/octet-stream")
    place = manifest_key(model, version)
    if put_if(s3, bucket, place, dump_manifest(manifest), if_none_match=True):
        return True
    found = read_manifest(s3, bucket, model, version)
    for member in _INTERPRETATION:
        if getattr(found, member) != getattr(manifest, member):
            raise Refused(
                f"s3://{bucket}/{place}: exists with another {member!r}; a version is written once: delete it, and "
                "publish again"
            )
    return False  # published before, e.g. by a command whose response was lost


def read_manifest(s3: Any, bucket: str, model: str, version: str) -> Manifest:
    """Read the manifest of a version.

    Raises:
        Refused: there is none, or it is invalid.
    """
    place = manifest_key(model, version)
    found = read_object(s3, bucket, place)
    if found is None:
        known = ", ".join(list_versions(s3, bucket, model)) or "none"
        raise Refused(f"s3://{bucket}/{place}: there is no such version; the versions are {known}")
    try:
        manifest = parse_manifest(found.body, f"s3://{bucket}/{place}")
    except ManifestError as error:
        raise Refused(f"{error}; publish the model again, or choose another version") from error
    if (manifest.model, manifest.version) != (model, version):
        raise Refused(f"s3://{bucket}/{place}: is the manifest of {manifest.model} {manifest.version}; publish again")
    return manifest


def read_model(s3: Any, bucket: str, manifest: Manifest) -> bytes:
    """Read the ONNX file of a version, and check its size and SHA-256.

    Raises:
        Refused: there is none, or it is another file.
    """
    place = model_key(manifest.model, manifest.version)
    found = read_object(s3, bucket, place)
    if found is None:
        raise Refused(f"s3://{bucket}/{place}: there is no such object; publish the model again")
    if len(found.body) != manifest.size or sha256(found.body).hexdigest() != manifest.sha256:
        raise Refused(
            f"s3://{bucket}/{place}: found {len(found.body):,} bytes with another SHA-256 than in the manifest "
            f"({manifest.size:,} bytes): it was overwritten; delete the version, and publish the model again"
        )
    return found.body


def list_models(s3: Any, bucket: str) -> list[str]:
    """List the models that have a version or an alias."""
    return [name.removeprefix(PREFIX).rstrip("/") for name in _list_folders(s3, bucket, PREFIX)]


def list_versions(s3: Any, bucket: str, model: str) -> list[str]:
    """List the versions of a model that have a manifest, in the order of their names."""
    prefix = versions_prefix(model)
    names = [name.removeprefix(prefix).rstrip("/") for name in _list_folders(s3, bucket, prefix)]
    return [name for name in names if VERSION.match(name) and _exists(s3, bucket, manifest_key(model, name))]


def put_if(
    s3: Any, bucket: str, object_key: str, body: bytes, *, if_none_match: bool = False, if_match: str | None = None
) -> bool:
    """Write an object if it does not exist, or only if it has an ETag; return whether it now has these bytes.

    If the response to a write is lost, the SDK sends it again and the condition fails; so the bytes are compared.
    """
    condition: dict[str, str] = {"IfNoneMatch": "*"} if if_none_match else {"IfMatch": if_match or ""}
    for attempt in range(5):
        try:
            s3.put_object(Bucket=bucket, Key=object_key, Body=body, ContentType="application/json", **condition)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NoSuchBucket":
                raise Refused(f"s3://{bucket}: there is no such bucket; give the stack's with --bucket") from error
            if code in CONFLICT and attempt < 4:
                continue
            if code not in (*PRECONDITION, *CONFLICT, *MISSING):
                raise
            found = read_object(s3, bucket, object_key)
            return found is not None and found.body == body
        return True
    return False


def _write_once(s3: Any, bucket: str, object_key: str, body: bytes, content_type: str) -> None:
    try:
        s3.put_object(Bucket=bucket, Key=object_key, Body=body, ContentType=content_type, IfNoneMatch="*")
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "NoSuchBucket":
            raise Refused(f"s3://{bucket}: there is no such bucket; give the stack's with --bucket") from error
        if code not in (*PRECONDITION, *CONFLICT):
            raise
        found = read_object(s3, bucket, object_key)
        if found is None or found.body != body:
            raise Refused(
                f"s3://{bucket}/{object_key}: exists with other bytes than expected; delete it, and publish again"
            ) from error


def _exists(s3: Any, bucket: str, object_key: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=object_key)
    except ClientError as error:
        if error.response["Error"]["Code"] in MISSING:
            return False
        raise
    return True


def _list_folders(s3: Any, bucket: str, prefix: str) -> Iterator[str]:
    more: dict[str, str] = {}
    while True:
        try:
            page = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/", **more)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchBucket":
                raise Refused(f"s3://{bucket}: there is no such bucket; give the stack's with --bucket") from error
            raise
        yield from (each["Prefix"] for each in page.get("CommonPrefixes", []))
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}
