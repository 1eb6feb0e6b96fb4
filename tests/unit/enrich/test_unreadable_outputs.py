"""An output that can't be read, or that triggers a defect, ends with a reason, and does not block others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enrich.errors import Failed
from enrich.intake.find import sweep
from enrich.intake.worker import run_pending
from enrich.ledger.records import Counts
from enrich.ledger.run_state import Stage
from enrich.run import lifecycle
from tests.faults.world import build_error
from tests.unit.enrich.small_shop import ROWS, SETTINGS, SmallShop, parquet


def deny(shop: SmallShop, monkeypatch: pytest.MonkeyPatch, object_key: str, operation: str, code: str) -> None:
    """Let S3 refuse one object."""
    does = getattr(shop.s3, operation)

    def refuse(**request: Any) -> Any:
        if request["Key"] == object_key:
            raise build_error(operation, code)
        return does(**request)

    monkeypatch.setattr(shop.s3, operation, refuse)


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidObjectState", "KMS.DisabledException"])
def test_an_object_without_permission_fails_its_run_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Waiting would not help, and would also block the outputs after it."""
    shop = SmallShop(tmp_path)
    deny(shop, monkeypatch, shop.key(1), "get_object", code)
    failed = shop.run(ROWS, day=1)
    assert failed.state == "failed"
    assert f"s3://{SETTINGS.outputs}/{shop.key(1)} can't be read: {code}; allow enrich's role" in (failed.error or "")
    assert shop.run(ROWS).counts == Counts(written=3)


def test_a_sweep_continues_past_objects_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reports the object and queues the others; an event of the object itself fails, for the dead-letter queue."""
    shop = SmallShop(tmp_path)
    for day in range(3):
        shop.put(shop.key(day), parquet(ROWS))
    deny(shop, monkeypatch, shop.key(1), "head_object", "403")
    swept = sweep(shop.services(), "stock")
    assert len(swept.runs) == 2
    assert [f"{shop.key(1)} can't be read: 403" in why for why in swept.unreadable] == [True]
    assert [each.state for each in run_pending(shop.services(), "stock")] == ["done", "done"]
    with pytest.raises(Failed, match="can't be read"):
        shop.go(shop.key(1))


def test_a_defect_is_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status shows why a run stopped; once the defect is fixed, the run continues."""
    shop = SmallShop(tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(lifecycle.STAGES, Stage.WRITE, None)
        with pytest.raises(TypeError):
            shop.run(ROWS)
    stopped = shop.ledger.get_run("stock", 1)
    assert stopped is not None
    assert (stopped.state, stopped.error) == ("stopped", "TypeError: 'NoneType' object is not callable")
    assert [each.counts for each in run_pending(shop.services(), "stock")] == [Counts(written=3)]
