"""What DuckDB can't execute at all fails the run, with the dataset, the expression, the rows and the remedy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from enrich.dataset.definition import Dataset, LastModified, Metadata, Source
from enrich.join.engine import Engine, RenderFailed
from enrich.run.failures import FAILURES
from serve.datasets import Served

NUMBERS = Dataset(
    served=Served("numbers", ("shop",), "numbers:read"),
    source=Source(prefix="numbers/", format="parquet", columns={"shop": "varchar", "sku": "varchar", "n": "integer"}),
    as_of=LastModified(),
    ttl=timedelta(days=1),
    subject={"shop": "shop"},
    prediction_id="sku",
    body={"ok": "n + 1", "all": {"numbers": "range(n)"}},
)
SIZES = {"sizes": pa.table({"k": [str(n) for n in range(200)], "size": [20_000] * 200})}
OF_METADATA: dict[str, Any] = {
    "metadata": {"sizes": Metadata("select k, size from sizes", on={"shop": "k"}, missing="null")},
    "body": {"ok": "n + 1", "all": {"numbers": "range(sizes.size)"}},
}


@pytest.mark.parametrize(
    ("dataset", "metadata", "message"),
    [
        (NUMBERS, {}, r"numbers: body.all.numbers, 'range\(n\)', can't be computed for rows 100 to 100: Out of Memory"),
        (
            replace(NUMBERS, **OF_METADATA),
            SIZES,
            r"numbers: body.all.numbers, 'range\(sizes.size\)', can't be computed for all rows of metadata 'sizes'",
        ),
    ],
    ids=["predictions", "metadata"],
)
def test_memory_that_an_expression_exceeds_names_it(
    tmp_path: Path, dataset: Dataset, metadata: dict[str, pa.Table], message: str
) -> None:
    """The place, the rows, DuckDB's reason in one line, and what to do."""
    columns = {"shop": ["a", "a"], "sku": ["1", "2"], "n": pa.array([5_000_000] * 2, pa.int32())}
    with (
        pytest.raises(RenderFailed, match=message) as failed,
        Engine(dataset, metadata, directory=tmp_path, memory_limit="16MB") as engine,
    ):
        engine.render(pa.table(columns), 100)
    assert str(failed.value).endswith(
        "; make it shorter: keep fewer or smaller values per item, or compute it in the model or in Athena"
    )
    assert "\n" not in str(failed.value)


def test_it_closes_the_run_as_failed() -> None:
    """A retry would fail in the same way, and the dataset's next outputs would be blocked."""
    assert issubclass(RenderFailed, FAILURES)


def test_a_value_that_exceeds_memory_has_no_hash(tmp_path: Path) -> None:
    """Rows beside it have theirs. An error in a task would only be tried again; rendering the row names the cause."""
    on = {"cast(range(n) as varchar)": "k"}
    dataset = replace(NUMBERS, metadata={"sizes": Metadata("select k, size from sizes", on=on, missing="null")})
    columns = {"shop": ["a"] * 3, "sku": ["1", "2", "3"], "n": pa.array([1, 5_000_000, 2], pa.int32())}
    with Engine(dataset, SIZES, directory=tmp_path, memory_limit="16MB") as engine:
        assert len(engine.hash_predictions("sizes", pa.table(columns), 0)) == 2
