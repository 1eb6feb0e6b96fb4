"""Generate the SQL that converts a column of a file to the type that the dataset declares.

A value that can't be converted rejects its row; a column whose type can't be converted fails the output.

Parquet: integers to any number that holds them; floating point and decimals to an integer if it is whole (pandas writes
integers with nulls so); FLOAT and DOUBLE to each other, rounded to the nearest; decimals to any other number; a
timestamp without zone is UTC; finer fractions are rounded to the declared unit; text to VARCHAR, ENUM, UUID and JSON;
nested types member by member, by the same rules: one member that can't be converted rejects the row.

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
_TIMES = {"time", "time_ns"}
_NESTED = {"struct", "list", "array", "map"}
_FROM_TEXT = INTEGERS | _FLOATS | _TEXTS | TIMESTAMPS | _TIMES | {"decimal", "boolean", "date", "uuid", "blob"}


PARTITION_NULL = "__HIVE_DEFAULT_PARTITION__"  # Hive's name of a partition whose value is null


@dataclass(frozen=True, slots=True)
class Coerced:
    """SQL of a column in its declared type (null if it can't be converted), and SQL that is true for such values."""

    sql: str
    bad: str | None = None


def coerce_typed(name: str, actual: SqlType, declared: SqlType) -> Coerced | None:
    """Coerce a column of a typed file; None if its type can't be converted."""
    return _coerce_value(identifier(name), actual, declared, 0)


def _coerce_value(value: str, actual: SqlType, declared: SqlType, depth: int) -> Coerced | None:
    """Coerce a value, given as SQL that is cheap to repeat, within so many lambdas."""
    if str(actual) == str(declared):
        return Coerced(value)
    if actual.id == "null":
        return Coerced(f"cast(null as {declared})")
    if declared.id in _NESTED:
        return _coerce_nested(value, actual, declared, depth)
    if not _is_same_kind(actual, declared):
        return None
    converted = f"try_cast({value} as {declared})"
    if declared.id in INTEGERS and (actual.id in _FLOATS or actual.id == "decimal"):
        converted = f"case when {value} = trunc({value}) then {converted} end"
    elif "timestamptz_ns" in {actual.id, declared.id} and actual.id != "timestamp_ns":
        converted = f"try_cast(try_cast({value} as timestamptz) as {declared})"
        if declared.id == "timestamp_ns":  # not by way of microseconds
            converted = f"try_cast({value} as timestamp_ns)"
    return Coerced(converted, f"({value} is not null and {converted} is null)")


def _coerce_nested(value: str, actual: SqlType, declared: SqlType, depth: int) -> Coerced | None:
    """Coerce member by member: DuckDB's cast of the whole makes a member that does not fit null."""
    if declared.id == "struct":
        return _coerce_struct(value, actual, declared, depth) if actual.id == "struct" else None
    inside = dict(actual.children).get("child")
    if inside is None or (declared.id == "map" and inside.id != "struct"):
        return None
    element = f"e{depth}"
    if declared.id == "map":  # from its entries
        entry, kinds = dict(inside.children), dict(declared.children)
        if set(entry) != {"key", "value"}:
            return None
        parts = [_coerce_value(f"{element}.{name}", entry[name], kinds[name], depth + 1) for name in ("key", "value")]
        if None in parts:
            return None
        members = ", ".join(f"{name} := {each.sql}" for name, each in zip(("key", "value"), parts, strict=True) if each)
        bad = [each.bad for each in parts if each and each.bad]
        entries = f"list_transform({value}, lambda {element}: struct_pack({members}))"
        converted = f"try(map_from_entries({entries}))"  # it fails for a null key or a repeated one
        missing = f"({value} is not null and {converted} is null)"
        return Coerced(converted, _any_bad(value, element, bad, missing))
    child = _coerce_value(element, inside, dict(declared.children)["child"], depth + 1)
    if child is None:
        return None
    converted = value if child.sql == element else f"list_transform({value}, lambda {element}: {child.sql})"
    if {actual.id, declared.id} == {"list"}:
        return Coerced(converted, _any_bad(value, element, [child.bad] if child.bad else []))
    converted = f"try_cast({converted} as {declared})"  # an array has one length
    missing = f"({value} is not null and {converted} is null)"
    return Coerced(converted, _any_bad(value, element, [child.bad] if child.bad else [], missing))


def _coerce_struct(value: str, actual: SqlType, declared: SqlType, depth: int) -> Coerced | None:
    found = {name.lower(): (name, kind) for name, kind in actual.children}
    members, bad = [], []
    for name, kind in declared.children:
        if name.lower() not in found:
            return None
        inside, inner = found[name.lower()]
        member = _coerce_value(f"struct_extract({value}, {literal(inside)})", inner, kind, depth)
        if member is None:
            return None
        members.append(f"{identifier(name)} := {member.sql}")
        bad += [member.bad] if member.bad else []
    packed = f"case when {value} is not null then struct_pack({', '.join(members)}) end"
    return Coerced(packed, f"({' or '.join(bad)})" if bad else None)


def _any_bad(values: str, element: str, bad: list[str], *more: str) -> str | None:
    """Return SQL that is true if a predicate holds for an element of a list, or if one of `more` is true."""
    found = [f"list_contains(list_transform({values}, lambda {element}: {' or '.join(bad)}), true)"] if bad else []
    return f"({' or '.join([*found, *more])})" if found or more else None


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
    elif kind in TIMESTAMPS and "z" not in kind:  # a cast to TIMESTAMP would drop the zone and keep the hour
        zoned = "timestamptz_ns" if kind == "timestamp_ns" else "timestamptz"
        converted = f"try_cast(try_cast({column} as {zoned}) as {declared})"
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
    if a in _TEXTS:
        return d in _TEXTS | {"uuid"}
    numbers = INTEGERS | _FLOATS | {"decimal"}
    return any(a in family and d in family for family in (numbers, TIMESTAMPS, _TIMES)) or a == d


def _structure(kind: SqlType) -> str:
    """Return a nested type as a `json_transform` structure."""
    if kind.id == "struct":
        return "{" + ",".join(f"{_quote(name)}:{_structure(child)}" for name, child in kind.children) + "}"
    if kind.id in {"list", "array"}:
        return f"[{_structure(dict(kind.children)['child'])}]"
    return _quote(str(kind))


def _quote(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
