"""What happened in a history, in words, for `--trace`: changes of the ledger, messages, writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer

from tests.faults.world import DAY, START

if TYPE_CHECKING:
    from enrich.dataset.definition import Dataset  # imports no code under test, so that a mutant can still be installed

_deserialize = TypeDeserializer().deserialize
_EMPTY = {"None", "0", "''", "()", "False"}
_HIDDEN = {
    "pk",
    "sk",
    "version",
    "bucket",
    "identity",
    "size",
    "parts",
    "code_version",
    "arrived_ms",
    "format",
    "release",
}


def describe_change(rows: Mapping[tuple[str, str], Any], action: Any) -> Iterator[str]:
    """Describe what a put or delete of a transaction changes in the ledger; the run counter is omitted."""
    ((kind, change),) = action.items()
    item_key = change.get("Item") or change["Key"]
    dataset, sk = item_key["pk"]["S"], item_key["sk"]["S"]
    subject, _, number = sk.partition("#")
    name = f"{dataset} run {int(number)}" if subject in {"run", "pending"} else f"{dataset} {subject} {number}".strip()
    if kind == "Delete":
        yield f"{name} is no longer pending" if subject == "pending" else f"{name} is deleted"
    elif subject in {"run", "state"}:
        before, after = _plain(rows.get((dataset, sk), {})), _plain(change["Item"])
        changed = {key: value for key, value in after.items() if before.get(key) != value and key not in _HIDDEN}
        texts = {key: _text(key, value) for key, value in changed.items()}
        if not before:
            texts = {key: text for key, text in texts.items() if text not in _EMPTY}
        if texts:
            yield f"{name}: " + ", ".join(f"{key} {text}" for key, text in texts.items())


def describe_message(body: str) -> str:
    """Describe a message: what it requests."""
    message = json.loads(body)
    if message.get("source") == "aws.glue":
        return "the event that a job has died"
    if "detail" in message:
        return f"an event of {message['detail']['object']['key']}"
    return f"a message {body}"


def describe_world(datasets: Mapping[str, Dataset], versioned: bool, chances: Any) -> list[str]:
    """Describe the world of a history: datasets, bucket, and how often faults occur."""
    lines = [f"the bucket of outputs {'keeps' if versioned else 'does not keep'} old versions; {chances}"]
    for name, dataset in datasets.items():
        closed = f"folders closed by {dataset.source.marker}" if dataset.source.marker else "objects"
        lines.append(f"dataset {name}: {dataset.source.output} outputs, {closed}, {dataset.tolerated}")
    return lines


def describe_items(items: Sequence[Any], conditional: bool) -> str:
    """Describe the items of a write: their keys, and the order that they have in common."""
    names = [f"{item['pk']['S']}/{item['sk']['S']}{'' if 'b' in item else ' (tombstone)'}" for item in items]
    return f"{'conditional write' if conditional else 'write'} of {', '.join(names)} with order {items[0]['o']['S']}"


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _deserialize(value) for name, value in row.items()}


def _text(name: str, value: Any) -> str:
    if isinstance(value, dict):
        members = [f"{inner} {_text(inner, member)}" for inner, member in value.items() if member]
        return f"({', '.join(members)})"
    if name.endswith("_ms") and value:
        return describe_time(int(value) / 1000)
    if name == "expires_at" and value:
        return describe_time(int(value))
    return f"'{value}'" if isinstance(value, str) else str(value)


def describe_time(time: float) -> str:
    """Describe a time as day, hours, minutes and seconds since the history began; day -1 is the day before."""
    days, seconds = divmod(time - START, DAY)
    minutes, seconds = divmod(seconds, 60)
    return f"day {int(days)} {int(minutes // 60):02d}:{int(minutes % 60):02d}:{seconds:06.3f}"
