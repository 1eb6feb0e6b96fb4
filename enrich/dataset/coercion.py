"""Generate the SQL that converts a column of a file to the type that the dataset declares.

A value that can't be converted rejects its row; a column whose type can't be converted fails the output.

Parquet:
- integers to any number type that holds the value exactly;
- floating-point numbers and decimals to an integer if the value is whole (pandas writes integers with nulls as floats);
- FLOAT and DOUBLE to each other, rounded to the nearest;
- decimals to any other number type, and any number to a decimal, rounded to its scale;
- timestamps: one without zone is UTC; finer fractions are rounded to the declared unit;
- text to VARCHAR, ENUM, UUID and JSON;
- nested types member by member, by the same rules: one member that can't be converted rejects the row.

Text (CSV, JSON lines, partitions in the object key) is parsed as the declared type:
- integers: `12`, `12.0` and `+12`, but not `1e3`, except as a number of JSON lines;
- dates: only as `2026-11-20`; instants with or without zone (without: UTC); times without zone;
- decimals are rounded to the declared scale;
- booleans: `true`, `t`, `yes`, `1` and their opposites;
- BLOB: base64 (RFC 4648, section 4), which BigQuery, Spark and Jackson write.

Members of JSON lines are parsed by the same rules at any depth. A missing member of a struct is null. An object or a
number becomes VARCHAR as its JSON text. DuckDB reads a JSON number with a fraction or an exponent as a double: `1e3` is
`1000.0`, also as VARCHAR. So an integer from 2^53 on must be written without a fraction, and a DECIMAL of more than 15
digits as a string. A declared member that an object has twice rejects the row: JSON readers differ in which of the two
they take (RFC 8259, section 4).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from enrich.dataset.json_sql import (
    EXACT_BELOW,
    INTEGERS,
    LARGE_INTEGERS,
    NESTED,
    TIMESTAMPS,
    SqlType,
    find_large,
    identifier,
    literal,
)

_FLOATS = {"float", "double"}
_TEXTS = {"varchar", "enum"}
_TIMES = {"time", "time_ns"}
_FROM_TEXT = INTEGERS | _FLOATS | _TEXTS | TIMESTAMPS | _TIMES | {"decimal", "boolean", "date", "uuid", "blob"}
_EXACT_DIGITS = 15  # a double keeps every decimal number of so many digits
_PATTERNS = {
    **dict.fromkeys(INTEGERS, "[+-]?[0-9]+(\\.0*)?"),
    "date": "[0-9]{4}-[0-9]{2}-[0-9]{2}",
    **dict.fromkeys(_TIMES, "[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\\.[0-9]+)?)?"),  # a cast would drop a zone
}


@dataclass(frozen=True, slots=True)
class Coerced:
    """SQL of a column in its declared type (null if it can't be converted), and SQL that is true for such values."""

    sql: str
    bad: str | None = None


def coerce_typed(name: str, actual: SqlType, declared: SqlType) -> Coerced | None:
    """Coerce a column of a typed file; None if its type can't be converted."""
    return _coerce_value(identifier(name), actual, declared, 0)


def _coerce_value(value: str, actual: SqlType, declared: SqlType, depth: int) -> Coerced | None:
    """Coerce a value, given as SQL that is cheap to repeat; `depth` is the number of lambdas around it."""
    if str(actual) == str(declared):
        return Coerced(value)
    if actual.id == "null":
        return Coerced(f"cast(null as {declared})")
    if declared.id in NESTED:
        return _coerce_nested(value, actual, declared, depth)
    if not _is_same_kind(actual, declared):
        return None
    converted = f"try_cast({value} as {declared})"
    if declared.id in INTEGERS and (actual.id in _FLOATS or actual.id == "decimal"):
        converted = f"case when {value} = trunc({value}) then {converted} end"
    elif declared.id in _FLOATS and actual.id in INTEGERS:
        converted = f"case when try_cast({converted} as {actual}) = {value} then {converted} end"
    elif (actual.id, declared.id) == ("timestamp_ns", "timestamp_s"):  # DuckDB has no such cast
        converted = f"try_cast(try_cast({value} as timestamp) as {declared})"
    elif "timestamptz_ns" in {actual.id, declared.id} and actual.id != "timestamp_ns":
        converted = f"try_cast(try_cast({value} as timestamptz) as {declared})"
        if declared.id == "timestamp_ns":  # a cast to timestamptz would round to microseconds
            converted = f"try_cast({value} as timestamp_ns)"
    return Coerced(converted, f"({value} is not null and {converted} is null)")


def _coerce_nested(value: str, actual: SqlType, declared: SqlType, depth: int) -> Coerced | None:
    """Coerce member by member: DuckDB's cast of a whole value would turn a member that does not fit into null."""
    if declared.id == "struct":
        return _coerce_struct(value, actual, declared, depth) if actual.id == "struct" else None
    inside = dict(actual.children).get("child") if actual.id in NESTED else None
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
        converted = f"try(map_from_entries({entries}))"  # fails for a null key or a repeated key
        missing = f"({value} is not null and {converted} is null)"
        return Coerced(converted, _any_bad(value, element, bad, missing))
    child = _coerce_value(element, inside, dict(declared.children)["child"], depth + 1)
    if child is None:
        return None
    converted = value if child.sql == element else f"list_transform({value}, lambda {element}: {child.sql})"
    if {actual.id, declared.id} == {"list"}:
        return Coerced(converted, _any_bad(value, element, [child.bad] if child.bad else []))
    converted = f"try_cast({converted} as {declared})"  # fails for a list of another length
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


def coerce_text(column: str, declared: SqlType, *, escaped: bool = False) -> Coerced | None:
    """Coerce text; None if the type can't be read from text.

    Args:
        column: SQL that is cheap to repeat.
        declared: the type.
        escaped: the text is from the rejects of Parquet: BLOBs are in the text form of a DuckDB cast, instead of
            base64, and integers are not rounded.
    """
    if declared.id not in _FROM_TEXT:
        return None
    if declared.id == "varchar" and not _is_json(declared):
        return Coerced(column)
    # For a value that fails, TRY takes 25 times as long as TRY_CAST.
    converted = f"try({_parse_text(column, declared, escaped=escaped, cast='try_cast')})"
    return Coerced(converted, f"({column} is not null and {converted} is null)")


def coerce_json(member: str, declared: SqlType, *, escaped: bool = False) -> Coerced | None:
    """Coerce a member of a JSON line, given as SQL of the type that `json_member` chose; `escaped` as in `coerce_text`.

    None if the type can't be read from text.
    """
    if not needs_json(declared):
        return coerce_text(member, declared, escaped=escaped)
    converted = f"try({_parse_json(member, declared, escaped=escaped)})"
    return Coerced(converted, f"({member} is not null and {converted} is null)")


def check_rounded(line: str, name: str, text: str, number: str, declared: SqlType) -> Coerced:
    """Coerce an integer that has been parsed from the text of a member; it is bad if the text is that of a double.

    Args:
        line: SQL of the line.
        name: of the member.
        text: SQL of the member.
        number: SQL of the parsed integer, null if that failed.
        declared: its type.
    """
    structure = literal(f'{{{json_name(name)}:"JSON"}}')
    kind = f"json_type(struct_extract(json_transform({line}, {structure}), {literal(name)}))"  # for few lines
    rounded = f"({find_large(number, declared.id)} and contains({text}, '.') and {kind} = 'DOUBLE')"
    bad = f"(({text} is not null and {number} is null) or {rounded})"
    return Coerced(f"case when {rounded} then null else {number} end", bad)


def json_member(name: str, declared: SqlType) -> str:
    """Return the member of a `json_transform` structure that extracts the input of `coerce_json`."""
    return f"{json_name(name)}:{json_name('JSON' if needs_json(declared) else 'VARCHAR')}"


def other_case(json: str, missing: Mapping[str, str]) -> str:
    """Return the SQL of the first of some names that an object has only in another case; null if there is none.

    Args:
        json: SQL of the object.
        missing: name -> SQL that is true if the object may lack the name. Only for those rows does CASE evaluate the
            rest.
    """
    keys = f"json_keys({json})"
    names = []
    for name, is_missing in missing.items():
        exact = f"case when list_contains({keys}, {literal(name)}) then null when list_contains(list_transform({keys}, "
        exact += f"lambda name: lower(name)), {literal(name.lower())}) then {literal(name)} end"
        there = f"contains(lower({json}), {literal(json_name(name.lower()))})"
        names.append(f"case when {is_missing} then case when {there} then {exact} end end")
    return f"coalesce({', '.join(names)})"


def has_repeated(json: str, names: Iterable[str]) -> str:
    """Return SQL that is true if an object has one of these members twice."""
    known = f"list_filter(json_keys({json}), lambda name: name in ({', '.join(map(literal, names))}))"
    return f"(len({known}) > len(list_distinct({known})))"


def _parse_text(text: str, declared: SqlType, *, escaped: bool, cast: str = "cast", bad: str = "false") -> str:
    """Return SQL that parses text as the type; it fails, or is null with `try_cast`, if the text has another form.

    `bad` is SQL that is true for a text of an integer that is refused too.
    """
    kind = declared.id
    if kind == "varchar" and not _is_json(declared):
        return text
    if kind == "blob" and not escaped:
        return f"from_base64({text})"
    if kind in {"timestamp", "timestamp_s", "timestamp_ms"}:  # a direct cast would ignore the offset of the zone
        return f"cast({cast}({text} as timestamptz) as {declared})"
    if kind == "timestamp_ns":  # the same, but TIMESTAMPTZ would round to microseconds
        zone = f"epoch_us({cast}({text} as timestamptz)) - epoch_us({cast}({text} as timestamp))"
        return f"make_timestamp_ns(epoch_ns({cast}({text} as timestamp_ns)) + 1000 * ({zone}))"
    if kind in _FLOATS and escaped:  # digits alone are an integer of a Parquet file: rejected unless it is exact
        exact = f"try_cast({cast}({text} as {declared}) as hugeint) is not distinct from try_cast({text} as hugeint)"
        text = f"case when regexp_full_match({text}, '-?[0-9]+') and not ({exact}) then '?' else {text} end"
    if kind in _PATTERNS:
        other = f"not regexp_full_match({text}, '\\s*{_PATTERNS[kind]}\\s*')"
        text = f"case when {other} or ({bad}) then '?' else {text} end"
    return f"{cast}({text} as {declared})"


def _parse_json(json: str, declared: SqlType, depth: int = 0, *, escaped: bool) -> str:
    """Return SQL that parses JSON as the type; it fails if the JSON has another form."""
    kind, each = declared.id, f"j{depth}"

    def inner(value: str, child: SqlType) -> str:
        return _parse_json(value, child, depth + 1, escaped=escaped)

    if kind in {"list", "array"}:
        element = inner(each, dict(declared.children)["child"])
        elements = f"list_transform(json_transform_strict({json}, '[\"JSON\"]'), lambda {each}: {element})"
        return elements if kind == "list" else f"cast({elements} as {declared})"
    if kind == "map":
        kinds = dict(declared.children)
        key = _parse_text(f"{each}.key", kinds["key"], escaped=escaped)
        entry = f"struct_pack(k := {key}, v := {inner(f'{each}.value', kinds['value'])})"
        entries = f"map_entries(json_transform_strict({json}, '\"MAP(VARCHAR, JSON)\"'))"
        return f"map_from_entries(list_transform({entries}, lambda {each}: {entry}))"
    if kind == "struct":
        names = [name for name, _ in declared.children]
        members = [
            f"{identifier(name)} := {inner(f'{each}.{identifier(name)}', child)}" for name, child in declared.children
        ]
        structure = "{" + ",".join(f'{json_name(name)}:"JSON"' for name in names) + "}"
        fail = f"cast('?' as {declared})"
        missing = {name: f"{each}.{identifier(name)} is null" for name in names}
        is_clear = f"{other_case(json, missing)} is null and not {has_repeated(json, names)}"
        packed = f"case when {is_clear} then struct_pack({', '.join(members)}) else {fail} end"
        parsed = f"list_transform([json_transform({json}, {literal(structure)})], lambda {each}: {packed})[1]"
        # json_transform returns null members for a value that is not an object, as for an object without members.
        return f"case when {json} is null then null when json_type({json}) = 'OBJECT' then {parsed} else {fail} end"
    if _is_json(declared):
        return json
    text = f"({json} ->> '$')"
    if kind in LARGE_INTEGERS:  # a double has 16 digits and `.0`; a string has quotes, so it is no number
        long = f"strlen({json}) > {len(str(EXACT_BELOW))} and contains({json}, '.')"
        lossy = f"{long} and abs(try_cast(cast({json} as varchar) as double)) >= {EXACT_BELOW}"
        return _parse_text(text, declared, escaped=escaped, bad=lossy)
    if kind == "decimal":
        digits = f"ltrim(regexp_replace({text}, '[eE].*$|[^0-9]', '', 'g'), '0')"
        lossy = f"json_type({json}) = 'DOUBLE' and len({digits}) > {_EXACT_DIGITS} and regexp_matches({text}, '[.eE]')"
        text = f"case when {lossy} then '?' else {text} end"
    return _parse_text(text, declared, escaped=escaped)


def needs_json(declared: SqlType) -> bool:
    """Return whether a type is parsed from a member's JSON, instead of from its text."""
    return declared.id in NESTED or (declared.id == "decimal" and dict(declared.children)["precision"] > _EXACT_DIGITS)


def _is_json(declared: SqlType) -> bool:
    return str(declared).upper() == "JSON"


def _is_same_kind(actual: SqlType, declared: SqlType) -> bool:
    a, d = actual.id, declared.id
    if a in _TEXTS:
        return d in _TEXTS | {"uuid"}
    numbers = INTEGERS | _FLOATS | {"decimal"}
    return any(a in family and d in family for family in (numbers, TIMESTAMPS, _TIMES)) or a == d


def json_name(name: str) -> str:
    """Return a name as a JSON string, for DuckDB's JSON functions."""
    return json.dumps(name, ensure_ascii=False)
