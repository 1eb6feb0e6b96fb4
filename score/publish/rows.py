"""Rows that prove a conversion: held-out rows of a file, rows at the limits of the definition, rows at thresholds.

A row has all features of the definition by name, with None for a missing one, as the function builds it from a request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from score.manifest import Scalar
from score.model import REQUIRED, Boolean, Category, Model, Number, Text, iterate_features
from score.publish.errors import Refused

MOST_HELD_OUT = 20_000  # a larger file is sampled; the sample is the same in each call
MOST_TEXTS = 500
PAIRS = 2_000  # pairs of rows between which a threshold is searched
PAIRS_WITH_TEXT = 200  # fewer, since each is tokenised about sixty times
_HALVINGS = 80  # enough for two 64-bit floats to become neighbours
Kind = Number | Category | Boolean | Text


@dataclass(frozen=True)
class Row:
    """One row, and its origin for messages."""

    place: str
    instance: Mapping[str, Scalar]


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet, CSV or JSON-lines file.

    Raises:
        Refused: it can't be read, or has no rows.
    """
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".parquet": pd.read_parquet,
        # Only an empty cell is missing: the text "NA" can be a category.
        ".csv": lambda file: pd.read_csv(file, keep_default_na=False, na_values=[""]),
        ".jsonl": lambda file: pd.read_json(file, lines=True, precise_float=True),
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise Refused(f"{path}: has an unknown extension; expected {', '.join(readers)}")
    try:
        table = reader(path)
    except FileNotFoundError as error:
        raise Refused(f"{path}: there is no such file; write the held-out rows there") from error
    except Exception as error:  # readers raise the exceptions of their parsers
        raise Refused(f"{path}: can't be read: {error}") from error
    if not len(table):
        raise Refused(f"{path}: has no rows; expected held-out rows, 100 or more")
    return table


def parse_rows(table: pd.DataFrame, model: Model, place: str, *, most: int | None = None) -> list[Row]:
    """Turn a table into rows, with the checks of a request. A table with more than `most` rows is sampled.

    The sample of a table is always the same.

    Raises:
        Refused: a feature has no column, or the definition does not accept a cell; the message has row and column.
    """
    kinds = dict(iterate_features(model))
    if lacking := [name for name in kinds if name not in table.columns]:
        found = ", ".join(map(str, table.columns))
        raise Refused(f"{place}: there is no column for the feature {', '.join(lacking)}; the columns are {found}")
    has_text = any(isinstance(kind, Text) for kind in kinds.values())
    most = most or (MOST_TEXTS if has_text else MOST_HELD_OUT)
    numbers: Sequence[int] = range(len(table))
    if len(table) > most:
        numbers = sorted(np.random.default_rng(0).choice(len(table), most, replace=False).tolist())
    columns = {
        name: _parse_column(table[name].iloc[list(numbers)], numbers, name, kind, _find_missing(model, name), place)
        for name, kind in kinds.items()
    }
    return [
        Row(f"row {number} of {place}", {name: column[index] for name, column in columns.items()})
        for index, number in enumerate(numbers)
    ]


def _find_missing(model: Model, name: str) -> Any:
    feature = model.features[name]
    return feature.missing


def _parse_column(
    column: pd.Series[Any], numbers: Sequence[int], name: str, kind: Kind, missing: Any, place: str
) -> list[Scalar]:
    parsed: list[Scalar] = []
    is_code = isinstance(kind, Category) and pd.api.types.is_numeric_dtype(column) and column.dtype != bool
    for number, value in zip(numbers, column.tolist(), strict=True):
        if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
            if missing is REQUIRED:
                remedy = "fill it, or set `missing` in the definition"
                raise Refused(
                    f"{place}: row {number}, column {name!r}: is empty, but the feature is required: {remedy}"
                )
            parsed.append(missing)
            continue
        found = _parse_cell(value, kind, is_code=is_code)
        if found is None:
            raise Refused(
                f"{place}: row {number}, column {name!r}: found {str(value)[:60]!r}, expected {describe(kind)}; "
                "fix the row or the definition"
            )
        parsed.append(found)
    return parsed


def _parse_cell(value: Any, kind: Kind, *, is_code: bool) -> Scalar:
    """Return a cell as a value of the feature; None if the definition does not accept it."""
    if isinstance(kind, Number):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        if (kind.low is not None and value < kind.low) or (kind.high is not None and value > kind.high):
            return None
        return None if kind.integer and value != int(value) else (int(value) if kind.integer else float(value))
    if isinstance(kind, Boolean):
        return bool(value) if value in (True, False) else None  # accepts 1 and 0 too
    if isinstance(kind, Category):
        if is_code:
            fits = value == int(value) and 0 <= value < len(kind.choices)
            return kind.choices[int(value)] if fits else None
        return value if isinstance(value, str) and value in kind.choices else None
    return value if isinstance(value, str) and len(value) <= kind.longest else None


def describe(kind: Kind) -> str:
    """Describe what a feature accepts."""
    if isinstance(kind, Number):
        bounds = [
            f"{word} {bound:g}" for word, bound in (("from", kind.low), ("up to", kind.high)) if bound is not None
        ]
        return " ".join(["a whole number" if kind.integer else "a finite number", *bounds])
    if isinstance(kind, Category):
        return "one of " + ", ".join(kind.choices[:20])
    return "true or false" if isinstance(kind, Boolean) else f"a text of at most {kind.longest:,} characters"


def build_edge_rows(model: Model, rows: Sequence[Row]) -> list[Row]:
    """Vary some rows, one feature at a time: to its bounds, each choice, special texts, and missing."""
    samples = [rows[number].instance for number in sorted({0, len(rows) // 2, len(rows) - 1})]
    found = []
    for name, kind in iterate_features(model):
        values: list[Scalar] = []
        if isinstance(kind, Number):
            bounds = [bound for bound in (kind.low, kind.high) if bound is not None]
            values = [math.trunc(bound) if kind.integer else float(bound) for bound in bounds]
        elif isinstance(kind, Category):
            values = list(kind.choices)
        elif isinstance(kind, Boolean):
            values = [False, True]
        elif isinstance(kind, Text):
            values = ["", "İstanbul ǅ ﬁne naïve café 東京 e\u0301 x\u200dy", "0 00 a aa _ __"]
        if (missing := _find_missing(model, name)) is not REQUIRED:
            values.append(missing)
        for value in dict.fromkeys(values):
            found += [Row(f"{name} = {value!r}", {**sample, name: value}) for sample in samples]
    return found


def build_threshold_rows(
    model: Model, rows: Sequence[Row], predict: Callable[[Sequence[Mapping[str, Scalar]]], np.ndarray[Any, Any]]
) -> list[Row]:
    """Find rows on both sides of a threshold of the original, as close to it as two 64-bit floats can be.

    A pair is a row, and the same row with one number from another row. Bisect the interval between the two numbers,
    always into the half with the larger difference of the predictions, until they are neighbouring floats: one of them
    is then exactly at the threshold. This works for any model; for a model without thresholds it finds ordinary rows.

    Args:
        model: the definition.
        rows: held-out rows.
        predict: returns the original's answers to some instances, one row each.
    """
    names = [name for name, kind in iterate_features(model) if isinstance(kind, Number)]
    if not names or len(rows) < 2:
        return []
    chance = np.random.default_rng(0)
    pairs = []
    has_text = any(isinstance(kind, Text) for _, kind in iterate_features(model))
    for number in range(PAIRS_WITH_TEXT if has_text else PAIRS):
        name = names[number % len(names)]
        one, other = chance.integers(len(rows), size=2)
        low, high = rows[one].instance[name], rows[other].instance[name]
        if low is not None and high is not None and low != high:
            pairs.append((rows[one].instance, name, float(low), float(high)))
    if not pairs:
        return []
    left = np.array([pair[2] for pair in pairs])
    right = np.array([pair[3] for pair in pairs])

    def answer(values: Iterable[float]) -> np.ndarray[Any, Any]:
        return predict([{**one, name: value} for (one, name, *_), value in zip(pairs, values, strict=True)])

    at_left, at_right = answer(left), answer(right)
    for _ in range(_HALVINGS):
        middle = left + (right - left) / 2
        if ((middle == left) | (middle == right)).all():
            break
        at_middle = answer(middle)
        goes_left = np.abs(at_middle - at_left).max(axis=1) > np.abs(at_right - at_middle).max(axis=1)
        right, at_right = np.where(goes_left, middle, right), np.where(goes_left[:, None], at_middle, at_right)
        left, at_left = np.where(goes_left, left, middle), np.where(goes_left[:, None], at_left, at_middle)
    kinds = dict(iterate_features(model))
    found = []
    for (one, name, *_), *values in zip(pairs, left.tolist(), right.tolist(), strict=True):
        kind = kinds[name]
        if isinstance(kind, Number) and kind.integer:
            near: list[float] = [math.floor(min(values)), math.ceil(max(values))]
        else:
            near = values
        found += [Row(f"at a threshold of {name}", {**one, name: value}) for value in near]
    return found
