"""Models of S3, DynamoDB (ledger and items), Athena and SQS, as far as enrich calls them."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from pyathena.error import OperationalError

from serve.item import BODY, EXPIRES_AT, ORDER
from tests.faults.world import Broken, World, build_error
from wire.errors import TransportError
from wire.response import Response

LANDS_WITHIN = (
    8.0  # seconds after the client gave up on it that a write may still be applied; less than the lease's margin
)


@dataclass
class Version:
    """One object as it was written."""

    body: bytes
    version_id: str | None
    etag: str
    modified: datetime


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

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:  # noqa: N803
        self._world.call("PutObject", lambda: self.put(Bucket, Key, bytes(Body)))

    def upload_file(self, name: str, bucket: str, object_key: str) -> None:
        body = Path(name).read_bytes()
        self._world.call("PutObject", lambda: self.put(bucket, object_key, body))

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
            body = version.body
            if Range:
                first, _, last = Range.removeprefix("bytes=").partition("-")
                body = body[int(first) : int(last) + 1]
            return {**_head(version), "Body": _Body(body)}

        return self._world.call("GetObject", get)

    def list_objects_v2(self, Bucket: str, Prefix: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        def find() -> dict[str, Any]:
            found = [
                {"Key": key, "ETag": kept[-1].etag, "LastModified": kept[-1].modified, "Size": len(kept[-1].body)}
                for (bucket, key), kept in sorted(self.objects.items())
                if bucket == Bucket and key.startswith(Prefix)
            ]
            return {"Contents": found, "IsTruncated": False}

        return self._world.call("ListObjectsV2", find)

    def _find(self, bucket: str, object_key: str, code: str, version_id: str | None = None) -> Version:
        kept = self.objects.get((bucket, object_key), [])
        kept = [version for version in kept if version_id is None or version.version_id == version_id]
        if not kept:
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


@dataclass
class Items:
    """The table of items, and every write that it ever applied."""

    rows: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    applied: list[tuple[str, tuple[str, str], bool]] = field(default_factory=list)  # order, item key, tombstone
    watch: Callable[[str], None] = lambda order: None

    def put(self, item: dict[str, Any], *, conditional: bool) -> dict[str, Any] | None:
        """Apply a write; return the stored item that refuses it."""
        at, order = (item["pk"]["S"], item["sk"]["S"]), item[ORDER]["S"]
        stored = self.rows.get(at)
        if conditional and stored is not None and not stored[ORDER]["S"] < order:
            return stored
        if not conditional:
            self.watch(order)
        self.rows[at] = item
        self.applied.append((order, at, BODY not in item))
        return None

    def delete_expired(self, now: float) -> None:
        """Do what TTL does, sooner or later."""
        for at in [at for at, item in self.rows.items() if int(item[EXPIRES_AT]["N"]) <= now]:
            del self.rows[at]


class ModelTransport:
    """Carries writes to the table of items: applied or not, answered or not, in any order, some of them late."""

    def __init__(self, world: World, items: Items, timeout: float) -> None:
        self._world = world
        self._items = items
        self._timeout = timeout
        self._handles = itertools.count(1)
        self._due: dict[int, float] = {}
        self._answers: dict[int, Response | TransportError] = {}

    def send(self, target: str, payload: bytes) -> int:
        world, handle, request = self._world, next(self._handles), orjson.loads(payload)
        latency = min(world.random.expovariate(5.0), self._timeout * 0.9)
        fate = world.random.random() / (world.chances.transport or 1e-9)
        at = world.time
        if fate > 1:
            self._land(handle, target, request, at + latency, answered=True)
        elif fate < 0.25:
            self._answer(handle, at + latency, throttle())
        elif fate < 0.5:
            self._land(handle, target, request, at + latency, answered=True, cut=True)
        elif fate < 0.6:
            self._answer(handle, at + latency, Response(500, [], b'{"__type": "InternalServerError"}'))
        elif fate < 0.7:
            self._land(handle, target, request, at + latency / 2, answered=False)
            self._answer(handle, at + latency, Response(500, [], b'{"__type": "InternalServerError"}'))
        else:
            gives_up = at + (self._timeout if fate < 0.85 else latency)
            self._answer(handle, gives_up, TransportError("no answer"))
            if world.random.random() < 0.6:
                landing = world.random.uniform(at, gives_up + LANDS_WITHIN)
                self._land(handle, target, request, landing, answered=False)
        return handle

    def wait(self, timeout: float) -> list[tuple[int, Response | TransportError]]:
        world = self._world
        until = world.time + max(timeout, 0.0)
        if self._due:
            until = min(until, max(world.time, min(self._due.values())))
        world.sleep(max(0.0, until - world.time))
        done = [handle for handle, due in self._due.items() if due <= world.time and handle in self._answers]
        for handle in done:
            del self._due[handle]
        return [(handle, self._answers.pop(handle)) for handle in done]

    def _answer(self, handle: int, at: float, answer: Response | TransportError) -> None:
        self._due[handle] = at
        self._answers[handle] = answer

    def _land(self, handle: int, target: str, request: Any, at: float, *, answered: bool, cut: bool = False) -> None:
        def apply() -> None:
            answer = self._apply(target, request, cut=cut)
            if answered:
                self._answers[handle] = answer

        if answered:
            self._due[handle] = at
        self._world.at(at, apply)

    def _apply(self, target: str, request: Any, *, cut: bool) -> Response:
        if target.endswith("BatchWriteItem"):
            ((table, puts),) = request["RequestItems"].items()
            keys = [(put["PutRequest"]["Item"]["pk"]["S"], put["PutRequest"]["Item"]["sk"]["S"]) for put in puts]
            if len(set(keys)) != len(keys) or len(keys) > 25:
                raise Broken("a batch of more than 25 items, or with an item key twice")
            left = [put for put in puts if cut and self._world.random.random() < 0.5]
            for put in puts:
                if put not in left:
                    self._items.put(put["PutRequest"]["Item"], conditional=False)
            return _ok({"UnprocessedItems": {table: left} if left else {}})
        if cut:
            return throttle()
        assert request["ConditionExpression"] == "attribute_not_exists(pk) OR o < :o"
        assert request["ExpressionAttributeValues"][":o"] == request["Item"][ORDER]
        refused = self._items.put(request["Item"], conditional=True)
        if refused is None:
            return _ok({})
        return Response(
            400, [], orjson.dumps({"__type": "x#ConditionalCheckFailedException", "message": "", "Item": refused})
        )


def throttle() -> Response:
    """Build the answer of a table that is asked too much of."""
    return Response(400, [], b'{"__type": "x#ProvisionedThroughputExceededException", "message": "slower"}')


def _ok(body: Any) -> Response:
    return Response(200, [], orjson.dumps(body))


class ModelAthena:
    """Answers every metadata query with the same rows."""

    def __init__(self, world: World, s3: ModelS3) -> None:
        self._world = world
        self._s3 = s3

    def unload(self, sql: str, location: str) -> None:
        bucket, _, prefix = location.removeprefix("s3://").partition("/")

        def run() -> None:
            if any(at[0] == bucket and at[1].startswith(prefix) for at in self._s3.objects):
                raise OperationalError("HIVE_PATH_ALREADY_EXISTS")
            self._s3.put(bucket, f"{prefix}0.parquet", METADATA)

        try:
            self._world.call("Athena", run)
        except Exception as error:
            raise OperationalError("the query was cancelled") from error


def _metadata() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"k": ["x"]}), buffer)
    return buffer.getvalue()


METADATA = _metadata()


@dataclass
class Sent:
    """A message in the queue."""

    body: str
    visible_at: float
    receives: int = 0


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
