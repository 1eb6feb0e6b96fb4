"""The write budget is divided by the slots that a job will have, not by those of executors that have registered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from enrich.errors import Stopped

pytest.importorskip("pyspark")
pytestmark = pytest.mark.slow


@dataclass
class Context:
    """What the scheduler reads of Spark's context."""

    conf: dict[str, str] = field(default_factory=dict)
    defaultParallelism: int = 2  # noqa: N815 - Spark's name

    def getConf(self) -> dict[str, str]:  # noqa: N802
        return self.conf


@pytest.mark.parametrize(("executors", "registered", "slots"), [(9, 2, 36), (0, 2, 2), (0, 36, 36), (9, 40, 40)])
def test_slots_are_those_of_all_executors(executors: int, registered: int, slots: int) -> None:
    """Of nine executors with four cores each, none has registered at start."""
    from enrich.spark.scheduler import SparkScheduler

    context: Any = Context({"spark.executor.cores": "4"}, registered)
    assert SparkScheduler(context, {}, executors=executors).slots == slots


@pytest.mark.parametrize("setting", ["spark.speculation", "spark.dynamicAllocation.enabled"])
def test_what_changes_the_slots_is_refused(setting: str) -> None:
    """Two attempts at once, or a number of executors that changes, would pass the budget."""
    from enrich.spark.scheduler import SparkScheduler

    context: Any = Context({setting: "true"})
    with pytest.raises(Stopped, match=setting):
        SparkScheduler(context, {})
