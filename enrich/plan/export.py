"""Export the items of an output as DynamoDB JSON for ImportTable, by executing its run over copy-on-write views."""

from __future__ import annotations

import gzip
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import orjson

from enrich.errors import Failed
from enrich.intake.queue import enqueue_again, enqueue_output, repeat
from enrich.intake.worker import run_pending
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind, RunState
from enrich.plan.dry_run import DiscardTransport
from enrich.plan.plan import open_overlay
from enrich.plan.samples import parse_items
from enrich.read.outputs import Output
from enrich.s3 import split_location
from enrich.services import Services
from serve.item import ORDER

FILE_BYTES = 256 * 1024 * 1024  # of JSON, per file: ImportTable reads files in parallel, at most 50,000
LEVEL = 1  # of gzip: the time counts, and the files are deleted after the import


class Export(NamedTuple):
    """The result: `run` as it would end, and where its items are."""

    run: Run
    location: str
    files: int
    items: int


def export(services: Services, output: Output, location: str) -> Export:
    """Write all items that an output's run would write to an empty table as gzipped files of DynamoDB JSON.

    The ledger, the table and other objects do not change.

    Args:
        services: the services of the stack.
        output: the output to export.
        location: `s3://bucket/prefix/`, without objects: ImportTable reads all objects of a prefix.

    Raises:
        Failed: the location is not a prefix or has objects, or the run would not be published, with its error.
        Stopped: a service that the run needs is unavailable.
    """
    bucket, prefix = split_location(location)
    if not location.startswith("s3://") or not prefix.endswith("/"):
        raise Failed(f"--to {location}: expected a prefix that ends with '/', e.g. s3://{output.bucket}/import/1/")
    if services.s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents"):
        raise Failed(f"--to {location} has objects, and ImportTable would import them; name an empty prefix")
    with tempfile.TemporaryDirectory(dir=services.directory) as folder:
        inner = open_overlay(services, output.dataset, Path(folder))
        mine = enqueue_output(inner, output)
        if mine.state.is_open:
            inner.ledger.commit(replace(mine, full=True))
        else:
            mine = enqueue_again(inner, replace(repeat(mine, Kind.REPLAY), full=True))
        files = _Files(services, bucket, prefix, mine.run, Path(folder))
        inner = replace(inner, open_transport=lambda _timeout: DiscardTransport(files.take))
        list(run_pending(inner, output.dataset))
        files.close()
        run = inner.ledger.get_run(output.dataset, mine.run) or mine
    if run.state is not RunState.DONE:
        raise Failed(f"s3://{run.bucket}/{run.object_key}: the run would end as {run.state}: {run.error}")
    return Export(run, location, files.count, files.items)


class _Files:
    """Writes the items of one run to files on scratch disk, and uploads each when it is full."""

    def __init__(self, services: Services, bucket: str, prefix: str, run: int, folder: Path) -> None:
        self._s3, self._bucket, self._prefix = services.s3, bucket, prefix
        self._order = f".{run:08d}"
        self._path = folder / "items.json.gz"
        self._file: gzip.GzipFile | None = None
        self._bytes = 0
        self.count = self.items = 0

    def take(self, payload: bytes) -> None:
        """Write the items of a request, except those of other runs, which run first."""
        items = [each for each in parse_items(orjson.loads(payload)) if each[ORDER]["S"].endswith(self._order)]
        if not items:
            return
        if self._file is None:
            self._file = gzip.GzipFile(self._path, "wb", compresslevel=LEVEL)
        lines = b"".join(orjson.dumps({"Item": each}) + b"\n" for each in items)
        self._file.write(lines)
        self._bytes += len(lines)
        self.items += len(items)
        if self._bytes >= FILE_BYTES:
            self.close()

    def close(self) -> None:
        """Upload the file that is open, if there is one."""
        if self._file is None:
            return
        self._file.close()
        self._s3.upload_file(str(self._path), self._bucket, f"{self._prefix}{self.count:05d}.json.gz")
        self._file, self._bytes = None, 0
        self.count += 1
