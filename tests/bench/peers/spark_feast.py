# mypy: ignore-errors
"""Materialize the flights by Feast's Spark engine into its DynamoDB online store at the null endpoint.

Its source is a query that joins the four metadata, and renders a body with the members that Larder's has. The body is
the only feature, which is the least work for Feast.
"""

import datetime
import os
import tempfile
from pathlib import Path

from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.types import String
from spark_measure import measured, open_spark

QUERY = """
select concat(f.carrier, '#', f.flight_date, '.', f.origin, '.', f.carrier, f.flight) as prediction,
  timestamp '2025-01-01' as scored,
  to_json(named_struct(
    'flight', concat(f.carrier, f.flight), 'date', f.flight_date,
    'departure', f.scheduled_departure, 'arrival', f.scheduled_arrival,
    'carrier', named_struct('code', f.carrier, 'name', airlines.name),
    'origin', named_struct('code', f.origin, 'name', origins.name,
      'position', named_struct('latitude', origins.lat, 'longitude', origins.lon)),
    'destination', named_struct('code', f.dest, 'name', destinations.name,
      'position', named_struct('latitude', destinations.lat, 'longitude', destinations.lon)),
    'distance_miles', f.distance_miles,
    'aircraft', named_struct('tail_number', f.tailnum, 'manufacturer', planes.manufacturer, 'model', planes.model,
      'year', planes.year, 'seats', planes.seats),
    'prediction', named_struct('delay_minutes', round(f.predicted_delay, 1),
      'late_probability', round(f.late_probability, 3), 'model', f.model_version)
  ), map('ignoreNullFields', 'false')) as body
from flights f
join airlines on f.carrier = airlines.carrier
left join origins on f.origin = origins.faa
left join destinations on f.dest = destinations.faa
left join planes on f.tailnum = planes.tailnum
"""
DAY = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)


def open_store(folder):
    """Return a store with one feature view."""
    dynamodb = {"type": "dynamodb", "region": "us-east-1", "endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    config = RepoConfig(
        project="bench",
        provider="aws",
        registry=str(folder / "registry.db"),
        online_store=dynamodb,
        offline_store={"type": "spark"},
        batch_engine={"type": "spark.engine"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    entity = Entity(name="prediction", join_keys=["prediction"], value_type=ValueType.STRING)
    view = FeatureView(
        name="flights",
        entities=[entity],
        source=SparkSource(name="flights", query=QUERY, timestamp_field="scored"),
        schema=[Field(name="prediction", dtype=String), Field(name="body", dtype=String)],
        ttl=datetime.timedelta(days=7),
    )
    store.registry.apply_entity(entity, "bench")
    store.registry.apply_feature_view(view, "bench")
    return store


def main():
    """Materialize once."""
    spark, metadata = open_spark(), Path(os.environ["BENCH_FLIGHTS"])
    spark.read.parquet(os.environ["BENCH_OUTPUT"]).createOrReplaceTempView("flights")
    for name in ("airlines", "origins", "destinations", "planes"):
        spark.read.parquet(str(metadata / f"{name}.parquet")).createOrReplaceTempView(name)
    rows = spark.table("flights").count()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder))
        with measured(rows):
            store.materialize(DAY - datetime.timedelta(days=1), DAY + datetime.timedelta(days=1))
    spark.stop()


main()
