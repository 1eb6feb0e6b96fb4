"""A run that repeatedly fails in the same way is closed, so that the dataset's next ones can run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from enrich.errors import Failed
from enrich.intake import operations
from enrich.intake.find import find_output
from enrich.intake.queue import enqueue_output
from enrich.intake.recovery import heal
from enrich.intake.worker import run_pending
from enrich.ledger.records import Run
from enrich.ledger.run_state import RunState
from enrich.read import chunks
from enrich.run import context as context_module
from enrich.run import passes
from enrich.run.lifecycle import MOST_DEATHS, MOST_FAILURES
from tests.unit.enrich.small_shop import ROWS, SETTINGS, SmallShop, parquet


class Killed(BaseException):
    """The process ends, and nothing is recorded."""


class Unexpected(SmallShop):
    """A shop in which reading objects with these keys raises an unexpected error."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(directory)
        self.bad: dict[str, BaseException] = {}
        original = chunks.read_chunks

        def read_chunks(parts: Any, *arguments: Any, **options: Any) -> Any:
            for part in parts:
                if part.object_key in self.bad:
                    raise self.bad[part.object_key]
            return original(parts, *arguments, **options)

        monkeypatch.setattr(context_module, "read_chunks", read_chunks)

    def queue(self, day: int) -> Run:
        """Put an output and queue its run."""
        self.put(self.key(day), parquet(ROWS))
        output = find_output(self.services(), SETTINGS.outputs, self.key(day))
        assert output is not None
        return enqueue_output(self.services(), output)

    def invoke(self) -> BaseException | None:
        """Run what is pending as one invocation; return the error that ends it."""
        self.world.sleep(3600)  # the lease of a killed invocation has expired
        services = replace(self.services(), owner=f"at {self.world.time}")
        try:
            list(run_pending(services, "stock"))
        except (Exception, Killed) as error:
            return error
        return None

    def states(self) -> list[str]:
        """Return the states of all runs, oldest first."""
        return [str(run.state) for run in reversed(self.ledger.fetch_runs("stock"))]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Unexpected:
    return Unexpected(tmp_path, monkeypatch)


CAUSES: list[tuple[BaseException, int, str]] = [
    (RuntimeError("what a library says\nat length"), MOST_FAILURES, "RuntimeError: what a library says"),
    (Killed(), MOST_DEATHS + 1, "the process was killed"),
]


@pytest.mark.parametrize(("cause", "invocations", "said"), CAUSES, ids=["error", "death"])
def test_a_run_that_fails_the_same_way_is_closed(
    shop: Unexpected, cause: BaseException, invocations: int, said: str
) -> None:
    """After a number of retries the next output is published, and the ledger gives the reason."""
    stuck, after = shop.queue(2), shop.queue(1)
    shop.bad[stuck.object_key] = cause
    ends = [shop.invoke() for _ in range(invocations)]
    assert ends[:-1] == [cause] * (invocations - 1)
    assert ends[-1] is None
    assert shop.states() == ["failed", "done"]
    found = shop.ledger.get_run("stock", stuck.run)
    assert found is not None
    assert stuck.object_key in (found.error or "")
    assert said in (found.error or "")
    assert f"replay stock {stuck.run}" in (found.error or "")
    shop.bad.clear()
    operations.replay(shop.services(), found)
    shop.invoke()
    assert shop.states() == ["failed", "done", "done"]
    assert shop.ledger.get_run("stock", after.run) is not None


def test_an_error_of_any_length_is_recorded(shop: Unexpected) -> None:
    """A record has at most 400 KB: if it could not be saved, the run would stop at each attempt, for ever."""
    stuck = shop.queue(1)
    shop.bad[stuck.object_key] = Failed("the place " + "x" * 1_000_000)
    shop.invoke()
    found = shop.ledger.get_run("stock", stuck.run)
    assert found is not None
    assert found.state is RunState.FAILED
    assert (found.error or "").startswith("the place x")
    assert len(found.error or "") < 10_000


def test_another_failure_is_counted_from_one(shop: Unexpected) -> None:
    """After an error of another kind, or a failed call to AWS in between, the run can still succeed."""
    stuck = shop.queue(1)
    for error in (RuntimeError("a"), ValueError("b")) * MOST_FAILURES:
        shop.bad[stuck.object_key] = error
        assert shop.invoke() is error
    assert shop.states() == ["stopped"]
    shop.bad.clear()
    shop.invoke()
    assert shop.states() == ["done"]


def test_after_a_stuck_run_that_wrote_the_table_is_restored(shop: Unexpected, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it wrote is unknown, so the fingerprints are not used: the sweep and the next runs write all items."""
    shop.queue(3)
    shop.invoke()
    shop.written()
    shop.queue(2)
    with monkeypatch.context() as broken:
        broken.setattr(passes, "write_output", Mock(side_effect=RuntimeError("while it writes")))
        for _ in range(MOST_FAILURES):
            shop.invoke()
    assert shop.states() == ["done", "failed"]
    assert shop.ledger.get_state("stock").open_run is None
    heal(shop.services(), "stock")
    shop.queue(1)
    assert shop.invoke() is None
    assert set(shop.states()) == {"done", "failed"}
    assert shop.ledger.fetch_pending("stock") == []
    assert {"x/a", "x/b", "y/a"} <= set(shop.written())


def test_withdraw_ends_a_stuck_run_that_published_nothing(shop: Unexpected) -> None:
    """There is nothing to remove: no generation is opened, nothing is restored, and the next output is run."""
    stuck = shop.queue(2)
    shop.bad[stuck.object_key] = RuntimeError("stuck")
    shop.invoke()
    assert shop.states() == ["stopped"]
    shop.queue(1)
    operations.withdraw(shop.services(), stuck)
    shop.invoke()
    assert shop.states() == ["withdrawn", "done"]
    assert shop.ledger.get_state("stock").generation == 1
