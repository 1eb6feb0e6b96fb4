"""Render the original row of a reject as valid JSON, whatever was wrong with it."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from enrich.dataset.json_sql import INTEGERS, SqlType, concat, identifier, render_label, render_object
from enrich.dataset.source_sql import LINE, PROBLEM, extract_prediction

_NATURAL = INTEGERS | {"boolean", "varchar", "struct", "list", "array", "map", "null"}


def render_original(kinds: Mapping[str, SqlType], *, of_rejects: bool = False) -> str:
    """Return the SELECT of two texts: an object of a chunk's columns, and the original line if the chunk has it.

    `of_rejects`: the lines are from a rejects file, and hold the original row, however often it was rejected.
    """
    pieces: list[str] = []
    for name, kind in kinds.items():
        if name in {LINE, PROBLEM}:
            continue
        column = identifier(name)
        text = f"cast({column} as varchar)"
        if kind.id in {"float", "double"}:
            value = f"case when isfinite({column}) then {text} else '\"' || {text} || '\"' end"
        elif kind.id in _NATURAL:
            value = f"cast(to_json({column}) as varchar)"
        else:
            value = f"cast(to_json({text}) as varchar)"
        pieces += [render_label(name), f"coalesce({value}, 'null')"]
    line = identifier(LINE) if LINE in kinds else "null"
    if of_rejects:
        line = f"coalesce(cast({extract_prediction(line)} as varchar), {line})"
    return f"select {concat(render_object(pieces))}, {line}"


def strict_json(text: str, line: str | None) -> str:
    """Return strictly valid JSON: a line that is not JSON, or holds NaN, becomes a string."""
    whole = text if line is None else line
    try:
        orjson.loads(whole)
    except orjson.JSONDecodeError:
        return orjson.dumps(whole).decode()
    return whole
