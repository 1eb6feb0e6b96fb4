"""OpenLineage events conform to the standard's schema, and each facet to its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from enrich.intake import operations
from enrich.intake.worker import run_pending
from tests.unit.enrich.shop_with_bus import ShopWithBus
from tests.unit.enrich.small_shop import ROWS

SCHEMAS = [json.loads(path.read_text()) for path in (Path(__file__).parent / "openlineage").glob("*.json")]
REGISTRY: Any = Registry().with_resources([(one["$id"], Resource.from_contents(one)) for one in SCHEMAS])


def validate(url: str, value: Any) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator({"$ref": url}, registry=REGISTRY, format_checker=checker).validate(value)


def facets(event: Any) -> Iterator[Any]:
    """Yield every facet of an event."""
    for holder in (event["run"], event["job"], *event["inputs"], *event["outputs"]):
        for group in ("facets", "inputFacets", "outputFacets"):
            yield from holder.get(group, {}).values()


@pytest.fixture
def events(tmp_path: Path) -> list[Any]:
    """The events of runs that are done, failed, withdrawn and overwritten."""
    shop = ShopWithBus(tmp_path)
    done = shop.run(ROWS, 3)
    shop.run({"shop": ["x", "x"], "sku": ["a", "a"], "units": [1.0, 2.0]}, 2)
    shop.enqueue(ROWS, 1)
    shop.run({**ROWS, "units": [4.0, 5.0, 6.0]}, 1)
    operations.withdraw(shop.services(), done)
    list(run_pending(shop.services(), "stock"))
    return shop.lineage()


def test_events_conform(events: list[Any]) -> None:
    """Each event conforms to the standard's schema, and each facet to the schema that it names."""
    assert {event["eventType"] for event in events} == {"START", "COMPLETE", "FAIL", "ABORT"}
    seen = set()
    for event in events:
        validate(event["schemaURL"], event)
        for facet in facets(event):
            validate(facet["_schemaURL"], facet)
            seen.add(facet["_schemaURL"].rpartition("/")[2])
    assert len(seen) == len(SCHEMAS) - 1  # each facet's schema was used


def test_schemas_refuse(events: list[Any]) -> None:
    """An event without a run, with an unknown type or with a bad facet is refused."""
    event = events[0]
    for wrong in (
        {**event, "run": {"runId": "12"}},
        {**event, "eventType": "DONE"},
        {**event, "eventTime": None},
        {**event, "outputs": [{"name": "items"}]},
        {**event, "run": {**event["run"], "facets": {"processing_engine": {"version": "1"}}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validate(event["schemaURL"], wrong)


def test_a_run_keeps_its_id_and_names_what_it_read_and_wrote(events: list[Any]) -> None:
    """START and COMPLETE have the same runId; output and metadata are the inputs, the table is the output."""
    start, complete = events[0], events[1]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert len({event["run"]["runId"] for event in events if event["eventType"] == "START"}) >= 4
    assert complete["job"] == {"namespace": "larder.test", "name": "stock"}
    inputs = [(each["namespace"], each["name"].partition("/")[0]) for each in complete["inputs"]]
    assert inputs == [("s3://outputs", "stock"), ("s3://larder", "metadata")]
    assert (complete["outputs"][0]["namespace"], complete["outputs"][0]["name"]) == ("dynamodb", "items")
    assert complete["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert "2 duplicate" in events[3]["run"]["facets"]["errorMessage"]["message"]
