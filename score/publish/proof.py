"""Prove that a conversion equals its original: on held-out rows, at the limits of the definition, at thresholds.

The proof uses the loader, checks, tokeniser and runtime of the function.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from score.manifest import Manifest, Scalar
from score.model import Model
from score.native import RuntimeFailed
from score.publish.errors import Refused
from score.publish.original import Array
from score.publish.rows import Row
from score.scorer import MAX_ROWS, TOLERANCE, Scorer, VersionRefused, load_scorer

Predict = Callable[[Sequence[Mapping[str, Scalar]]], Array]


@dataclass(frozen=True)
class Proof:
    """How a conversion compares with its original.

    Attributes:
        rows: number of rows that were compared.
        wrong: number of rows with another label, or with a number that differs by more than 1e-5.
        ties: number of rows with another label where the original's two best labels are within 1e-5: both are right.
        largest: the largest difference.
        worst: a description of the worst row; None if no row is wrong.
    """

    rows: int
    wrong: int
    ties: int
    largest: float
    worst: str | None


def ask_original(predict: Predict, rows: Sequence[Row], source: str) -> Array:
    """Return the original's answers.

    Raises:
        Refused: it fails on a row that the definition accepts, or its answer is not finite.
    """
    try:
        answers = predict([row.instance for row in rows])
    except Refused:
        raise
    except Exception as error:  # the original can raise anything
        row, reason = _find_failing(predict, rows, error)
        raise Refused(
            f"{source}: fails on {row.place}, which the definition accepts: {reason}; {_show(row.instance)}; restrict "
            "the definition in models/ (bounds, choices, missing), or train with such rows"
        ) from error
    if not np.isfinite(answers).all():
        row = rows[int(np.flatnonzero(~np.isfinite(answers).all(axis=1))[0])]
        raise Refused(f"{source}: its answer to {row.place} is not a finite number: {_show(row.instance)}")
    return answers


def prove(model_bytes: bytes, manifest: Manifest, model: Model, rows: Sequence[Row], wanted: Array) -> Proof:
    """Compare a version with its original.

    Args:
        model_bytes: the ONNX file.
        manifest: manifest of the version, with golden rows.
        model: the definition.
        rows: rows to compare.
        wanted: the original's answers to them.
    """
    try:
        found = predict_all(load_scorer(model_bytes, manifest, model), rows)
    except (VersionRefused, RuntimeFailed) as error:
        return Proof(len(rows), len(rows), 0, float("inf"), f"it does not run: {error}")
    return compare(manifest.labels, rows, wanted, found)


def compare(labels: Sequence[str], rows: Sequence[Row], wanted: Array, found: Array) -> Proof:
    """Compare the answers to some rows: probabilities in the order of the labels, or one value per row."""
    if wanted.shape != found.shape:
        what = f"its answer has {found.shape[1]} numbers; that of the original has {wanted.shape[1]}"
        return Proof(len(rows), len(rows), 0, float("inf"), what)
    # The difference of a large value is relative, as in the function's check of golden rows.
    off = np.abs(found - wanted) / (1.0 if labels else np.maximum(1.0, np.abs(wanted)))
    largest = off.max(axis=1)
    ties = np.zeros(len(rows), dtype=bool)
    differs = largest > TOLERANCE
    if labels:
        best = np.sort(wanted, axis=1)
        is_other = wanted.argmax(axis=1) != found.argmax(axis=1)
        ties = is_other & (best[:, -1] - best[:, -2] <= TOLERANCE)
        differs |= is_other & ~ties
    worst = None
    if differs.any():
        number = int(np.flatnonzero(differs)[largest[differs].argmax()])
        worst = (
            f"{rows[number].place}: the original answers {_answer(labels, wanted[number])}, the converted model "
            f"{_answer(labels, found[number])}, a difference of {largest[number]:.2g}: {_show(rows[number].instance)}"
        )
    return Proof(len(rows), int(differs.sum()), int(ties.sum()), float(largest.max()), worst)


def predict_all(scorer: Scorer, rows: Sequence[Row]) -> Array:
    """Return a version's answers to any number of rows."""
    answers: list[tuple[float, ...]] = []
    for start in range(0, len(rows), MAX_ROWS):
        answers += scorer.predict([row.instance for row in rows[start : start + MAX_ROWS]])
    return np.array(answers)


def _find_failing(predict: Predict, rows: Sequence[Row], error: Exception) -> tuple[Row, str]:
    """Return the first row on which the original fails, by bisection, and its error."""
    low, high = 0, len(rows)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            predict([row.instance for row in rows[low:middle]])
            low = middle
        except Exception as inner:  # noqa: BLE001 - the original can raise anything
            high, error = middle, inner
    return rows[low], f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _answer(labels: Sequence[str], numbers: Any) -> str:
    if not labels:
        return f"{numbers[0]:.9g}"
    return f"{labels[int(numbers.argmax())]!r} with {numbers.max():.7f}"


def _show(instance: Mapping[str, Scalar]) -> str:
    short = {
        name: value[:60] + "…" if isinstance(value, str) and len(value) > 60 else value
        for name, value in instance.items()
    }
    return json.dumps(short, ensure_ascii=False)
