"""Hive-style partitions: columns whose values are folders `name=value` of the object key."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from urllib.parse import unquote

PARTITION_NULL = "__HIVE_DEFAULT_PARTITION__"  # Hive's name of a partition whose value is null


def parse_partitions(object_key: str) -> dict[str, str]:
    """Parse partitions such as `dt=2026-01-01/` from an object key; values can be percent-encoded."""
    return {name: unquote(value) for name, value in re.findall(r"(?:^|/)([^/=]+)=([^/]*)(?=/)", object_key)}


def guess_type(values: Iterable[str | None]) -> str:
    """Guess the type of a partition's values: `bigint` or `date` if that loses nothing of any value, else `varchar`."""
    texts = [value for value in values if value not in (None, PARTITION_NULL)]
    if texts and all(re.fullmatch(r"-?[1-9][0-9]{0,17}|0", text) for text in texts if text is not None):
        return "bigint"
    return "date" if texts and all(map(_is_date, texts)) else "varchar"


def _is_date(text: str | None) -> bool:
    try:
        return text is not None and date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
