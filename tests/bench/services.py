"""Services for the benchmarks: S3 in a folder, the ledger in memory, DynamoDB at an endpoint."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from botocore.exceptions import ClientError

from enrich.datasets import Dataset
from enrich.ledger.store import Ledger
from enrich.progress import Progress
from enrich.read.metadata import Athena
from enrich.services import Services
from enrich.settings import Settings
from enrich.write.writer import Transport
from examples.flights.datasets.flight_delays import flight_delays
from tests.doubles.services import ModelDynamo
from tests.faults.world import Calm
from wire.credentials import find_source
from wire.endpoint import resolve
from wire.transport import Transport as WireTransport

SETTINGS = Settings(
    table=os.environ.get("BENCH_TABLE", "larder-bench"),
    ledger="ledger",
    bucket="larder",
    outputs="outputs",
    queue="queue",
    workgroup="primary",
)

FLIGHT_DELAYS = replace(flight_delays, rank=None)  # like the peers, which have no ranked lists


class FolderS3:
    """S3 in a folder, for the calls that enrich makes; bodies are read from disk as needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> None:  # noqa: N803
        """Write an object."""
        self._make(Bucket, Key).write_bytes(Body)

    def upload_file(self, name: str, bucket: str, object_key: str) -> None:
        """Write an object from a file."""
        shutil.copyfile(name, self._make(bucket, object_key))

    def link(self, file: Path, bucket: str, object_key: str) -> None:
        """Link a file as an object that arrives now."""
        file.touch()  # a file of yesterday would have arrived before the as_of in its object key
        self._make(bucket, object_key).symlink_to(file)

    def delete_objects(self, Bucket: str, Delete: Any) -> dict[str, Any]:  # noqa: N803
        """Delete objects."""
        for each in Delete["Objects"]:
            (self._folder / Bucket / each["Key"]).unlink(missing_ok=True)
        return {}

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        """Return an object's ETag, LastModified and size."""
        path = self._folder / Bucket / Key
        if not path.exists():
            raise ClientError({"Error": {"Code": "404", "Message": "not there"}}, "HeadObject")
        found = path.stat()
        modified = datetime.fromtimestamp(int(found.st_mtime), UTC)
        return {"ETag": f'"{found.st_size}"', "LastModified": modified, "ContentLength": found.st_size}

    def get_object(self, Bucket: str, Key: str, Range: str = "", IfMatch: str = "") -> dict[str, Any]:  # noqa: N803
        """Open an object, or a range of it."""
        path = self._folder / Bucket / Key
        if not path.exists():
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "not there"}}, "GetObject")
        file = path.open("rb")
        if not Range:
            return {"Body": _Body(file, path.stat().st_size)}
        first, _, last = Range.removeprefix("bytes=").partition("-")
        file.seek(int(first))
        return {"Body": _Body(file, int(last) + 1 - int(first)), "ContentRange": Range}

    def list_objects_v2(self, Bucket: str, Prefix: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        """List objects under a prefix."""
        bucket = self._folder / Bucket
        found = (str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file())
        entries = []
        for object_key in sorted(each for each in found if each.startswith(Prefix)):
            head = self.head_object(Bucket, object_key)
            entries.append({"Key": object_key, "Size": head.pop("ContentLength"), **head})
        return {"Contents": entries}

    def _make(self, bucket: str, object_key: str) -> Path:
        path = self._folder / bucket / object_key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class _Body:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int | None = None) -> bytes:
        with self._file if size is None else nullcontext():
            block = self._file.read(self._left if size is None else min(size, self._left))
        self._left -= len(block)
        return block

    def iter_chunks(self, size: int) -> Iterator[bytes]:
        while block := self.read(size):
            yield block


class _Clock:
    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class FolderAthena:
    """Returns for a metadata query the file with the metadata's name."""

    def __init__(self, s3: FolderS3, folder: Path) -> None:
        self._s3, self._folder = s3, folder

    def start(self, _sql: str, location: str) -> str:
        """Put the file where Athena would write."""
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        name = prefix.split("/")[2]  # metadata/DATASET/NAME/...
        self._s3.link((self._folder / f"{name}.parquet").resolve(), bucket, f"{prefix}0.parquet")
        return location

    def is_done(self, _query_id: str) -> bool:
        """Return that a query has ended."""
        return True


def open_services(
    directory: Path,
    metadata: Path,
    *,
    dataset: Dataset = FLIGHT_DELAYS,
    connections: int = 16,
    transport: Callable[[float], Transport] | None = None,
) -> tuple[Services, FolderS3]:
    """Open services with buckets in `directory`; Athena returns the files of `metadata`."""
    s3 = FolderS3(directory)
    dynamodb = ModelDynamo(cast(Any, Calm()))
    scratch = directory / "scratch"
    scratch.mkdir(parents=True)

    def open_transport(timeout: float) -> Transport:
        endpoint = resolve("dynamodb", "us-east-1", os.environ)
        return WireTransport(endpoint, find_source(os.environ), connections=connections, timeout=timeout)

    services = Services(
        settings=SETTINGS,
        datasets={dataset.name: dataset},
        s3=cast(Any, s3),
        dynamodb=cast(Any, dynamodb),
        ledger=Ledger(cast(Any, dynamodb), SETTINGS.ledger),
        athena=cast(Athena, FolderAthena(s3, metadata)),
        open_transport=transport or open_transport,
        send=lambda message: None,
        clock=_Clock(),
        random=random.Random(1),
        directory=scratch,
        owner="bench",
        progress=Progress(),
    )
    return services, s3
