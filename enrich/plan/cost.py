"""Calculate the cost of write units from a dated table of list prices."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("prices.json")
HOURS_PER_MONTH = 730  # as in AWS's pricing calculator
RUN_SECONDS = 3600  # duration of a run for which provisioned capacity is calculated


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars.

    Attributes:
        run: cost of this run's write units, on demand.
        month: cost of a month of such runs, on demand.
        capacity: write units per second that complete such a run in an hour.
        month_provisioned: cost of that capacity, provisioned for the whole month.
    """

    run: float
    month: float
    capacity: int
    month_provisioned: float


def build_cost(units: int, per_month: float, region: str) -> Cost | None:
    """Calculate the cost of a run's write units; None if the table has no price for the region.

    `units` are DynamoDB's write units: 1 KB of the larger of the old and the new item, rounded up.
    """
    prices = read_prices()["regions"].get(region)
    if prices is None:
        return None
    run = units / 1e6 * prices["million_write_requests"]
    capacity = -(-units // RUN_SECONDS)
    return Cost(run, run * per_month, capacity, capacity * HOURS_PER_MONTH * prices["write_unit_hour"])


@cache
def read_prices() -> dict[str, Any]:
    """Read the table of prices: source, as_of, read_in (where the source was quoted), and prices by region."""
    prices: dict[str, Any] = json.loads(TABLE.read_text())
    return prices
