"""Write all 336,776 flights of 2013 as one output with its metadata: Parquet files in a folder, written once."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

DAYS = 365
SCORED = date(2013, 1, 1)
ROWS = 336_776


def write_flights(folder: Path) -> None:
    """Write `flights.parquet`, as the model would write it, and a Parquet file for each metadata of the dataset.

    The predictions are random: training takes a minute, and the benchmark does not depend on them.
    """
    import numpy as np

    from examples.flights.data import flights_of, read, weather_of
    from examples.flights.outputs import SCHEMA

    if (folder / "weather.parquet").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    days = [SCORED + timedelta(days=number) for number in range(DAYS)]
    flights = flights_of(days)
    rng = np.random.default_rng(1)
    flights["predicted_delay"] = rng.normal(7, 30, len(flights)).astype("float32")
    flights["late_probability"] = rng.random(len(flights)).astype("float32")
    flights["model_version"] = "3f2a9c41d07b"
    flights["distance_miles"] = flights["distance"].astype("float64")
    flights = flights.sort_values("scheduled_departure", kind="stable")
    table = pa.Table.from_pandas(flights[SCHEMA.names], schema=SCHEMA, preserve_index=False)
    assert table.num_rows == ROWS
    pq.write_table(table.replace_schema_metadata(), folder / "flights.parquet", compression="zstd")
    airports = read("airports")[["faa", "name", "lat", "lon"]]
    planes = read("planes")[["tailnum", "manufacturer", "model", "year", "seats"]]
    planes = planes.assign(year=planes["year"].astype("Int32"))
    for name, frame in (
        ("airlines", read("airlines")[["carrier", "name"]]),
        ("origins", airports),
        ("destinations", airports),
        ("planes", planes),
        ("weather", weather_of(days)),
    ):
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / f"{name}.parquet")
