"""Copy-on-write views of S3 and the ledger, for `plan`: reads see the real ones, writes stay in the view."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from botocore.response import StreamingBody

from wire.errors import TransportError
from wire.response import Response


class OverlayS3:
    """A copy-on-write view of S3, for the calls that enrich makes; written objects are in a folder."""

    def __init__(self, s3: Any, folder: Path) -> None:
        self._s3 = s3
        self._folder = folder
        self._numbers = itertools.count()
        self._written: dict[tuple[str, str], Path] = {}
        self._deleted: set[tuple[str, str]] = set()

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:  # noqa: N803 - boto3's names
        """Write an object to the view."""
        self._place(Bucket, Key).write_bytes(Body)

    def upload_file(self, name: str, bucket: str, object_key: str) -> None:
        """Write a file to the view."""
        shutil.copyfile(name, self._place(bucket, object_key))

    def get_object(self, Bucket: str, Key: str, **more: Any) -> Any:  # noqa: N803
        """Get an object of the view, otherwise the real one."""
        path = self._written.get((Bucket, Key))
        if (Bucket, Key) in self._deleted:
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "deleted in this plan"}}, "GetObject")
        if path is None:
            return self._s3.get_object(Bucket=Bucket, Key=Key, **more)
        return {"Body": StreamingBody(path.open("rb"), path.stat().st_size)}

    def delete_objects(self, Bucket: str, Delete: Any) -> dict[str, Any]:  # noqa: N803
        """Delete objects from the view; the real ones stay."""
        for each in Delete["Objects"]:
            self._written.pop((Bucket, each["Key"]), None)
            self._deleted.add((Bucket, each["Key"]))
        return {}

    def head_object(self, **request: Any) -> Any:
        """Head a real object: outputs are never written to the view."""
        return self._s3.head_object(**request)

    def list_objects_v2(self, Bucket: str, Prefix: str, **more: Any) -> Any:  # noqa: N803
        """List the objects of the view and the real ones."""
        page = self._s3.list_objects_v2(Bucket=Bucket, Prefix=Prefix, **more)
        there = [entry for entry in page.get("Contents", []) if (Bucket, entry["Key"]) not in self._deleted]
        page = {**page, "Contents": there}
        if "ContinuationToken" in more:
            return page
        kept = [
            {"Key": object_key, "Size": path.stat().st_size}
            for (bucket, object_key), path in sorted(self._written.items())
            if bucket == Bucket and object_key.startswith(Prefix)
        ]
        return {**page, "Contents": [*kept, *there]}

    def _place(self, bucket: str, object_key: str) -> Path:
        self._deleted.discard((bucket, object_key))
        path = self._folder / f"{next(self._numbers):06d}"
        return self._written.setdefault((bucket, object_key), path)


class OverlayDynamo:
    """A copy-on-write view of the ledger's table, for the calls that `Ledger` makes; written rows are in memory."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table
        self._rows: dict[tuple[str, str], dict[str, Any] | None] = {}

    def describe_table(self, **request: Any) -> Any:
        """Describe a real table."""
        return self._client.describe_table(**request)

    def get_item(self, **request: Any) -> Any:
        """Get a row of the view, otherwise the real one; without DynamoDB's time, since no lease of a plan is real."""
        at = request["Key"]["pk"]["S"], request["Key"]["sk"]["S"]
        row = self._rows[at] if at in self._rows else self._client.get_item(**request).get("Item")
        return {"Item": row} if row else {}

    def query(self, **request: Any) -> Any:
        """Query the rows of the view and the real ones, in one page; without a filter of the view's rows."""
        request.pop("Limit", None)
        values = request["ExpressionAttributeValues"]
        pk = values[":pk"]["S"]
        found: dict[str, dict[str, Any] | None] = {}
        while True:
            page = self._client.query(**request)
            found |= {row["sk"]["S"]: row for row in page["Items"]}
            if "LastEvaluatedKey" not in page:
                break
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]
        found |= {sk: row for (dataset, sk), row in self._rows.items() if dataset == pk and _is_asked(sk, values)}
        rows = [row for _, row in sorted(found.items()) if row is not None]
        return {"Items": rows if request.get("ScanIndexForward", True) else rows[::-1]}

    def transact_write_items(self, TransactItems: list[Any]) -> None:  # noqa: N803
        """Write rows to the view."""
        for action in TransactItems:
            row = action["Put"]["Item"] if "Put" in action else action["Delete"]["Key"]
            self._rows[row["pk"]["S"], row["sk"]["S"]] = row if "Put" in action else None


def _is_asked(sk: str, values: dict[str, Any]) -> bool:
    """Return whether a query of the ledger is for a sort key: with a prefix, or between two."""
    if ":prefix" in values:
        return sk.startswith(values[":prefix"]["S"])
    return bool(values[":first"]["S"] <= sk <= values[":last"]["S"])


class DiscardTransport:
    """A transport that discards each request and reports success.

    Args:
        looks: called with each payload before it is discarded.
    """

    def __init__(self, *looks: Callable[[bytes], None]) -> None:
        self._looks = looks
        self._handles = itertools.count(1)
        self._sent: list[int] = []

    def send(self, target: str, payload: bytes) -> int:
        """Discard a request."""
        del target
        for look in self._looks:
            look(payload)
        self._sent.append(next(self._handles))
        return self._sent[-1]

    def wait(self, timeout: float) -> list[tuple[int, Response | TransportError]]:
        """Report success for each request."""
        del timeout
        sent, self._sent = self._sent, []
        return [(handle, Response(200, {}, b"{}")) for handle in sent]
