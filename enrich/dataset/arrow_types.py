"""Convert the Arrow columns of a typed file to types that DuckDB takes, and find values that it would misread.

DuckDB has no half floats and no decimals of more than 38 digits, and fails for a whole chunk if a map repeats a key. It
does not check an array's values: text that is not UTF-8, decimals with too many digits and instants out of its range
give broken text or another number, or invalidate the whole database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from enrich.dataset.json_sql import NESTED, SqlType
from enrich.dataset.source_sql import PROBLEM
from enrich.dataset.suggestions import suggest

MAX_DIGITS = 38  # of DuckDB's widest decimal
# DuckDB's timestamps count microseconds from 290309-12-22 (BC) on; those without zone keep the file's unit.
_FIRST_US, _LAST_US = -9_223_372_022_400_000_000, 2**63 - 1
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class NotTaken(TypeError):
    """A column's type cannot be converted to the declared type; the message has what was found and the remedy."""


def choose_type(kind: pa.DataType, declared: SqlType) -> pa.DataType:
    """Choose the Arrow type in which a column is passed to DuckDB, given its declared type.

    A struct keeps only its declared members, in declared order. A map becomes the list of its entries, from which
    DuckDB builds a map again, so that a repeated key rejects only its row. A type that does not match the declared one
    is returned unchanged: it is refused where types are compared.

    Raises:
        NotTaken: DuckDB has no type for the column, or a declared member is missing or ambiguous.
    """
    if kinds.is_dictionary(kind) and _choose(kind.value_type, declared) == kind.value_type:
        return kind
    return _choose(kind, declared)


def _choose(kind: pa.DataType, declared: SqlType) -> pa.DataType:
    if kinds.is_float16(kind):
        return pa.float32()
    if kinds.is_decimal256(kind):
        if kind.precision > MAX_DIGITS:
            raise NotTaken(f"{kind}; write it as a decimal of at most {MAX_DIGITS} digits, as a double or as text")
        return pa.decimal128(kind.precision, kind.scale)
    if kinds.is_string_view(kind):  # pyarrow 26 has no `take` for views
        return pa.string()
    if kinds.is_binary_view(kind):
        return pa.binary()
    if isinstance(kind, pa.BaseExtensionType):
        storage = _choose(kind.storage_type, declared)
        return kind if storage == kind.storage_type else storage
    if kinds.is_dictionary(kind):  # nested in an array, DuckDB would read the indexes as values
        return _choose(kind.value_type, declared)
    children = dict(declared.children) if declared.id in NESTED else {}
    if kinds.is_struct(kind) and declared.id == "struct":
        return pa.struct(_choose_members(kind, children))
    if kinds.is_map(kind) and declared.id == "map":
        types = {"key": kind.key_type, "value": kind.item_type}
        return pa.list_(pa.struct([(name, _choose(each, children[name])) for name, each in types.items()]))
    for is_kind, build in _LISTS:
        if is_kind(kind) and "child" in children:
            return build(kind, _choose(kind.value_type, children["child"]))
    return kind


_LISTS: list[tuple[Callable[[Any], bool], Callable[[Any, pa.DataType], pa.DataType]]] = [
    (kinds.is_list, lambda _, inner: pa.list_(inner)),
    (kinds.is_large_list, lambda _, inner: pa.large_list(inner)),
    (kinds.is_fixed_size_list, lambda kind, inner: pa.list_(inner, kind.list_size)),
    (kinds.is_list_view, lambda _, inner: pa.list_(inner)),
    (kinds.is_large_list_view, lambda _, inner: pa.large_list(inner)),
]


def _choose_members(kind: pa.StructType, declared: Mapping[str, SqlType]) -> list[pa.Field]:
    members = list(kind)
    chosen = []
    for name, child in declared.items():
        found = [each for each in members if each.name == name]
        found = found or [each for each in members if each.name.lower() == name.lower()]
        if not found:
            hint = suggest(name, [each.name for each in members])
            raise NotTaken(f"{kind}, which has no member {name!r}; {hint}")
        if len(found) > 1:
            raise NotTaken(f"{kind}, where {len(found)} members are called {name!r}; write it once")
        chosen.append(pa.field(found[0].name, _choose(found[0].type, child)))
    return chosen


def convert_column(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert a column to the type that `choose_type` returned for it."""
    if column.type == kind:
        return column
    if "list_view" not in str(column.type):
        return column.cast(kind)
    if kinds.is_struct(kind):
        found = dict(zip((each.name for each in column.type), column.flatten(), strict=True))
        members = [convert_column(found[each.name], each.type) for each in kind]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=column.is_null())
    if kinds.is_map(column.type):
        entry = pa.struct([("key", column.type.key_type), ("value", column.type.item_type)])
        column = column.cast(pa.list_(entry))
    # pyarrow 26 casts a list_view to wrong values, so the list is built from its parts
    lengths = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int64())
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
    values = convert_column(column.flatten(), kind.value_type)
    return pa.LargeListArray.from_arrays(offsets, values, mask=column.is_null()).cast(kind)


def mark_bad_values(chunk: pa.RecordBatch) -> pa.RecordBatch:
    """Mark the rows with a value that DuckDB would misread, in an additional column `larder.problem`.

    In such a row the value becomes null, or text with U+FFFD in place of bytes that are not UTF-8. A chunk without such
    rows is returned unchanged.
    """
    problems: dict[int, str] = {}
    columns = chunk.columns
    for n, (name, column) in enumerate(zip(chunk.schema.names, columns, strict=True)):
        found = find_problem(column)
        if found is None:
            continue
        # a dictionary can have a bad value that no row uses
        plain = column.cast(column.type.value_type) if kinds.is_dictionary(column.type) else column
        bad = dict(_find_rows(plain, 0))
        columns[n] = _repair(plain, list(bad))
        for row, problem in bad.items():
            problems.setdefault(row, f"column {name!r} {problem}")
    if not problems:
        return chunk
    marks = pa.array([problems.get(row) for row in range(chunk.num_rows)], pa.string())
    return pa.RecordBatch.from_arrays([*columns, marks], names=[*chunk.schema.names, PROBLEM])


def find_problem(column: pa.Array) -> str | None:
    """Return the problem of the first bad value of a column; None if all values are good."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        text = str(error).splitlines()[0]
        return "holds text that is not UTF-8" if "UTF8" in text else f"holds a value that its type excludes: {text}"
    for leaf in _instants(column):
        unit = _PER_SECOND[leaf.type.unit]
        found = pc.min_max(leaf.cast(pa.int64())).as_py()
        low, high = found["min"], found["max"]
        if low is not None and (low * 10**6 < _FIRST_US * unit or high * 10**6 > _LAST_US * unit):
            return "holds an instant that is outside DuckDB's range"
    return None


def _instants(column: pa.Array) -> Iterator[pa.Array]:
    """Yield the arrays of timestamps within a column."""
    kind = column.type
    if kinds.is_timestamp(kind):
        yield column
    elif "timestamp" not in str(kind):
        return
    elif isinstance(column, pa.ExtensionArray):
        yield from _instants(column.storage)
    elif kinds.is_struct(kind):
        for member in column.flatten():
            yield from _instants(member)
    elif kinds.is_nested(kind):
        yield from _instants(column.flatten())


def _find_rows(column: pa.Array, first: int) -> Iterator[tuple[int, str]]:
    """Yield the rows of bad values, each with its problem, by bisecting the column."""
    # A slice of a nested array keeps the values of the whole array; `take` copies only those that it needs.
    problem = find_problem(column.take(pa.arange(0, len(column))))
    if problem is None:
        return
    if len(column) == 1:
        yield first, problem
        return
    half = len(column) // 2
    yield from _find_rows(column.slice(0, half), first)
    yield from _find_rows(column.slice(half), first + half)


def _repair(column: pa.Array, rows: list[int]) -> pa.Array:
    """Replace the values of some rows (ascending) by values that DuckDB reads correctly."""
    pieces, start = [], 0
    for row in rows:
        pieces += [column.slice(start, row - start), _repair_value(column.take(pa.array([row])))]
        start = row + 1
    return pa.concat_arrays([*pieces, column.slice(start)])


def _repair_value(value: pa.Array) -> pa.Array:
    try:
        found = value.cast(_as_binary(value.type)).to_pylist()
        repaired = pa.array([_decode(each, value.type) for each in found], value.type)
        return repaired if find_problem(repaired) is None else pa.nulls(1, value.type)
    except (pa.ArrowException, ValueError, OverflowError, TypeError):
        return pa.nulls(1, value.type)


def _decode(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if kinds.is_struct(kind):
        return {each.name: _decode(value[each.name], each.type) for each in kind}
    if kinds.is_map(kind):
        return [(_decode(key, kind.key_type), _decode(item, kind.item_type)) for key, item in value]
    if any(is_kind(kind) for is_kind, _ in _LISTS):
        return [_decode(each, kind.value_type) for each in value]
    return value.decode("utf-8", "replace") if _as_binary(kind) != kind else value


def _as_binary(kind: pa.DataType) -> pa.DataType:
    """Return a type with bytes instead of text."""
    if kinds.is_string(kind):
        return pa.binary()
    if kinds.is_large_string(kind):
        return pa.large_binary()
    if kinds.is_struct(kind):
        return pa.struct([pa.field(each.name, _as_binary(each.type)) for each in kind])
    if kinds.is_map(kind):
        return pa.map_(_as_binary(kind.key_type), _as_binary(kind.item_type))
    for is_kind, build in _LISTS:
        if is_kind(kind):
            return build(kind, _as_binary(kind.value_type))
    return kind
