"""Generate the SQL that converts a column of a file to the type that the dataset declares.

A value that can't be converted rejects its row; a column whose type can't be converted fails the output.

Parquet: integers to any number that holds them; floating point to an integer if it is whole (pandas writes integers
with nulls so); FLOAT and DOUBLE to each other, rounded to the nearest; decimals to any number; a timestamp without zone
is UTC; finer fractions are rounded to the declared unit; text to VARCHAR, ENUM, UUID and JSON; nested types member by
member, where numbers are rounded to the declared type.

Text (CSV, JSON lines, partitions in the object key) is parsed as the type: `12`, `12.0` and `+12` as an integer, but
not `1e3`; a date as `2026-11-20` only; an instant with or without zone, UTC without; decimals are rounded to the
declared scale; `true`, `t`, `yes`, `1` and their opposites as booleans. In JSON lines a nested member is converted to
the declared nested type (numbers in it are rounded), and a number or an object to VARCHAR as its JSON text; a number
with a fraction passes through a double, so a DECIMAL of more than 17 digits must be written as a string.
"""

from __future__ import annotations

from dataclasses import dataclass

from enrich.dataset.json_sql import INTEGERS, TIMESTAMPS, SqlType, identifier, literal

_FLOATS = {"float", "double"}
_TEXTS = {"varchar", "enum"}
_NESTED = {"struct", "list", "array", "map"}
_FROM_TEXT = (
    INTEGERS
    | _FLOATS
    | _TEXTS
    | {"decimal", "boolean", "date", "time", "timestamp", "timestamp with time zone", "uuid", "blob"}
)


PARTITION_NULL = "__HIVE_DEFAULT_PARTITION__"  # Hive's name of a partition whose value is null


@dataclass(frozen=True, slots=True)
class Coerced:
    """SQL of a column in its declared type (null if it can't be converted), and SQL that is true for such values."""

    sql: str
    bad: str | None = None


def coerce_typed(name: str, actual: SqlType, declared: SqlType) -> Coerced | None:
    """Coerce a column of a typed file; None if its type can't be converted."""
    column = identifier(name)
    if str(actual) == str(declared):
        return Coerced(column)
    if actual.id == "null":
        return Coerced(f"cast(null as {declared})")
    if not _is_same_kind(actual, declared):
        return None
    converted = f"try_cast({column} as {declared})"
    if actual.id in _FLOATS and declared.id in INTEGERS:
        converted = f"case when {column} = trunc({column}) then {converted} end"
    return Coerced(converted, f"({column} is not null and {converted} is null)")


def coerce_text(column: str, declared: SqlType) -> Coerced | None:
    """Coerce text, given as SQL that is cheap to repeat; None if the type can't be read from text."""
    kind = declared.id
    if kind not in _FROM_TEXT:
        return None
    if kind == "varchar" and str(declared) != "JSON":
        return Coerced(column)
    converted = f"try_cast({column} as {declared})"
    if kind in INTEGERS:
        converted = f"case when regexp_full_match({column}, '\\s*[+-]?[0-9]+(\\.0*)?\\s*') then {converted} end"
    elif kind == "date":
        converted = (
            f"case when regexp_full_match({column}, '\\s*[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}\\s*') then {converted} end"
        )
    elif kind == "timestamp":  # a cast to TIMESTAMP would drop the zone and keep the hour
        converted = f"cast(try_cast({column} as timestamptz) as timestamp)"
    return Coerced(converted, f"({column} is not null and {converted} is null)")


def coerce_json(member: str, declared: SqlType) -> Coerced | None:
    """Coerce a member of a JSON line, given as SQL: its JSON if the declared type is nested, else its text."""
    if declared.id not in _NESTED:
        return coerce_text(member, declared)
    converted = f"try(json_transform_strict({member}, {literal(_structure(declared))}))"
    return Coerced(converted, f"({member} is not null and json_type({member}) <> 'NULL' and {converted} is null)")


def json_member(name: str, declared: SqlType) -> str:
    """Return the member of a `json_transform` structure that `coerce_json` starts from."""
    return f"{_quote(name)}:{_quote('JSON' if declared.id in _NESTED else 'VARCHAR')}"


def _is_same_kind(actual: SqlType, declared: SqlType) -> bool:
    a, d = actual.id, declared.id
    if a in _NESTED and d in _NESTED:
        return (a == d) or {a, d} == {"list", "array"}
    if a in _TEXTS:
        return d in _TEXTS | {"uuid"}
    numbers = INTEGERS | _FLOATS | {"decimal"}
    return (a in numbers and d in numbers) or (a in TIMESTAMPS and d in TIMESTAMPS) or a == d


def _structure(kind: SqlType) -> str:
    """Return a nested type as a `json_transform` structure."""
    if kind.id == "struct":
        return "{" + ",".join(f"{_quote(name)}:{_structure(child)}" for name, child in kind.children) + "}"
    if kind.id in {"list", "array"}:
        return f"[{_structure(dict(kind.children)['child'])}]"
    return _quote(str(kind))


def _quote(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
