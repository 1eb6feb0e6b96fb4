"""A dataset can be changed at any time: by a deploy while a run is open, or between a run and its withdrawal."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, Literal, cast

import pytest

from enrich.dataset.definition import Dataset, Derive, Guard, Member, Metadata
from enrich.dataset.identity import identify_definition
from enrich.delta import buckets
from enrich.errors import OutOfTime
from enrich.intake import operations
from enrich.intake.held import approve
from enrich.intake.worker import run_pending
from enrich.ledger.records import Run
from enrich.ledger.run_state import RunState, Stage
from enrich.read.chunks import read_chunks
from enrich.run import lifecycle
from enrich.run.context import RunContext
from tests.doubles.modelled_table import ModelledTable
from tests.unit.enrich.small_shop import DATASET, ROWS, SETTINGS, SmallShop, parquet

Rows = dict[str, list[Any]]
FORMER = replace(DATASET, metadata={}, body={"units": "units"})
MANY: Rows = {"shop": ["x"] * 2000, "sku": [f"s{n}" for n in range(2000)], "units": [float(n) for n in range(2000)]}


def bodies(shop: SmallShop) -> dict[str, Any]:
    """Return what is served, by `shop/sku`."""
    rows = shop.table.items.items()
    return {f"{pk.partition('#')[2]}/{sk}": item.body for (pk, sk), item in rows if item.body is not None}


def run_with_deploys(shop: SmallShop, run: Run, *later: Dataset, seconds: float = 30) -> Run:
    """Execute a run in short invocations, each with the next definition, the last one until it is closed."""
    deploys = [*later]
    for attempt in range(200):
        services = replace(shop.services(), owner=f"invocation-{attempt}", deadline=shop.world.time + seconds)
        try:
            list(run_pending(services, "stock"))
            break
        except OutOfTime:
            shop.world.sleep(30)
        if deploys:
            shop.dataset = deploys.pop(0)
    found = shop.ledger.get_run("stock", run.run)
    assert found is not None
    assert not deploys
    return found


def run_out_of_time(shop: SmallShop, times: int) -> None:
    """Execute what is pending in so many invocations, each of which must end before the run does."""
    for _ in range(times):
        with pytest.raises(OutOfTime):
            list(run_pending(shop.services(), "stock"))


def slow_shop(directory: Path, dataset: Dataset = FORMER) -> SmallShop:
    """Return a shop whose table takes some minutes for `MANY`."""
    return SmallShop(directory, dataset=dataset, table=ModelledTable(units_per_second=50))


def test_a_run_that_is_writing_begins_again_with_the_new_definition(tmp_path: Path) -> None:
    """All items get the body of the definition with which the run ends, and rows that it rejects are rejected."""
    later = replace(FORMER, body={"units": "if(units > 1500, 'nan'::double, units * 10)"})
    shop = slow_shop(tmp_path)
    done = run_with_deploys(shop, shop.enqueue(MANY), later)
    assert (done.state, done.counts.written, done.counts.rejected) == (RunState.DONE, 1501, 499)
    assert done.reasons == {"not-a-number": 499}
    served = bodies(shop)
    assert all(served[f"x/s{n}"] == f'{{"units":{n * 10.0}}}' for n in range(1501))
    again = shop.run(MANY | {"units": [*MANY["units"][:-1], 5.0]})
    assert (again.counts.unchanged, again.counts.written) == (1501, 1)


def test_what_the_former_definition_wrote_is_in_doubt(tmp_path: Path) -> None:
    """After a rollback, an output with the rows that were half written is written where the bodies differ."""
    later = replace(FORMER, body={"units": "units * 100"})
    shop = slow_shop(tmp_path)
    run_with_deploys(shop, shop.enqueue(MANY), later)
    assert set(bodies(shop).values()) == {f'{{"units":{n * 100.0}}}' for n in range(2000)}
    shop.dataset = FORMER
    back = run_with_deploys(shop, shop.enqueue(MANY), seconds=10_000)
    assert (back.counts.written, back.counts.unchanged) == (1999, 1)  # 0 units times 100 are 0
    assert set(bodies(shop).values()) == {f'{{"units":{n}.0}}' for n in range(2000)}


@pytest.mark.parametrize("rows_per_bucket", [buckets.ROWS, 900], ids=["one bucket", "many buckets"])
def test_a_deploy_that_is_rolled_back_while_the_run_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_bucket: int
) -> None:
    """Items whose bodies were as they must be, until the other definition replaced them, are written again."""
    monkeypatch.setattr(buckets, "ROWS", rows_per_bucket)
    later = replace(FORMER, body={"units": "units * 100"})
    shop = slow_shop(tmp_path)
    run_with_deploys(shop, shop.enqueue(MANY), seconds=10_000)
    shop.dataset = later
    done = run_with_deploys(shop, shop.enqueue(MANY), FORMER)
    assert (done.state, done.counts.read) == (RunState.DONE, 2000)
    assert set(bodies(shop).values()) == {f'{{"units":{n}.0}}' for n in range(2000)}


def test_a_run_that_is_checking_uses_no_notes_of_the_former_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each invocation checks a chunk of some rows; rows that the former definition has checked are checked again."""
    monkeypatch.setattr("enrich.run.context.read_chunks", partial(read_chunks, chunk_rows=3))
    monkeypatch.setattr(RunContext, "step", lambda context: context.run.stage is Stage.CHECK)
    rows: Rows = {"shop": ["x"] * 8, "sku": list("abcdefgh"), "units": [float(n) for n in range(8)]}
    shop = SmallShop(tmp_path, dataset=FORMER)
    run = shop.enqueue(rows)
    run_out_of_time(shop, times=2)
    monkeypatch.setattr("enrich.run.context.read_chunks", partial(read_chunks, chunk_rows=2))
    shop.dataset = replace(FORMER, prediction_id="upper(sku)")
    run_out_of_time(shop, times=4)
    list(run_pending(shop.services(), "stock"))
    done = shop.ledger.get_run("stock", run.run)
    assert done is not None
    assert (done.state, done.counts.written) == (RunState.DONE, 8)
    assert bodies(shop) == {f"x/{sku.upper()}": f'{{"units":{n}.0}}' for n, sku in enumerate("abcdefgh")}
    again = shop.enqueue(rows, day=0)
    run_out_of_time(shop, times=4)
    list(run_pending(shop.services(), "stock"))
    done = shop.ledger.get_run("stock", again.run)
    assert done is not None
    assert done.counts.unchanged == 8


def test_a_run_whose_keys_change_while_it_writes(tmp_path: Path) -> None:
    """Items under the former keys stay until they expire; all those under the new keys exist."""
    later = replace(FORMER, prediction_id="concat('v2-', sku)")
    shop = slow_shop(tmp_path)
    done = run_with_deploys(shop, shop.enqueue(MANY), later)
    assert (done.state, done.counts.written) == (RunState.DONE, 2000)
    assert {f"x/v2-s{n}" for n in range(2000)} <= bodies(shop).keys()
    shop.dataset = FORMER
    back = run_with_deploys(shop, operations.replay(shop.services(), done), seconds=10_000)
    assert back.state is RunState.DONE
    assert {f"x/s{n}" for n in range(2000)} <= bodies(shop).keys()


@pytest.mark.parametrize("is_late", [False, True])
def test_a_late_run_begins_again(tmp_path: Path, is_late: bool) -> None:
    """Items that this run wrote with the former definition are written again, although they have its order already."""
    shop = slow_shop(tmp_path)
    if is_late:
        shop.run({"shop": ["y"], "sku": ["z"], "units": [1.0]}, day=0)
    later = replace(FORMER, body={"units": "units + 1"})
    done = run_with_deploys(shop, shop.enqueue(MANY, day=1), later)
    assert (done.state, done.counts.written, done.counts.superseded) == (RunState.DONE, 2000, 0)
    assert all(bodies(shop)[f"x/s{n}"] == f'{{"units":{n + 1.0}}}' for n in range(2000))


@pytest.mark.parametrize("stage", [Stage.ORDER, Stage.CHECK, Stage.WRITE, Stage.REMOVE, Stage.CLOSE])
def test_a_deploy_before_any_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Whatever the stage before which the invocation ends, the run ends as if it had begun with the new definition."""
    shop = SmallShop(tmp_path, dataset=replace(DATASET, source=replace(DATASET.source, output="snapshot")))
    shop.run(ROWS, day=1)
    queued = shop.enqueue({"shop": ["x", "y"], "sku": ["a", "c"], "units": [7.0, 8.0]})

    def stop(*_: object) -> None:
        raise OutOfTime("the test ends the invocation")

    with monkeypatch.context() as patch:
        patch.setitem(lifecycle.STAGES, stage, stop)
        with pytest.raises(OutOfTime):
            list(run_pending(shop.services(), "stock"))
    shop.dataset = replace(
        shop.dataset,
        metadata={"products": Metadata("select sku, title as name from products", on="sku")},
        body={"name": "products.name", "units": "units"},
        ttl=timedelta(days=9),
    )
    monkeypatch.setattr("tests.unit.enrich.small_shop.PRODUCTS", {"sku": ["a", "c"], "name": ["A", "C"]})
    list(run_pending(shop.services(), "stock"))
    done = shop.ledger.get_run("stock", queued.run)
    assert done is not None
    assert (done.state, done.counts.read, done.error) == (RunState.DONE, 2, None)
    assert bodies(shop) == {"x/a": '{"name":"A","units":7.0}', "y/c": '{"name":"C","units":8.0}'}


def test_a_run_that_fails_while_it_removes_leaves_removed_items_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item that became a tombstone is written again, even if its body is what the fingerprints knew before."""
    shop = SmallShop(tmp_path, dataset=replace(DATASET, source=replace(DATASET.source, output="snapshot")))
    shop.run(ROWS, day=2)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setitem(lifecycle.STAGES, Stage.CLOSE, fail)
        queued = shop.enqueue({"shop": ["x"], "sku": ["a"], "units": [1.0]}, day=1)
        for _ in range(3):
            try:
                list(run_pending(shop.services(), "stock"))
            except ZeroDivisionError:
                shop.world.sleep(1000)
    failed = shop.ledger.get_run("stock", queued.run)
    assert failed is not None
    assert failed.state is RunState.FAILED
    assert bodies(shop).keys() == {"x/a"}
    shop.run(ROWS, day=0)
    assert bodies(shop).keys() == {"x/a", "x/b", "y/a"}


def test_a_snapshot_after_partial_outputs_removes_what_it_can_name(tmp_path: Path) -> None:
    """Items of partial outputs have no keys in the fingerprints: they stay until they expire, and the run ends."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=2)
    shop.dataset = replace(DATASET, source=replace(DATASET.source, output="snapshot"))
    first = shop.run({"shop": ["x", "x"], "sku": ["a", "c"], "units": [5.0, 6.0]}, day=1)
    assert (first.state, first.counts.removed) == (RunState.DONE, 0)
    second = shop.run({"shop": ["x"], "sku": ["a"], "units": [5.0]}, day=0)
    assert (second.state, second.counts.removed) == (RunState.DONE, 1)
    assert bodies(shop).keys() == {"x/a", "x/b", "y/a"}
    shop.dataset = DATASET
    shop.world.sleep(86_400)
    assert shop.run(ROWS).state is RunState.DONE
    shop.dataset = replace(DATASET, source=replace(DATASET.source, output="snapshot"))
    shop.world.sleep(86_400)
    assert shop.run({"shop": ["x"], "sku": ["a"], "units": [5.0]}).state is RunState.DONE


def withdraw(shop: SmallShop, run: Run) -> Run:
    """Withdraw a run, and return its removal."""
    removal = operations.withdraw(shop.services(), run)
    for _ in range(4):
        try:
            list(run_pending(shop.services(), "stock"))
            break
        except Exception:
            shop.world.sleep(1000)
    found = shop.ledger.get_run("stock", removal.run)
    assert found is not None
    return found


CHANGES: dict[str, dict[str, Any]] = {
    "body": {"body": {"units": "units + 1", "title": "products.title"}},
    "metadata": {
        "metadata": {**DATASET.metadata, "more": Metadata("select sku, title from more", on="sku", missing="null")},
        "body": {**DATASET.body, "more": "more.title"},
    },
    "query": {"metadata": {"products": Metadata("select sku, title, 1 as n from products", on="sku")}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_an_output_is_withdrawn_although_its_dataset_was_changed(tmp_path: Path, change: dict[str, Any]) -> None:
    """A removal needs only the keys of the items, so it works with any definition that gives the same keys."""
    shop = SmallShop(tmp_path)
    bad = shop.run(ROWS)
    shop.dataset = replace(DATASET, **change)
    removal = withdraw(shop, bad)
    assert (removal.state, removal.counts.removed, removal.error) == (RunState.DONE, 3, None)
    assert bodies(shop) == {}


def test_a_withdrawal_that_finds_other_keys_fails_and_can_be_repeated(tmp_path: Path) -> None:
    """Nothing is reported as removed that is still served; with the former definition the withdrawal succeeds."""
    shop = SmallShop(tmp_path)
    bad = shop.run(ROWS)
    shop.dataset = replace(DATASET, prediction_id="concat('v2-', sku)")
    removal = withdraw(shop, bad)
    assert (removal.state, removal.counts.removed) == (RunState.FAILED, 0)
    assert "3 items of run 1 are stored under keys" in (removal.error or "")
    assert "deploy version unversioned" in (removal.error or "")
    assert bodies(shop).keys() == {"x/a", "x/b", "y/a"}
    shop.dataset = DATASET
    assert withdraw(shop, bad).counts.removed == 3
    assert bodies(shop) == {}


def test_an_output_that_ran_under_two_keys_is_withdrawn_as_far_as_it_is_named(tmp_path: Path) -> None:
    """Items under the present keys are removed; the run's record and the log say how many of the former ones stay."""
    shop = SmallShop(tmp_path)
    bad = shop.run(ROWS)
    shop.dataset = replace(DATASET, prediction_id="concat('v2-', sku)")
    operations.replay(shop.services(), bad)
    list(run_pending(shop.services(), "stock"))
    removal = withdraw(shop, bad)
    assert (removal.state, removal.counts.removed, removal.because) == (RunState.DONE, 3, {"not named now": 3})
    assert bodies(shop).keys() == {"x/a", "x/b", "y/a"}


def test_a_removal_is_executed_where_the_dataset_is_another_one(tmp_path: Path) -> None:
    """The command of a checkout queues it; the deployed function, with more metadata, executes it."""
    shop = SmallShop(tmp_path)
    bad = shop.run(ROWS)
    removal = operations.withdraw(shop.services(), bad)
    shop.dataset = replace(DATASET, **CHANGES["metadata"])
    list(run_pending(shop.services(), "stock"))
    done = shop.ledger.get_run("stock", removal.run)
    assert done is not None
    assert (done.state, done.counts.removed) == (RunState.DONE, 3)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_run_that_begins_again_reads_what_it_has_read(tmp_path: Path, how: str) -> None:
    """Its output was deleted or overwritten after it had begun to write: it is published whole."""
    shop = slow_shop(tmp_path)
    run = shop.enqueue(MANY)
    with suppress(OutOfTime):
        list(run_pending(replace(shop.services(), deadline=shop.world.time + 30), "stock"))
    assert 0 < len(bodies(shop)) < 2000
    if how == "deleted":
        shop.s3.delete(SETTINGS.outputs, run.object_key)
    else:
        shop.put(run.object_key, parquet(ROWS))
    shop.world.sleep(60)
    shop.dataset = replace(FORMER, body={"units": "units * 10"})
    done = run_with_deploys(shop, run, seconds=10_000)
    assert (done.state, done.counts.written) == (RunState.DONE, 2000)


def test_rejects_of_the_former_definition_do_not_stay(tmp_path: Path) -> None:
    """A replay of the rejects finds only those of the definition with which the run ended."""
    shop = slow_shop(tmp_path, replace(FORMER, body={"units": "if(units < 500, 'nan'::double, units)"}))
    done = run_with_deploys(shop, shop.enqueue(MANY), FORMER)
    assert (done.state, done.counts.written, done.counts.rejected) == (RunState.DONE, 2000, 0)
    again = operations.replay_rejects(shop.services(), f"rejects/stock/{done.run:08d}/")
    assert run_with_deploys(shop, again, seconds=10_000).counts.read == 0


def test_a_definition_that_is_computed_anew_by_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides nothing lets no run begin again; a body with the time of the start ends the run, with the remedy."""
    shop = slow_shop(tmp_path)
    instant = datetime(2026, 1, 1, tzinfo=UTC)
    run = shop.enqueue(MANY)
    starts = [replace(FORMER, start=instant + timedelta(seconds=n)) for n in range(4)]
    assert run_with_deploys(shop, run, *starts).begun_again == 0
    run = shop.enqueue(MANY, day=0)

    def stop(*_: object) -> None:
        raise OutOfTime("the test ends the invocation")

    monkeypatch.setitem(lifecycle.STAGES, Stage.WRITE, stop)
    kinds = [replace(FORMER, body={"units": f"units + {n}"}) for n in range(25)]
    failed = run_with_deploys(shop, run, *kinds)
    assert failed.state is RunState.FAILED
    assert "it has begun again 24 times" in (failed.error or "")


def test_a_held_run_is_approved_with_more_metadata(tmp_path: Path) -> None:
    """An approved run reads what the present definition names."""
    guarded = replace(DATASET, guards=(Guard("rows", least=10),))
    shop = SmallShop(tmp_path, dataset=guarded)
    held = shop.run(ROWS)
    assert held.state is RunState.HELD
    shop.dataset = replace(guarded, **CHANGES["metadata"])
    approve(shop.services(), "stock", held.run)
    list(run_pending(shop.services(), "stock"))
    done = shop.ledger.get_run("stock", held.run)
    assert done is not None
    assert done.state is RunState.DONE
    assert bodies(shop)["x/a"] == '{"title":"A","units":1.0,"more":"A"}'


def test_a_run_whose_list_of_parts_is_gone_fails_and_lets_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that waits until S3 has deleted its work folder is closed with the remedy."""
    shop = SmallShop(tmp_path)

    def stop(*_: object) -> None:
        raise OutOfTime("the test ends the invocation")

    with monkeypatch.context() as patch:
        patch.setitem(lifecycle.STAGES, Stage.CHECK, stop)
        queued = shop.enqueue(ROWS, day=1)
        with pytest.raises(OutOfTime):
            list(run_pending(shop.services(), "stock"))
    for bucket, object_key in [at for at in shop.s3.objects if at[1].startswith(("parts/", "work/"))]:
        del shop.s3.objects[bucket, object_key]
    assert shop.run(ROWS).state is RunState.DONE
    failed = shop.ledger.get_run("stock", queued.run)
    assert failed is not None
    assert failed.state is RunState.FAILED
    assert "run `./larder replay stock 1`" in (failed.error or "")


def test_what_identifies_a_definition() -> None:
    """Texts for consumers do not; a derive step's code does, by the version of the deployed code."""

    def identify(version: str = "a", **changes: Any) -> str:
        return identify_definition(replace(DATASET, **changes), version)

    derive = Derive(lambda frame: frame, columns={"more": "double"})
    assert identify() == identify(version="b") == identify(about="stock", members={"units": Member("how many")})
    assert identify(derive=derive) != identify(derive=derive, version="b")
    odd = [partial(print, 1), print, type("Callable", (), {"__call__": print})()]
    assert all(identify(derive=Derive(each, columns={"more": "double"})) for each in odd)
    assert identify(body=MappingProxyType(dict(DATASET.body))) == identify()
    assert identify(source=replace(DATASET.source, null_words=cast(Any, {"a": 1}.keys())))
    assert identify(start=datetime(2026, 1, 1, tzinfo=UTC)) == identify()
    different: list[dict[str, Any]] = [
        {"body": dict(reversed(list(DATASET.body.items())))},
        {"source": replace(DATASET.source, output="snapshot")},
        {"equal_rows": "once"},
        {"nulls": "omit"},
        {"rank": "units desc"},
        {"derive": derive},
    ]
    assert len({identify(), *(identify(**each) for each in different)}) == len(different) + 1


@pytest.mark.parametrize("seed", range(12))
def test_fingerprints_are_true_after_any_series_of_deploys(tmp_path: Path, seed: int) -> None:
    """Runs of a few seconds each, a deploy now and then: an output of all items leaves exactly its bodies."""
    random = Random(seed)
    kinds = ["units", "units * 10", "if(units > 5, 'nan'::double, units)", "round(units / 2)"]
    outputs: tuple[Literal["partial", "snapshot"], ...] = ("partial", "partial", "snapshot")
    skus = [f"s{n}" for n in range(60)]
    shop = SmallShop(tmp_path, dataset=FORMER, table=ModelledTable(units_per_second=10))

    def deploy() -> None:
        source = replace(FORMER.source, output=random.choice(outputs))
        shop.dataset = replace(FORMER, source=source, body={"units": random.choice(kinds)})

    def go_on() -> None:
        services = replace(
            shop.services(), owner=f"{shop.world.time}", deadline=shop.world.time + random.choice([15, 40])
        )
        with suppress(OutOfTime):
            list(run_pending(services, "stock"))
        shop.world.sleep(random.choice([1, 30, 300]))

    for _ in range(random.randint(2, 5)):
        chosen = random.sample(skus, random.randint(1, 60))
        shop.enqueue(
            {"shop": ["x"] * len(chosen), "sku": chosen, "units": [float(random.randint(0, 9)) for _ in chosen]}
        )
        for _ in range(random.randint(1, 8)):
            if random.random() < 0.4:
                deploy()
            go_on()
    shop.dataset = FORMER
    shop.world.sleep(86_400)
    last = shop.enqueue({"shop": ["x"] * 60, "sku": skus, "units": [float(n % 10) for n in range(60)]})
    for _ in range(100):
        go_on()
    done = shop.ledger.get_run("stock", last.run)
    assert done is not None
    assert (done.state, done.counts.read) == (RunState.DONE, 60)
    assert bodies(shop) == {f"x/s{n}": f'{{"units":{n % 10}.0}}' for n in range(60)}
