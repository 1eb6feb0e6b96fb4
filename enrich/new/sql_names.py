"""Spell names of columns and types in SQL, as a person would write them."""

from __future__ import annotations

import functools
import re
from typing import Any

from enrich.dataset.empty_database import open_empty
from enrich.dataset.json_sql import NESTED, SqlType, identifier

# DuckDB reads these as functions, even without parentheses.
_FUNCTIONS = {"user", "current_user", "session_user", "current_date", "current_time", "current_timestamp", "localtime"}
_TEXT_IN_TEXT = {"date", "uuid", "interval"}  # and all times


def quote(name: str) -> str:
    """Return a name in SQL, without quotes where it needs none."""
    is_plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in _FUNCTIONS | _read_keywords()
    return name if is_plain else identifier(name)


def spell_type(kind: SqlType | Any, *, text: bool, depth: int = 0) -> str:
    """Return the type to declare for one that DuckDB found.

    Args:
        kind: the type.
        text: the file is text. Then a date or UUID within a list or struct is declared as text, because DuckDB
            recognizes dates in more forms than a run reads.
        depth: number of types that the type is nested in.
    """
    children = dict(kind.children) if kind.id in NESTED else {}
    inner = (
        {name: spell_type(child, text=text, depth=depth + 1) for name, child in children.items() if name != "size"}
        if children
        else {}
    )
    if kind.id == "struct":
        return f"struct({', '.join(f'{quote(name)} {member}' for name, member in inner.items())})"
    if kind.id == "map":
        return f"map({inner['key']}, {inner['value']})"
    if kind.id == "list":
        return f"{inner['child']}[]"
    if kind.id == "array":
        return f"{inner['child']}{str(kind)[str(kind).rindex('[') :]}"
    is_time = kind.id.startswith("time")
    if str(kind) == '"NULL"' or (text and depth and (is_time or kind.id in _TEXT_IN_TEXT)):
        return "varchar"
    return "timestamptz" if str(kind) == "TIMESTAMP WITH TIME ZONE" else str(kind).lower()


@functools.cache
def _read_keywords() -> frozenset[str]:
    with open_empty() as con:
        return frozenset(name for (name,) in con.execute("select keyword_name from duckdb_keywords()").fetchall())
