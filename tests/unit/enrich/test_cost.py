"""What write units cost, and where the prices come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from enrich.plan.cost import build_cost, read_prices
from enrich.plan.report import _render_cost

DECISIONS = Path(__file__).parents[3] / "docs" / "decisions"
REGIONS = read_prices()["regions"]


def test_cost_in_frankfurt() -> None:
    """3.6 million units: on demand by the million; provisioned, 1,000 units a second for an hour, paid all month."""
    cost = build_cost(3_600_000, 30, "eu-central-1")
    assert cost is not None
    assert cost.run == pytest.approx(2.745)
    assert cost.month == pytest.approx(82.35)
    assert cost.capacity == 1000
    assert cost.month_provisioned == pytest.approx(578.89)


def test_part_of_a_unit_a_second_is_a_whole_one() -> None:
    """Capacity is bought in whole units."""
    cost = build_cost(3601, 1, "us-east-1")
    assert cost is not None
    assert cost.capacity == 2


def test_unknown_region_is_reported() -> None:
    """No price is guessed: the message names the region, the known ones, and where to look it up."""
    assert build_cost(1, 1, "mars-1") is None
    (line,) = _render_cost(None, "mars-1", 1)
    assert "mars-1" in line
    assert "eu-central-1" in line
    assert "https://" in line


@pytest.mark.parametrize("region", REGIONS)
def test_each_price_has_its_source(region: str) -> None:
    """Each region's figures name their source, and have the ratio that AWS has everywhere (within 1 %)."""
    prices = REGIONS[region]
    assert prices["read_in"] in read_prices()["read_in"]
    ratio = prices["write_unit_hour"] / prices["million_write_requests"]
    assert ratio == pytest.approx(0.00104, rel=0.01)


def test_decisions_reckon_with_the_same_prices() -> None:
    """The decision record has the price of a million writes that `plan` uses."""
    text = (DECISIONS / "what-a-million-costs.md").read_text()
    row = re.search(r"write units, on demand \| ([\d.]+) \| ([\d.]+) \|", text)
    assert row is not None
    for region, said in zip(("us-east-1", "eu-central-1"), row.groups(), strict=True):
        assert float(said) == REGIONS[region]["million_write_requests"]
