"""Stored features: batch predictions of the caller's own subject, found by a prediction_id from the request.

The partition comes from the token's claims, as in the read API, and the token must have each dataset's scope.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from score.contract import Fault, check_value, invalid_instance
from score.manifest import Scalar
from score.model import REQUIRED, Model, Stored
from serve.access import find_partition
from serve.datasets import Served
from serve.item import DOT_SEGMENTS, PREDICTION_ID, Item, body_text, is_expired
from serve.storage import Storage
from serve.tokens.verifier import Trusted
from serve.web.freshness import describe_freshness

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MAX_KEYS = 100  # in one BatchGetItem


class Missing(StrEnum):
    """Why a stored feature has no value; the log counts each reason."""

    ABSENT = "absent"  # no item was ever written, or DynamoDB has deleted it
    EXPIRED = "expired"
    REMOVED = "removed"  # a tombstone
    TOO_OLD = "too_old"  # older than max_age
    NULL = "null"  # the member of the body is null, or does not exist
    UNUSABLE = "unusable"  # of another type than defined, or out of range


class Used(NamedTuple):
    """The origin of a stored feature: as_of and run of the item, and why there is no value (None if there is one)."""

    as_of: str
    run: int
    missing: Missing | None


def find_partitions(trusted: Trusted, model: Model, served: Mapping[str, Served]) -> dict[str, str]:
    """Return the partition key of each dataset that the model reads, built only from the token's claims.

    Raises:
        NoAccess: the token does not give access to one of the datasets.
        InvalidToken: a claim of a subject is missing or malformed.
    """
    return {name: find_partition(trusted, served[name]) for name in model.datasets}


def fetch_stored(
    storage: Storage,
    partitions: Mapping[str, str],
    model: Model,
    rows: Sequence[dict[str, Scalar]],
    ids: Sequence[Mapping[str, str]],
    pointers: Sequence[str],
    now: float,
) -> list[dict[str, Used]]:
    """Add the stored features to the rows, and return the origin of each, by name.

    Raises:
        Problem: invalid_instance: members of the request do not make a valid prediction_id, or a required stored
            feature has no value.
        StorageUnavailable: DynamoDB did not respond; then no feature is treated as missing.
    """
    wanted = [_build_ids(model, row, names, pointer) for row, names, pointer in zip(rows, ids, pointers, strict=True)]
    items = _fetch_items(storage, partitions, model, wanted)
    faults: list[Fault] = []
    used: list[dict[str, Used]] = []
    for row, named, pointer in zip(rows, wanted, pointers, strict=True):
        found: dict[str, Used] = {}
        for name, feature in model.stored.items():
            item = items.get((feature.dataset, named[name]))
            row[name], found[name] = _read(item, feature, now)
            if found[name].missing and feature.missing is REQUIRED:
                detail = f"the model requires {name!r}, and there is no stored prediction ({found[name].missing})"
                faults.append(Fault(f"{pointer}/{feature.names[0]}" if feature.names else pointer, detail))
        used.append(found)
    if faults:
        raise invalid_instance(faults)
    return used


def _build_ids(model: Model, row: Mapping[str, Scalar], ids: Mapping[str, str], pointer: str) -> dict[str, str]:
    named = {}
    for name, feature in model.stored.items():

        def fill(found: re.Match[str]) -> str:
            value = ids.get(found[1], row.get(found[1]))
            return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

        named[name] = _PLACEHOLDER.sub(fill, feature.id)
        if not PREDICTION_ID.match(named[name]) or named[name] in DOT_SEGMENTS:
            place = f"{pointer}/{feature.names[0]}" if feature.names else pointer
            detail = f"does not make a valid prediction_id of {feature.dataset} ({feature.id})"
            raise invalid_instance([Fault(place, detail)])
    return named


def _fetch_items(
    storage: Storage, partitions: Mapping[str, str], model: Model, wanted: Sequence[Mapping[str, str]]
) -> dict[tuple[str, str], Item]:
    """Get each item once, however many features and instances name it."""
    items: dict[tuple[str, str], Item] = {}
    for dataset, partition in partitions.items():
        names = [name for name, feature in model.stored.items() if feature.dataset == dataset]
        keys = list(dict.fromkeys(named[name] for named in wanted for name in names))
        if len(keys) == 1:
            item = storage.get_item(partition, keys[0])
            if item is not None:
                items[dataset, keys[0]] = item
            continue
        for start in range(0, len(keys), _MAX_KEYS):
            for _, found in storage.get_items(partition, keys[start : start + _MAX_KEYS]):
                items |= {(dataset, key): item for key, item in found.items()}
    return items


def _read(item: Item | None, feature: Stored, now: float) -> tuple[Scalar, Used]:
    """Return the value of a stored feature (or the definition's value for a missing one), and its origin."""
    as_of, run = "", 0
    value: Scalar = None
    if item is None:
        missing: Missing | None = Missing.ABSENT
    else:
        freshness = describe_freshness(item.order, item.expires_at)
        as_of, run = freshness.as_of_text, int(freshness.headers["Larder-Run"])
        if item.body is None:
            missing = Missing.REMOVED
        elif is_expired(item.expires_at, now):
            missing = Missing.EXPIRED
        elif feature.max_age is not None and now - freshness.as_of > feature.max_age.total_seconds():
            missing = Missing.TOO_OLD
        else:
            found = _resolve(json.loads(body_text(item.body)), feature.at)
            value = None if found is None else check_value(found, feature.kind)
            missing = Missing.NULL if found is None else Missing.UNUSABLE if value is None else None
    if missing and feature.missing is not REQUIRED:
        value = feature.missing
    return value, Used(as_of, run, missing)


def _resolve(body: Any, pointer: str) -> Any:
    """Return the value at a JSON pointer; None if there is none."""
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(body, dict):
            body = body.get(name)
        elif isinstance(body, list) and name.isdecimal() and name.isascii() and int(name) < len(body):
            body = body[int(name)]
        else:
            return None
    return body
