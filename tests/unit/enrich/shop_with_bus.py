"""The small shop with an event bus, and the schemas of what it sends."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import jsonschema

from enrich.outbox.lineage import KIND as LINEAGE
from enrich.outbox.run_event import KIND as RUN
from enrich.services import Bus, Services
from tests.doubles.services import ModelBus
from tests.unit.enrich.small_shop import SmallShop

DOCS = Path(__file__).parents[3] / "docs"


def validator(name: str) -> Any:
    """Return a validator of a schema of docs/."""
    schema = json.loads((DOCS / name).read_text())
    closed = {**schema, "additionalProperties": False}  # consumers must accept additional members, tests must not
    return jsonschema.Draft202012Validator(closed, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


RUN_EVENT, ITEM_EVENT = validator("run-event.schema.json"), validator("item-event.schema.json")


@dataclass
class ShopWithBus(SmallShop):
    """`run_events()` returns the details of the run events that the bus accepted; each conforms to the schema."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bus = ModelBus(cast(Any, self.world))
        self.client = Bus(cast(Any, self.bus))

    def services(self) -> Services:
        services = super().services()
        return replace(services, settings=replace(services.settings, bus="bus", environment="test"), bus=self.client)

    def run_events(self) -> list[dict[str, Any]]:
        found = self.bus.details(RUN)
        for detail in found:
            RUN_EVENT.validate(detail)
        return found

    def lineage(self) -> list[dict[str, Any]]:
        return self.bus.details(LINEAGE)

    def states(self) -> list[tuple[int, str]]:
        """Return (run, state) of the run events, as the bus got them."""
        return [(each["run"], each["state"]) for each in self.run_events()]
