"""Generate the SQL of the digest of a row's inputs: all values that its item key, body and rank can depend on.

DuckDB's `hash` is 64 bits of a value's bytes. It can change between versions, so DuckDB's version is among the inputs.
It also has equal results for some values whose JSON differs: 0.0 and -0.0, null and an empty list, `[[1], [2]]` and
`[[1, 2]]`, a null struct and a struct of nulls, integers of 128 bits with their halves swapped. So the sign, the length
and the nulls are hashed too, at any depth, and wide numbers as text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from enrich.dataset.json_sql import INTEGERS, TIMESTAMPS, SqlType, literal

_WIDE = {"hugeint", "uhugeint", "uuid"}  # 128 bits, of which DuckDB hashes the halves and combines them with XOR
_HASHED = (INTEGERS | TIMESTAMPS | {"boolean", "varchar", "date", "time", "time_ns", "blob", "null"}) - _WIDE


class Unhashable(TypeError):
    """Equal hashes would not mean equal values of this type; the message has the type."""


def hash_values(values: Sequence[tuple[str, SqlType]]) -> str:
    """Return the SQL of a number of 64 bits for values, each with its type.

    Raises:
        Unhashable: one of the types has no digest.
    """
    return _hash([part for value, kind in values for part in _list_parts(value, kind, 0)])


def build_basis(rules: Mapping[str, object]) -> str:
    """Return the SQL of a text that is different if any of `rules`, by which rows are rendered, is another one."""
    return literal(hashlib.sha256(json.dumps(rules, sort_keys=True, default=str).encode()).hexdigest())


def _hash(parts: Iterable[str]) -> str:
    return f"hash({', '.join(parts)})"


def _list_parts(value: str, kind: SqlType, depth: int) -> list[str]:
    """Return SQL of the values whose hashes are equal if two values of a type are equal, and else are not."""
    name = kind.id
    if name in {"float", "double"}:
        return [value, f"signbit({value})"]
    if name in _HASHED:
        return [value]
    if name in _WIDE | {"decimal", "enum"}:
        return [f"cast({value} as varchar)"]
    is_null, element = f"({value} is null)", f"i{depth}"
    if name == "struct":
        members = [
            part
            for member, child in kind.children
            for part in _list_parts(f"struct_extract({value}, {literal(member)})", child, depth)
        ]
        return [is_null, *members]
    if name == "map":
        entry = dict(kind.children)
        inner = [
            *_list_parts(f"{element}.key", entry["key"], depth + 1),
            *_list_parts(f"{element}.value", entry["value"], depth + 1),
        ]
        return [is_null, f"len(map_keys({value}))", _hash_elements(f"map_entries({value})", element, inner)]
    if name in {"list", "array"}:
        inner = _list_parts(element, dict(kind.children)["child"], depth + 1)
        return [is_null, f"len({value})", _hash_elements(value, element, inner)]
    raise Unhashable(f"values of type {kind} have no digest")


def _hash_elements(value: str, element: str, parts: Sequence[str]) -> str:
    return f"list_transform({value}, lambda {element}: {_hash(parts)})"
