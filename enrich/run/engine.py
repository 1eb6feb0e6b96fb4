"""Choose where a run is executed: in one process, or in pieces by a job; by its size and measured rates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from enrich.dataset.definition import Dataset, Source
from enrich.join.engine import MAX_METADATA_BYTES
from enrich.ledger.records import Run
from enrich.ledger.run_state import EngineKind, Kind
from enrich.read.metadata import list_metadata
from enrich.read.s3_object import Part
from enrich.services import Services

RATES = Path(__file__).with_name("rates.json")
_COMPRESSED = (".gz", ".zst", ".zip", ".bz2")


def choose_engine(services: Services, dataset: Dataset, run: Run, parts: Sequence[Part]) -> EngineKind:
    """Choose where a run is executed: as an operator chose, else by size.

    One process could take too long, or not have the memory for the metadata; then a job executes the run. The rejects
    of a run are few, and are always executed here.

    Args:
        services: `engine` is an operator's choice, `has_job` whether there is another place.
        dataset: of the run.
        run: its pinned metadata count.
        parts: of its output.
    """
    if run.kind is Kind.REJECTS or not services.has_job:
        return EngineKind.LOCAL
    if services.engine is not None:
        return services.engine
    chosen = choose_by_size(parts, dataset.source)
    return EngineKind.SPARK if chosen is EngineKind.LOCAL and _is_too_large(services, run) else chosen


def _is_too_large(services: Services, run: Run) -> bool:
    """Return whether the metadata certainly does not fit into one process: not even as Parquet."""
    files = [list_metadata(services.s3, name, location) for name, location in run.metadata.items()]
    return sum(size for each in files for size in each.values()) > MAX_METADATA_BYTES


def choose_by_size(parts: Sequence[Part], source: Source) -> EngineKind:
    """Choose by the estimated rows of an output."""
    return EngineKind.SPARK if estimate_rows(parts, source) > read_rates()["local_rows"] else EngineKind.LOCAL


def estimate_rows(parts: Sequence[Part], source: Source) -> int:
    """Estimate the rows of an output from the sizes of its parts."""
    rates = read_rates()
    size = 0
    for part in parts:
        is_compressed = source.format != "parquet" and part.object_key.endswith(_COMPRESSED)
        size += part.size * (rates["compressed_text"] if is_compressed else 1)
    return int(size // rates["bytes_per_row"][source.format])


@cache
def read_rates() -> dict[str, Any]:
    """Read the measured rates: as_of, source, rows per CPU-second, and how many rows one process takes at most."""
    rates: dict[str, Any] = json.loads(RATES.read_text())
    return rates
