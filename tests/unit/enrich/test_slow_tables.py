"""However slow the table is, each invocation moves its run, holds its lease while it writes, and ends in time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from enrich.dataset.definition import Tolerated
from enrich.errors import OutOfTime
from enrich.intake.events import Continue
from enrich.intake.find import take_arrived
from enrich.intake.worker import handle_requests, run_pending
from enrich.ledger.records import Run
from enrich.ledger.run_state import RunState, Stage
from enrich.run import publish
from enrich.services import Services
from tests.doubles.modelled_table import ModelledTable
from tests.unit.enrich.small_shop import DATASET, SETTINGS, SmallShop, parquet

LASTS = 900.0  # seconds of an invocation


@dataclass(frozen=True)
class Slow:
    """A table and an output; the table takes `rate` write units a second, or the run is limited to that rate."""

    rows: int
    item_bytes: int
    rate: float
    budget: float | None = None

    @property
    def seconds(self) -> float:
        """Return the minimum time that writing takes."""
        return self.rows * -(-self.item_bytes // 1024) / self.rate


CASES = {
    "a budget of 10 units a second, items of 1 KB": Slow(12_000, 900, rate=10, budget=10),
    "a budget of 10 units a second, items of 20 KB": Slow(700, 20_000, rate=10, budget=10),
    "a table of 40 units a second, items of 20 KB": Slow(1_500, 20_000, rate=40),
    "a table of 5 units a second, items of 1 KB": Slow(4_500, 900, rate=5),
}


def text(size: int) -> str:
    """Return text that gzip can't make smaller than about three quarters of it."""
    return random.Random(size).randbytes(size // 2).hex()


def build_shop(tmp_path: Path, case: Slow) -> SmallShop:
    """Build a shop whose newest output is pending."""
    columns = {"shop": "varchar", "sku": "varchar", "note": "varchar"}
    dataset = replace(
        DATASET,
        source=replace(DATASET.source, columns=columns),
        metadata={},
        body={"note": "note"},
        prediction_id="sku",
    )
    rate = 1e9 if case.budget else case.rate
    shop = SmallShop(tmp_path, dataset, ModelledTable(units_per_second=rate, latency=0.02))
    shop.put(shop.key(), parquet(build_rows(case)))
    return shop


def build_rows(case: Slow) -> dict[str, list[Any]]:
    """Build rows of several shops, no two alike."""
    names = [f"{n % 7}" for n in range(case.rows)]
    note = text(case.item_bytes - 70)
    notes = [f"{n:06d}{note}" for n in range(case.rows)]
    return {"shop": names, "sku": [f"p{n}" for n in range(case.rows)], "note": notes}


def invoke(shop: SmallShop, case: Slow) -> Iterator[Run]:
    """Invoke enrich until nothing is pending; yield the run after each invocation."""
    for number in range(1000):
        deadline = shop.world.now() + LASTS
        services = replace(shop.services(), owner=f"i{number}", deadline=deadline, write_units=case.budget)
        try:
            list(run_pending(services, "stock"))
        except OutOfTime:
            assert shop.world.now() < deadline
        run = shop.ledger.get_run("stock", 1)
        assert run is not None
        yield run
        if run.state.is_closed:
            return


@pytest.mark.parametrize("name", CASES)
def test_each_invocation_moves_the_run(tmp_path: Path, name: str) -> None:
    """It ends after about as many invocations as the rate requires, and little is written twice."""
    case = CASES[name]
    shop = build_shop(tmp_path, case)
    take_arrived(shop.services(), SETTINGS.outputs, shop.key())
    places: list[tuple[int, int]] = []
    for run in invoke(shop, case):
        if not run.state.is_closed:
            assert run.stage is Stage.WRITE
            places.append((run.next_row, run.place))
    assert run.state is RunState.DONE
    assert run.counts.written == len(shop.table.items) == case.rows
    assert places == sorted(set(places))
    used = 0.75 if case.budget else 0.35  # of the rate: what the table allows is learned from its throttles
    assert len(places) <= case.seconds / LASTS / used + 1
    assert sum(shop.table.puts.values()) <= 1.1 * case.rows


def test_slices_without_a_bound_do_not_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This shows that the test above can fail: fixed slices of many items had this effect."""
    monkeypatch.setattr(publish, "FIRST_SLICE_UNITS", 1_000_000)
    case = CASES["a budget of 10 units a second, items of 1 KB"]
    shop = build_shop(tmp_path, case)
    take_arrived(shop.services(), SETTINGS.outputs, shop.key())
    runs = invoke(shop, case)
    assert {(run.next_row, run.place) for run in (next(runs), next(runs))} == {(0, 0)}


@pytest.mark.parametrize("name", CASES)
def test_a_run_without_a_deadline_keeps_its_lease_while_it_writes(tmp_path: Path, name: str) -> None:
    """On the command line the lease is renewed: no write is sent or in flight after its end."""
    case = CASES[name]
    shop = build_shop(tmp_path, case)
    send = shop.table.send

    def watch(target: str, payload: bytes) -> int:
        until = shop.ledger.get_state("stock").lease_until_ms / 1000
        assert shop.world.now() < until - services.request_timeout
        return send(target, payload)

    services: Services = replace(shop.services(), write_units=case.budget)
    shop.table.send = watch  # type: ignore[method-assign]
    take_arrived(services, SETTINGS.outputs, shop.key())
    (run,) = run_pending(services, "stock")
    assert (run.state, run.counts.written) == (RunState.DONE, case.rows)


@pytest.mark.parametrize("call_seconds", [0.01, 1.0])
def test_the_continuation_is_sent_before_the_invocation_ends(tmp_path: Path, call_seconds: float) -> None:
    """Also if each call to AWS takes a second, and the last writes get a response just before they time out."""
    case = CASES["a table of 5 units a second, items of 1 KB"]
    shop = build_shop(tmp_path, case)
    shop.table._latency = 2.9  # the model adds up to 0.6 of it
    call = shop.world.call

    def slow(name: str, do: Any) -> Any:
        shop.world.sleep(call_seconds)
        return call(name, do)

    shop.world.call = slow  # type: ignore[method-assign, assignment]
    sent: list[float] = []
    deadline = shop.world.now() + LASTS
    services = replace(shop.services(), deadline=deadline, send=lambda _: sent.append(shop.world.now()))
    run = take_arrived(services, SETTINGS.outputs, shop.key())
    assert run is not None
    handle_requests(services, [Continue("stock")])
    assert len(sent) == 1
    assert deadline - 120 < sent[0] < deadline - 1


def test_keeping_the_rejects_of_a_refused_output_continues_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too many rejects for one invocation, each saves more, and the run ends as failed with all of them."""
    monkeypatch.setattr("enrich.read.chunks.CHUNK_ROWS", 100)
    monkeypatch.setattr("enrich.read.chunks.read_chunks.__kwdefaults__", {"start_row": 0, "chunk_rows": 100})
    dataset = replace(DATASET, metadata={}, body={"units": "units"}, tolerated=Tolerated(share=0.1))
    shop = SmallShop(tmp_path, dataset)
    rows = 1000
    shop.put(shop.key(), parquet({"shop": ["x"] * rows, "sku": ["not safe /"] * rows, "units": [1.0] * rows}))
    take_arrived(shop.services(), SETTINGS.outputs, shop.key())
    put_object = shop.s3.put_object

    def slow(Bucket: str, Key: str, Body: bytes) -> None:  # noqa: N803
        if Key.startswith("rejects/"):
            shop.world.sleep(200)
        put_object(Bucket, Key, Body)

    monkeypatch.setattr(shop.s3, "put_object", slow)
    invocations = list(invoke(shop, Slow(rows, 100, rate=1e9)))
    assert invocations[-1].state is RunState.FAILED
    assert 3 < len(invocations) < 8
    kept = [key for bucket, key in shop.s3.objects if key.startswith("rejects/stock/")]
    assert len(kept) == 10
    assert "1000 of 1000 predictions can't become items (1000 bad-prediction-id)" in (invocations[-1].error or "")


def test_a_slice_grows_again_after_the_slowest_one() -> None:
    """One unit that took minutes makes the next slice small, but not so small that it never grows again."""
    slices = publish.SliceWriter(cast(Any, None))
    slices._adapt(1, 600.0)
    assert slices._units == 1
    for _ in range(10):
        slices._adapt(slices._units, 0.001)
    assert slices._units == 1024
