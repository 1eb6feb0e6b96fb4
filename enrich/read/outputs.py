"""Find outputs on S3: which dataset an object belongs to (pure), and the present state of an output (I/O on S3)."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from botocore.exceptions import ClientError

from enrich.dataset.as_of import BadAsOf, FromKey, parse_as_of
from enrich.dataset.definition import Dataset
from enrich.read.s3_object import Part, raise_denied
from enrich.s3 import get, list_objects

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MAX_MANIFEST = 8 * 1024 * 1024  # bytes of a marker that are read as a manifest
HEADS_AT_ONCE = 32  # requests for the versions of many parts
_FEW = 1_000  # parts; up to so many are requested one after the other
_ONE_JOB_MS = 60_000  # between the first and the last file of one job, if only their arrival identifies the job
_HIDDEN = ("_", ".")  # first character of names that are not data: _SUCCESS, _temporary/, _delta_log/, .part-0.crc
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# Other names that are not data: folders of EMR and Glue, incomplete copies, checksums, the manifest of Redshift's
# UNLOAD (PREFIXmanifest), the manifest and the column types of an Athena query.
_LEFTOVER = re.compile(
    rf".*_\$folder\$|.*\.(_COPYING_|tmp|partial|crc|md5|sha1|sha256|sha512)|[^.]*manifest|{_UUID}(-manifest\.csv|(\.\w+)?\.metadata)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What the model wrote in one go, in its present state on S3."""

    dataset: str
    bucket: str
    object_key: str  # key of the object, or of the marker
    identity: str
    etag: str
    arrived_ms: int
    parts: tuple[Part, ...]
    listing: str = ""  # with a marker: digest of the parts as a listing shows them, which needs no request per part
    problems: tuple[str, ...] = ()  # differences between the parts and the manifest

    @property
    def size(self) -> int:
        """Return the bytes of all parts."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True, slots=True)
class Listed:
    """An object that can be an output, as a listing shows it; `listing` as in `Output`; `size`: bytes of all parts."""

    object_key: str
    etag: str
    arrived_ms: int
    listing: str = ""
    size: int = 0


def find_dataset(datasets: Mapping[str, Dataset], object_key: str) -> Dataset | None:
    """Return the dataset whose output this object is or closes; None for any other object.

    Parts of an output with a marker, empty "folders", and files that tools write beside an output start no run.
    """
    prefixed = [dataset for dataset in datasets.values() if object_key.startswith(dataset.source.prefix)]
    if not prefixed:
        return None
    dataset = max(prefixed, key=lambda candidate: len(candidate.source.prefix))
    below = object_key.removeprefix(dataset.source.prefix)
    if dataset.source.marker:
        folder, _, name = below.rpartition("/")
        return dataset if name == dataset.source.marker and not _is_hidden(folder) else None
    return dataset if is_data(below) else None


def is_data(below: str) -> bool:
    """Return whether an object can be an output or a part, by its key below the prefix or the marker's folder."""
    return not (below.endswith("/") or not below or _is_hidden(below) or _LEFTOVER.fullmatch(below.rpartition("/")[2]))


def _is_hidden(below: str) -> bool:
    return any(step.startswith(_HIDDEN) for step in below.split("/"))


def fetch_output(
    s3: S3Client, dataset: Dataset, bucket: str, object_key: str, *, step: Callable[[], object] = int
) -> Output | None:
    """Fetch the present state of an output; None if it no longer exists.

    Identity: the object's version id, otherwise its ETag and LastModified. With a marker, the digest of the sorted
    parts and the marker's own identity, since every empty `_SUCCESS` has the same ETag.

    `step` is called often while there are many parts.

    Raises:
        Failed: reading it is not allowed.
    """
    head = _head(s3, bucket, object_key)
    if head is None:
        return None
    part = _build_part(bucket, object_key, head)
    identity = f"{object_key}@{_identity(head)}"
    parts: tuple[Part, ...] = (part,)
    problems: tuple[str, ...] = ()
    listing = ""
    if dataset.source.marker:
        prefix = object_key.rpartition("/")[0] + "/"
        entries = _list_parts(s3, bucket, prefix, dataset.source.marker)
        listing = _digest("".join(map(_render_entry, entries)))
        parts = _fetch_parts(s3, bucket, entries, step)
        manifest = _get_manifest(s3, part)
        problems = tuple(_compare(prefix, manifest, parts))
        listed = "\n".join(f"{each.object_key} {each.version_id or each.etag} {each.size}" for each in parts)
        identity += "+" + _digest(listed)
        parts = _add_counts(prefix, manifest, parts)
    return Output(
        dataset=dataset.name,
        bucket=bucket,
        object_key=object_key,
        identity=identity,
        etag=part.etag,
        arrived_ms=_milliseconds(head["LastModified"]),
        parts=parts,
        listing=listing,
        problems=problems,
    )


def fetch_listed(s3: S3Client, dataset: Dataset, bucket: str) -> list[Listed]:
    """List the objects under the dataset's prefix that are or close an output, each with a digest of its parts."""
    found: list[Listed] = []
    folders: dict[str, Any] = {}  # folder -> the digest of the parts in it, listed so far
    sizes = Counter[str]()  # folder -> bytes of them
    for entry in list_objects(s3, bucket, dataset.source.prefix):
        if find_dataset({dataset.name: dataset}, entry["Key"]):
            arrived_ms = _milliseconds(entry["LastModified"])
            found.append(Listed(entry["Key"], entry["ETag"], arrived_ms, size=entry["Size"]))
        elif dataset.source.marker:
            for folder in _folders_of(entry["Key"], len(dataset.source.prefix)):
                folders.setdefault(folder, hashlib.sha256()).update(_render_entry(entry).encode())
                sizes[folder] += entry["Size"]
    if not dataset.source.marker:
        return found
    empty = hashlib.sha256()
    closed = [each.object_key.rpartition("/")[0] + "/" for each in found]
    return [
        replace(each, listing=folders.get(folder, empty).hexdigest()[:32], size=sizes[folder])
        for each, folder in zip(found, closed, strict=True)
    ]


def find_beside(
    s3: S3Client, dataset: Dataset, bucket: str, object_key: str, as_of: datetime, arrived_ms: int
) -> list[str]:
    """Return the keys of other outputs that seem to be parts of the same output, in a dataset without a marker.

    They have the same as_of in their keys. If keys have no as_of, they are in the same folder and arrived within a
    minute of this one.
    """
    rule = dataset.as_of
    folder = object_key.rpartition("/")[0] + "/"
    if isinstance(rule, FromKey):
        steps = folder.split("/")
        wider = ("/".join(steps[:n]) + "/" for n in range(1, len(steps)))
        within = (each for each in wider if each.startswith(dataset.source.prefix) and _is_of(rule, each, as_of))
        folder = next(within, folder)  # if the date is in the file's name: the file's folder
    found = []
    for entry in list_objects(s3, bucket, folder):
        if entry["Key"] == object_key or find_dataset({dataset.name: dataset}, entry["Key"]) is None:
            continue
        if isinstance(rule, FromKey):
            is_same = _is_of(rule, entry["Key"], as_of)
        else:
            apart = abs(_milliseconds(entry["LastModified"]) - arrived_ms)
            is_same = "/" not in entry["Key"].removeprefix(folder) and apart <= _ONE_JOB_MS
        if is_same:
            found.append(entry["Key"])
    return found


def _is_of(rule: FromKey, object_key: str, as_of: datetime) -> bool:
    try:
        return parse_as_of(rule, object_key) == as_of
    except BadAsOf:
        return False


def _folders_of(object_key: str, shortest: int) -> Iterator[str]:
    """Yield the folders of which an object can be a part, innermost first, with at least `shortest` characters."""
    folder, _, name = object_key.rpartition("/")
    while is_data(name) and len(folder) + 1 >= shortest:
        yield folder + "/"
        folder, _, name = folder.rpartition("/")


def fetch_folder(s3: S3Client, bucket: str, prefix: str) -> list[Part]:
    """Fetch every object under a prefix as a part, in the order of their keys, without temporary files."""
    return list(_fetch_parts(s3, bucket, _list_parts(s3, bucket, prefix), int))


def _list_parts(s3: S3Client, bucket: str, prefix: str, marker: str = "") -> list[Any]:
    """List the entries under a prefix that are parts; markers, also those of other outputs, are not."""
    found = []
    for entry in list_objects(s3, bucket, prefix):
        below = entry["Key"].removeprefix(prefix)
        if is_data(below) and below.rpartition("/")[2] != marker:
            found.append(entry)
    return found


def _fetch_parts(s3: S3Client, bucket: str, entries: Sequence[Any], step: Callable[[], object]) -> tuple[Part, ...]:
    """Head each part, since a listing does not have its version; of many parts, some at the same time.

    One after the other, the heads of 100,000 parts take longer than an invocation. In a bucket without versions, as
    the first part shows, a listing of many parts is enough.
    """

    def fetch(entry: Any) -> Any:
        return _head(s3, bucket, entry["Key"])

    def build(entries: Sequence[Any], heads: Iterable[Any]) -> Iterator[Part]:
        pairs = zip(entries, heads, strict=True)
        return (_build_part(bucket, entry["Key"], head) for entry, head in pairs if head is not None)

    if len(entries) <= _FEW:
        return tuple(build(entries, map(fetch, entries)))
    if "VersionId" not in (fetch(entries[0]) or {"VersionId": None}):
        return tuple(Part(bucket, entry["Key"], None, entry["ETag"], entry["Size"]) for entry in entries)
    parts: list[Part] = []
    with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
        for some in (entries[first : first + _FEW] for first in range(0, len(entries), _FEW)):
            parts += build(some, pool.map(fetch, some))
            step()
    return tuple(parts)


def _render_entry(entry: Any) -> str:
    """Render all that a listing shows of an object; versions are not shown."""
    return f"{entry['Key']} {entry['ETag']} {entry['Size']} {_milliseconds(entry['LastModified'])}\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def render_parts(parts: Iterable[Part]) -> bytes:
    """Render pinned parts for the run's work folder."""
    return json.dumps([part._asdict() for part in parts]).encode()


def parse_parts(text: bytes) -> list[Part]:
    """Parse the text that `render_parts` rendered."""
    return [Part(**part) for part in json.loads(text)]


class _Entry(NamedTuple):
    """The entry of a part in a manifest; None for what it does not have."""

    size: int | None = None
    rows: int | None = None
    may_lack: bool = False  # the part is optional


class _Manifest(NamedTuple):
    """The manifest in a marker. Names are complete object keys, their URLs, or relative to the marker's folder.

    Attributes:
        entries: the entry of each part, by its name.
        is_whole: the manifest names every part. Hadoop's S3A committers stop at 100.
        size: bytes of all parts; None if the manifest does not have it.
        rows: rows of all parts; None if the manifest does not have it.
    """

    entries: Mapping[str, _Entry]
    is_whole: bool = False
    size: int | None = None
    rows: int | None = None


def _find_part(prefix: str, name: str, there: Container[str]) -> str:
    """Return the object key that a name in a manifest means; for a missing part, the name as it is written."""
    bare = name.partition("://")[2].partition("/")[2] if "://" in name else name.lstrip("/")
    for written in (bare, unquote(bare)):
        for object_key in (written, prefix + written):
            if object_key in there:
                return object_key
    return bare


def _compare(prefix: str, manifest: _Manifest, parts: tuple[Part, ...]) -> Iterator[str]:
    """Yield the differences between the parts and the manifest, with remedies."""
    there = {part.object_key: part.size for part in parts}
    found = {_find_part(prefix, name, there): entry for name, entry in manifest.entries.items()}
    missing = [object_key for object_key, entry in found.items() if object_key not in there and not entry.may_lack]
    for object_key, entry in found.items():
        if object_key in there and entry.size is not None and there[object_key] != entry.size:
            yield f"declares {entry.size} bytes for {object_key}, which has {there[object_key]}; write both again"
    if missing:
        yield f"names {len(missing)} parts that do not exist, first {missing[0]}; write them, then the marker again"
    if manifest.is_whole and (more := sorted(there.keys() - found.keys())):
        what = f"{len(more)} parts that exist, first {more[0]}"
        yield f"does not name {what}; delete them, or write the marker again with them"
    if manifest.size is not None and manifest.size != (size := sum(there.values())):
        yield f"declares {manifest.size} bytes for all parts, which have {size}; write all of them again"


def _add_counts(prefix: str, manifest: _Manifest, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Add the numbers of rows in a manifest to its parts: they are checked when the parts are read."""
    there = {part.object_key for part in parts}
    rows = {_find_part(prefix, name, there): entry.rows for name, entry in manifest.entries.items()}
    counted = [part._replace(rows=rows.get(part.object_key)) for part in parts]
    return (*counted[:-1], *(part._replace(rows_so_far=manifest.rows) for part in counted[-1:]))


def _get_manifest(s3: S3Client, marker: Part) -> _Manifest:
    """Get the manifest in a marker; it has no entries if the marker is empty or of another kind.

    Known are the manifests of Redshift (`entries` with `url`, and `meta` if verbose), Hadoop (`filenames`) and
    SageMaker (a list that begins with a prefix), lists of names, also as `parts` or `files`, and one URL per line
    (Athena, and symlinks of Delta Lake).
    """
    if not 0 < marker.size <= _MAX_MANIFEST:
        return _Manifest({})
    text = get(s3, marker.bucket, marker.object_key)
    try:
        content = json.loads(text)
    except ValueError:
        lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
        is_list = bool(lines) and all("://" in line for line in lines)
        return _Manifest(dict.fromkeys(lines, _Entry()) if is_list else {}, is_list)
    if not isinstance(content, dict):
        return _Manifest(dict(_parse_entries(content)))
    is_whole = isinstance(content.get("entries"), list)
    listed = next((content[name] for name in ("entries", "filenames", "parts", "files") if name in content), None)
    meta = content.get("meta") if is_whole else None
    return _Manifest(
        dict(_parse_entries(listed)), is_whole, _get_count(meta, "content_length"), _get_count(meta, "record_count")
    )


def _parse_entries(content: Any) -> Iterator[tuple[str, _Entry]]:
    base = ""
    for entry in content if isinstance(content, list) else ():
        if isinstance(entry, str):
            yield base + entry, _Entry()
        elif isinstance(entry, dict) and isinstance(entry.get("prefix"), str):
            base = entry["prefix"]
        elif isinstance(entry, dict):
            names = (entry.get(name) for name in ("url", "key", "path", "name"))
            name = next((each for each in names if isinstance(each, str)), None)
            meta = entry.get("meta")
            size = _get_count(meta, "content_length") if isinstance(meta, dict) else _get_count(entry, "size")
            if name:
                yield name, _Entry(size, _get_count(meta, "record_count"), entry.get("mandatory") is False)


def _get_count(holder: Any, name: str) -> int | None:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


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
