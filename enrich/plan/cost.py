"""What write units cost, by a small dated table of list prices. Pure but for reading that table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("prices.json")
HOURS = 730  # of a month, as AWS's calculator has it
RUN_SECONDS = 3600  # in which provisioned capacity gets a run done


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars.

    Attributes:
        run: on demand, for this run's write units.
        month: on demand, for as many runs like it as come in a month.
        capacity: write units a second that get such a run done in an hour.
        month_provisioned: for that capacity, provisioned all month.
    """

    run: float
    month: float
    capacity: int
    month_provisioned: float


def build_cost(units: int, per_month: float, region: str) -> Cost | None:
    """Build the cost of a run of so many write units; None where the table has no price for the region.

    The unit is DynamoDB's: 1 KB of an item, rounded up. It charges for the larger of the old item and the new.
    """
    prices = read_prices()["regions"].get(region)
    if prices is None:
        return None
    run = units / 1e6 * prices["million_write_requests"]
    capacity = -(-units // RUN_SECONDS)
    return Cost(run, run * per_month, capacity, capacity * HOURS * prices["write_unit_hour"])


@cache
def read_prices() -> dict[str, Any]:
    """Read the table: source, as_of, read_in (where the source was found quoted), and prices by region."""
    prices: dict[str, Any] = json.loads(TABLE.read_text())
    return prices
