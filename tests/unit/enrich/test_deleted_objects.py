"""Objects that were deleted by the bucket's rules or by hand: runs work without them, or end with a reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from enrich.errors import Failed, Stopped
from enrich.intake import operations
from enrich.intake.worker import run_pending
from enrich.ledger.records import Counts
from enrich.ledger.run_state import Stage
from enrich.run import lifecycle
from enrich.run.context import RunContext
from tests.unit.enrich import small_shop
from tests.unit.enrich.small_shop import ROWS, SETTINGS, SmallShop

BETTER: dict[str, list[Any]] = {**ROWS, "units": [1.5, 2.5, 3.5]}


def forget(shop: SmallShop, *prefixes: str) -> None:
    """Delete the objects under prefixes of Larder's own bucket."""
    for at in [at for at in shop.s3.objects if at[0] == SETTINGS.bucket and at[1].startswith(prefixes)]:
        del shop.s3.objects[at]


def bodies(shop: SmallShop) -> dict[str, Any]:
    """Return what is served, by `shop/sku`."""
    return {f"{pk.partition('#')[2]}/{sk}": item.body for (pk, sk), item in shop.table.items.items() if item.body}


def test_an_old_output_is_run_again_from_the_bucket(tmp_path: Path) -> None:
    """Its pinned parts, and the metadata that it joined, are gone; the output itself is not."""
    shop = SmallShop(tmp_path)
    shop.dataset = replace(
        shop.dataset,
        metadata={name: replace(each, max_age=timedelta(days=60)) for name, each in shop.dataset.metadata.items()},
    )
    first = shop.run(ROWS)
    forget(shop, "work/", "parts/", "metadata/")
    operations.replay(shop.services(), first)
    assert [each.state for each in run_pending(shop.services(), "stock")] == ["done"]
    forget(shop, "work/", "parts/", "metadata/")
    operations.withdraw(shop.services(), first)
    assert [(each.kind, each.state) for each in run_pending(shop.services(), "stock")] == [("removal", "done")]
    assert bodies(shop) == {}


def test_a_replay_of_a_deleted_output_ends_and_does_not_block_others(tmp_path: Path) -> None:
    """An output that was overwritten before it was run was never pinned: a replay of it can only report that."""
    shop = SmallShop(tmp_path)
    first = shop.run(b"garbage")
    forget(shop, "parts/", "work/")
    shop.put(shop.key(), b"garbage of another kind")
    operations.replay(shop.services(), first)
    (replayed,) = run_pending(shop.services(), "stock")
    assert replayed.state == "overwritten"
    assert "`./larder run s3://" in (replayed.error or "")
    assert shop.run(ROWS, day=1).counts == Counts(written=3)


@pytest.mark.parametrize("kept", [True, False])
def test_an_overwritten_output_is_restored_from_its_version(tmp_path: Path, kept: bool) -> None:
    """The bucket's rule deletes replaced versions in the end: then its run ends as overwritten, and others continue."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS)
    bad = shop.run(BETTER)
    if not kept:
        at = SETTINGS.outputs, shop.key()
        shop.s3.objects[at] = shop.s3.objects[at][-1:]
    operations.withdraw(shop.services(), bad)
    found = {(run.kind, run.state) for run in run_pending(shop.services(), "stock")}
    assert found == {("restore", "done" if kept else "overwritten"), ("removal", "done")}
    assert ["1.0" in str(body) for body in bodies(shop).values()] == ([True, False, False] if kept else [])
    assert shop.run(ROWS).counts.read == 3


def stop(_: RunContext) -> None:
    raise Stopped("the table is out of reach")


def test_a_run_whose_noted_rows_are_gone_fails_and_all_live_items_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had begun to write, so the state of the table is unknown; the next run restores it."""
    shop = SmallShop(tmp_path)
    shop.run(ROWS, day=1)
    with monkeypatch.context() as patch:
        patch.setitem(
            lifecycle.STAGES, Stage.WRITE, lambda *_: (_ for _ in ()).throw(Stopped("the table is out of reach"))
        )
        with pytest.raises(Stopped):
            shop.run(BETTER)
    forget(shop, "work/")
    (failed,) = run_pending(shop.services(), "stock")
    assert (failed.state, failed.run) == ("failed", 2)
    assert "replay the run" in (failed.error or "")
    shop.written()
    shop.run({name: values[:1] for name, values in BETTER.items()}, day=0)
    assert shop.written() == ["x/a", "x/a", "x/b", "y/a"]  # all of the first output, and the new one's
    assert ["1.5" in body for body in map(str, bodies(shop).values())] == [True, False, False]


@pytest.mark.parametrize("when", ["before", "after"])
def test_rejects_of_a_withdrawn_output_are_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Also rejects that wait for a replay: after a fix they would become items of a withdrawn output."""
    shop = SmallShop(tmp_path)
    first = shop.run({**ROWS, "sku": ["a", "new", "a"]})
    monkeypatch.setattr(small_shop, "PRODUCTS", {"sku": ["a", "new"], "title": ["A", "New"]})
    operations.replay_rejects(shop.services(), f"rejects/stock/{first.run:08d}/")
    if when == "after":
        list(run_pending(shop.services(), "stock"))
        assert "x/new" in bodies(shop)
    operations.withdraw(shop.services(), first)
    list(run_pending(shop.services(), "stock"))
    assert bodies(shop) == {}
    assert {run.state for run in shop.ledger.fetch_runs("stock") if run.kind != "removal"} == {"withdrawn"}


@pytest.mark.parametrize("missing", ["reject", "fail"])
def test_items_that_would_now_be_rejected_are_removed(tmp_path: Path, missing: Any) -> None:
    """If a dataset was made stricter, so that a bad output would not pass again, its items do not stay."""
    shop = SmallShop(tmp_path)
    first = shop.run(ROWS)
    assert len(bodies(shop)) == 3
    products = replace(shop.dataset.metadata["products"], on={"upper(sku)": "sku"}, missing=missing)
    shop.dataset = replace(shop.dataset, metadata={"products": products})
    operations.withdraw(shop.services(), first)
    assert [(each.kind, each.state) for each in run_pending(shop.services(), "stock")] == [("removal", "done")]
    assert bodies(shop) == {}


def test_only_outputs_can_be_withdrawn(tmp_path: Path) -> None:
    """A run over rejects, or a withdrawal, names no output; the refusal names the run that does."""
    shop = SmallShop(tmp_path)
    first = shop.run({**ROWS, "sku": ["a", "unknown", "a"]})
    operations.replay_rejects(shop.services(), f"rejects/stock/{first.run:08d}/")
    (rejects,) = run_pending(shop.services(), "stock")
    with pytest.raises(Failed, match="withdraw run 1"):
        operations.withdraw(shop.services(), rejects)
    assert operations.replay(shop.services(), rejects).kind == "rejects"
    assert [each.state for each in run_pending(shop.services(), "stock")] == ["failed"]
    removal = operations.withdraw(shop.services(), first)
    list(run_pending(shop.services(), "stock"))
    with pytest.raises(Failed, match="replay the run that it withdrew, 1"):
        operations.replay(shop.services(), removal)


def test_a_withdrawal_that_is_refused_wakes_what_came_meanwhile(tmp_path: Path) -> None:
    """An output whose event found the dataset busy waits for no sweep; without such an output no message is sent."""
    shop = SmallShop(tmp_path)
    first = shop.run(ROWS)
    operations.withdraw(shop.services(), first)
    list(run_pending(shop.services(), "stock"))
    sent = list[dict[str, Any]]()
    services = replace(shop.services(), send=sent.append)
    expected = list[dict[str, Any]]()
    for _ in range(2):
        with pytest.raises(Failed, match="already withdrawn"):
            operations.withdraw(services, first)
        assert sent == expected
        shop.enqueue(ROWS, day=1)
        expected = [{"continue": {"dataset": "stock"}}]
    assert shop.ledger.get_state("stock").lease_owner is None
