"""A run under way: what its stages share, and how they move its checkpoint. I/O on the ledger and S3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from enrich.dataset.definition import Dataset
from enrich.errors import LeaseLost
from enrich.ledger.lease import Lease
from enrich.ledger.records import Pending, Record, Run, bump
from enrich.ledger.store import Delete
from enrich.read.chunks import read_chunks
from enrich.read.outputs import parse_parts
from enrich.read.s3_object import Part, PartFile
from enrich.s3 import get, list_keys, put
from enrich.services import Services


@dataclass(slots=True)
class RunContext:
    """A run in the hands of this invocation."""

    services: Services
    lease: Lease
    dataset: Dataset
    run: Run
    scratch: Path  # a folder of this run alone, gone when the invocation is done with it
    _slowest_step: float = 0.0
    _step_began: float = 0.0
    saved_at: float = 0.0

    def save(self, *records: Record | Delete, dataset_state: dict[str, Any] | None = None, **changes: Any) -> None:
        """Commit changes of the run, together with records and changes of the dataset's state.

        Raises:
            LeaseLost: this invocation does not hold the dataset any more.
        """
        changed = replace(self.run, **changes)
        self.lease.commit(changed, *records, **(dataset_state or {}))
        self.run = bump(changed)
        self.saved_at = self.services.clock.now()

    def parts(self) -> list[Part]:
        """Read the pinned parts."""
        return parse_parts(self.read_work("parts.json"))

    def chunks(self, first_row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read the pinned output from a row on, chunk by chunk."""
        self._step_began = self.services.clock.now()
        yield from read_chunks(self.parts(), self.dataset.source, open_part=self._open, start_row=first_row)

    def step(self) -> bool:
        """Keep the lease after a step of a stage; return whether what is left may not do for another such step."""
        now = self.services.clock.now()
        self._slowest_step = max(self._slowest_step, now - self._step_began)
        self._step_began = now
        self.lease.keep()
        needed = 1.5 * self._slowest_step + 2 * self.lease.timeout  # the step, then a flush and a commit
        return not self.lease.renews and now + needed > self.lease.stop_at

    @property
    def pending(self) -> Pending:
        """Return the record that says that this run is not closed."""
        record = self.services.ledger.get_pending(self.run.dataset, self.run.run)
        if record is None:
            raise LeaseLost(f"dataset {self.run.dataset}: somebody else closed run {self.run.run}")
        return record

    def superseded_rows(self, folder: str) -> list[int]:
        """Read the rows, of the output or of the removals, for which the table turned out to hold a newer item."""
        s3, bucket = self.services.s3, self.services.settings.bucket
        rows: set[int] = set()
        for object_key in list_keys(s3, bucket, self.work_key(folder)):
            rows.update(orjson.loads(get(s3, bucket, object_key)))
        return sorted(rows)

    def due(self) -> bool:
        """Return whether it is time for a checkpoint."""
        return self.services.clock.now() - self.saved_at >= self.services.checkpoint_seconds

    def read_work(self, name: str) -> bytes:
        """Read a file of this run's work folder."""
        return get(self.services.s3, self.services.settings.bucket, self.work_key(name))

    def write_work(self, name: str, content: bytes) -> None:
        """Write a file of this run's work folder."""
        put(self.services.s3, self.services.settings.bucket, self.work_key(name), content)

    def work_key(self, name: str) -> str:
        """Return the object key of a file in this run's work folder."""
        return f"{build_work_prefix(self.dataset.name, self.run.run)}{name}"

    def _open(self, part: Part) -> BinaryIO:
        return BufferedReader(PartFile(self.services.s3, part), buffer_size=1 << 16)


def build_work_prefix(dataset: str, run: int) -> str:
    """Return where the files lie that a run keeps for its continuation."""
    return f"work/{dataset}/{run:08d}/"
