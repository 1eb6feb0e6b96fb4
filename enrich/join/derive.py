"""Run a dataset's step in pandas over one chunk. Pure but for what the step does; pandas is imported here only."""

from __future__ import annotations

import pyarrow as pa

from enrich.dataset.definition import Derive

_OURS = ("larder.row", "larder.problem", "larder.bad")


class DeriveFailed(ValueError):
    """The step raised an error or gave back something else than its rows; the message names the dataset."""


def derive_columns(table: pa.Table, step: Derive, dataset: str) -> pa.Table:
    """Run the step and return its columns, with ours beside them.

    Integers and booleans reach the step as pandas' nullable types: a null would make them floating point otherwise.

    Raises:
        DeriveFailed: it raised, lost or added rows, or lacks a column.
    """
    import pandas as pd

    nullable = {
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    frame = table.drop_columns(list(_OURS)).to_pandas(types_mapper=nullable.get)
    try:
        derived = step.function(frame)
    except Exception as error:
        raise DeriveFailed(f"{dataset} derive: {type(error).__name__}: {error}") from error
    if len(derived) != table.num_rows:
        raise DeriveFailed(f"{dataset} derive: got {table.num_rows} rows and gave {len(derived)}; return the same rows")
    wanted = [name for name in table.column_names if name not in _OURS] + list(step.columns)
    missing = [name for name in wanted if name not in derived.columns]
    if missing:
        raise DeriveFailed(
            f"{dataset} derive: the column {missing[0]!r} is not in what it gave; add it or do not drop it"
        )
    found = pa.Table.from_pandas(derived[wanted], preserve_index=False)
    for name in _OURS:
        found = found.append_column(name, table[name])
    return found
