"""Samples of what a run would change: items that are new, changed (before and after), removed, and rejects."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from enrich.cli.rejects import read_rejects, render_lines, shorten
from enrich.cli.table import BOLD, DIM, GREEN, RED, Paint, plain, printable
from enrich.ledger.records import Run
from enrich.services import Services
from serve.item import PK, SK, Item, body_text, decode

COMPARED = 1000  # most items that are read from the table; each costs read units
_BATCH = 100  # DynamoDB's quota for one BatchGetItem
_ROUNDS = 5  # most requests for a batch of which DynamoDB returns only a part


@dataclass(frozen=True, slots=True)
class Sample:
    """One item: its key, and its body before and after as JSON values; None means no body."""

    pk: str
    prediction_id: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Samples:
    """Up to N samples of each kind; `compared` is the number of items that were compared with the table."""

    new: list[Sample] = field(default_factory=list)
    changed: list[Sample] = field(default_factory=list)
    removed: list[Sample] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    compared: int = 0


class Sampler:
    """Keeps the first items that the planned run sends, and compares them with the table."""

    def __init__(self, dataset: str, run: int, show: int) -> None:
        self._prefix = f"{dataset}#"
        self._order = f".{run:08d}"
        self._show = show
        self._removed: list[Item] = []
        self._written: list[Item] = []

    def take(self, payload: bytes) -> None:
        """Keep the items of a request of this run, until there are enough."""
        if len(self._written) >= COMPARED and len(self._removed) >= self._show:
            return
        for attributes in parse_items(json.loads(payload)):
            item = decode(attributes)
            if not item.order.endswith(self._order):  # of a run that runs first
                continue
            kept, room = (self._removed, self._show) if item.body is None else (self._written, COMPARED)
            if len(kept) < room:
                kept.append(item)

    def compare(self, services: Services, s3: Any, run: Run) -> Samples:
        """Compare with the stored items, and read the rejects that the planned run has written."""
        rejected = read_rejects(s3, services.settings.bucket, run, limit=self._show).lines
        samples = Samples(rejected=rejected, compared=len(self._written))
        for start in range(0, len(self._written), _BATCH):
            if len(samples.new) == self._show and len(samples.changed) == self._show:
                break
            batch = self._written[start : start + _BATCH]
            stored = _fetch(services, batch)
            for item in batch:
                before, after = stored.get((item.pk, item.sk)), _parse(item)
                sample = Sample(item.pk, item.sk, before, after)
                kind = samples.new if before is None else samples.changed
                if len(kind) < self._show and before != after:
                    kind.append(sample)
        stored = _fetch(services, self._removed)
        samples.removed.extend(Sample(item.pk, item.sk, stored.get((item.pk, item.sk)), None) for item in self._removed)
        return samples


def parse_items(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the items of a PutItem or BatchWriteItem request."""
    if "Item" in request:
        return [request["Item"]]
    return [put["PutRequest"]["Item"] for puts in request.get("RequestItems", {}).values() for put in puts]


def _fetch(services: Services, items: list[Item]) -> dict[tuple[str, str], Any]:
    """Fetch the stored bodies of items, by key; tombstones and missing items have none."""
    found: dict[tuple[str, str], Any] = {}
    for start in range(0, len(items), _BATCH):
        keys: list[Any] = [{PK: {"S": item.pk}, SK: {"S": item.sk}} for item in items[start : start + _BATCH]]
        request: Any = {services.settings.table: {"Keys": keys}}
        for _ in range(_ROUNDS):
            answer = services.dynamodb.batch_get_item(RequestItems=request)
            for attributes in answer["Responses"].get(services.settings.table, []):
                item = decode(attributes)
                found[item.pk, item.sk] = _parse(item)
            request = answer.get("UnprocessedKeys")
            if not request:
                break
    return found


def _parse(item: Item) -> Any:
    return None if item.body is None else json.loads(body_text(item.body))


def find_changes(before: Any, after: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """Return each place where two JSON values differ, with both values; a missing member is None."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        return [
            change
            for name in names
            for change in find_changes(before.get(name), after.get(name), f"{place}.{name}" if place else name)
        ]
    return [] if before == after else [(place, before, after)]


def describe_samples(samples: Samples) -> dict[str, Any]:
    """Return samples as JSON values."""
    kinds = {"new": samples.new, "changed": samples.changed, "removed": samples.removed}
    found: dict[str, Any] = {
        kind: [
            {"pk": each.pk, "prediction_id": each.prediction_id, "before": each.before, "after": each.after}
            for each in some
        ]
        for kind, some in kinds.items()
    }
    return found | {"rejected": samples.rejected, "compared": samples.compared}


def render_samples(samples: Samples, paint: Paint = plain) -> list[str]:
    """Render samples as lines: a new body, each changed member with both values, a removed body, rejects."""
    lines: list[str] = []
    for title, sign, colour, some in (("New", "+", GREEN, samples.new), ("Removed", "-", RED, samples.removed)):
        if some:
            lines += ["", paint(title, BOLD)]
            lines += [f"  {paint(sign, colour)} {_name(each)}  {shorten(each.after or each.before)}" for each in some]
    if samples.changed:
        lines += ["", paint("Changed", BOLD)]
        for each in samples.changed:
            lines.append(f"  ~ {_name(each)}")
            lines += [
                f"      {printable(place)}: {paint(shorten(before), RED)} -> {paint(shorten(after), GREEN)}"
                for place, before, after in find_changes(each.before, each.after)
            ]
    if samples.rejected:
        lines += ["", paint("Rejected", BOLD), render_lines(samples.rejected, paint)]
    compared = f"of the first {samples.compared:,} items to write" if samples.compared else "no item would be written"
    return [*lines, "", paint(f"samples: {compared}", DIM), ""]


def _name(sample: Sample) -> str:
    return printable(f"{sample.pk} {sample.prediction_id}")
