"""Find outputs on S3: which dataset an object belongs to (pure), and what an output is now (I/O on S3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from enrich.dataset.definition import Dataset
from enrich.read.s3_object import Part, raise_denied
from enrich.s3 import get, list_objects

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MAX_MANIFEST = 8 * 1024 * 1024  # bytes of a marker that are read as a manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What the model wrote in one go, as it lies on S3 now."""

    dataset: str
    bucket: str
    object_key: str  # of the object, or of the marker
    identity: str
    etag: str
    arrived_ms: int
    parts: tuple[Part, ...]
    missing: tuple[str, ...] = ()  # object keys that the manifest names and S3 has not

    @property
    def size(self) -> int:
        """Return the bytes of all parts."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True, slots=True)
class Listed:
    """An object that may be an output, as a listing shows it."""

    object_key: str
    etag: str
    arrived_ms: int


def find_dataset(datasets: Mapping[str, Dataset], object_key: str) -> Dataset | None:
    """Return the dataset whose output this object is or closes; None for anything else.

    Parts of a marker run, empty "folders" and names that begin with `_` or `.` (the temporary files of the tools that
    write outputs) start nothing.
    """
    prefixed = [dataset for dataset in datasets.values() if object_key.startswith(dataset.source.prefix)]
    if not prefixed:
        return None
    dataset = max(prefixed, key=lambda candidate: len(candidate.source.prefix))
    name = object_key.rpartition("/")[2]
    if dataset.source.marker:
        return dataset if name == dataset.source.marker else None
    below = object_key.removeprefix(dataset.source.prefix).split("/")
    return dataset if name and not any(step.startswith(("_", ".")) for step in below) else None


def fetch_output(s3: S3Client, dataset: Dataset, bucket: str, object_key: str) -> Output | None:
    """Fetch what the output is at this moment; None when it is gone.

    Identity: the object's version id, else its ETag and LastModified; for a marker run, the digest of its sorted parts
    and of the marker's own identity, since every empty `_SUCCESS` has the same ETag.

    Raises:
        Failed: it may not be read.
    """
    head = _head(s3, bucket, object_key)
    if head is None:
        return None
    part = _build_part(bucket, object_key, head)
    identity = f"{object_key}@{_identity(head)}"
    parts: tuple[Part, ...] = (part,)
    missing: tuple[str, ...] = ()
    if dataset.source.marker:
        prefix = object_key.rpartition("/")[0] + "/"
        parts = tuple(fetch_folder(s3, bucket, prefix))
        missing = _find_missing(prefix, _get_manifest(s3, part), parts)
        listed = "\n".join(f"{each.object_key} {each.version_id or each.etag} {each.size}" for each in parts)
        identity += "+" + hashlib.sha256(listed.encode()).hexdigest()[:32]
    return Output(
        dataset=dataset.name,
        bucket=bucket,
        object_key=object_key,
        identity=identity,
        etag=part.etag,
        arrived_ms=_milliseconds(head["LastModified"]),
        parts=parts,
        missing=missing,
    )


def fetch_listed(s3: S3Client, dataset: Dataset, bucket: str) -> Iterator[Listed]:
    """List the objects under the dataset's prefix that are or close an output."""
    for entry in list_objects(s3, bucket, dataset.source.prefix):
        if find_dataset({dataset.name: dataset}, entry["Key"]):
            yield Listed(entry["Key"], entry["ETag"], _milliseconds(entry["LastModified"]))


def fetch_folder(s3: S3Client, bucket: str, prefix: str) -> list[Part]:
    """Fetch every object under a prefix as a part, in the order of their keys; temporary files are none."""
    parts: list[Part] = []
    for entry in list_objects(s3, bucket, prefix):
        steps = entry["Key"].removeprefix(prefix).split("/")
        if not steps[-1] or any(step.startswith(("_", ".")) for step in steps):
            continue
        head = _head(s3, bucket, entry["Key"])
        if head is not None:
            parts.append(_build_part(bucket, entry["Key"], head))
    return parts


def render_parts(parts: Iterable[Part]) -> bytes:
    """Render pinned parts for the run's work folder."""
    return json.dumps([part._asdict() for part in parts]).encode()


def parse_parts(text: bytes) -> list[Part]:
    """Parse what `render_parts` rendered."""
    return [Part(**part) for part in json.loads(text)]


def _find_missing(prefix: str, manifest: list[str], parts: tuple[Part, ...]) -> tuple[str, ...]:
    """Names in a manifest are whole object keys, URLs of them, or relative to the marker's prefix."""
    there = {part.object_key for part in parts}
    bare = (name.partition("://")[2].partition("/")[2] if "://" in name else name.lstrip("/") for name in manifest)
    return tuple(name for name in bare if name not in there and prefix + name not in there)


def _get_manifest(s3: S3Client, marker: Part) -> list[str]:
    """Get the part names of a marker that is a manifest, as Hadoop's S3A committers write it; none of an empty one."""
    if not 0 < marker.size <= _MAX_MANIFEST:
        return []
    try:
        content = json.loads(get(s3, marker.bucket, marker.object_key))
    except ValueError:
        return []
    names = content.get("filenames", content.get("parts", [])) if isinstance(content, dict) else content
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _head(s3: S3Client, bucket: str, object_key: str) -> Any:
    try:
        return s3.head_object(Bucket=bucket, Key=object_key)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
            return None
        raise_denied(error, f"s3://{bucket}/{object_key}")
        raise


def _build_part(bucket: str, object_key: str, head: Any) -> Part:
    return Part(bucket, object_key, _version(head), head["ETag"], head["ContentLength"])


def _version(head: Any) -> str | None:
    version = head.get("VersionId")
    return None if version in {None, "null"} else str(version)


def _identity(head: Any) -> str:
    return _version(head) or f"{head['ETag'].strip(chr(34))}.{_milliseconds(head['LastModified'])}"


def _milliseconds(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)
