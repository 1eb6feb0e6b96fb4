"""A dataset's guards: what they measure, which outputs they hold, and what happens to a held run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from enrich.dataset.compiler import name_measured
from enrich.dataset.definition import Guard, Shares
from enrich.dataset.validation import check_dataset
from enrich.errors import Failed, OutOfTime
from enrich.guard.cells import find_cell, find_number
from enrich.guard.evaluate import Reference, Verdict, evaluate
from enrich.guard.statistics import GROUPS, PERCENTILES, Statistics, Summary
from enrich.intake import operations
from enrich.intake.held import approve, close_expired, reject
from enrich.intake.recovery import heal
from enrich.intake.worker import run_pending
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind, RunState, Stage
from enrich.read.chunks import read_chunks
from enrich.run.context import RunContext
from tests.unit.enrich.small_shop import DATASET, ROWS, SmallShop, parquet

X = "x"
RANDOM = Random(5)
NORMAL = [RANDOM.gauss(50, 10) for _ in range(20_000)]
SHIFTED = [RANDOM.gauss(55, 10) for _ in range(20_000)]


def summarize(values: Sequence[float | None], chunks: int = 1) -> Summary:
    """Measure values, in several chunks, of which each is continued by another invocation; then store and load."""
    statistics = Statistics([X])
    size = max(1, math.ceil(len(values) / chunks))
    for first in range(0, len(values), size):
        part = pa.array(values[first : first + size], pa.float64())
        statistics.add(pa.table({"reason": pa.nulls(len(part), pa.string()), name_measured(X): part}))
        dumped, statistics = statistics.dump(), Statistics([X])
        assert statistics.load(dumped)
    return Summary.load(statistics.summarize().dump())


def judge(guard: Guard, now: Sequence[float | None], before: Sequence[float | None] | None = None) -> Verdict:
    statistics = Statistics([X])
    part = pa.array(now, pa.float64())
    statistics.add(pa.table({"reason": pa.nulls(len(part), pa.string()), name_measured(X): part}))
    (found,) = evaluate(
        [guard], statistics.summarize(), Reference("run 7", summarize(before)) if before is not None else None
    )
    return found


# -- statistics


@pytest.mark.parametrize(
    "values", [NORMAL, [-x for x in NORMAL], [10 ** (x / 5) for x in NORMAL[:2000]], [1e-300, -2e-40, 0.0]]
)
def test_statistics_are_exact_or_within_the_width_of_a_cell(values: list[float]) -> None:
    """Also after an interrupted check: smallest, largest and mean exactly, percentiles within 0.2 %."""
    found = summarize(values, chunks=3).values[X]
    ordered = sorted(values)
    assert (found.min, found.max) == (ordered[0], ordered[-1])
    assert found.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-9)
    for each in PERCENTILES:
        rank = math.ceil(each / 100 * len(values)) - 1
        assert found.percentiles[f"p{each}"] == pytest.approx(ordered[rank], rel=0.002, abs=1e-38)
    assert len(found.groups) <= 2 * GROUPS
    assert sum(count for _, count in found.groups) == len(values)


def test_cells_are_numbered_in_the_order_of_their_numbers() -> None:
    """Small whole numbers, including zero and negative zero, have their own cells."""
    numbers = [-1e300, -7.0, -1.0, -1e-30, 0.0, 1e-30, 0.25, 1.0, 2.0, 3.0, 1023.0, 1024.0, 1e39]
    cells = [find_cell(number) for number in numbers]
    assert cells == sorted(set(cells))
    assert [find_number(find_cell(x)) for x in (-7.0, -0.0, 0.25, 3.0, 1023.0)] == [-7.0, 0.0, 0.25, 3.0, 1023.0]


def test_rejects_and_non_numbers_do_not_count() -> None:
    """A reject is not a row; NaN and infinity are nulls."""
    statistics = Statistics([X])
    reason = pa.array([None, None, None, "bad-value", None], pa.string())
    statistics.add(pa.table({"reason": reason, name_measured(X): pa.array([1.0, math.nan, None, 99.0, math.inf])}))
    of = statistics.summarize().values[X]
    assert (of.rows, of.nulls, of.min, of.max) == (4, 3, 1.0, 1.0)


# -- guards

ZEROS = [0.0] * 95 + [1.0] * 5
CASES: list[tuple[Guard, Sequence[float | None], Sequence[float | None] | None, bool | None]] = [
    (Guard("rows", least=3), [1, 2, 3], None, True),
    (Guard("rows", least=4), [1, 2, 3], None, False),
    (Guard("rows", change=0.5), [1] * 50, [1] * 100, True),
    (Guard("rows", change=0.5), [1] * 49, [1] * 100, False),
    (Guard("rows", change=0.5), [1] * 151, [1] * 100, False),
    (Guard("rows", change=0.5), [1] * 49, None, None),
    (Guard("rows", change=0.5), [], [1] * 100, False),
    (Guard("rows", change=0.5, reference=10), [1] * 16, [1] * 16, False),
    (Guard("rows", difference=5), [1] * 106, [1] * 100, False),
    (Guard("nulls", X, most=0.5), [1, None], None, True),
    (Guard("nulls", X, most=0.4), [1, None], None, False),
    (Guard("nulls", X, most=0.4), [], None, None),
    (Guard("nulls", X, difference=0.1), [1, None], [1, 1], False),
    (Guard("nulls", X, difference=0.1), [None, None], [None, None], True),
    (Guard("range", X, least=0, most=1), [0, 1], None, True),
    (Guard("range", X, least=0, most=1), [0, 1.001], None, False),
    (Guard("range", X, least=0), [-0.001, 5], None, False),
    (Guard("min", X, least=0), [-1, 5], None, False),
    (Guard("max", X, change=0.1), [1, 5], [1, 5.4], True),
    (Guard("max", X, change=0.1), [1, 5], [1, 6], False),
    (Guard("mean", X, change=0.05), NORMAL[:10_000], NORMAL[10_000:], True),
    (Guard("mean", X, change=0.05), SHIFTED, NORMAL, False),
    (Guard("mean", X, change=0.05), [-x for x in SHIFTED], [-x for x in NORMAL], False),
    (Guard("mean", X, change=0.5), [0, 0], [0, 0], True),
    (Guard("mean", X, change=0.5), [0, 1], [0, 0], False),
    (Guard("mean", X, least=0), [None, None], None, False),
    (Guard("mean", X, change=0.5), [None, None], [1, 2], False),
    (Guard("mean", X, change=0.5), [None, None], [None], None),
    (Guard("mean", X, change=0.5), [1, 2], [None], None),
    (Guard("p95", X, difference=2), NORMAL[:10_000], NORMAL[10_000:], True),
    (Guard("p95", X, difference=2), SHIFTED, NORMAL, False),
    (Guard("p50", X, least=40, most=52), SHIFTED, None, False),
    (Guard("psi", X, most=0.1), NORMAL[:10_000], NORMAL[10_000:], True),
    (Guard("psi", X, most=0.1), SHIFTED, NORMAL, False),
    (Guard("psi", X, most=0.1), SHIFTED, None, None),
    (Guard("psi", X, most=0.1), [None], NORMAL, False),
    (Guard("psi", X, most=0.1), NORMAL, [None], None),
    (Guard("psi", X, most=0.1), ZEROS, ZEROS[::-1], True),
    (Guard("psi", X, most=0.1), [0.0] * 75 + [1.0] * 25, ZEROS, False),
    (Guard("psi", X, most=0.1), [3.0] * 100, [4.0] * 100, False),  # a constant that falls, or rises
    (Guard("psi", X, most=0.1), [4.0] * 100, [3.0] * 100, False),
    (Guard("psi", X, most=0.1, reference=Shares([40, 60], [0.16, 0.68, 0.16])), NORMAL, None, True),
    (Guard("psi", X, most=0.1, reference=Shares([40, 60], [0.3, 0.4, 0.3])), NORMAL, None, False),
]


@pytest.mark.parametrize(("guard", "now", "before", "passed"), CASES)
def test_a_guard_passes_fails_or_has_nothing_to_compare_with(
    guard: Guard, now: Sequence[float | None], before: Sequence[float | None] | None, passed: bool | None
) -> None:
    """The sentence has the found value, the reference, and the allowed values."""
    found = judge(guard, now, before)
    assert found.passed is passed, found.says
    assert found.says.startswith(guard.name)
    assert ("not compared" in found.says) is (passed is None)


# -- mistakes

MEASURED = replace(
    DATASET,
    source=replace(DATASET.source, columns={**DATASET.source.columns, "tags": "varchar[]", "ok": "boolean"}),
    body={"title": "products.title", "count": {"units": "units", "ok": "ok"}, "tags": "tags"},
)


@pytest.mark.parametrize(
    ("guard", "mistake"),
    [
        (Guard("mean", "unit", most=1), "there is no column or member of the body 'unit'; did you mean 'units'?"),
        (Guard("mean", "count.units", most=1), "did you mean 'body.count.units'?"),
        (Guard("mean", "body.count", most=1), "it has members, name one, e.g. 'body.count.ok'"),
        (Guard("mean", "sku", most=1), "sku is VARCHAR, and mean is of numbers; guard its nulls"),
        (Guard("psi", "body.tags", most=1), "body.tags is VARCHAR[], and psi is of numbers"),
        (
            Guard("mean", most=1),
            'does not name a value; name a column or a member, as in Guard("mean", "body.NAME"',
        ),
        (Guard("rows", "units", least=1), "rows measures the whole output; leave `of` out"),
        (Guard("mean", "units"), "has no bound; set least, most, change or difference"),
        (Guard("psi", "units", least=0), "psi has no least; set most"),
        (Guard("range", "units", change=0.1), "range has no change; set least or most"),
        (Guard("mean", "units", least=2, most=1), "least is 2, above most, 1"),
        (Guard("mean", "units", most=math.nan), "most is nan; give a finite number"),
        (Guard("mean", "units", change=-0.2), "change is -0.2; give a positive number or 0"),
        (Guard("nulls", "units", most=5), "most is 5, and nulls is a share; give a number from 0 to 1"),
        (Guard("psi", "units", most=1, reference=3), "write Shares(edges=[...], shares=[...])"),
        (Guard("psi", "units", most=1, reference=Shares([2, 1], [0, 0, 1])), "in ascending order"),
        (Guard("psi", "units", most=1, reference=Shares([1, 2], [0.5, 0.5])), "write 3 shares"),
        (Guard("psi", "units", most=1, reference=Shares([1], [0.5, 0.4])), "that add up to 1"),
        (Guard("mean", "units", most=1, reference=Shares([1], [0.5, 0.5])), "which only psi compares with"),
        (Guard("mean", "units", most=1, reference=3), "reference is not used"),
        (Guard("median", "units", most=1), "guards[0].measure: is 'median'; "),  # type: ignore[arg-type]
        (Guard("mean", "units", most="1"), "guards[0].most: is '1', of type str; expected a number"),  # type: ignore[arg-type]
    ],
)
def test_a_guard_that_cannot_work_is_a_mistake(guard: Guard, mistake: str) -> None:
    """`check` names the guard, the reason and the remedy; a run with it fails before it reads the output."""
    found = [str(each) for each in check_dataset(replace(MEASURED, guards=(guard,)))]
    assert len(found) == 1
    assert mistake in found[0]
    assert found[0].startswith("stock guards[0]")


def test_too_many_guards_are_a_mistake() -> None:
    """Statistics of a run have a bounded size."""
    columns = {f"c{n}": "double" for n in range(33)}
    dataset = replace(DATASET, source=replace(DATASET.source, columns={**DATASET.source.columns, **columns}))
    guarded = replace(dataset, guards=[Guard("mean", name, most=1) for name in columns])
    assert "guards of 33 columns and members, expected at most 32" in str(check_dataset(guarded)[0])
    guarded = replace(dataset, guards=[Guard("mean", "c1", most=1)] * 101)
    assert "has 101, expected at most 100" in str(check_dataset(guarded)[0])


# -- runs

GUARDED = replace(DATASET, guards=[Guard("rows", change=0.5), Guard("mean", "body.units", change=0.5)])
WORSE = {**ROWS, "units": [100.0, 200.0, 300.0]}


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path, GUARDED)


def get(shop: SmallShop, run: Run) -> Run:
    found = shop.ledger.get_run("stock", run.run)
    assert found is not None
    return found


def go_on(shop: SmallShop) -> list[Run]:
    return list(run_pending(shop.services(), "stock"))


def test_an_output_that_fails_a_guard_is_held(shop: SmallShop) -> None:
    """Nothing of it is written; run and `plan` report what shifted and by how much."""
    assert shop.run(ROWS, day=2).state is RunState.DONE
    shop.written()
    shop.put(shop.key(1), parquet(WORSE))
    planned = shop.plan(shop.key(1))
    held = shop.go(shop.key(1))
    says = "mean of body.units is 200, and 2 in run 1 (+9900.0%); allowed is 50 % up or down"
    for run in (planned.run, held):
        assert (run.state, run.shifts, run.decided_ms, run.ended_ms) == (RunState.HELD, [says], None, None)
        assert says in (run.error or "")
        assert f"`./larder approve stock {run.run}`" in (run.error or "")
    assert planned.statistics is not None
    assert [verdict["passed"] for verdict in json.loads(planned.statistics.verdicts)] == [True, False]
    assert shop.written() == []
    assert shop.ledger.fetch_pending("stock") == []
    assert [each.run for each in shop.ledger.fetch_held("stock")] == [held.run]
    assert go_on(shop) == []


def test_the_first_output_has_nothing_to_be_compared_with(shop: SmallShop) -> None:
    """The next outputs are compared with its statistics until a newer run closes, never with those of a held run."""
    assert shop.run(ROWS, day=4).state is RunState.DONE
    assert shop.run(WORSE, day=3).state is RunState.HELD
    assert shop.run(WORSE, day=2).state is RunState.HELD
    slowly = {**ROWS, "units": [1.4, 2.8, 4.0]}
    assert shop.run(slowly, day=1).state is RunState.DONE
    assert shop.run({**ROWS, "units": [1.9, 3.7, 5.4]}, day=0).state is RunState.DONE


def test_an_approved_run_is_published_in_its_order(shop: SmallShop) -> None:
    """It keeps its number and as_of, is checked again, and the next output is compared with it."""
    shop.run(ROWS, day=2)
    held = shop.run(WORSE, day=1)
    shop.written()
    queued = approve(shop.services(), "stock", held.run)
    assert (queued.state, queued.run, queued.as_of_ms) == (RunState.PENDING, held.run, held.as_of_ms)
    (done,) = go_on(shop)
    assert (done.run, done.state, done.approved, done.counts.written) == (held.run, RunState.DONE, True, 3)
    assert done.shifts == held.shifts
    assert sorted(shop.written()) == ["x/a", "x/b", "y/a"]
    assert shop.ledger.fetch_held("stock") == []
    assert shop.run({**WORSE, "units": [110.0, 220.0, 310.0]}).state is RunState.DONE


def test_a_rejected_run_is_closed_and_fingerprints_stay_valid(shop: SmallShop) -> None:
    """The next run compares with the fingerprints as if the rejected run had not existed."""
    shop.run(ROWS, day=2)
    held = shop.run(WORSE, day=1)
    shop.written()
    closed = reject(shop.services(), "stock", held.run)
    assert (closed.state, closed.state.is_closed) == (RunState.REJECTED, True)
    assert "rejected by an operator; it was held: mean of body.units" in (closed.error or "")
    again = shop.run(ROWS)
    assert (again.state, again.counts.unchanged) == (RunState.DONE, 3)
    assert shop.written() == []


def test_a_held_run_does_not_block_and_is_not_published_late(shop: SmallShop) -> None:
    """Later outputs are published; then the older one can't be approved, until the newer one is withdrawn."""
    shop.run(ROWS, day=2)
    held = shop.run(WORSE, day=1)
    newer = shop.run(ROWS, day=0)
    assert newer.state is RunState.DONE
    with pytest.raises(
        Failed, match=rf"as_of is .*, and run {newer.run} over s3://.* with as_of .* is already served.*reject"
    ):
        approve(shop.services(), "stock", held.run)
    assert get(shop, held) == held
    operations.withdraw(shop.services(), newer)
    go_on(shop)
    approve(shop.services(), "stock", held.run)
    assert [run.state for run in go_on(shop)] == [RunState.DONE]


def test_a_part_with_the_same_as_of_can_still_be_approved(shop: SmallShop) -> None:
    """Objects with the same as_of can be parts of one output, so none of them is newer."""
    shop.run(ROWS, day=2)
    held = shop.run(WORSE, day=1)
    other = shop.key(1).replace("p.parquet", "q.parquet")
    shop.put(other, parquet({"shop": ["z", "z"], "sku": ["a", "b"], "units": [2.0, 2.0]}))
    assert shop.go(other).state is RunState.DONE
    approve(shop.services(), "stock", held.run)
    (done,) = go_on(shop)
    assert (done.state, done.counts.written) == (RunState.DONE, 3)


def test_an_output_that_was_replaced_cannot_be_approved(shop: SmallShop) -> None:
    """The object that replaced it has its own run."""
    shop.run(ROWS, day=2)
    held = shop.run(WORSE, day=1)
    assert shop.run({**WORSE, "units": [400.0, 1.0, 1.0]}, day=1).state is RunState.HELD
    with pytest.raises(Failed, match="was written again, and the new output has its own run"):
        approve(shop.services(), "stock", held.run)
    shop.s3.delete("outputs", shop.key(1))
    with pytest.raises(Failed, match="was deleted"):
        approve(shop.services(), "stock", held.run)
    assert reject(shop.services(), "stock", held.run).state is RunState.REJECTED


def test_a_held_run_ends_when_its_items_would_have_expired(shop: SmallShop) -> None:
    """Then it can't be approved, and a sweep closes it; a run whose items have already expired is never held."""
    shop.run(ROWS, day=2)
    held = shop.run(WORSE, day=1)
    assert close_expired(shop.services(), "stock") == []
    shop.table.now = float(held.expires_at or 0)
    with pytest.raises(Failed, match="its items would have expired at"):
        approve(shop.services(), "stock", held.run)
    assert [run.state for run in close_expired(shop.services(), "stock")] == [RunState.REJECTED]
    assert close_expired(shop.services(), "stock") == []
    old = shop.run({**WORSE, "units": [500.0] * 3}, day=9)
    assert (old.state, old.counts.expired) == (RunState.DONE, 3)


@pytest.mark.parametrize("decide", [approve, reject])
def test_only_a_held_run_is_approved_or_rejected(shop: SmallShop, decide: Any) -> None:
    """The message has the run's state, and lists the held runs."""
    done, held = shop.run(ROWS, day=2), shop.run(WORSE, day=1)
    with pytest.raises(
        Failed, match=rf"run {done.run} of stock is done; only a held run can be .*Held runs: {held.run};"
    ):
        decide(shop.services(), "stock", done.run)
    with pytest.raises(Failed, match="run 99 of stock does not exist"):
        decide(shop.services(), "stock", 99)
    decide(shop.services(), "stock", held.run)
    with pytest.raises(Failed, match="Held runs: none"):
        decide(shop.services(), "stock", held.run)


def test_a_held_run_is_neither_replayed_nor_withdrawn(shop: SmallShop) -> None:
    """Its output would be published twice, and it has published nothing; a rejected run can be replayed after a fix."""
    shop.run(ROWS, day=2)
    held = shop.run(WORSE, day=1)
    with pytest.raises(Failed, match=f"run {held.run} of stock is held; `./larder approve stock {held.run}`"):
        operations.replay(shop.services(), held)
    with pytest.raises(Failed, match="is held"):
        operations.replay_rejects(shop.services(), f"rejects/stock/{held.run:08d}/")
    with pytest.raises(Failed, match=r"is held and has published nothing; `\./larder reject stock"):
        operations.withdraw(shop.services(), held)
    closed = reject(shop.services(), "stock", held.run)
    shop.dataset = replace(GUARDED, guards=())
    operations.replay(shop.services(), closed)
    assert [run.state for run in go_on(shop)] == [RunState.DONE]


def test_a_withdrawal_ends_a_held_run_of_its_output_and_no_other(shop: SmallShop) -> None:
    """A held replay of a published output is withdrawn with it."""
    first, second = shop.run(ROWS, day=3), shop.run(ROWS, day=2)
    other = shop.run(WORSE, day=1)
    shop.dataset = replace(GUARDED, guards=[Guard("mean", "units", most=1)])
    operations.replay(shop.services(), second)
    (again,) = go_on(shop)
    assert again.state is RunState.HELD
    operations.withdraw(shop.services(), second)
    go_on(shop)
    states = [get(shop, run).state for run in (first, second, again, other)]
    assert states == [RunState.DONE, RunState.WITHDRAWN, RunState.WITHDRAWN, RunState.HELD]
    assert [each.run for each in shop.ledger.fetch_held("stock")] == [other.run]
    approve(shop.services(), "stock", other.run)
    assert [run.state for run in go_on(shop)] == [RunState.DONE]


def test_restored_outputs_are_not_guarded(shop: SmallShop) -> None:
    """They were published before: a guard that was added later must not keep a lost table empty."""
    shop.run(ROWS, day=1)
    shop.dataset = replace(GUARDED, guards=[Guard("mean", "units", most=1)])
    shop.dynamo.table_id = "another"
    assert shop.run(WORSE, day=0).state is RunState.HELD
    heal(shop.services(), "stock")
    assert [(run.kind, run.state, run.shifts) for run in go_on(shop)] == [(Kind.RESTORE, RunState.DONE, [])]
    operations.refresh(shop.services(), "stock")
    assert [(run.kind, run.state) for run in go_on(shop)] == [(Kind.REFRESH, RunState.HELD)]


def test_the_share_of_changed_items_is_of_served_items(shop: SmallShop) -> None:
    """New items do not count; for a first output or an unknown table there is nothing to compare."""
    shop.dataset = replace(DATASET, guards=[Guard("changed", most=0.5)])
    assert shop.run(ROWS, day=4).state is RunState.DONE
    more = {"shop": [*ROWS["shop"], "z", "z"], "sku": [*ROWS["sku"], "a", "b"], "units": [1.0, 2.0, 4.0, 5.0, 6.0]}
    assert shop.run(more, day=3).state is RunState.DONE
    held = shop.run({**more, "units": [7.0, 8.0, 9.0, 5.0, 6.0]}, day=2)
    assert held.shifts == ["changed is 60 %; allowed is at most 50 %"]


def test_a_check_that_is_interrupted_measures_the_same(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each invocation checks two rows: their measurements are added up, and the verdict is the same."""
    shop.run(ROWS, day=3)
    rows = {"shop": ["x"] * 5, "sku": [*"abcda"], "units": [1.0, 90.0, 2.0, 3.0, None]}
    shop.dataset = replace(GUARDED, guards=[Guard("max", "units", most=50), Guard("nulls", "units", most=0.1)])
    whole = shop.run(rows, day=2)
    monkeypatch.setattr("enrich.run.context.read_chunks", partial(read_chunks, chunk_rows=2))
    monkeypatch.setattr(RunContext, "step", lambda context: context.run.stage is Stage.CHECK)
    shop.enqueue(rows, day=1)
    stops = 0
    while shop.ledger.fetch_pending("stock"):
        with suppress(OutOfTime):
            go_on(shop)
        stops += 1
    assert stops > 2
    found = [shop.ledger.get_statistics("stock", number) for number in (whole.run, whole.run + 1)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1].summary == found[0].summary
    assert [each.state for each in shop.ledger.fetch_runs("stock")] == [RunState.HELD, RunState.HELD, RunState.DONE]


def test_guards_that_change_during_a_check_measure_all_rows(shop: SmallShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that were checked before have no measurements, so the run begins again."""
    monkeypatch.setattr("enrich.run.context.read_chunks", partial(read_chunks, chunk_rows=2))
    monkeypatch.setattr(RunContext, "step", lambda context: context.run.stage is Stage.CHECK)
    for before in (DATASET, GUARDED):
        shop.dataset = before
        run = shop.enqueue(ROWS, day=1 if before is GUARDED else 2)
        with pytest.raises(OutOfTime):
            go_on(shop)
        shop.dataset = replace(GUARDED, guards=[Guard("max", "units", most=50)])
        for _ in range(3):
            with suppress(OutOfTime):
                go_on(shop)
        done = get(shop, run)
        assert (done.state, done.measured) == (RunState.DONE, len(ROWS["sku"]))


def test_a_record_has_the_oldest_format_that_can_express_it(shop: SmallShop) -> None:
    """An older release reads all runs except those that are held or rejected."""
    shop.run(ROWS, day=2)
    held = shop.run(WORSE, day=1)

    def find_newer() -> set[str]:
        return {sk for (_, sk), row in shop.dynamo.rows.items() if row["format"]["N"] != "1"}

    assert find_newer() == {held.sk}
    approve(shop.services(), "stock", held.run)
    assert find_newer() == set()
    go_on(shop)
    assert find_newer() == set()


MEMBERS = ["units", "body.units", "body.whole", "body.doubled", "body.titles", "body.late"]


def test_columns_and_members_of_any_number_type_are_measured(tmp_path: Path) -> None:
    """A float, a member from metadata, a member that rejects rows, a boolean; rejects do not count."""
    body = {
        "units": "units",
        "whole": "units::hugeint",
        "doubled": "cast(if(units = 3, 'no', (2 * units)::varchar) as decimal(9, 2))",
        "titles": "length(products.title)",
        "late": "units > 1",
        "title": "products.title",
    }
    guards = [*(Guard("mean", of, least=-9) for of in MEMBERS), Guard("nulls", "body.title", most=0.1)]
    shop = SmallShop(tmp_path, replace(DATASET, body=body, guards=guards))
    run = shop.run({**ROWS, "sku": ["a", "b", "a"]})
    assert (run.state, run.counts.rejected, run.measured) == (RunState.DONE, 1, 2)
    found = shop.ledger.get_statistics("stock", run.run)
    assert found is not None
    means = {name: of.mean for name, of in Summary.load(found.summary).values.items()}
    expected = [1.5, 1.5, 1.5, 3.0, 1.0, 0.5]
    assert means == dict(zip(MEMBERS, expected, strict=True)) | {"body.title": 0.0}


def test_an_output_without_rows_is_compared_only_by_rows(shop: SmallShop) -> None:
    """No later output is compared with it."""
    shop.run(ROWS, day=2)
    empty: dict[str, list[Any]] = {name: [] for name in ROWS}
    held = shop.run(parquet_of(empty), day=1)
    assert held.shifts == ["rows is 0, and 3 in run 1 (-100.0%); allowed is 50 % up or down"]
    approve(shop.services(), "stock", held.run)
    go_on(shop)
    assert shop.run(ROWS).state is RunState.DONE


def parquet_of(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    kinds = {"shop": pa.string(), "sku": pa.string(), "units": pa.float64()}
    return {name: pa.array(values, kinds[name]) for name, values in rows.items()}
