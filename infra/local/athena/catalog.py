"""Read the tables of a query: their columns and location from Glue, their Parquet files from S3."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import ClientError

from enrich.read.partitions import parse_partitions
from infra.local.athena.errors import QueryFailedError
from infra.local.athena.statement import TableName

_TYPES: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("ms"),  # Athena reads timestamps to the millisecond
    "binary": pa.binary(),
}


def read_table(glue: Any, s3: Any, name: TableName) -> pa.Table:
    """Read a whole table.

    Args:
        glue: a boto3 Glue client.
        s3: a boto3 S3 client.
        name: database and name of the table.

    Returns:
        Its rows, with the columns and types that Glue declares.

    Raises:
        QueryFailedError: there is no such table, a file is not Parquet, or a column has another type than in Glue.
    """
    table = _get_table(glue, name)
    storage = table["StorageDescriptor"]
    if "parquet" not in storage.get("SerdeInfo", {}).get("SerializationLibrary", "").lower():
        raise QueryFailedError(f"NOT_SUPPORTED: the local Athena reads only Parquet tables, and {name.name} is not one")
    if table.get("PartitionKeys") and table.get("Parameters", {}).get("projection.enabled") != "true":
        raise QueryFailedError(
            f"NOT_SUPPORTED: {name.name} is partitioned; the local Athena supports only partition projection"
        )
    schema, keys = _parse_columns(storage["Columns"]), _parse_columns(table.get("PartitionKeys", ()))
    parts = [pa.schema([*schema, *keys]).empty_table()]
    for object_key, content in _read_objects(s3, storage["Location"]):
        try:
            part = _conform(pq.ParquetFile(io.BytesIO(content)).read(), schema, object_key)
            parts.append(_add_partition(part, keys, object_key))
        except pa.ArrowInvalid as error:
            raise QueryFailedError(f"HIVE_BAD_DATA: Malformed Parquet file {object_key}: {error}") from error
    return pa.concat_tables(parts)


def _parse_columns(columns: Iterable[Mapping[str, str]]) -> pa.Schema:
    return pa.schema([(column["Name"].lower(), parse_type(column["Type"])) for column in columns])


def _add_partition(part: pa.Table, keys: pa.Schema, object_key: str) -> pa.Table:
    """Add the columns in the folders `name=value` of an object key."""
    found = parse_partitions(object_key)
    for key in keys:
        if key.name not in found:
            raise QueryFailedError(f"HIVE_BAD_DATA: {object_key} is not in a folder {key.name}=...")
        part = part.append_column(key, pa.repeat(pa.scalar(found[key.name]).cast(key.type), part.num_rows))
    return part


def parse_type(text: str) -> pa.DataType:
    """Parse a Hive type of Glue into its Arrow type.

    Raises:
        QueryFailedError: the local Athena does not support the type, e.g. a union.
    """
    text = text.lower().strip()
    if text in _TYPES:
        return _TYPES[text]
    if match := re.fullmatch(r"decimal\((\d+)\s*,\s*(\d+)\)", text):
        return pa.decimal128(int(match[1]), int(match[2]))
    if re.fullmatch(r"(var)?char\(\d+\)", text):
        return pa.string()
    if match := re.fullmatch(r"array<(.+)>", text):
        return pa.list_(parse_type(match[1]))
    if match := re.fullmatch(r"map<(.+)>", text):
        key, item = _split_members(match[1])
        return pa.map_(parse_type(key), parse_type(item))
    if match := re.fullmatch(r"struct<(.+)>", text):
        members = [member.partition(":") for member in _split_members(match[1])]
        return pa.struct([(name.strip(), parse_type(kind)) for name, _, kind in members])
    raise QueryFailedError(f"NOT_SUPPORTED: the local Athena has no column type {text!r}")


def _split_members(text: str) -> list[str]:
    """Split the members of a struct at the commas that are not within another type."""
    members, depth = [""], 0
    for character in text:
        depth += (character in "<(") - (character in ">)")
        if character == "," and not depth:
            members.append("")
        else:
            members[-1] += character
    return members


def _get_table(glue: Any, name: TableName) -> dict[str, Any]:
    try:
        table: dict[str, Any] = glue.get_table(DatabaseName=name.database, Name=name.name)["Table"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "EntityNotFoundException":
            raise
        message = f"Table 'awsdatacatalog.{name.database}.{name.name}' does not exist"
        raise QueryFailedError(f"TABLE_NOT_FOUND: {message}") from error
    return table


def _read_objects(s3: Any, location: str) -> list[tuple[str, bytes]]:
    """Read the objects under a location; like Athena, skip names that begin with a dot or an underscore."""
    place = urlsplit(location)
    prefix = place.path.strip("/") + "/"
    found = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=place.netloc, Prefix=prefix):
        for entry in page.get("Contents", []):
            if entry["Size"] and not re.search(r"/[._][^/]*$", "/" + entry["Key"]):
                body = s3.get_object(Bucket=place.netloc, Key=entry["Key"])["Body"]
                found.append((entry["Key"], body.read()))
    return found


def _conform(part: pa.Table, schema: pa.Schema, object_key: str) -> pa.Table:
    """Map a file's columns to the table's, by name ignoring case; a column that the file lacks is null."""
    by_name = {name.lower(): part.column(index) for index, name in enumerate(part.column_names)}
    columns = []
    for field in schema:
        column = by_name.get(field.name)
        if column is None:
            columns.append(pa.nulls(part.num_rows, field.type))
        elif _can_be_read_as(column.type, field.type):
            columns.append(column.cast(field.type, safe=False))
        else:
            raise QueryFailedError(
                f"HIVE_BAD_DATA: Field {field.name}'s type {column.type} in parquet file {object_key} "
                f"is incompatible with type {field.type} defined in table schema"
            )
    return pa.Table.from_arrays(columns, schema=schema)


def _can_be_read_as(stored: pa.DataType, stated: pa.DataType) -> bool:
    """Return whether Athena reads a stored type as the declared one: as a wider number or a shorter timestamp."""
    if pa.types.is_dictionary(stored):
        stored = stored.value_type
    if pa.types.is_integer(stored) and pa.types.is_integer(stated):
        return bool(stored.bit_width <= stated.bit_width)
    if pa.types.is_floating(stored) and pa.types.is_floating(stated):
        return bool(stored.bit_width <= stated.bit_width)
    if pa.types.is_list(stored) and pa.types.is_list(stated):
        return _can_be_read_as(stored.value_type, stated.value_type)
    if pa.types.is_map(stored) and pa.types.is_map(stated):
        pairs = ((stored.key_type, stated.key_type), (stored.item_type, stated.item_type))
        return all(_can_be_read_as(*pair) for pair in pairs)
    if pa.types.is_struct(stored) and pa.types.is_struct(stated):
        names = [stored.field(n).name for n in range(stored.num_fields)]
        return names == [stated.field(n).name for n in range(stated.num_fields)] and all(
            _can_be_read_as(stored.field(n).type, stated.field(n).type) for n in range(len(names))
        )
    texts = (pa.string(), pa.large_string(), pa.string_view())
    if stored in texts and stated in texts:
        return True
    return bool(stored == stated or (pa.types.is_timestamp(stored) and pa.types.is_timestamp(stated)))
