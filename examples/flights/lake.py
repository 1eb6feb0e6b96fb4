"""Load the metadata into the lake: airlines, airports, planes and weather, as Parquet on S3 and as tables in Glue."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa

from examples.flights.data import read, weather_of
from infra.local.lake import load_lake

DATABASE = "reference"
WEATHER_DAYS = (-1, 9)  # relative to the day of scoring: flights of three days, and those of the next few outputs
TABLES: dict[str, pa.Schema] = {
    "airlines": pa.schema([("carrier", pa.string()), ("name", pa.string())]),
    "airports": pa.schema(
        [
            ("faa", pa.string()),
            ("name", pa.string()),
            ("lat", pa.float64()),
            ("lon", pa.float64()),
            ("alt", pa.int32()),
            ("tz", pa.int32()),
            ("dst", pa.string()),
            ("tzone", pa.string()),
        ]
    ),
    "planes": pa.schema(
        [
            ("tailnum", pa.string()),
            ("year", pa.int32()),
            ("type", pa.string()),
            ("manufacturer", pa.string()),
            ("model", pa.string()),
            ("engines", pa.int32()),
            ("seats", pa.int32()),
            ("speed", pa.int32()),
            ("engine", pa.string()),
        ]
    ),
    "weather": pa.schema(
        [
            ("origin", pa.string()),
            ("hour", pa.timestamp("ms")),
            ("temp", pa.float64()),
            ("wind_speed", pa.float64()),
            ("wind_dir", pa.float64()),
            ("precip", pa.float64()),
            ("visib", pa.float64()),
            ("pressure", pa.float64()),
        ]
    ),
}


def build_tables(around: date, like: date | None = None) -> dict[str, pa.Table]:
    """Build the metadata tables, with the weather of the days around a day of scoring."""
    days = [around + timedelta(days=number) for number in range(*WEATHER_DAYS)]
    frames = {name: read(name) for name in ("airlines", "airports", "planes")}
    frames["weather"] = weather_of(days, like + timedelta(days=WEATHER_DAYS[0]) if like else None)
    return {name: _to_arrow(frames[name], schema) for name, schema in TABLES.items()}


def load(s3: Any, glue: Any, bucket: str, tables: dict[str, pa.Table]) -> None:
    """Write each table to `s3://bucket/reference/{name}/` and register it; an existing table is replaced."""
    load_lake(s3, glue, bucket, {(DATABASE, name): table for name, table in tables.items()})


def _to_arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False).replace_schema_metadata()
