"""Find outputs that have no run yet: by the event of an object, or by a sweep over a dataset's prefix."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from enrich.dataset.as_of import get_ahead
from enrich.dataset.field_types import require_types
from enrich.errors import Failed
from enrich.intake.queue import enqueue_output
from enrich.ledger.records import Run
from enrich.ledger.store import ConflictError
from enrich.read.outputs import Listed, Output, fetch_listed, fetch_output, find_dataset
from enrich.services import Services


def take_arrived(services: Services, bucket: str, object_key: str) -> Run | None:
    """Queue the output that an object is or closes, and return its run; None if the object is no dataset's output."""
    output = find_output(services, bucket, object_key)
    return enqueue_output(services, output) if output else None


def find_output(services: Services, bucket: str, object_key: str) -> Output | None:
    """Fetch the output that an object is or closes; None if the object is no dataset's output."""
    dataset = find_dataset(services.datasets, object_key) if bucket == services.settings.outputs else None
    return fetch_output(services.s3, dataset, bucket, object_key) if dataset else None


class Swept(NamedTuple):
    """What a sweep found: the runs of outputs that had none yet, and the errors of outputs that can't be read."""

    runs: list[Run]
    unreadable: list[str]


def sweep(services: Services, dataset_name: str) -> Swept:
    """Queue every output under a dataset's prefix that has no run yet and whose items would not be born expired.

    Of the outputs that have a run, only those are fetched that the listing can show: the ledger has many more.

    Raises:
        DatasetMistakes: a value of the dataset, such as its ttl, has another type than its hint.
    """
    dataset = services.datasets[dataset_name]
    require_types(dataset)
    oldest = datetime.fromtimestamp(services.clock.now(), UTC) - dataset.ttl - get_ahead(dataset.as_of)
    if dataset.start is not None:
        oldest = max(oldest, dataset.start)
    oldest_ms = int(oldest.timestamp() * 1000)
    found = [
        listed
        for listed in fetch_listed(services.s3, dataset, services.settings.outputs)
        if listed.arrived_ms >= oldest_ms
    ]
    known = _fetch_known(services, dataset_name, found, oldest_ms)
    # The records of older outputs were deleted: if the ttl has become longer since, they would be taken for new ones.
    # Read last, because another sweep can delete records until the known outputs are read.
    pruned_ms = services.ledger.get_state(dataset_name).pruned_ms
    swept = Swept([], [])
    for listed in found:
        seen = (listed.object_key, listed.etag, listed.arrived_ms, listed.listing) in known
        if seen or listed.arrived_ms <= pruned_ms:
            continue
        try:
            output = fetch_output(services.s3, dataset, services.settings.outputs, listed.object_key)
        except Failed as error:
            swept.unreadable.append(str(error))
            continue
        if output is None:
            continue
        earlier = services.ledger.get_seen(dataset_name, output.identity)
        if earlier is None:
            swept.runs.append(enqueue_output(services, output))
        elif earlier.listing != output.listing:  # the same parts were written again: the next sweep can skip them
            with suppress(ConflictError):
                services.ledger.commit(replace(earlier, listing=output.listing))
    return swept


def _fetch_known(
    services: Services, dataset: str, found: Sequence[Listed], oldest_ms: int
) -> set[tuple[str, str, int, str]]:
    """Return what a listing shows of the outputs that have a run, if they can be among those that were found."""
    if not found:
        return set()
    object_keys = [each.object_key for each in found]
    seen = services.ledger.fetch_seen_between(dataset, min(object_keys), max(object_keys), since_ms=oldest_ms)
    return {(each.object_key, each.etag, each.arrived_ms, each.listing) for each in seen}
