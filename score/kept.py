"""Build the messages of kept features: features, prediction, version, time. Pure; `score.outbox` sends them.

`score.keep` turns the messages into rows of a table. A message has at most 240 KB, so a large request becomes several
messages. No message has a token, a claim, or the form of the request; the subject is hashed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from score.manifest import Scalar
from score.model import Category, Number, Text, iterate_features
from score.paths import KEPT_FORMAT
from score.scorer import Scorer
from score.stored import Used

MAX_BYTES = 240_000  # SQS accepts 256 KB in every region


class Scored(NamedTuple):
    """One instance of a request, scored.

    Attributes:
        row: the features as the model got them, including stored ones; None: missing.
        ids: members of the request that are only parts of prediction_ids; the outcome can be joined on them later.
        used: where each stored feature came from.
        answer: the probabilities in the order of the labels, or the one value.
    """

    row: Mapping[str, Scalar]
    ids: Mapping[str, str]
    used: Mapping[str, Used]
    answer: Sequence[float]


class Message(NamedTuple):
    """A message to send, and the number of instances in it."""

    body: str
    instances: int


def build_messages(
    scorer: Scorer, role: str, request_id: str, subject: str, now: float, scored: Sequence[Scored]
) -> tuple[list[Message], int]:
    """Build the messages of a request; return them, and the number of instances that are too large for a message.

    Args:
        scorer: the version that answered.
        role: `live` or `canary`.
        request_id: the same as in the log line and in problem details.
        subject: hashed; empty for a request without a token.
        now: epoch seconds.
        scored: the instances, in the order of the request.
    """
    head = json.dumps(
        {
            "format": KEPT_FORMAT,
            "model": scorer.model.name,
            "version": scorer.version,
            "role": role,
            "time": round(now, 3),
            "request_id": request_id,
            "subject": subject,
        }
    )
    messages: list[Message] = []
    waiting: list[str] = []
    room = MAX_BYTES - len(head)
    size = dropped = 0
    for number, each in enumerate(scored):
        text = json.dumps(_build_row(scorer, number, each), allow_nan=False)
        if len(text) > room:
            dropped += 1
            continue
        if size + len(text) > room:
            messages.append(_join(head, waiting))
            waiting, size = [], 0
        waiting.append(text)
        size += len(text) + 1
    if waiting:
        messages.append(_join(head, waiting))
    return messages, dropped


def _join(head: str, rows: Sequence[str]) -> Message:
    return Message(f'{head[:-1]}, "rows": [{",".join(rows)}]}}', len(rows))


def _build_row(scorer: Scorer, number: int, scored: Scored) -> dict[str, Any]:
    keeps_texts = scorer.model.keep is not None and scorer.model.keep.texts
    numbers: dict[str, float] = {}
    texts: dict[str, str] = {}
    for name, kind in iterate_features(scorer.model):
        value = scored.row.get(name)
        if value is None:
            continue
        if isinstance(kind, Text | Category):
            if keeps_texts or isinstance(kind, Category):
                texts[name] = str(value)
        else:
            numbers[name] = float(value) if isinstance(kind, Number) else int(bool(value))
    row: dict[str, Any] = {"instance": number, "numbers": numbers, "texts": texts, "ids": dict(scored.ids)}
    row["stored"] = dict(_build_stored(scored.used))
    best = max(scored.answer)
    if scorer.manifest.labels:
        return {**row, "label": scorer.manifest.labels[scored.answer.index(best)], "probability": best}
    return {**row, "value": best}


def _build_stored(used: Mapping[str, Used]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, one in used.items():
        origin = {"as_of": one.as_of, "run": one.run} if one.as_of else {}
        yield name, {**origin, "missing": str(one.missing)} if one.missing else origin
