"""Say a result as Athena does: the names of its types and the text of its values. Pure."""

from __future__ import annotations

import math
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

_NAMES = {
    pa.bool_(): ("boolean", 0, 0),
    pa.int8(): ("tinyint", 3, 0),
    pa.int16(): ("smallint", 5, 0),
    pa.int32(): ("integer", 10, 0),
    pa.int64(): ("bigint", 19, 0),
    pa.float32(): ("float", 17, 0),
    pa.float64(): ("double", 17, 0),
    pa.date32(): ("date", 0, 0),
    pa.binary(): ("varbinary", 1073741824, 0),
    pa.string(): ("varchar", 2147483647, 0),
}


def column_info(field: pa.Field) -> dict[str, Any]:
    """Build the `ColumnInfo` of a result column."""
    name, precision, scale = _type(field.type)
    return {
        "CatalogName": "hive",
        "SchemaName": "",
        "TableName": "",
        "Name": field.name,
        "Label": field.name,
        "Type": name,
        "Precision": precision,
        "Scale": scale,
        "Nullable": "UNKNOWN",
        "CaseSensitive": name == "varchar",
    }


def _type(arrow_type: pa.DataType) -> tuple[str, int, int]:
    if arrow_type in _NAMES:
        return _NAMES[arrow_type]
    if pa.types.is_decimal(arrow_type):
        return "decimal", arrow_type.precision, arrow_type.scale
    if pa.types.is_timestamp(arrow_type):
        return ("timestamp" if arrow_type.tz is None else "timestamp with time zone"), 3, 0
    if pa.types.is_time(arrow_type):
        return "time", 3, 0
    if pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type):
        return "array", 0, 0
    if pa.types.is_map(arrow_type):
        return "map", 0, 0
    if pa.types.is_struct(arrow_type):
        return "row", 0, 0
    return "varchar", 2147483647, 0


def column_texts(column: pa.ChunkedArray) -> list[str | None]:
    """Render a column's values as Athena's CSV and `VarCharValue` have them; null as None."""
    is_real = column.type == pa.float32()
    return [None if value is None else _text(value, is_real=is_real) for value in column.to_pylist()]


def _text(value: Any, *, is_real: bool = False) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float():
            return _float_text(value, is_real=is_real)
        case Decimal():
            return f"{value:f}"
        case datetime():
            stamp = value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03d}"
            return stamp if value.tzinfo is None else stamp + " UTC"
        case date():
            return value.isoformat()
        case time():
            return value.strftime("%H:%M:%S.") + f"{value.microsecond // 1000:03d}"
        case bytes():
            return value.hex(" ")
        case list() if value and isinstance(value[0], tuple):
            return "{" + ", ".join(f"{_text(name)}={_text(inner)}" for name, inner in value) + "}"
        case list():
            return "[" + ", ".join(_text(inner) for inner in value) + "]"
        case dict():
            return "{" + ", ".join(f"{name}={_text(inner)}" for name, inner in value.items()) + "}"
        case _:
            return str(value)


def _float_text(value: float, *, is_real: bool) -> str:
    """Render as Java's `Double.toString` does, the shortest text for the width: 0.1, 1.0E7, NaN, -Infinity."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return _shortest_real(value) if is_real else repr(value)
    digits = Decimal(_shortest_real(value) if is_real else repr(value)).normalize().as_tuple()
    first, *rest = (str(digit) for digit in digits.digits)
    exponent = int(digits.exponent) + len(rest)
    return f"{'-' if digits.sign else ''}{first}.{''.join(rest) or '0'}E{exponent}"


def _shortest_real(value: float) -> str:
    """Render a float32 with the fewest digits that give it back."""
    single = pa.scalar(value, pa.float32())
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if pa.scalar(float(text), pa.float32()) == single:
            return repr(float(text))
    return repr(value)
