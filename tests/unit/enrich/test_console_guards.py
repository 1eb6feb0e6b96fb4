"""The console with held runs: the failed guards, the statistics, and an operator's decision."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from enrich.cli.rejects import read_rejects, render_rejects
from enrich.dataset.definition import Guard, Tolerated
from enrich.ledger.run_state import RunState
from tests.unit.enrich.console_shop import ConsoleShop
from tests.unit.enrich.small_shop import DATASET, SmallShop


def test_a_held_run_is_shown_and_decided(tmp_path: Path) -> None:
    """Failed guards are on the first page and beside the statistics, until the run is approved or rejected."""
    guards = (Guard("mean", "body.units", change=0.2), Guard("rows", least=3))
    shop = SmallShop(tmp_path, replace(DATASET, guards=guards, tolerated=Tolerated(share=0.0)))
    rows: dict[str, list[Any]] = {
        "shop": [f"s{n}" for n in range(40)],
        "sku": ["a"] * 40,
        "units": [10.0 + n % 5 for n in range(40)],
    }
    shop.run(rows, 3)
    for day in (2, 1):
        assert shop.run({**rows, "units": [90.0 + n % 5 for n in range(40)]}, day).state is RunState.HELD
    console = ConsoleShop(tmp_path, shop, {"operate": True, "newest": 1})
    page = console.ask("/").page
    for number in (2, 3):  # also one that is not among the newest
        shown = rf"held\s+run {number}\s+of\s+stock\s*, 0.0 s ago\s+[^ ].*mean of body.units"
        assert re.search(shown, page.text), number
    run = console.ask("/datasets/stock/runs/2.html").page
    assert re.search(r"Of 40 predictions that become items, compared with\s+run 1", run.text)
    assert re.search(r"failed\s+mean of body.units", run.text)
    assert re.search(r"passed\s+rows", run.text)
    assert re.search(r"body.units\s.*0\s+92\s+90\s+92\s+94", run.text, re.DOTALL)
    assert len(run.find("svg")) == 1
    links = {str(each["href"]).rpartition("/")[2] for each in run.find("a")}
    assert {"approve", "reject"} <= links
    assert not links & {"retry", "replay"}
    path = "/datasets/stock/runs/3/approve"
    assert "Held because mean of body.units" in console.ask(path).page.text
    assert console.ask(path, "POST", console.confirm(path)).status == 303
    assert console.sent == [{"continue": {"dataset": "stock"}}]
    path = "/datasets/stock/runs/2/reject"
    assert console.ask(path, "POST", console.confirm(path)).status == 303
    assert [state for _, state in console.runs()] == ["done", "rejected", "pending"]
    assert not re.search(r"held\s+run", console.ask("/").page.text)
    assert console.ask("/datasets/stock/runs/2/approve").status == 409


def test_statistics_of_few_values_show_no_number(tmp_path: Path) -> None:
    """The mean of one value would show that value."""
    guards = (Guard("mean", "body.units", most=5.0),)
    shop = SmallShop(tmp_path, replace(DATASET, guards=guards, metadata={}, body={"units": "units"}))
    for day, units in ((2, 3.14159), (1, 31.4159)):
        shop.run({"shop": ["x"], "sku": ["a"], "units": [units]}, day)
    assert [run.state for run in shop.ledger.fetch_runs("stock")] == [RunState.HELD, RunState.DONE]
    for show_data in (False, True):
        console = ConsoleShop(tmp_path, shop, {"show_data": show_data})
        for path in ("/datasets/stock/runs/1.html", "/datasets/stock/runs/2.html", "/"):
            text = console.ask(path).page.text
            assert bool(re.search(r"3\.14|31\.4", text)) is show_data, path


def test_a_text_has_no_mean(tmp_path: Path) -> None:
    """Only its nulls are measured; a number that is 0 in each row has the mean 0 if a guard watches its mean."""
    guards = (Guard("nulls", "sku", most=0.5), Guard("nulls", "units", most=0.5), Guard("mean", "body.units", most=9.0))
    shop = SmallShop(tmp_path, replace(DATASET, guards=guards))
    shop.run({"shop": [f"s{n}" for n in range(40)], "sku": ["a"] * 40, "units": [0.0] * 40})
    text = ConsoleShop(tmp_path, shop).ask("/datasets/stock/runs/1.html").page.text
    assert re.search(r"\bsku\s+-\s+0\s+-\s+-\s+-\s+-\s", text)
    assert re.search(r"body.units\s.*0\s+0\s+0\s+0\s+0\s", text, re.DOTALL)


def test_rejects_of_a_held_run_are_not_stored(tmp_path: Path) -> None:
    """Its page and `./larder rejects` say so, and name no folder."""
    guards, tolerated = (Guard("rows", least=3),), Tolerated(share=0.5)
    shop = SmallShop(tmp_path, replace(DATASET, guards=guards, tolerated=tolerated))
    run = shop.run({"shop": ["x", None], "sku": ["a", "b"], "units": [1.0, 2.0]})
    assert run.state is RunState.HELD
    page = ConsoleShop(tmp_path, shop).ask("/datasets/stock/runs/1.html").page.text
    assert "None is stored: nothing of the output was published." in page
    rejects = read_rejects(shop.services().s3, "larder", run, limit=9)
    assert render_rejects(run, rejects, "larder").splitlines()[1:] == [
        "none is stored: nothing of the output was published"
    ]
