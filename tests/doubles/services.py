"""Models of S3, the ledger's table, Athena and SQS, for the calls that enrich makes."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from enrich.read.metadata import QueryFailed
from tests.faults.describe import describe_change, describe_message
from tests.faults.world import World, build_error

START_OF_TIME = datetime.fromtimestamp(0, UTC)
MAX_ACTIONS = 100  # DynamoDB's quotas for one transaction
MAX_TRANSACTION_BYTES = 4 * 1024 * 1024


@dataclass
class Version:
    """One object as it was written; `gone` marks a deletion."""

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
                first, last = (int(bound) for bound in Range.removeprefix("bytes=").split("-"))
                if first >= len(version.body):
                    raise build_error("GetObject", "InvalidRange")
                body = body[first : last + 1]
                ranged = {"ContentRange": f"bytes {first}-{first + len(body) - 1}/{len(version.body)}"}
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
        if version_id is not None:
            kept, code = [version for version in kept if version.version_id == version_id], "NoSuchVersion"
        if not kept or kept[-1].gone:
            raise build_error("GetObject", code)
        return kept[-1]


class _Body(io.BytesIO):
    def iter_chunks(self, size: int) -> Any:
        while block := self.read(size):
            yield block

    def iter_lines(self) -> Any:
        for line in self:
            yield line.rstrip(b"\r\n")


def _head(version: Version) -> dict[str, Any]:
    found = {"ETag": version.etag, "LastModified": version.modified, "ContentLength": len(version.body)}
    return {**found, "VersionId": version.version_id} if version.version_id else found


class ModelDynamo:
    """The ledger table, with the three operations that the ledger uses, and the id of the table of items."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.table_id = "table-1"
        self.on_commit: Callable[[list[Any]], None] = lambda actions: None  # called before an actor commits
        self.states: dict[tuple[str, str, str], dict[str, Any]] = {}  # (dataset, sk, state) of a run -> its row then
        self.pruned: dict[tuple[str, str], dict[str, Any]] = {}  # deleted rows of runs and their statistics
        self.pruned_at: dict[tuple[str, str], float] = {}  # when each of them was deleted

    def describe_table(self, TableName: str) -> dict[str, Any]:  # noqa: N803
        return self._world.call("DescribeTable", lambda: {"Table": {"TableId": self.table_id}})

    def get_item(self, TableName: str, Key: Any, ConsistentRead: bool) -> dict[str, Any]:  # noqa: N803
        assert ConsistentRead
        at = (Key["pk"]["S"], Key["sk"]["S"])

        def get() -> dict[str, Any]:
            time = getattr(self._world, "time", None)  # a calm world has none
            date = {"date": formatdate(time, usegmt=True)} if time else {}
            return {"ResponseMetadata": {"HTTPHeaders": date}, **({"Item": self.rows[at]} if at in self.rows else {})}

        return self._world.call("GetItem", get)

    def query(self, **request: Any) -> dict[str, Any]:
        assert request["ConsistentRead"]
        values = request["ExpressionAttributeValues"]
        pk = values[":pk"]["S"]

        def find() -> dict[str, Any]:
            places = [at[1] for at in sorted(self.rows) if at[0] == pk]
            if "BETWEEN" in request["KeyConditionExpression"]:
                places = [sk for sk in places if values[":first"]["S"] <= sk <= values[":last"]["S"]]
            else:
                places = [sk for sk in places if sk.startswith(values[":prefix"]["S"])]
            forward, start = request.get("ScanIndexForward", True), request.get("ExclusiveStartKey")
            if start:
                places = [sk for sk in places if (sk > start["sk"]["S"] if forward else sk < start["sk"]["S"])]
            if not forward:
                places.reverse()
            page = places[: request.get("Limit")]
            more = {"LastEvaluatedKey": {"pk": {"S": pk}, "sk": {"S": page[-1]}}} if len(page) < len(places) else {}
            rows = [self.rows[pk, sk] for sk in page]
            if "FilterExpression" in request:
                assert request["FilterExpression"] == "arrived_ms >= :since"
                rows = [row for row in rows if int(row["arrived_ms"]["N"]) >= int(values[":since"]["N"])]
            return {"Items": rows, **more}

        return self._world.call("Query", find)

    def transact_write_items(self, TransactItems: list[Any]) -> None:  # noqa: N803
        self.on_commit(TransactItems)
        self._world.call("TransactWriteItems", lambda: self._transact(TransactItems))

    def _transact(self, actions: list[Any]) -> None:
        if len(actions) > MAX_ACTIONS or _measure(actions) > MAX_TRANSACTION_BYTES:
            raise build_error("TransactWriteItems", "ValidationException")
        reasons = [{"Code": "None" if self._holds(action) else "ConditionalCheckFailed"} for action in actions]
        if any(reason["Code"] != "None" for reason in reasons):
            self._world.note("a commit is refused: another invocation changed the ledger")
            raise build_error("TransactWriteItems", "TransactionCanceledException", CancellationReasons=reasons)
        for action in actions:
            if self._world.notes is not None:
                for what in describe_change(self.rows, action):
                    self._world.note("%s", what)
            if "Put" in action:
                row = action["Put"]["Item"]
                self.rows[row["pk"]["S"], row["sk"]["S"]] = row
                if "state" in row:
                    self.states[row["pk"]["S"], row["sk"]["S"], row["state"]["S"]] = row
            else:
                at = action["Delete"]["Key"]["pk"]["S"], action["Delete"]["Key"]["sk"]["S"]
                row = self.rows.pop(at)
                if at[1].startswith(("run#", "statistics#")):
                    self.pruned[at], self.pruned_at[at] = row, getattr(self._world, "time", 0.0)

    def _holds(self, action: Any) -> bool:
        (change,) = action.values()
        item_key = change.get("Item") or change["Key"]
        stored = self.rows.get((item_key["pk"]["S"], item_key["sk"]["S"]))
        if change["ConditionExpression"] == "attribute_not_exists(pk)":
            return stored is None
        if change["ConditionExpression"] == "attribute_exists(pk)":  # the request of a ledger without fencing
            return stored is not None
        assert change["ConditionExpression"] == "#version = :version"
        return stored is not None and stored["version"] == change["ExpressionAttributeValues"][":version"]


def _measure(actions: list[Any]) -> int:
    """Return the bytes of a transaction's items, as JSON, which is a little more than DynamoDB counts."""
    if len(actions) < 10:  # items of at most 400 KB each
        return 0
    return sum(len(json.dumps(action)) for action in actions)


@dataclass
class ModelQuery:
    """A query that runs until a given time, and has then written its row."""

    location: str
    ends_at: float
    fails: bool
    done: bool = False


class ModelAthena:
    """Responds to every metadata query with one row: the time at which it was started."""

    def __init__(self, world: World, s3: ModelS3, row_at: Callable[[float], str]) -> None:
        self._world = world
        self._s3 = s3
        self._row_at = row_at
        self._queries: dict[str, ModelQuery] = {}
        self.fetched: dict[str, tuple[float, str]] = {}  # location -> when its query began, and the row

    def was_running(self, time: float) -> bool:
        """Return whether any query had not ended yet at a given time."""
        return any(query.ends_at > time for query in self._queries.values())

    def start(self, sql: str, location: str) -> str:
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        random = self._world.random

        def run() -> str:
            if any(at[0] == bucket and at[1].startswith(prefix) for at in self._s3.objects):
                raise QueryFailed("HIVE_PATH_ALREADY_EXISTS")
            lasts = random.expovariate(1 / random.choice([1, 10, 100]))
            fails = random.random() < self._world.chances.fault
            query_id = f"query-{len(self._queries)}"
            self._queries[query_id] = ModelQuery(location, self._world.time + lasts, fails)
            self.fetched[location] = self._world.time, self._row_at(self._world.time)
            return query_id

        return self._world.call("StartQueryExecution", run)

    def is_done(self, query_id: str) -> bool:
        return self._world.call("GetQueryExecution", lambda: self._look(self._queries[query_id]))

    def cancel(self, query_id: str) -> None:
        def stop() -> None:
            self._queries[query_id].fails |= not self._queries[query_id].done
            self._queries[query_id].ends_at = min(self._queries[query_id].ends_at, self._world.time)

        self._world.call("StopQueryExecution", stop)

    def _look(self, query: ModelQuery) -> bool:
        if query.ends_at > self._world.time:
            return False
        if query.fails:
            raise QueryFailed("GENERIC_INTERNAL_ERROR", is_transient=True)
        if not query.done:
            bucket, _, prefix = query.location.removeprefix("s3://").partition("/")
            self._s3.put(bucket, f"{prefix}0.parquet", _render_metadata(self.fetched[query.location][1]))
            query.done = True
        return True


@cache
def _render_metadata(row: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"k": [row]}), buffer)
    return buffer.getvalue()


class ModelBus:
    """An event bus that is sometimes down, and sometimes refuses one entry and accepts the others."""

    def __init__(self, world: World, down: Sequence[tuple[float, float]] = (), refuses: float = 0.0) -> None:
        self._world = world
        self.down = down  # (from, until)
        self.refuses = refuses  # probability, per entry
        self.accepted: list[dict[str, Any]] = []

    def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        def put() -> dict[str, Any]:
            if any(begins <= self._world.time < ends for begins, ends in self.down):
                raise build_error("PutEvents", "ServiceUnavailable")
            answers = [self._accept(entry) for entry in Entries]
            return {"FailedEntryCount": sum("ErrorCode" in each for each in answers), "Entries": answers}

        assert 1 <= len(Entries) <= 10
        return self._world.call("PutEvents", put)

    def _accept(self, entry: dict[str, Any]) -> dict[str, Any]:
        if self.refuses and self._world.random.random() < self.refuses:
            return {"ErrorCode": "ThrottlingException", "ErrorMessage": "modelled"}
        self.accepted.append({**entry, "Detail": json.loads(entry["Detail"])})
        return {"EventId": f"event-{len(self.accepted)}"}

    def details(self, kind: str) -> list[dict[str, Any]]:
        """Return the details of the events of a kind that it accepted."""
        return [entry["Detail"] for entry in self.accepted if entry["DetailType"] == kind]


@dataclass
class Sent:
    """A message in the queue."""

    body: str
    visible_at: float
    receives: int = 0
    refused: bool = False  # when last received: what it requests can never succeed


class Queue:
    """A queue that feeds invocations, hides what they have received, and has a dead-letter queue."""

    HIDDEN = 960.0
    RECEIVES = 3

    def __init__(self, world: World) -> None:
        self._world = world
        self.messages: list[Sent] = []
        self.dead: list[Sent] = []

    def send(self, message: dict[str, Any]) -> None:
        """Send, as a call of an actor."""
        self._world.call("SendMessage", lambda: self.deliver(message))

    def deliver(self, message: dict[str, Any], delay: float = 0.0) -> None:
        """Put a message into the queue, outside any call."""
        if self._world.notes is not None:
            self._world.note("queues %s, visible in %.0f s", describe_message(json.dumps(message)), delay)
        self.messages.append(Sent(json.dumps(message), self._world.time + delay))

    def receive(self) -> Sent | None:
        """Receive a visible message."""
        visible = [sent for sent in self.messages if sent.visible_at <= self._world.time]
        if not visible:
            return None
        sent = self._world.random.choice(visible)
        sent.receives += 1
        sent.visible_at = self._world.time + self.HIDDEN
        if sent.receives > self.RECEIVES:
            self.messages.remove(sent)
            self.dead.append(sent)
            self._world.note("%s goes to the dead-letter queue", describe_message(sent.body))
            return None
        return sent

    def delete(self, sent: Sent) -> None:
        """Acknowledge."""
        if sent in self.messages:
            self.messages.remove(sent)
