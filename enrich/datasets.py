"""All dataset definitions; add a dataset here. Each shows the JSON that a consumer receives."""

from __future__ import annotations

from datetime import timedelta

from enrich.dataset.definition import (
    Dataset,
    Derive,
    FromColumn,
    FromKey,
    LastModified,
    Metadata,
    Source,
    Tolerated,
)
from serve.datasets import FLIGHT_DELAYS, SERVED

__all__ = [
    "DATASETS",
    "SERVED",
    "Dataset",
    "Derive",
    "FromColumn",
    "FromKey",
    "LastModified",
    "Metadata",
    "Source",
    "Tolerated",
]

_AIRPORTS = "select faa, name, lat, lon from reference.airports"

flight_delays = Dataset(
    served=FLIGHT_DELAYS,
    source=Source(
        prefix="flight-delays/",
        format="parquet",
        columns={
            "flight_date": "date",
            "carrier": "varchar",
            "flight": "integer",
            "origin": "varchar",
            "dest": "varchar",
            "tailnum": "varchar",
            "scheduled_departure": "timestamptz",
            "scheduled_arrival": "timestamptz",
            "distance_miles": "double",
            "predicted_delay": "float",
            "late_probability": "float",
            "model_version": "varchar",
        },
    ),
    as_of=FromKey("scored={}"),
    ttl=timedelta(days=7),
    metadata={
        "airlines": Metadata("select carrier, name from reference.airlines", on="carrier", missing="reject"),
        "origins": Metadata(_AIRPORTS, on={"origin": "faa"}, missing="null"),
        "destinations": Metadata(_AIRPORTS, on={"dest": "faa"}, missing="null"),
        "planes": Metadata(
            "select tailnum, manufacturer, model, cast(year as integer) as year, seats from reference.planes",
            on="tailnum",
            missing="null",
        ),
        "weather": Metadata(
            "select origin, hour, temp, wind_speed, wind_dir, precip, visib, pressure from reference.weather",
            on={"origin": "origin", "date_trunc('hour', scheduled_departure)::timestamp": "hour"},
            missing="null",
        ),
    },
    subject={"carrier": "carrier"},
    prediction_id="concat(flight_date, '.', origin, '.', carrier, flight)",
    body={
        "flight": "concat(carrier, flight)",
        "date": "flight_date",
        "departure": "scheduled_departure",
        "arrival": "scheduled_arrival",
        "carrier": {"code": "carrier", "name": "airlines.name"},
        "origin": {
            "code": "origin",
            "name": "origins.name",
            "position": {"latitude": "origins.lat", "longitude": "origins.lon"},
        },
        "destination": {
            "code": "dest",
            "name": "destinations.name",
            "position": {"latitude": "destinations.lat", "longitude": "destinations.lon"},
        },
        "distance_miles": "distance_miles",
        "aircraft": {
            "tail_number": "tailnum",
            "manufacturer": "planes.manufacturer",
            "model": "planes.model",
            "year": "planes.year",
            "seats": "planes.seats",
        },
        "weather": {
            "temperature_f": "weather.temp",
            "wind_mph": "round(weather.wind_speed, 1)",
            "wind_direction": "weather.wind_dir",
            "precipitation_inches": "weather.precip",
            "visibility_miles": "weather.visib",
            "pressure_hpa": "weather.pressure",
        },
        "prediction": {
            "delay_minutes": "round(predicted_delay, 1)",
            "late_probability": "round(late_probability, 3)",
            "model": "model_version",
        },
    },
)

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (flight_delays,)}
