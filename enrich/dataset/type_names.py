"""Suggest the DuckDB type for a type name of pandas, Arrow, Polars, Spark, BigQuery or Python."""

from __future__ import annotations

import re

import duckdb

from enrich.dataset.json_sql import SqlType
from enrich.dataset.suggestions import find_close
from enrich.errors import first_line

EXAMPLES = (
    "int64 -> bigint, float32 -> float, float64 -> double, string -> varchar, list<string> -> varchar[], "
    "datetime64[ns] -> timestamp"
)
_NAMES = {  # names without parameters, in lower case, and without the suffix `type` of classes of Spark and pandas
    **dict.fromkeys(
        ["object", "str", "string", "utf8", "largeutf8", "largestring", "stringview", "category"], "varchar"
    ),
    **dict.fromkeys(["categorical", "unicode", "dictionary", "char"], "varchar"),
    **dict.fromkeys(["float64", "number", "real8"], "double"),
    **dict.fromkeys(["float16", "float32", "halffloat"], "float"),
    **dict.fromkeys(["boolean", "bool"], "boolean"),
    **dict.fromkeys(["byte", "int8"], "tinyint"),
    **dict.fromkeys(["int16", "smallinteger"], "smallint"),
    **dict.fromkeys(["bytes", "binary", "largebinary", "fixedsizebinary", "binaryview", "varbinary"], "blob"),
    **dict.fromkeys(["date32", "date64"], "date"),
    **dict.fromkeys(["time32", "time64"], "time"),
    **dict.fromkeys(["datetime64", "datetime", "timestampntz", "timestamp"], "timestamp"),
    **dict.fromkeys(["datetimetz", "timestampltz"], "timestamptz"),
    **dict.fromkeys(
        ["decimal128", "decimal256", "decimal32", "decimal64", "bigdecimal", "bignumeric"], "decimal(38, 9)"
    ),
    **dict.fromkeys(["timedelta64", "duration", "daytimeinterval"], "interval"),
    **dict.fromkeys(["long", "int64"], "bigint"),
    **dict.fromkeys(["int", "int32"], "integer"),
    "int96": "timestamp",
    "jsonb": "json",
    "short": "smallint",
    "integer": "integer",
    "float": "float",
    "double": "double",
    "date": "date",
}
_ITEM = re.compile(r"\s*([A-Za-z_]\w*)(?:\s*:\s*|\s+)(.+)", re.DOTALL)
_LISTS = {"list", "array", "largelist", "fixedsizelist", "listview"}


def suggest_type(con: duckdb.DuckDBPyConnection, declared: str) -> str:
    """Return the remedy for a type that DuckDB does not have."""
    found = _translate(con, declared.strip())
    if found and is_type(con, found):
        return f"did you mean {found}? ({EXAMPLES})"
    return f"write a DuckDB type ({EXAMPLES})"


def explain_type(con: duckdb.DuckDBPyConnection, declared: str) -> str:
    """Return DuckDB's reason why a text is not a type; empty if DuckDB does not know the type's name."""
    try:
        con.sql(f"select cast(null as {declared})")
    except duckdb.Error as error:
        reason = first_line(error).partition(": ")[2]
        is_known = isinstance(error, duckdb.BinderException | duckdb.InvalidInputException) or "size" in reason
        return f": {reason}" if is_known else ""
    return ""


def parse_type(con: duckdb.DuckDBPyConnection, declared: str) -> SqlType | None:
    """Return the DuckDB type that a text declares; None if it is not one type."""
    try:
        types = con.sql(f"select cast(null as {declared})").types
    except duckdb.Error:
        return None
    return types[0] if len(types) == 1 else None


def is_type(con: duckdb.DuckDBPyConnection, declared: str) -> bool:
    """Return whether a text is one DuckDB type."""
    return parse_type(con, declared) is not None


def _translate(con: duckdb.DuckDBPyConnection, name: str) -> str | None:
    """Translate a type name, including its parameters; None if there is nothing to suggest."""
    if name.endswith("[]"):
        element = _translate(con, name[:-2])
        return element and f"{element}[]"
    base, inner = _split(name)
    key = re.sub(r"(type|dtype)$", "", base.lower().rpartition(".")[2].replace("_", "").strip())
    if is_type(con, name):
        return _NAMES.get(key, name) if not inner else name
    if inner and key in _LISTS:
        element = _translate(con, re.sub(r"^\w+:", "", inner[0]).strip())
        return element and f"{element}[]"
    if key == "map" and len(inner) == 2:
        pair = [_translate(con, each) for each in inner]
        return f"map({pair[0]}, {pair[1]})" if all(pair) else None
    if inner and key in {"struct", "row", "record"}:
        members = [_ITEM.fullmatch(each) for each in inner]
        found = [each and (each[1], _translate(con, each[2])) for each in members]
        whole = [f"{each[0]} {each[1]}" for each in found if each and each[1]]
        return f"struct({', '.join(whole)})" if len(whole) == len(inner) else None
    if key.startswith("decimal") and len(inner) == 2 and all(each.strip().isdigit() for each in inner):
        decimal = f"decimal({', '.join(map(str.strip, inner))})"
        return decimal if is_type(con, decimal) else None
    if key in {"timestamp", "datetime64", "datetime"} and any(_is_zone(each) for each in inner):
        return "timestamptz"
    if key in _NAMES:
        return _NAMES[key]
    known = [row[0] for row in con.execute("select distinct type_name from duckdb_types()").fetchall()]
    close = find_close(base.lower(), [*known, *_NAMES])
    return _NAMES.get(close, close) if close else None


def _split(name: str) -> tuple[str, list[str]]:
    """Split a type name into base and parameters: `map<string, list<int>>` has the base map, and string, list<int>."""
    found = re.fullmatch(r"([^<(\[]*)[<(\[](.*)[>)\]]", name, re.DOTALL)
    if not found:
        return name, []
    parts, depth, start = [], 0, 0
    text = found[2]
    for n, character in enumerate(text):
        depth += (character in "<([") - (character in ">)]")
        if character == "," and depth == 0:
            parts.append(text[start:n])
            start = n + 1
    return found[1], [each.strip() for each in [*parts, text[start:]] if each.strip()]


def _is_zone(parameter: str) -> bool:
    return parameter.lower().startswith("tz=") or "/" in parameter or parameter.strip("'\"").upper() == "UTC"
