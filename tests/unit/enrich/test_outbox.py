"""Each end of a run is reported at least once, even if an invocation dies, and no run waits for the bus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enrich.dataset.definition import Guard
from enrich.intake import operations
from enrich.intake.events import Sweep
from enrich.intake.held import approve, reject
from enrich.intake.worker import handle_requests, run_pending
from enrich.ledger.run_state import RunState
from enrich.outbox.outbox import report
from enrich.outbox.run_event import MAX_ERROR
from tests.faults.world import Killed, build_error
from tests.unit.enrich.shop_with_bus import ShopWithBus
from tests.unit.enrich.small_shop import DATASET, ROWS

BAD: dict[str, list[Any]] = {"shop": ["x", "x"], "sku": ["a", "a"], "units": [1.0, 2.0]}  # duplicates: all are rejected


@pytest.fixture
def shop(tmp_path: Path) -> ShopWithBus:
    return ShopWithBus(tmp_path)


def sweep(shop: ShopWithBus) -> None:
    handle_requests(shop.services(), [Sweep("stock")])


def withdraw(shop: ShopWithBus) -> None:
    operations.withdraw(shop.services(), shop.run(ROWS))
    list(run_pending(shop.services(), "stock"))


def overwrite(shop: ShopWithBus) -> None:
    shop.enqueue(ROWS)
    shop.run({**ROWS, "units": [4.0, 5.0, 6.0]})


ENDS: dict[str, tuple[Callable[[ShopWithBus], Any], list[tuple[int, str]], list[str]]] = {
    "done": (lambda shop: shop.run(ROWS), [(1, "done")], ["START", "COMPLETE"]),
    "failed": (lambda shop: shop.run(BAD), [(1, "failed")], ["START", "FAIL"]),
    # The lineage of the withdrawn run is complete: the removal has a run of its own.
    "withdrawn": (withdraw, [(1, "done"), (1, "withdrawn"), (2, "done")], ["START", "COMPLETE"] * 2),
    "overwritten": (overwrite, [(1, "overwritten"), (2, "done")], ["START", "ABORT", "START", "COMPLETE"]),
}


@pytest.mark.parametrize("end", ENDS)
def test_each_end_is_reported(shop: ShopWithBus, end: str) -> None:
    """There is one event per end, with lineage; nothing is left, and a sweep sends nothing more."""
    act, states, lineage = ENDS[end]
    act(shop)
    assert shop.states() == states
    assert [each["eventType"] for each in shop.lineage()] == lineage
    assert shop.ledger.fetch_outbox("stock") == []
    sweep(shop)
    assert shop.states() == states


def test_event_has_the_values_of_the_ledger(shop: ShopWithBus) -> None:
    """Dataset, output, as_of, order and counts are those of the run."""
    run = shop.run({**ROWS, "sku": ["a", "b", "none"]})
    (event,) = shop.run_events()
    expected = {
        "id": f"stock/1/{run.version}",
        "environment": "test",
        "dataset": "stock",
        "output": f"s3://outputs/{run.object_key}",
        "as_of": "2027-01-15T00:00:00.000Z",
        "order": run.order.text,
        "rows": 3,
        "counts": {"written": 2, "unchanged": 0, "superseded": 0, "expired": 0, "rejected": 1, "removed": 0},
        "reasons": {"missing-metadata": 1},
        "error": None,
    }
    assert {name: event[name] for name in expected} == expected


def test_first_line_of_an_error(shop: ShopWithBus) -> None:
    """Only the ledger has the other lines, which show internals."""
    run = replace(shop.run(BAD), error=f"{'x' * 2000}\nselect secret")
    (entry,) = report(shop.services(), run, "held")
    assert f'"error":"{"x" * MAX_ERROR} ..."' in entry.events[0]["detail"]
    assert "secret" not in str(entry.events)


class Dying:
    """A bus that kills its caller at a call, before or after it accepts the events."""

    def __init__(self, shop: ShopWithBus, at: int, *, accepts: bool) -> None:
        self.left, self.accepts, self.bus = at, accepts, shop.bus

    def put_events(self, Entries: Any) -> Any:  # noqa: N803
        self.left -= 1
        if self.left or self.accepts:
            answer = self.bus.put_events(Entries)
            if self.left:
                return answer
        raise Killed("here")


@pytest.mark.parametrize("accepts", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_killed_while_it_sends(shop: ShopWithBus, at: int, accepts: bool) -> None:
    """If an invocation is killed while it reports the begin or end of a run, the event is sent later, at most twice."""
    client, shop.client.client = shop.client.client, Dying(shop, at, accepts=accepts)  # type: ignore[assignment]
    with pytest.raises(Killed):
        shop.run(ROWS)
    assert len(shop.ledger.fetch_outbox("stock")) == 1
    shop.client.client = client
    shop.world.sleep(3600)  # its lease has ended
    sweep(shop)
    assert set(shop.states()) == {(1, "done")}
    assert {each["eventType"] for each in shop.lineage()} == {"START", "COMPLETE"}
    assert shop.ledger.fetch_outbox("stock") == []


def count_calls(shop: ShopWithBus) -> list[int]:
    """Return a list that gets the number of entries of each call from now on."""
    calls, put = list[int](), shop.bus.put_events

    def put_events(Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        calls.append(len(Entries))
        return put(Entries)

    shop.bus.put_events = put_events  # type: ignore[method-assign]
    return calls


def test_bus_that_is_down_blocks_no_run(shop: ShopWithBus) -> None:
    """Runs close as always, one call fails per minute and not one per run, and later the sweep sends all events."""
    calls = count_calls(shop)
    shop.bus.down = [(0, shop.world.time + 300)]
    runs = [shop.run({**ROWS, "units": [day, 2.0, 3.0]}, day) for day in (3, 2, 1)]
    assert [run.state for run in runs] == [RunState.DONE] * 3
    assert len(calls) == 1
    assert shop.states() == []
    shop.world.sleep(400)
    sweep(shop)
    assert shop.states() == [(1, "done"), (2, "done"), (3, "done")]
    assert len(calls) == 2


def test_only_the_refused_event_stays(shop: ShopWithBus) -> None:
    """If the bus accepts all events of a batch but one, that one stays and is sent again."""
    shop.bus.down = [(0, shop.world.time + 1)]
    for day in (2, 1):
        shop.run({**ROWS, "units": [day, 2.0, 3.0]}, day)
    shop.world.sleep(100)
    accept = shop.bus._accept

    def refuse_first(entry: dict[str, Any]) -> dict[str, Any]:
        mine = '"run":1' in entry["Detail"] and '"state":"done"' in entry["Detail"]
        return {"ErrorCode": "ThrottlingException", "ErrorMessage": "slow"} if mine else accept(entry)

    shop.bus._accept = refuse_first  # type: ignore[method-assign]
    sweep(shop)
    assert shop.states() == [(2, "done")]
    assert [entry.run for entry in shop.ledger.fetch_outbox("stock")] == [1]
    shop.bus._accept = accept  # type: ignore[method-assign]
    sweep(shop)
    assert set(shop.states()) == {(1, "done"), (2, "done")}


def test_ledger_that_fails_blocks_no_run(shop: ShopWithBus) -> None:
    """If sent events can't be deleted, the run is closed nevertheless, and they are sent again."""
    transact = shop.dynamo.transact_write_items

    def refuse(TransactItems: Any) -> None:  # noqa: N803
        if all("outbox#" in str(each.get("Delete", {}).get("Key")) for each in TransactItems):
            raise build_error("TransactWriteItems", "InternalError")
        transact(TransactItems)

    shop.dynamo.transact_write_items = refuse  # type: ignore[method-assign]
    assert shop.run(ROWS).state is RunState.DONE
    shop.dynamo.transact_write_items = transact  # type: ignore[method-assign]
    shop.world.sleep(100)
    sweep(shop)
    assert shop.states() == [(1, "done")] * len(shop.states())
    assert shop.ledger.fetch_outbox("stock") == []


def test_no_time_left(shop: ShopWithBus) -> None:
    """Shortly before its deadline, an invocation leaves the events to the next invocation."""
    shop.enqueue(ROWS)
    services = replace(shop.services(), deadline=shop.world.time + 19)
    list(run_pending(services, "stock"))
    assert shop.states() == []
    sweep(shop)
    assert shop.states() == [(1, "done")]


def test_without_a_bus_nothing_is_kept(shop: ShopWithBus) -> None:
    """Without events in the environment, the ledger has none, and no call is made."""
    shop.enqueue(ROWS)
    plain = replace(shop.services(), settings=replace(shop.services().settings, bus=""), bus=None)
    list(run_pending(plain, "stock"))
    assert shop.ledger.fetch_outbox("stock") == []
    assert shop.bus.accepted == []


def test_plan_reports_nothing(shop: ShopWithBus) -> None:
    """A plan runs the real stages, and sends no events."""
    shop.run(ROWS, 1)
    shop.bus.accepted.clear()
    shop.enqueue({**ROWS, "units": [7.0, 8.0, 9.0]})
    shop.plan(shop.key())
    assert shop.bus.accepted == []
    assert shop.ledger.fetch_outbox("stock") == []


@pytest.mark.parametrize(
    ("decide", "states", "lineage"),
    [
        (approve, [(2, "held"), (2, "approved"), (2, "done")], ["START", "OTHER", "OTHER", "COMPLETE"]),
        (reject, [(2, "held"), (2, "rejected")], ["START", "OTHER", "ABORT"]),
    ],
    ids=["approve", "reject"],
)
def test_held_runs_are_reported(tmp_path: Path, decide: Any, states: list[Any], lineage: list[str]) -> None:
    """It is reported at once that a run is held, what shifted and by how much, and what an operator decides."""
    shop = ShopWithBus(tmp_path, replace(DATASET, guards=[Guard("mean", "body.units", change=0.5)]))
    shop.run(ROWS, 1)
    held = shop.run({**ROWS, "units": [100.0, 200.0, 300.0]})
    (event,) = [each for each in shop.run_events() if each["state"] == "held"]
    assert event["shifts"] == held.shifts != []
    decide(shop.services(), "stock", 2)
    list(run_pending(shop.services(), "stock"))
    assert shop.states() == [(1, "done"), *states]
    assert [each["eventType"] for each in shop.lineage()][2:] == lineage
    assert shop.ledger.fetch_outbox("stock") == []


def test_held_run_that_expires_is_reported(tmp_path: Path) -> None:
    """The sweep closes it and reports it."""
    shop = ShopWithBus(tmp_path, replace(DATASET, guards=[Guard("mean", "body.units", change=0.5)]))
    shop.run(ROWS, 1)
    shop.run({**ROWS, "units": [100.0, 200.0, 300.0]})
    shop.world.sleep(9 * 86_400)
    sweep(shop)
    assert shop.states()[-1] == (2, "rejected")
