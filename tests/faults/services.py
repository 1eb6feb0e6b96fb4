"""Models of S3, the ledger's table, Athena and SQS, as far as enrich calls them."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyathena.error import OperationalError

from tests.faults.world import World, build_error

START_OF_TIME = datetime.fromtimestamp(0, UTC)


@dataclass
class Version:
    """One object as it was written; `gone` for the marker of its deletion."""

    body: bytes
    version_id: str | None
    etag: str
    modified: datetime
    gone: bool = False


class ModelS3:
    """Buckets, some of them versioned."""

    def __init__(self, world: World, versioned: set[str]) -> None:
        self._world = world
        self._versioned = versioned
        self.objects: dict[tuple[str, str], list[Version]] = {}
        self._numbers = itertools.count(1)

    def put(self, bucket: str, object_key: str, body: bytes) -> Version:
        """Write an object, outside any call."""
        modified = datetime.fromtimestamp(int(self._world.time), UTC)
        version_id = f"v{next(self._numbers)}" if bucket in self._versioned else None
        version = Version(body, version_id, f'"{hashlib.md5(body).hexdigest()}"', modified)
        kept = self.objects.setdefault((bucket, object_key), [])
        self.objects[bucket, object_key] = [*kept, version] if version_id else [version]
        return version

    def delete(self, bucket: str, object_key: str) -> None:
        """Delete an object, outside any call; a versioned bucket keeps its versions."""
        if bucket in self._versioned:
            self.objects[bucket, object_key].append(Version(b"", None, "", START_OF_TIME, gone=True))
        else:
            del self.objects[bucket, object_key]

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:  # noqa: N803
        self._world.call("PutObject", lambda: self.put(Bucket, Key, bytes(Body)))

    def upload_file(self, name: str, bucket: str, object_key: str) -> None:
        body = Path(name).read_bytes()
        self._world.call("PutObject", lambda: self.put(bucket, object_key, body))

    def delete_objects(self, Bucket: str, Delete: Any) -> dict[str, Any]:  # noqa: N803
        def delete() -> dict[str, Any]:
            for each in Delete["Objects"]:
                if (Bucket, each["Key"]) in self.objects:
                    self.delete(Bucket, each["Key"])
            return {}

        return self._world.call("DeleteObjects", delete)

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        return self._world.call("HeadObject", lambda: _head(self._find(Bucket, Key, "404")))

    def get_object(
        self,
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        Range: str | None = None,  # noqa: N803
        VersionId: str | None = None,  # noqa: N803
        IfMatch: str | None = None,  # noqa: N803
    ) -> dict[str, Any]:
        def get() -> dict[str, Any]:
            version = self._find(Bucket, Key, "NoSuchKey", VersionId)
            if IfMatch and IfMatch != version.etag:
                raise build_error("GetObject", "PreconditionFailed")
            body, ranged = version.body, dict[str, Any]()
            if Range:
                first, _, last = Range.removeprefix("bytes=").partition("-")
                body = body[int(first) : int(last) + 1]
                ranged = {"ContentRange": f"bytes {first}-{last}/{len(version.body)}"}
            return {**_head(version), **ranged, "Body": _Body(body)}

        return self._world.call("GetObject", get)

    def list_objects_v2(self, Bucket: str, Prefix: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        def find() -> dict[str, Any]:
            found = [
                {"Key": key, "ETag": kept[-1].etag, "LastModified": kept[-1].modified, "Size": len(kept[-1].body)}
                for (bucket, key), kept in sorted(self.objects.items())
                if bucket == Bucket and key.startswith(Prefix) and not kept[-1].gone
            ]
            return {"Contents": found, "IsTruncated": False}

        return self._world.call("ListObjectsV2", find)

    def _find(self, bucket: str, object_key: str, code: str, version_id: str | None = None) -> Version:
        kept = self.objects.get((bucket, object_key), [])
        kept = [version for version in kept if version_id is None or version.version_id == version_id]
        if not kept or kept[-1].gone:
            raise build_error("GetObject", code)
        return kept[-1]


class _Body(io.BytesIO):
    def iter_chunks(self, size: int) -> Any:
        while block := self.read(size):
            yield block


def _head(version: Version) -> dict[str, Any]:
    found = {"ETag": version.etag, "LastModified": version.modified, "ContentLength": len(version.body)}
    return {**found, "VersionId": version.version_id} if version.version_id else found


class ModelDynamo:
    """The ledger table, with the three operations that the ledger uses, and the id of the table of items."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.table_id = "table-1"

    def describe_table(self, TableName: str) -> dict[str, Any]:  # noqa: N803
        return self._world.call("DescribeTable", lambda: {"Table": {"TableId": self.table_id}})

    def get_item(self, TableName: str, Key: Any, ConsistentRead: bool) -> dict[str, Any]:  # noqa: N803
        assert ConsistentRead
        at = (Key["pk"]["S"], Key["sk"]["S"])
        return self._world.call("GetItem", lambda: {"Item": self.rows[at]} if at in self.rows else {})

    def query(self, **request: Any) -> dict[str, Any]:
        assert request["ConsistentRead"]
        values = request["ExpressionAttributeValues"]
        pk, prefix = values[":pk"]["S"], values[":prefix"]["S"]

        def find() -> dict[str, Any]:
            found = [self.rows[at] for at in sorted(self.rows) if at[0] == pk and at[1].startswith(prefix)]
            return {"Items": found if request["ScanIndexForward"] else found[::-1]}

        return self._world.call("Query", find)

    def transact_write_items(self, TransactItems: list[Any]) -> None:  # noqa: N803
        self._world.call("TransactWriteItems", lambda: self._transact(TransactItems))

    def _transact(self, actions: list[Any]) -> None:
        reasons = [{"Code": "None" if self._holds(action) else "ConditionalCheckFailed"} for action in actions]
        if any(reason["Code"] != "None" for reason in reasons):
            raise build_error("TransactWriteItems", "TransactionCanceledException", CancellationReasons=reasons)
        for action in actions:
            if "Put" in action:
                row = action["Put"]["Item"]
                self.rows[row["pk"]["S"], row["sk"]["S"]] = row
            else:
                row = action["Delete"]["Key"]
                del self.rows[row["pk"]["S"], row["sk"]["S"]]

    def _holds(self, action: Any) -> bool:
        (change,) = action.values()
        item_key = change.get("Item") or change["Key"]
        stored = self.rows.get((item_key["pk"]["S"], item_key["sk"]["S"]))
        if change["ConditionExpression"] == "attribute_not_exists(pk)":
            return stored is None
        if change["ConditionExpression"] == "attribute_exists(pk)":  # what a ledger that fences nothing would ask
            return stored is not None
        assert change["ConditionExpression"] == "#version = :version"
        return stored is not None and stored["version"] == change["ExpressionAttributeValues"][":version"]


class ModelAthena:
    """Answers every metadata query with one row, that of the time."""

    def __init__(self, world: World, s3: ModelS3, row_at: Callable[[float], str]) -> None:
        self._world = world
        self._s3 = s3
        self._row_at = row_at
        self.fetched: dict[str, tuple[float, str]] = {}  # location -> when, and the row

    def unload(self, sql: str, location: str) -> None:
        bucket, _, prefix = location.removeprefix("s3://").partition("/")

        def run() -> None:
            if any(at[0] == bucket and at[1].startswith(prefix) for at in self._s3.objects):
                raise OperationalError("HIVE_PATH_ALREADY_EXISTS")
            row = self._row_at(self._world.time)
            self._s3.put(bucket, f"{prefix}0.parquet", _render_metadata(row))
            self.fetched[location] = self._world.time, row

        try:
            self._world.call("Athena", run)
        except Exception as error:
            raise OperationalError("the query was cancelled") from error


@cache
def _render_metadata(row: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"k": [row]}), buffer)
    return buffer.getvalue()


@dataclass
class Sent:
    """A message in the queue."""

    body: str
    visible_at: float
    receives: int = 0
    refused: bool = False  # what it asks for can't ever succeed


class Queue:
    """A queue that feeds invocations, hides what they have taken, and has a dead-letter queue."""

    HIDDEN = 960.0
    RECEIVES = 3

    def __init__(self, world: World) -> None:
        self._world = world
        self.messages: list[Sent] = []
        self.dead: list[Sent] = []

    def send(self, message: dict[str, Any]) -> None:
        """Send, as an actor's call."""
        self._world.call("SendMessage", lambda: self.deliver(message))

    def deliver(self, message: dict[str, Any], delay: float = 0.0) -> None:
        """Put a message into the queue, outside any call."""
        self.messages.append(Sent(json.dumps(message), self._world.time + delay))

    def receive(self) -> Sent | None:
        """Take a message that is visible."""
        visible = [sent for sent in self.messages if sent.visible_at <= self._world.time]
        if not visible:
            return None
        sent = self._world.random.choice(visible)
        sent.receives += 1
        sent.visible_at = self._world.time + self.HIDDEN
        if sent.receives > self.RECEIVES:
            self.messages.remove(sent)
            self.dead.append(sent)
            return None
        return sent

    def delete(self, sent: Sent) -> None:
        """Acknowledge."""
        if sent in self.messages:
            self.messages.remove(sent)
