"""What is stored, requested and read does not grow: a year of daily outputs and sweeps, or three months of them."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from enrich.intake import prune
from enrich.intake.find import sweep, take_arrived
from enrich.intake.recovery import heal
from enrich.intake.worker import run_pending
from enrich.ledger.run_state import RunState
from tests.faults.history import MEMORY, modelled
from tests.faults.world import DAY
from tests.unit.enrich.small_shop import DATASET, SETTINGS, TTL, SmallShop

PARTS = 5
SWEEPS = 1  # a day
EXPIRES_AFTER_DAYS = {
    "parts/": 365,
    "work/": 30,
    "metadata/": 30,
    "rejects/": 365,
    "athena/": 7,
}  # as in the template


@pytest.fixture
def shop() -> Iterator[SmallShop]:
    """A shop whose outputs are closed by a marker; rows are read and rendered by a model, so that a run is quick.

    Its scratch files are in memory: thousands that are deleted would take half of the test's time on a disk.
    """
    source = replace(DATASET.source, format="jsonl", marker="_SUCCESS")
    dataset = replace(DATASET, source=source, metadata={}, body={"value": "units"})
    memory = MEMORY if Path(MEMORY).is_dir() else None
    with modelled(), tempfile.TemporaryDirectory(dir=memory) as directory:
        yield SmallShop(Path(directory), dataset)


def put_output(shop: SmallShop, day: int) -> str:
    """Put the parts of a day's output, then its marker; return the marker's key."""
    folder = shop.key().rpartition("/")[0]
    for part in range(PARTS):
        rows = [["x", f"p{part}", f"v{day % 5}"]]
        shop.put(f"{folder}/part-{part:03d}", json.dumps(rows).encode())
    shop.put(f"{folder}/_SUCCESS", b"")
    return f"{folder}/_SUCCESS"


def expire(shop: SmallShop) -> None:
    """Do what the buckets' rules do: delete outputs after two weeks, and Larder's own files as the template says."""
    for (bucket, object_key), versions in list(shop.s3.objects.items()):
        days = 14 if bucket == SETTINGS.outputs else EXPIRES_AFTER_DAYS.get(object_key.partition("/")[0] + "/")
        if days is not None and versions[-1].modified.timestamp() < shop.world.now() - days * DAY:
            del shop.s3.objects[bucket, object_key]


def count_calls(shop: SmallShop) -> Counter[str]:
    """Return a counter of the calls to AWS by name, which continues to count."""
    calls: Counter[str] = Counter()
    call = shop.world.call

    def count(name: str, do: Any) -> Any:
        calls[name] += 1
        return call(name, do)

    shop.world.call = count  # type: ignore[method-assign, assignment]
    return calls


def count_rows(shop: SmallShop) -> Counter[str]:
    """Return a counter of the ledger's records that queries return, by kind, which continues to count."""
    rows: Counter[str] = Counter()
    query = shop.dynamo.query

    def count(**request: Any) -> Any:
        page = query(**request)
        rows.update(row["sk"]["S"].partition("#")[0] for row in page["Items"])
        return page

    shop.dynamo.query = count  # type: ignore[method-assign]
    return rows


@pytest.mark.parametrize("days", [90, pytest.param(365, marks=pytest.mark.long)])
def test_a_year_of_outputs_and_sweeps(shop: SmallShop, days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last month has as many objects, records and requests as the second; lists of parts are kept for a year."""
    monkeypatch.setattr(prune, "KEPT", timedelta(days=30))
    monkeypatch.setattr(prune, "NEWEST_KEPT", 10)
    calls, rows = count_calls(shop), count_rows(shop)
    objects, heads, records, read = [], [], [], []
    for day in range(days):
        services = shop.services()
        assert take_arrived(services, SETTINGS.outputs, put_output(shop, day)) is not None
        (run,) = run_pending(services, "stock")
        assert run.state is RunState.DONE, run.error
        calls.clear()
        rows.clear()
        for _ in range(SWEEPS):
            shop.world.sleep(DAY / SWEEPS)
            assert sweep(services, "stock") == ([], [])
            heal(services, "stock")
            prune.prune(services, "stock")
        heads.append(calls["HeadObject"])
        read.append(rows.copy())
        records.append(len(shop.dynamo.rows))
        expire(shop)
        objects.append(Counter(at[1].partition("/")[0] for at in shop.s3.objects if at[0] == SETTINGS.bucket))
    assert set(heads) == {0}
    assert max(each["fingerprints"] for each in objects) <= 2
    assert all(day - 1 <= each.pop("parts") <= day for day, each in enumerate(objects, 1))
    month = max(sum(each.values()) for each in objects[30:60])
    assert max(sum(each.values()) for each in objects[-30:]) <= month
    assert max(records[30:]) <= 2 * 30 + 2  # a run and its output each day; state and counter
    assert max(sum(each.values()) for each in read[-30:]) <= max(sum(each.values()) for each in read[30:60])
    assert 0 < max(each["output"] for each in read) <= TTL.days  # of the month that the ledger has
    assert TTL.days * PARTS > 30  # requests that each sweep used to send: one for each part of each live output


def test_markers_below_each_other_cost_a_sweep_no_requests(tmp_path: Path) -> None:
    """A marker is not a part, whatever its name: a listing shows that nothing changed."""
    source = replace(DATASET.source, format="jsonl", marker="done.json")
    with modelled():
        shop = SmallShop(tmp_path, replace(DATASET, source=source, metadata={}, body={"value": "units"}))
        folder = shop.key().rpartition("/")[0]
        shop.put(f"{folder}/part-0", json.dumps([["x", "p0", "v0"]]).encode())
        shop.put(f"{folder}/late/part-1", json.dumps([["x", "p1", "v1"]]).encode())
        shop.put(f"{folder}/late/done.json", b"")
        shop.put(f"{folder}/done.json", b"")
        services = shop.services()
        runs = [
            take_arrived(services, SETTINGS.outputs, f"{folder}/{name}") for name in ("late/done.json", "done.json")
        ]
        assert [run.parts for run in run_pending(services, "stock")] == [1, 2]
        assert None not in runs
        requests = count_calls(shop)
        assert sweep(services, "stock") == ([], [])
        assert requests["HeadObject"] == 0
