"""The errors that a retry can't fix: the run is closed as failed, and the next one can begin."""

from __future__ import annotations

from enrich.dataset.mistakes import DatasetMistakes
from enrich.errors import Failed
from enrich.join.derive import DeriveFailed
from enrich.join.engine import BadInstant, JoinMultiplies, MetadataTooLarge, RenderFailed
from enrich.read.chunks import BadOutput

FAILURES = (
    Failed,
    BadInstant,
    BadOutput,
    DatasetMistakes,
    DeriveFailed,
    JoinMultiplies,
    MetadataTooLarge,
    RenderFailed,
)
