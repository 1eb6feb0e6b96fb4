"""Render the original row of a reject as valid JSON, whatever was wrong with it."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pyarrow as pa

from enrich.dataset.coercion import coerce_typed
from enrich.dataset.definition import Source
from enrich.dataset.json_sql import INTEGERS, NESTED, SqlType, concat, identifier, literal, render_label, render_object
from enrich.dataset.source_sql import LINE, PROBLEM, extract_prediction

_NATURAL = INTEGERS | {"boolean", "varchar"}


def render_original(kinds: Mapping[str, SqlType], declared: Mapping[str, SqlType], *, of_rejects: bool = False) -> str:
    """Return the SELECT of two texts: an object of a chunk's columns, and the original line if the chunk has it.

    Args:
        kinds: types of the chunk's columns; a map is the list of its entries.
        declared: types of the dataset's columns; a value that can be read as its declared type is rendered as that.
        of_rejects: the lines are from a rejects file and have the original row, however often it was rejected.
    """
    pieces: list[str] = []
    for name, kind in kinds.items():
        if name not in {LINE, PROBLEM}:
            value = _render_value(identifier(name), kind, declared.get(name), 0)
            coerced = coerce_typed(name, kind, declared[name]) if name in declared else None
            if coerced and str(kind) != str(declared[name]):  # e.g. a FLOAT has other digits than a DOUBLE
                good = _render_value(coerced.sql, declared[name], None, 0)
                value = f"case when {coerced.bad} then {value} else {good} end" if coerced.bad else good
            pieces += [render_label(name), f"coalesce({value}, 'null')"]
    line = identifier(LINE) if LINE in kinds else "null"
    if of_rejects:
        line = f"coalesce({extract_prediction(line)}, {line})"
    return f"select {concat(render_object(pieces))}, {line}"


def _render_value(value: str, kind: SqlType, declared: SqlType | None, depth: int) -> str:
    """Return the SQL of a value's JSON, null for null; values that JSON would alter, at any depth, become strings."""
    text = f"cast({value} as varchar)"
    children = dict(kind.children) if kind.id in NESTED else {}
    inside = dict(declared.children) if declared is not None and declared.id in NESTED else {}
    if kind.id == "struct":
        pieces: list[str] = []
        for name, child in children.items():
            member = _render_value(f"struct_extract({value}, {literal(name)})", child, inside.get(name), depth)
            pieces += [render_label(name), f"coalesce({member}, 'null')"]
        return f"case when {value} is not null then {concat(render_object(pieces))} end"
    element = f"e{depth}"
    if kind.id == "map" or (declared is not None and declared.id == "map" and kind.id == "list"):
        entry = children if kind.id == "map" else dict(children["child"].children)
        item = _render_value(f"{element}.value", entry["value"], inside.get("value"), depth + 1)
        member = f"concat(to_json(cast({element}.key as varchar)), ':', coalesce({item}, 'null'))"
        entries = f"map_entries({value})" if kind.id == "map" else value
        return f"'{{' || array_to_string(list_transform({entries}, lambda {element}: {member}), ',') || '}}'"
    if kind.id in {"list", "array"}:
        item = _render_value(element, children["child"], inside.get("child"), depth + 1)
        texts = f"list_transform({value}, lambda {element}: coalesce({item}, 'null'))"
        return f"'[' || array_to_string({texts}, ',') || ']'"
    if kind.id in {"float", "double"}:
        return f"case when isfinite({value}) then {text} else '\"' || {text} || '\"' end"
    return f"cast(to_json({value if kind.id in _NATURAL else text}) as varchar)"


def render_row(row: pa.Table) -> str:
    """Render a row that DuckDB can't read; a value that JSON can't represent becomes Arrow's text of it."""
    values = {}
    for name in row.column_names:
        if name not in {LINE, PROBLEM}:
            try:
                values[name] = row[name][0].as_py()
                orjson.dumps(values[name])
            except (ValueError, OverflowError, TypeError):
                values[name] = _describe(row[name][0])
    return orjson.dumps(values, default=str).decode()


def _describe(value: pa.Scalar) -> str:
    try:
        return str(value)
    except (ValueError, OverflowError):  # out of the range of Python's types; Arrow can render it
        return str(pa.array([value], value.type).to_string()).strip("[] \n")


def strict_json(text: str, line: str | None) -> str:
    """Return strictly valid JSON: a line that is not JSON, contains NaN, or is a JSON string becomes a string.

    A replay reads a string as the text of a line, so a string that was a line must not be read as its content.
    """
    whole = text if line is None else line
    try:
        is_text = isinstance(orjson.loads(whole), str)
    except orjson.JSONDecodeError:
        is_text = True
    return orjson.dumps(whole).decode() if is_text else whole


def find_partitions(schema: pa.Schema, source: Source, declared: Mapping[str, SqlType]) -> list[str]:
    """Return the columns of a chunk that are from its object key, and that a replay can't read from the original rows.

    The original row of JSON lines is the line. A row of Parquet or CSV has all columns, but in the rejects of Parquet a
    BLOB has another form than in an object key.
    """
    if source.format in {"jsonl", "rejects"}:
        return [name for name in schema.names if name not in {LINE, PROBLEM}]
    if source.format == "parquet":
        return [each.name for each in schema if pa.types.is_string(each.type) and _is_blob(declared.get(each.name))]
    return []


def _is_blob(kind: SqlType | None) -> bool:
    return kind is not None and kind.id == "blob"
