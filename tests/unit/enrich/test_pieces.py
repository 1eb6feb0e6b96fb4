"""A run in pieces has the results of a run in one process: table, fingerprints, rejects and counts."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enrich.dataset.definition import Dataset
from enrich.ledger.run_state import EngineKind
from enrich.read import chunks, pieces
from enrich.services import Services
from tests.doubles.task_scheduler import TaskScheduler
from tests.unit.enrich.small_shop import DATASET, SmallShop

KEYS = [("x" if n % 3 else "y", f"sku-{n}") for n in range(60)]


@dataclass
class PiecesShop(SmallShop):
    """The small shop, whose runs are executed in pieces by a scheduler in this process."""

    attempts: int = 1
    ran: list[Any] = field(default_factory=list)

    def services(self) -> Services:
        services = super().services()
        scheduler = TaskScheduler(services, attempts=self.attempts, ran=self.ran)
        return replace(services, scheduler=scheduler, engine=EngineKind.SPARK)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks of 7 rows, so that some dozen rows are several pieces."""
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 7)
    for reader in (chunks.read_chunks, chunks.read_range, chunks.find_cuts):
        monkeypatch.setitem(cast(Any, reader).__kwdefaults__, "chunk_rows", 7)
    monkeypatch.setattr(pieces, "MOST_ROWS", 14)


def rows(numbers: Any, units: float = 1.0) -> dict[str, list[Any]]:
    numbers = list(numbers)
    return {
        "shop": [KEYS[n][0] for n in numbers],
        "sku": [KEYS[n][1] if n % 11 else "a" for n in numbers],
        "units": [units + n % 5 if n % 13 else float("nan") for n in numbers],
    }


def grouped(of: Mapping[str, list[Any]], size: int = 10) -> bytes:
    """Return a Parquet file of small row groups."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(of)), buffer, row_group_size=size)
    return buffer.getvalue()


def leaves(shop: SmallShop) -> dict[str, Any]:
    """Return the results of runs: items, rejects, and the ledger's counts of each run."""
    kept = {
        at[1]: sorted(json.loads(line)["row"] for line in versions[-1].body.splitlines())
        for at, versions in shop.s3.objects.items()
        if at[1].startswith("rejects/")
    }
    runs = [
        (run.run, run.kind, run.state, run.stage, run.rows, run.counts, run.units, run.reasons, run.because, run.shifts)
        for run in shop.ledger.fetch_runs(shop.dataset.name)
    ]
    return {"items": shop.table.items, "rejects": kept, "runs": runs}


def both(tmp_path: Path, dataset: Dataset = DATASET, attempts: int = 1) -> tuple[SmallShop, PiecesShop]:
    for name in ("local", "pieces"):
        (tmp_path / name).mkdir()
    return SmallShop(tmp_path / "local", dataset), PiecesShop(tmp_path / "pieces", dataset, attempts=attempts)


OUTPUTS = {
    "new, changed, unchanged and duplicate rows": [rows(range(60)), rows([*range(20, 60), 3], 2.0), rows(range(30))],
    "no rows": [rows([]), rows(range(5))],
    "one row": [rows([1])],
    "too many rejects": [rows([0, 13, 26, 39, 52, 11, 22, 33, 44, 55])],
}


@pytest.mark.parametrize(("output", "attempts"), [("partial", 1), ("snapshot", 2)])
@pytest.mark.parametrize("case", OUTPUTS)
def test_same_as_in_one_process(tmp_path: Path, case: str, output: Any, attempts: int) -> None:
    """For each output, pieces leave the same items, rejects, counts and reasons, also if all tasks run twice."""
    source = replace(DATASET.source, output=output, empty_snapshot="remove-all")
    local, in_pieces = both(tmp_path, replace(DATASET, source=source), attempts)
    for day, content in enumerate(OUTPUTS[case]):
        for shop in (local, in_pieces):
            shop.run(grouped(content), day=len(OUTPUTS[case]) - day)
    assert leaves(in_pieces) == leaves(local)
    assert {task.kind for task in in_pieces.ran} >= {"check", "store_notes"}
