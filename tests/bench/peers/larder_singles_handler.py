# mypy: ignore-errors
"""Larder's handler, with 100 requests for one item each."""

from larder_handler import handler as _handler
from several_ids import IDS


def handler(event, context):
    """Handle the bench's event for each of them; return the last response."""
    for prediction_id in IDS:
        found = _handler({**event, "path": f"/v1/flight-delays/{prediction_id}"}, context)
    return found
