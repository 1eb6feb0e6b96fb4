"""Choose where a run is executed: in one process, or in pieces by a job; by its size and measured rates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from enrich.dataset.definition import Source
from enrich.join.engine import MAX_METADATA_BYTES
from enrich.ledger.run_state import EngineKind, Kind
from enrich.read.metadata import list_metadata
from enrich.read.s3_object import Part
from enrich.run.context import RunContext

RATES = Path(__file__).with_name("rates.json")
_COMPRESSED = (".gz", ".zst", ".zip", ".bz2")


def choose_engine(context: RunContext, wanted: EngineKind | None) -> EngineKind:
    """Choose where a run is executed. `wanted`: an operator's choice; None: by size.

    One process could take too long, or not have the memory for the metadata; then a job executes the run. The rejects
    of a run are few, and are always executed here.
    """
    if context.run.kind is Kind.REJECTS:
        return EngineKind.LOCAL
    if wanted is not None:
        return wanted
    chosen = choose_by_size(context.parts, context.dataset.source)
    return EngineKind.SPARK if chosen is EngineKind.LOCAL and _is_too_large(context) else chosen


def _is_too_large(context: RunContext) -> bool:
    """Return whether the metadata certainly does not fit into one process: not even as Parquet."""
    s3 = context.services.s3
    files = [list_metadata(s3, name, location) for name, location in context.run.metadata.items()]
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
