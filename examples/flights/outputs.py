"""Build the model's daily output: one Parquet file with the scored flights of the next three days."""

from __future__ import annotations

import io
from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from examples.flights.data import flights_of
from examples.flights.model import Model

PREFIX = "flight-delays/"
DAYS_AHEAD = 3
SCHEMA = pa.schema(
    [
        ("flight_date", pa.date32()),
        ("carrier", pa.string()),
        ("flight", pa.int32()),
        ("origin", pa.string()),
        ("dest", pa.string()),
        ("tailnum", pa.string()),
        ("scheduled_departure", pa.timestamp("us", tz="UTC")),
        ("scheduled_arrival", pa.timestamp("us", tz="UTC")),
        ("distance_miles", pa.float64()),
        ("predicted_delay", pa.float32()),
        ("late_probability", pa.float32()),
        ("model_version", pa.string()),
    ]
)
IDENTITY = ["flight_date", "origin", "carrier", "flight"]


def days_after(scored: date) -> list[date]:
    """List the days whose flights are scored on a day: the three that follow."""
    return [scored + timedelta(days=number) for number in range(1, DAYS_AHEAD + 1)]


def object_key(scored: date, part: int = 0) -> str:
    """Build the object key of an output, which contains its date."""
    return f"{PREFIX}scored={scored.isoformat()}/part-{part}.parquet"


def build_output(model: Model, scored: date, like: date | None = None) -> pa.Table:
    """Score the flights of the three days after `scored`.

    Args:
        model: the model.
        scored: the day on which the output is made.
        like: use the schedule of this season of 2013 instead of that of `scored` (see `data.source_day`).

    Returns:
        Some 2,700 rows of `SCHEMA`, in the order of departure.

    Raises:
        ValueError: two flights would have the same name, which does not happen with the 336,776 flights of 2013.
    """
    days = days_after(scored)
    flights = flights_of(days, like + timedelta(days=1) if like else None)
    if (twice := flights.duplicated(IDENTITY)).any():
        raise ValueError(f"flights with one name: {flights.loc[twice, IDENTITY].to_dict('records')}")
    flights["weekday"] = pd.to_datetime(flights["flight_date"]).dt.day_of_week
    flights["predicted_delay"], flights["late_probability"] = model.predict(flights)
    flights["model_version"] = model.version
    flights["distance_miles"] = flights["distance"].astype("float64")
    flights = flights.sort_values(["scheduled_departure", *IDENTITY], kind="stable")
    return pa.Table.from_pandas(flights[SCHEMA.names], schema=SCHEMA, preserve_index=False).replace_schema_metadata()


def to_parquet(table: pa.Table) -> bytes:
    """Render a table as the bytes of a Parquet file."""
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    return content.getvalue()
