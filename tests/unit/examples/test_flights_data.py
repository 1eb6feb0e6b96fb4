"""2013 moved to any other day: same weekday, local times as UTC, for every day of every year."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest

from examples.flights.data import flights_of, source_day, weather_of
from examples.flights.lake import TABLES, build_tables
from infra.local.lake import build_table_input

EDGES = [
    date(2024, 2, 29),
    date(2024, 12, 31),
    date(2025, 1, 1),
    date(2026, 1, 1),
    date(2026, 3, 8),  # clocks go forward in New York
    date(2026, 11, 1),  # clocks go back in New York
    date(2026, 3, 10),  # its day of 2013 is the one on which clocks went forward
    date(2027, 12, 29),
    date(2013, 7, 4),
]


def test_every_day_has_a_day_of_2013() -> None:
    """It has the same weekday, and is at most three days away, or at the other end of the year."""
    for number in range(366 * 12):
        day = date(2020, 1, 1) + timedelta(days=number)
        source = source_day(day)
        away = abs(source.timetuple().tm_yday - day.timetuple().tm_yday)
        assert (source.year, source.weekday()) == (2013, day.weekday())
        at_the_ends = day.timetuple().tm_yday < 4 or day.timetuple().tm_yday > 362
        assert min(away, 366 - away) <= (5 if at_the_ends else 4), (day, source)  # 4 of the day's number: a leap year


def test_2013_is_itself() -> None:
    """A day of 2013 has its own flights."""
    assert all(source_day(day) == day for day in (date(2013, 1, 1) + timedelta(days=n) for n in range(365)))


def test_another_season_keeps_the_weekday() -> None:
    """With `like`, a day has the flights of that season, but still those of its own weekday."""
    assert source_day(date(2026, 11, 20), like=date(2020, 7, 1)) == date(2013, 6, 28)  # both are Fridays


@pytest.mark.parametrize("day", EDGES, ids=str)
def test_a_schedule_is_valid_on_any_day(day: date) -> None:
    """Flights leave on their day in New York, arrive within a day after that, and no two have the same name."""
    flights = flights_of([day])
    assert 600 < len(flights) < 1100
    assert not flights.duplicated(["flight_date", "origin", "carrier", "flight"]).any()
    local = flights["scheduled_departure"].dt.tz_convert("America/New_York")
    assert set(local.dt.date) == {day}
    assert (local.dt.hour == flights["hour"]).all()
    took = flights["scheduled_arrival"] - flights["scheduled_departure"]
    assert took.min() > pd.Timedelta(minutes=20)
    assert took.max() < pd.Timedelta(hours=13)
    assert flights["scheduled_arrival"].isna().mean() < 0.05


def test_times_are_those_of_the_real_schedule() -> None:
    """UA 1545 to Houston on 1 January 2013 leaves at 5:15 New York time and arrives at 8:19 Houston time."""
    flights = flights_of([date(2013, 1, 1)])
    flight = flights[(flights["carrier"] == "UA") & (flights["flight"] == 1545)].iloc[0]
    assert flight["scheduled_departure"] == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    assert flight["scheduled_arrival"] == datetime(2013, 1, 1, 14, 19, tzinfo=UTC)


def test_a_night_flight_arrives_on_the_next_day() -> None:
    """A flight that leaves late arrives on the day after."""
    flights = flights_of([date(2013, 7, 3)])
    late = flights[(flights["hour"] == 23) & flights["scheduled_arrival"].notna()]
    assert len(late) > 0
    assert set(late["scheduled_arrival"].dt.date) == {date(2013, 7, 4)}


def test_a_destination_without_a_time_zone_has_no_arrival() -> None:
    """San Juan is not among the airports, so its arrival times are unknown."""
    flights = flights_of([date(2026, 5, 5)])
    assert flights.loc[flights["dest"] == "SJU", "scheduled_arrival"].isna().all()


@pytest.mark.parametrize("day", [day for day in EDGES if source_day(day) != date(2013, 12, 31)], ids=str)
def test_weather_is_hourly_and_joins_once(day: date) -> None:
    """No origin has an hour twice, which would multiply flights in a join; nearly every departure finds its hour."""
    days = [day + timedelta(days=number) for number in (-1, 0, 1)]
    weather, flights = weather_of(days), flights_of([day])
    assert not weather.duplicated(["origin", "hour"]).any()
    hours = flights["scheduled_departure"].dt.tz_localize(None).dt.floor("h")
    assert (
        pd.MultiIndex.from_arrays([flights["origin"], hours])
        .isin(pd.MultiIndex.from_frame(weather[["origin", "hour"]]))
        .mean()
        > 0.9
    )


def test_metadata_tables_have_the_columns_of_glue() -> None:
    """Each table matches its schema, is not empty, and each of its types has a Hive name."""
    tables = build_tables(date(2026, 2, 28))
    hive_types = {"string": "string", "int32": "int", "double": "double", "timestamp[ms]": "timestamp"}
    assert set(tables) == {"airlines", "airports", "planes", "weather"}
    for name, table in tables.items():
        columns = build_table_input(name, f"s3://lake/{name}/", table.schema)["StorageDescriptor"]["Columns"]
        assert table.schema == TABLES[name]
        assert table.num_rows > 0
        assert columns == [{"Name": field.name, "Type": hive_types[str(field.type)]} for field in TABLES[name]]
    assert tables["planes"].column("year").null_count == 70
    for name, key in {"airlines": "carrier", "airports": "faa", "planes": "tailnum"}.items():
        assert len(tables[name].column(key).unique()) == tables[name].num_rows
