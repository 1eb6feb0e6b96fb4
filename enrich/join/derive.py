"""Run a dataset's pandas step over a chunk; only this module imports pandas."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from enrich.dataset.definition import Derive
from enrich.errors import first_line

_INTERNAL = ("larder.row", "larder.problem", "larder.bad")


class DeriveFailed(ValueError):
    """The step raised an error or did not return the expected rows and columns; the message names the dataset."""


def derive_columns(table: pa.Table, step: Derive, dataset: str) -> pa.Table:
    """Run the step; return its columns and Larder's internal ones.

    Integers and booleans are passed to the step as pandas' nullable types: otherwise a null would make them floating
    point. A column that the step did not change keeps its values from before the conversion, because pandas has NaN for
    null, floating point for the integers of a list with nulls, and no maps.

    Raises:
        DeriveFailed: the step raised an error, or returned other rows or not every column; or a value can't be
            converted to pandas, or a returned one to Arrow.
    """
    import pandas as pd

    nullable = {
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.uint8(): pd.UInt8Dtype(),
        pa.uint16(): pd.UInt16Dtype(),
        pa.uint32(): pd.UInt32Dtype(),
        pa.uint64(): pd.UInt64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.time64("ns"): pd.ArrowDtype(pa.time64("ns")),  # Python's times end at microseconds
    }

    def convert() -> Any:
        return table.drop_columns(list(_INTERNAL)).to_pandas(types_mapper=nullable.get)

    try:
        before = convert()  # twice, since the step can change objects in place
        derived = step.function(convert())
    except (Exception, SystemExit) as error:
        step_name = getattr(step.function, "__name__", "the step")
        raise DeriveFailed(
            f"{dataset} derive: {step_name} raised {type(error).__name__}: {error}; fix the step, or the values that "
            "it received"
        ) from error
    if not isinstance(derived, pd.DataFrame):
        kind = type(derived).__name__
        raise DeriveFailed(f"{dataset} derive: returned {kind}, expected a DataFrame; end the step with `return frame`")
    if len(derived) != table.num_rows:
        raise DeriveFailed(
            f"{dataset} derive: returned {len(derived)} rows, expected {table.num_rows}; return every row it received"
        )
    if not derived.index.equals(before.index) and derived.index.sort_values().equals(before.index):
        raise DeriveFailed(f"{dataset} derive: returned the rows in another order; return them as it received them")
    wanted = [name for name in table.column_names if name not in _INTERNAL] + list(step.columns)
    missing = [name for name in wanted if name not in derived.columns]
    if missing:
        raise DeriveFailed(f"{dataset} derive: returned no column {missing[0]!r}; add it, or do not drop it")
    twice = [name for name in wanted if list(derived.columns).count(name) > 1]
    if twice:
        raise DeriveFailed(f"{dataset} derive: returned column {twice[0]!r} twice; return it once")
    columns = {name: _take_column(dataset, name, table, before, derived[name]) for name in wanted}
    return pa.table({**columns, **{name: table[name] for name in _INTERNAL}})


def _take_column(dataset: str, name: str, table: pa.Table, before: Any, returned: Any) -> pa.ChunkedArray | pa.Array:
    """Return the original column if the step did not change it, otherwise the returned column."""
    returned = returned.reset_index(drop=True)
    if name in before and (returned.equals(before[name]) or _is_same(returned.array, before[name].array)):
        return table[name]
    try:
        return pa.Array.from_pandas(returned)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DeriveFailed(
            f"{dataset} derive: column {name!r} can't be read back ({first_line(error)}); return values of one type"
        ) from error


def _is_same(one: Any, other: Any) -> bool:
    """Return whether two values are equal at any depth; NaN equals NaN, which pandas denies for nested values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(_is_same(one[name], other[name]) for name in one)
    if not isinstance(one, (str, bytes)) and hasattr(one, "__len__"):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one is other or one == other or (one != one and other != other))
