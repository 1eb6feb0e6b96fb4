"""A dataset's fingerprints on S3: one Parquet file, or a manifest of one file for each bucket of the key space.

For each live item a file has the digest of its key (128 bits), the digests of its body and of the body's inputs, the
order of the newest run that confirmed that body, and when the stored item expires. The file's metadata names its format
and the table that it describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from enrich.delta.buckets import EVERYTHING, Bucket
from enrich.delta.store import Store
from enrich.errors import Stopped

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

FORMAT = "3"  # a file of fingerprints
MANIFEST_FORMAT = "4"  # a manifest; a release that knows only format "1" treats it as an unknown format
SCHEMA = pa.schema(
    [
        ("k1", pa.uint64()),
        ("k2", pa.uint64()),
        ("digest", pa.uint64()),
        ("order", pa.string()),
        ("expires_at", pa.int64()),
        ("removed", pa.bool_()),
        ("pk", pa.string()),
        ("sk", pa.string()),
        ("inputs", pa.uint64()),  # null if unknown
    ]
)
_FILES, _MANIFESTS = {b"1", FORMAT.encode()}, {b"2", MANIFEST_FORMAT.encode()}  # 1 and 2 are without `inputs`
_MANIFEST_SCHEMA = pa.schema(
    [
        ("bits", pa.int8()),
        ("prefix", pa.int32()),
        ("rows", pa.int64()),
        ("least_expires_at", pa.int64()),
        ("object_key", pa.string()),
    ]
)
_WRITING = {
    "compression": {**dict.fromkeys(SCHEMA.names, "zstd"), **dict.fromkeys(("k1", "k2", "digest", "inputs"), "none")},
    "use_dictionary": ["order", "expires_at", "pk"],
}
_EMPTY = """(select null::ubigint as k1, null::ubigint as k2, null::ubigint as digest, null::varchar as "order",
    null::bigint as expires_at, null::boolean as removed, null::varchar as pk, null::varchar as sk,
    null::ubigint as inputs where false)"""


def fetch_table_id(dynamodb: DynamoDBClient, table: str) -> str:
    """Fetch the table's id; a table that was restored or created again has a new one."""
    described = dynamodb.describe_table(TableName=table)["Table"]
    return described.get("TableId") or described["TableArn"]


class FingerprintTrust(Enum):
    """How far fingerprints can be trusted to describe the table."""

    ALL = auto()
    ORDERS = auto()  # they describe another table, or an older state of it: orders are right, bodies are unknown
    NOTHING = auto()  # they do not exist any more, or have another format


class Part(NamedTuple):
    """The file of one bucket, on S3.

    `rows` is the number of its items, `least_expires_at` when the first of them expires (epoch seconds).
    """

    bucket: Bucket
    rows: int
    least_expires_at: int
    object_key: str


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Fingerprints on S3, by their parts; `object_key` is that of the manifest, or of the only file."""

    trust: FingerprintTrust
    object_key: str | None = None
    parts: Sequence[Part] = ()

    @property
    def rows(self) -> int:
        """The number of items."""
        return sum(part.rows for part in self.parts)

    @property
    def object_keys(self) -> set[str]:
        """The object keys of all their files."""
        return {part.object_key for part in self.parts} | ({self.object_key} if self.object_key else set())


NONE = Fingerprints(FingerprintTrust.NOTHING)


class Known:
    """Reads fingerprints; the files of the bucket that is being processed are on scratch disk."""

    def __init__(self, store: Store, directory: Path, fingerprints: Fingerprints) -> None:
        self._store = store
        self._directory = directory
        self._local: dict[str, Path] = {}
        self.fingerprints = fingerprints

    def parts(self, bucket: Bucket) -> list[Part]:
        """Return the parts that can have keys of a bucket."""
        return [part for part in self.fingerprints.parts if part.bucket.overlaps(bucket)]

    def sql(self, bucket: Bucket) -> str:
        """Return the SQL relation of the fingerprints of a bucket, with the columns of `SCHEMA`.

        Raises:
            Stopped: a file was deleted since the manifest was read.
        """
        parts = self.parts(bucket)
        self._keep(parts)
        if not parts:
            return _EMPTY
        files = [self._select(self._local[part.object_key], bucket) for part in parts]
        return f"({' union all '.join(files)})"

    def _select(self, path: Path, bucket: Bucket) -> str:
        unknown = {"inputs"} - set(pq.read_schema(path).names)  # earlier releases did not have it
        if self.fingerprints.trust is not FingerprintTrust.ALL:
            unknown |= {"digest", "inputs"}
        columns = [f"null::ubigint as {name}" if name in unknown else f'"{name}"' for name in SCHEMA.names]
        return f"select {', '.join(columns)} from read_parquet('{path}') where {bucket.condition}"

    def _keep(self, parts: Sequence[Part]) -> None:
        """Download missing files, and delete those of other buckets."""
        needed = {part.object_key for part in parts}
        for object_key in [each for each in self._local if each not in needed]:
            self._local.pop(object_key).unlink()
        for object_key in needed - self._local.keys():
            path = self._directory / object_key.replace("/", "_")
            if not self._store.get(object_key, path):
                raise Stopped(f"s3://{self._store.bucket}/{object_key}, a part of the fingerprints, is gone")
            self._local[object_key] = path

    def adopt(self, path: Path) -> None:
        """Use a file that is already downloaded as the only part."""
        self._local[self.fingerprints.parts[0].object_key] = path


def read_fingerprints(store: Store, object_key: str | None, *, table_id: str, scratch: Path) -> Known:
    """Read the fingerprints of a dataset, and determine how far they can be trusted to describe a table.

    Without an object key there are none yet, which is fully trusted.
    """
    if object_key is None:
        return Known(store, scratch, Fingerprints(FingerprintTrust.ALL))
    path = scratch / "fingerprints.parquet"
    if not store.get(object_key, path):
        return Known(store, scratch, NONE)
    file = pq.read_metadata(path)
    marks = file.metadata or {}
    written_for = marks.get(b"table", b"").decode()
    trust = FingerprintTrust.ORDERS if written_for != table_id else FingerprintTrust.ALL
    if marks.get(b"format") in _FILES:
        only = Part(EVERYTHING, file.num_rows, _find_least_expiry(file), object_key)
        known = Known(store, scratch, Fingerprints(trust, object_key, [only]))
        known.adopt(path)
        return known
    if marks.get(b"format") not in _MANIFESTS:
        return Known(store, scratch, NONE)
    parts = [
        Part(Bucket(row["bits"], row["prefix"]), row["rows"], row["least_expires_at"], row["object_key"])
        for row in pq.read_table(path).to_pylist()
    ]
    found = store.list(f"{object_key.rpartition('/')[0]}/")
    if any(part.object_key not in found for part in parts):
        return Known(store, scratch, NONE)
    return Known(store, scratch, Fingerprints(trust, object_key, parts))


class Target(NamedTuple):
    """Where to write a run's fingerprints, and the id of the table that they describe."""

    store: Store
    object_key: str
    table_id: str

    def folder(self, identity: str) -> str:
        """Return the prefix of the files of buckets; `identity` identifies their inputs."""
        return f"{self.object_key.rpartition('-')[0]}-{identity}/"

    def write_only(self, rows: Iterable[pa.RecordBatch], path: Path) -> Fingerprints:
        """Write fingerprints that fit into one bucket, to one file."""
        marks = {"format": FORMAT, "table": self.table_id}
        part = _write(rows, path, SCHEMA.with_metadata(marks), EVERYTHING, lambda *_: self.object_key)
        self.store.put(self.object_key, path)
        return Fingerprints(FingerprintTrust.ALL, self.object_key, [part])

    def write_part(self, rows: Iterable[pa.RecordBatch], path: Path, bucket: Bucket, identity: str) -> Part:
        """Write the fingerprints of a bucket, even if there are none: the file marks the bucket as done."""

        def name(count: int, least: int) -> str:
            return f"{self.folder(identity)}{bucket.name}.{count}.{least}.parquet"

        part = _write(rows, path, SCHEMA, bucket, name)
        self.store.put(part.object_key, path)
        return part

    def find_parts(self, identity: str) -> dict[Bucket, Part]:
        """Find the buckets that were already written with these inputs; file names have all that a manifest needs."""
        found = {}
        for object_key in sorted(self.store.list(self.folder(identity))):
            name, rows, least, _ = object_key.rpartition("/")[2].split(".")
            bits, prefix = name.split("-")
            bucket = Bucket(int(bits), int(prefix, 16))
            found[bucket] = Part(bucket, int(rows), int(least), object_key)
        return found

    def write_manifest(self, parts: Sequence[Part], path: Path) -> Fingerprints:
        """Write the manifest, which lists the files of buckets that are not empty."""
        parts = [part for part in parts if part.rows]
        rows: list[dict[str, Any]] = [
            {**part.bucket._asdict(), **{name: getattr(part, name) for name in _MANIFEST_SCHEMA.names[2:]}}
            for part in parts
        ]
        marks = {"format": MANIFEST_FORMAT, "table": self.table_id}
        pq.write_table(pa.Table.from_pylist(rows, _MANIFEST_SCHEMA.with_metadata(marks)), path)
        self.store.put(self.object_key, path)
        return Fingerprints(FingerprintTrust.ALL, self.object_key, parts)


def _write(rows: Iterable[pa.RecordBatch], path: Path, schema: pa.Schema, bucket: Bucket, name: Any) -> Part:
    with pq.ParquetWriter(path, schema, **_WRITING) as writer:
        for batch in rows:
            if batch.num_rows:
                writer.write_table(pa.table(batch).cast(SCHEMA).replace_schema_metadata(schema.metadata))
    file = pq.read_metadata(path)
    least = _find_least_expiry(file)
    return Part(bucket, file.num_rows, least, name(file.num_rows, least))


def _find_least_expiry(file: pq.FileMetaData) -> int:
    """Return when the first item of a file expires (epoch seconds); 0 if the file has no statistics."""
    column = file.schema.names.index("expires_at")
    groups = (file.row_group(group).column(column).statistics for group in range(file.num_row_groups))
    return min((group.min if group and group.has_min_max else 0 for group in groups), default=0)


def find_unreferenced(store: Store, under: str, kept: Iterable[Fingerprints]) -> set[str]:
    """Find the files under a prefix that belong to no kept fingerprints."""
    return store.list(under).difference(*(each.object_keys for each in kept))
