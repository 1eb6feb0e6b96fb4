"""Generate the SQL that renders a DuckDB value as JSON text, by the value's type.

The JSON of each type is defined here, because DuckDB's `to_json` widens a float32 0.1 to 0.10000000149011612, writes
timestamps with a blank and NaN without quotes, and pads decimals.

| DuckDB type | JSON |
|---|---|
| BOOLEAN | `true`, `false` |
| TINYINT ... HUGEINT, UTINYINT ... UHUGEINT, BIGNUM | a number with all digits; from 64 bits per `large_integers` |
| FLOAT, DOUBLE | the shortest number that reads back as the same value at that width; NaN and infinity reject the row |
| DECIMAL | a number without exponent and without trailing zeros |
| VARCHAR, ENUM | a string |
| UUID | a string in lower case with hyphens |
| BLOB | a string: base64 (RFC 4648, section 4, padded) |
| DATE | `"2026-11-20"` |
| TIME | `"06:15:00.5"`, with a fraction only if it is not zero |
| TIMESTAMP (all units) | RFC 3339, `"2026-11-20T06:15:00.5Z"`; it has no zone and counts as UTC |
| TIMESTAMPTZ, TIMESTAMPTZ_NS | RFC 3339 in UTC |
| STRUCT, LIST, ARRAY | an object in declared order, an array |
| MAP | an object in stored order; keys by their text |
| JSON | the same JSON, minified |
| INTERVAL, TIME WITH TIME ZONE, BIT, UNION, unnamed STRUCT and all other types | a mistake with a remedy |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

NOT_A_NUMBER = "not-a-number"
LARGE_INTEGER = "large-integer"
BAD_VALUE = "bad-value"

# DuckDB's types, by name
SMALL_INTEGERS = {"tinyint", "smallint", "integer", "utinyint", "usmallint", "uinteger"}
LARGE_INTEGERS = {"bigint", "ubigint", "hugeint", "uhugeint"}
INTEGERS = SMALL_INTEGERS | LARGE_INTEGERS
TIMESTAMPS = {"timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns", "timestamp with time zone", "timestamptz_ns"}
NESTED = {"struct", "list", "array", "map"}
EXACT_BELOW = 2**53  # a double holds every integer below
MAX_LEVELS = 8  # of nested types; a list of numbers has one. A ninth would triple the time to compile the SQL
_MAP_KEYS = INTEGERS | {"varchar", "enum", "uuid", "date", "boolean"}
_REMEDIES = {
    "interval": "convert it to a number, e.g. with epoch(...)",
    "time with time zone": "cast it to time or to varchar",
    "bit": "cast it to varchar",
    "union": "take one of its members",
}
TOO_DEEP_REMEDY = "write it as JSON text, or name fewer of its members"


class SqlType(Protocol):
    """The part of DuckDB's type object that is used here."""

    @property
    def id(self) -> str:
        """The type's name without parameters, in lower case."""

    @property
    def children(self) -> Any:
        """Pairs of a name and a type or a number, for nested and parameterized types."""


@dataclass(frozen=True, slots=True)
class JsonPolicy:
    """A dataset's choices where JSON allows several forms; see `Dataset`."""

    nulls: Literal["keep", "omit"] = "keep"
    large_integers: Literal["number", "string", "reject"] = "number"


@dataclass(frozen=True, slots=True)
class ValueCheck:
    """A check that rejects a row: SQL that is true for a bad value, the reject reason, and the detail.

    Attributes:
        reason: the reject reason.
        path: path of the member within the value.
        sql: true for a bad value.
        because: what is wrong, as the end of the detail.
    """

    reason: str
    path: str
    sql: str
    because: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """SQL of a value's JSON text (null for a null value), and the checks of the value."""

    sql: str
    checks: tuple[ValueCheck, ...] = ()


class Unrenderable(TypeError):
    """Values of this type can't be rendered as JSON; the message has the type and the remedy."""


def render_json_sql(value: str, kind: SqlType, policy: JsonPolicy = JsonPolicy(), depth: int = 0) -> Rendered:
    """Generate the SQL of a value's JSON text.

    Args:
        value: SQL that is cheap to repeat, such as a column.
        kind: type of the value.
        policy: the dataset's choices.
        depth: number of lambdas around the value.

    Raises:
        Unrenderable: the type has no JSON.
    """
    name = kind.id
    if count_levels(kind) > MAX_LEVELS:
        raise Unrenderable(f"it nests more than {MAX_LEVELS} lists, maps and structs; {TOO_DEEP_REMEDY}")
    if name in NESTED:
        return _NESTED_RENDERERS[name](value, kind, policy, depth)
    text = f"cast({value} as varchar)"
    if name in {"float", "double"}:
        return Rendered(text, (ValueCheck(NOT_A_NUMBER, "", f"not isfinite({value})", "is NaN or infinite"),))
    if name in LARGE_INTEGERS:
        return _render_large(value, name, policy)
    if name in SMALL_INTEGERS | {"boolean", "bignum"}:
        return Rendered(text)
    if name == "decimal":
        precision, scale = dict(kind.children)["precision"], dict(kind.children)["scale"]
        if precision == scale:  # DuckDB writes `.500`, which is not JSON
            text = f"regexp_replace({text}, '^(-?)\\.', '\\10.')"
        return Rendered(f"rtrim(rtrim({text}, '0'), '.')" if scale else text)
    if name == "varchar":
        return _render_json(value) if str(kind).upper() == "JSON" else _render_text(value)
    if name == "enum":
        return Rendered(f"cast(to_json({text}) as varchar)")
    if name in {"uuid", "time", "time_ns"}:
        return Rendered(f"('\"' || {text} || '\"')")
    if name == "blob":
        return Rendered(f"('\"' || base64({value}) || '\"')")
    if name == "date" or name in TIMESTAMPS:
        return _render_instant(value, name)
    if name == "null":
        return Rendered("cast(null as varchar)")
    raise Unrenderable(f"type {kind} has no JSON; {_REMEDIES.get(name, 'cast it to another type')}")


def count_levels(kind: SqlType) -> int:
    """Return how deep lists, maps and structs are nested in a type: 0 for a plain type, 1 for a list of numbers."""
    deepest, level = 0, [kind]
    while level := [each for each in level if each.id in NESTED]:
        deepest += 1
        level = [child for each in level for _, child in each.children if not isinstance(child, int)]
    return deepest


def render_members(members: Iterable[tuple[str, str]], nulls: Literal["keep", "omit"]) -> list[str]:
    """Render members as SQL pieces to concatenate, from pairs of a name and the SQL of its JSON text (null for null).

    Each member begins with a comma, so that lists of members can be concatenated; `render_object` removes the first
    comma.
    """
    pieces: list[str] = []
    for name, text in members:
        if nulls == "omit":
            pieces.append(f"coalesce({render_label(name)} || {text}, '')")
        else:
            pieces += [render_label(name), f"coalesce({text}, 'null')"]
    return pieces


def render_label(name: str) -> str:
    """Render the text before a member's value: comma, name and colon."""
    return literal(f",{json.dumps(name, ensure_ascii=False)}:")


def render_object(pieces: list[str]) -> list[str]:
    """Render the pieces of an object's text from the pieces of its members."""
    if pieces and pieces[0].startswith("',"):  # the first comma is in a literal: remove it here, not per row
        return ["'{" + pieces[0][2:], *pieces[1:], "'}'"]
    return ["'{'", f"substr({concat(pieces)}, 2)", "'}'"] if pieces else ["'{}'"]


def concat(pieces: Iterable[str]) -> str:
    """Concatenate pieces in one call; adjacent literals are merged, since each argument costs time per row."""
    merged: list[str] = []
    for piece in pieces:
        if merged and _is_literal(piece) and _is_literal(merged[-1]):
            merged[-1] = merged[-1][:-1] + piece[1:]
        else:
            merged.append(piece)
    return f"concat({', '.join(merged)})"


def literal(text: str) -> str:
    """Quote a text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Quote a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _is_literal(piece: str) -> bool:
    return piece.startswith("'") and "'" not in piece[1:-1].replace("''", "")


def find_large(value: str, name: str) -> str:
    """Return SQL that is true for an integer that a double can't be trusted to hold; `name`: of its type."""
    low = f"{name} '{0 if name.startswith('u') else 1 - EXACT_BELOW}'"  # of the same type: UHUGEINT fits no other one
    return f"({value} not between {low} and {name} '{EXACT_BELOW - 1}')"


def _render_large(value: str, name: str, policy: JsonPolicy) -> Rendered:
    text = f"cast({value} as varchar)"
    if policy.large_integers == "string":
        return Rendered(f"('\"' || {text} || '\"')")
    if policy.large_integers == "number":
        return Rendered(text)
    return Rendered(
        text,
        (
            ValueCheck(
                LARGE_INTEGER,
                "",
                find_large(value, name),
                "exceeds 2^53 - 1, the largest integer that every JSON reader keeps exactly",
            ),
        ),
    )


def _render_text(value: str) -> Rendered:
    check = ValueCheck(BAD_VALUE, "", _is_not_utf_8(value), "holds text that is not UTF-8")
    return Rendered(f"cast(to_json({value}) as varchar)", (check,))


def _is_not_utf_8(text: str) -> str:
    """Return SQL that is true for a text that is not UTF-8, which `to_json` would render as nothing at all.

    A rendered body is not parsed again to check it: that would cost a fifth of the rendering, and this check costs 2 %.
    A body is JSON by construction: other types are rendered in ASCII whatever their bytes, the words of an ENUM come
    from the dataset, a value of the type JSON is parsed by `json`, and `map_entries` fails for a name that is not
    UTF-8. tests/unit/enrich/test_every_type.py has such bytes for each type.
    """
    return f"({text} is not null and try(decode(encode({text}))) is null)"


def _render_json(value: str) -> Rendered:
    # DuckDB accepts NaN and Infinity as JSON; outside strings no other JSON token contains `nan` or `inf`.
    bare = f"regexp_replace(cast({value} as varchar), '\"(\\\\.|[^\"\\\\])*\"', '', 'g')"
    bad = f"regexp_matches({bare}, '(?i)nan|inf')"
    return Rendered(f"cast(json({value}) as varchar)", (ValueCheck(NOT_A_NUMBER, "", bad, "holds NaN or infinity"),))


def _render_instant(value: str, name: str) -> Rendered:
    bad = find_bad_instant(value, name)
    if name == "timestamptz_ns":  # few of DuckDB's functions take it
        value, name = f"cast({value} as timestamp_ns)", "timestamp_ns"
    check = ValueCheck(BAD_VALUE, "", bad, "is outside the years 1 to 9999 of RFC 3339")
    if name == "date":
        return Rendered(f"('\"' || cast({value} as varchar) || '\"')", (check,))
    # A cast from TIMESTAMPTZ looks up the zone in ICU, which would take longer than everything else.
    zoneless = f"make_timestamp(epoch_us({value}))" if name == "timestamp with time zone" else value
    text = f"('\"' || replace(cast({zoneless} as varchar), ' ', 'T') || 'Z\"')"
    if name != "timestamp_ns":
        whole = f"strftime({zoneless}, '\"%Y-%m-%dT%H:%M:%SZ\"')"
        text = f"(case when epoch_us({value}) % 1000000 = 0 then {whole} else {text} end)"
    return Rendered(text, (check,))


def find_bad_instant(value: str, name: str) -> str:
    """Return the SQL that is true for a date or a timestamp outside the years 1 to 9999; `name`: of its type."""
    if name in {"timestamp_ns", "timestamptz_ns"}:  # it holds 1677 to 2262 only, and infinity
        return f"not isfinite(cast(cast({value} as timestamp_ns) as timestamp))"  # no cast from timestamptz_ns
    return f"({value} < '0001-01-01' or {value} >= '10000-01-01')"  # BC has another format; infinity is outside too


def _render_struct(value: str, kind: SqlType, policy: JsonPolicy, depth: int) -> Rendered:
    members, checks = [], []
    for name, child in kind.children:
        if not name:
            raise Unrenderable(f"type {kind} has no JSON; name its members, as in {{'a': 1}}")
        member = render_json_sql(f"struct_extract({value}, {literal(name)})", child, policy, depth)
        members.append((name, member.sql))
        checks += [ValueCheck(c.reason, f".{name}{c.path}", c.sql, c.because) for c in member.checks]
    text = concat(render_object(render_members(members, policy.nulls)))
    return Rendered(f"(case when {value} is not null then {text} end)", tuple(checks))


def _render_list(value: str, kind: SqlType, policy: JsonPolicy, depth: int) -> Rendered:
    element = f"e{depth}"
    child = render_json_sql(element, dict(kind.children)["child"], policy, depth + 1)
    texts = f"list_transform({value}, lambda {element}: coalesce({child.sql}, 'null'))"
    checks = [ValueCheck(c.reason, f"[]{c.path}", _any(value, element, c.sql), c.because) for c in child.checks]
    return Rendered(f"('[' || array_to_string({texts}, ',') || ']')", tuple(checks))


def _render_map(value: str, kind: SqlType, policy: JsonPolicy, depth: int) -> Rendered:
    kinds = dict(kind.children)
    if kinds["key"].id not in _MAP_KEYS:
        raise Unrenderable(f"type {kind} has no JSON; its keys must be text, integers, dates or UUIDs")
    entry = f"e{depth}"
    child = render_json_sql(f"{entry}.value", kinds["value"], policy, depth + 1)
    entries = f"map_entries({value})"
    if policy.nulls == "omit":
        entries = f"list_filter({entries}, lambda {entry}: {entry}.value is not null)"
    member = f"concat(to_json(cast({entry}.key as varchar)), ':', coalesce({child.sql}, 'null'))"
    texts = f"list_transform({entries}, lambda {entry}: {member})"
    checks = [
        ValueCheck(c.reason, f"{{}}{c.path}", _any(f"map_entries({value})", entry, c.sql), c.because)
        for c in child.checks
    ]
    return Rendered(f"('{{' || array_to_string({texts}, ',') || '}}')", tuple(checks))


def _any(values: str, element: str, predicate: str) -> str:
    return f"list_contains(list_transform({values}, lambda {element}: {predicate}), true)"


_NESTED_RENDERERS: dict[str, Callable[[str, SqlType, JsonPolicy, int], Rendered]] = {
    "struct": _render_struct,
    "list": _render_list,
    "array": _render_list,
    "map": _render_map,
}
