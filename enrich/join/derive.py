"""Run a dataset's pandas step over a chunk; only this module imports pandas."""

from __future__ import annotations

import pyarrow as pa

from enrich.dataset.definition import Derive

_INTERNAL = ("larder.row", "larder.problem", "larder.bad")


class DeriveFailed(ValueError):
    """The step raised an error or did not return the expected rows and columns; the message names the dataset."""


def derive_columns(table: pa.Table, step: Derive, dataset: str) -> pa.Table:
    """Run the step; return its columns and Larder's internal ones.

    Integers and booleans reach the step as pandas' nullable types: otherwise a null would make them floating point.

    Raises:
        DeriveFailed: the step raised an error, returned fewer or more rows, or lacks a column.
    """
    import pandas as pd

    nullable = {
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    frame = table.drop_columns(list(_INTERNAL)).to_pandas(types_mapper=nullable.get)
    try:
        derived = step.function(frame)
    except Exception as error:
        raise DeriveFailed(f"{dataset} derive: {type(error).__name__}: {error}") from error
    if len(derived) != table.num_rows:
        raise DeriveFailed(
            f"{dataset} derive: returned {len(derived)} rows, expected {table.num_rows}; return every row it received"
        )
    wanted = [name for name in table.column_names if name not in _INTERNAL] + list(step.columns)
    missing = [name for name in wanted if name not in derived.columns]
    if missing:
        raise DeriveFailed(f"{dataset} derive: returned no column {missing[0]!r}; add it, or do not drop it")
    found = pa.Table.from_pandas(derived[wanted], preserve_index=False)
    for name in _INTERNAL:
        found = found.append_column(name, table[name])
    return found
