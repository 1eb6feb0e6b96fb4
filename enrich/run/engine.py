"""Choose where a run is executed: in one process, or in pieces by a job; by its size and measured rates."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from enrich.ledger.run_state import EngineKind, Kind
from enrich.run.context import RunContext

RATES = Path(__file__).with_name("rates.json")
_COMPRESSED = (".gz", ".zst", ".zip", ".bz2")


def choose_engine(context: RunContext, wanted: EngineKind | None) -> EngineKind:
    """Choose where a run is executed. `wanted`: an operator's choice; None: a job if one process would take too long.

    The rejects of a run are few, and are always executed here.
    """
    if context.run.kind is Kind.REJECTS:
        return EngineKind.LOCAL
    if wanted is not None:
        return wanted
    return EngineKind.JOB if estimate_rows(context) > read_rates()["local_rows"] else EngineKind.LOCAL


def estimate_rows(context: RunContext) -> int:
    """Estimate the rows of the pinned output from the sizes of its parts."""
    rates, source = read_rates(), context.dataset.source
    size = 0
    for part in context.parts:
        is_compressed = source.format != "parquet" and part.object_key.endswith(_COMPRESSED)
        size += part.size * (rates["compressed_text"] if is_compressed else 1)
    return int(size // rates["bytes_per_row"][source.format])


@cache
def read_rates() -> dict[str, Any]:
    """Read the measured rates: as_of, source, rows per CPU-second, and how many rows one process takes at most."""
    rates: dict[str, Any] = json.loads(RATES.read_text())
    return rates
