"""Mistakes of a dataset that nobody checked: its runs fail, with the place and the remedy, and nothing is written."""

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
    ({"prediction_id": "'sku'"}, "stock prediction_id: 'sku' names no column: all predictions of a subject would have"),
    ({"prediction_id": "md5('x')"}, "stock prediction_id: md5('x') names no column"),
    ({"subject": {"shop": "'shop'"}}, "stock subject.shop: 'shop' is a text, the same in every row; did you mean the"),
    ({"body": {"x": "unnest([1, 2])"}}, "stock body.x: unnest() makes several rows of one"),
    ({"nulls": "drop"}, "stock nulls: is 'drop'; known are keep, omit"),
    ({"body": {"x": "\ud800"}}, "stock body.x: is '\\ud800', which has half of a surrogate pair"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[6:40] for _, message in WRONG])
def test_a_mistake_fails_the_run(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Closed, so that the next output is not blocked; a constant prediction_id is named, not only its duplicates."""
    shop = SmallShop(tmp_path, dataset=replace(DATASET, **change))
    run = shop.run(ROWS)
    assert run.state == "failed"
    assert (run.error or "").startswith(message)
    assert shop.written() == []
    shop.dataset = DATASET
    assert shop.run(ROWS).state == "done"


@pytest.mark.parametrize("change", [{"ttl": 14}, {"start": "2026-01-01"}, {"as_of": "day={}"}], ids=str)
def test_a_sweep_names_a_value_of_a_wrong_type(tmp_path: Path, change: dict[str, Any]) -> None:
    """It needs the ttl before any run; no traceback."""
    shop = SmallShop(tmp_path, dataset=replace(DATASET, **change))
    with pytest.raises(DatasetMistakes, match=f"stock {next(iter(change))}: is .*; expected"):
        sweep(shop.services(), "stock")


def test_as_of_far_from_now_is_no_overflow(tmp_path: Path) -> None:
    """The longest ttl that `check` lets through."""
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
        (fail, "stock derive: fail raised KeyError: 'unit'; fix the step, or the values it got"),
    ],
)
def test_a_step_that_returns_no_frame_fails_the_run(tmp_path: Path, step: Any, message: str) -> None:
    """At once, with the remedy: a defect of a library would be tried three times."""
    dataset = replace(DATASET, derive=Derive(step, {"twice": "double"}), body={"twice": "twice"})
    run = SmallShop(tmp_path, dataset=dataset).run(ROWS)
    assert (run.state, run.error, run.failures) == ("failed", run.error, 0)
    assert (run.error or "").startswith(message)
