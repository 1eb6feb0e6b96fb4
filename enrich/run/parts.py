"""The parts that a run has pinned: kept longer than its work folder, because a later run can need them.

A withdrawal, a replay or a restore reads exactly what the run has read, as long as its items live.
"""

from __future__ import annotations

from collections.abc import Sequence

from enrich.read.outputs import parse_parts, render_parts
from enrich.read.s3_object import Part
from enrich.s3 import get_if_exists, put
from enrich.services import Services


def locate_parts(dataset: str, run: int) -> str:
    """Return the object key of the list of a run's parts."""
    return f"parts/{dataset}/{run:08d}.json"


def save_parts(services: Services, dataset: str, run: int, parts: Sequence[Part]) -> None:
    """Save the parts that a run reads."""
    content = render_parts(parts)
    for object_key in (locate_parts(dataset, run), _locate_former(dataset, run)):
        put(services.s3, services.settings.bucket, object_key, content)


def load_parts(services: Services, dataset: str, run: int) -> list[Part] | None:
    """Load the parts that a run has pinned; None if it has pinned none, or their list was deleted."""
    for object_key in (locate_parts(dataset, run), _locate_former(dataset, run)):
        content = get_if_exists(services.s3, services.settings.bucket, object_key)
        if content is not None:
            return parse_parts(content)
    return None


def _locate_former(dataset: str, run: int) -> str:
    """Return where release 0.1.0 saves the list and looks for it: after a roll back it continues open runs."""
    return f"work/{dataset}/{run:08d}/parts.json"
