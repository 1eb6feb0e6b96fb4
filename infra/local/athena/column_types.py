"""Describe the columns of a result with Athena's type names."""

from __future__ import annotations

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
