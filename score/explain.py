"""Explain a prediction by occlusion: how it changes if one feature has its typical value, or one token is removed.

It shows which features the model reacts to for this instance. A contribution is not a cause, and contributions do not
add up to the prediction: of two correlated features, neither has a large one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from score.scorer import Row, Scorer
from wire.deadline import deadline

MAX_INSTANCES = 10  # of a request with explain=true
MAX_TOKENS = 20
_TRIED_TOKENS = 100  # those with the largest weights
_TOKENS_AT_A_TIME = 10  # a long text takes a while: the time is checked in between


class OutOfTime(Exception):
    """The request's time is over."""


def explain(scorer: Scorer, row: Row, answer: tuple[float, ...]) -> dict[str, Mapping[str, float]]:
    """Return the contribution of each feature, and of the tokens of each text.

    A contribution is the probability of the predicted label (or the value), minus the same without the feature.

    Raises:
        OutOfTime: the request's time is over.
    """
    _check_time()
    manifest = scorer.manifest
    place = answer.index(max(answer))
    texts = scorer.vectorizers
    names = [name for name in manifest.features if name in manifest.baseline and name not in texts]
    rows = [{**row, name: manifest.baseline[name]} for name in names]
    without = scorer.predict(rows) if rows else []
    contributions = {name: _round(answer[place] - each[place]) for name, each in zip(names, without, strict=True)}
    explained: dict[str, Mapping[str, float]] = {"contributions": contributions}
    for name, vectorizer in texts.items():
        tokens = vectorizer.tokenize(str(row[name] or ""))
        tried = vectorizer.rank(tokens, vectorizer.weigh(tokens), _TRIED_TOKENS)
        found: list[tuple[float, ...]] = []
        for start in range(0, len(tried), _TOKENS_AT_A_TIME):
            _check_time()
            batch = tried[start : start + _TOKENS_AT_A_TIME]
            shortened = [[token for token in tokens if token != gone] for gone in batch]
            found += scorer.predict_tokens(row, name, shortened)
        changes = {token: _round(answer[place] - each[place]) for token, each in zip(tried, found, strict=True)}
        largest = sorted(changes, key=lambda token: -abs(changes[token]))[:MAX_TOKENS]
        explained["tokens"] = {token: changes[token] for token in largest}
    return explained


def _check_time() -> None:
    if time.monotonic() >= deadline():
        raise OutOfTime


def _round(number: float) -> float:
    return float(f"{number:.6g}")
