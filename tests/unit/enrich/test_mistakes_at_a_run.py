"""Mistakes of a dataset that was not checked: its runs fail with the place and the remedy, and nothing is written."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from enrich.dataset.definition import Derive
from enrich.dataset.mistakes import DatasetMistakes
from enrich.intake.find import sweep
from tests.unit.enrich.small_shop import DATASET, ROWS, SmallShop

WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"subject": {"shop": "'shop'"}},
        "stock subject.shop: 'shop' is a constant text, the same in every row; did you mean the",
    ),
    ({"body": {"x": "unnest([1, 2])"}}, "stock body.x: unnest() makes several rows of one"),
    ({"nulls": "drop"}, "stock nulls: is 'drop'; known are keep, omit"),
    ({"body": {"x": "\ud800"}}, "stock body.x: is '\\ud800', which has a lone surrogate"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[6:40] for _, message in WRONG])
def test_a_mistake_fails_the_run(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """The run is closed, so that the next output is not blocked."""
    shop = SmallShop(tmp_path, dataset=replace(DATASET, **change))
    run = shop.run(ROWS)
    assert run.state == "failed"
    assert (run.error or "").startswith(message)
    assert shop.written() == []
    shop.dataset = DATASET
    assert shop.run(ROWS).state == "done"


@pytest.mark.parametrize(
    ("expression", "remedy"),
    [("'sku'", "did you mean the column, 'sku' without single quotes?"), ("md5('x')", "name the columns that disting")],
)
def test_a_constant_prediction_id_is_named_as_the_cause_of_duplicates(
    tmp_path: Path, expression: str, remedy: str
) -> None:
    """Not only the duplicates are named; an output with one prediction per subject is published."""
    shop = SmallShop(tmp_path, dataset=replace(DATASET, prediction_id=expression))
    run = shop.run({"shop": ["x", "x", "x"], "sku": ["a", "b", "c"], "units": [1.0, 2.0, 3.0]}, day=1)
    assert run.state == "failed"
    what = f"stock prediction_id: {expression} names no column: all predictions of a subject would have one item"
    assert "3 of 3 predictions can't become items (3 duplicate), more than the dataset tolerates" in (run.error or "")
    assert f". {what}; {remedy}" in (run.error or "")
    assert shop.written() == []
    assert shop.run({"shop": ["x", "y"], "sku": ["a", "b"], "units": [1.0, 2.0]}).counts.written == 2


@pytest.mark.parametrize("change", [{"ttl": 14}, {"start": "2026-01-01"}, {"as_of": "day={}"}], ids=str)
def test_a_sweep_names_a_value_of_a_wrong_type(tmp_path: Path, change: dict[str, Any]) -> None:
    """It needs the ttl before any run; there is no traceback."""
    shop = SmallShop(tmp_path, dataset=replace(DATASET, **change))
    with pytest.raises(DatasetMistakes, match=f"stock {next(iter(change))}: is .*; expected"):
        sweep(shop.services(), "stock")


def test_as_of_far_from_now_is_no_overflow(tmp_path: Path) -> None:
    """The longest ttl that `check` accepts."""
    shop = SmallShop(tmp_path, dataset=replace(DATASET, ttl=timedelta(days=36_500)))
    assert shop.run(ROWS).state == "done"
    assert sweep(shop.services(), "stock").runs == []


def leave_out(frame: Any) -> None:
    """Change a frame in place and forget to return it."""
    frame["twice"] = 2


def fail(frame: Any) -> Any:
    """Name a column that is not there."""
    return frame["unit"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (leave_out, "stock derive: returned NoneType, expected a DataFrame; end the step with `return frame`"),
        (lambda frame: frame["units"], "stock derive: returned Series, expected a DataFrame"),
        (fail, "stock derive: fail raised KeyError: 'unit'; fix the step, or the values that it received"),
    ],
)
def test_a_step_that_returns_no_frame_fails_the_run(tmp_path: Path, step: Any, message: str) -> None:
    """It fails at once, with the remedy: an error of a library would be retried three times."""
    dataset = replace(DATASET, derive=Derive(step, {"twice": "double"}), body={"twice": "twice"})
    run = SmallShop(tmp_path, dataset=dataset).run(ROWS)
    assert (run.state, run.error, run.failures) == ("failed", run.error, 0)
    assert (run.error or "").startswith(message)
