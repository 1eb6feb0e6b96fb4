"""Mistakes in a dataset: each is found without AWS, with its place and a remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from enrich.dataset.definition import BadAsOf, Dataset, Derive, FromColumn, FromKey, Metadata, Tolerated, parse_as_of
from enrich.dataset.validation import check_dataset, check_datasets, parse_query
from enrich.datasets import DATASETS
from serve.datasets import SERVED

FLIGHTS = DATASETS["flight-delays"]
SOURCE = FLIGHTS.source


def body(expression: str) -> dict[str, Any]:
    """Change the body to one member."""
    return {"body": {"x": expression}}


def metadata(name: str, sql: str, on: Any) -> dict[str, Any]:
    """Add metadata."""
    return {"metadata": {**FLIGHTS.metadata, name: Metadata(sql, on)}}


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    (body("flihgt"), "body.x", "there is no column 'flihgt'; did you mean 'flight'?"),
    (body("airlines.nam"), "body.x", "metadata 'airlines' has no column 'nam'; did you mean 'name'?"),
    (body("airlines"), "body.x", "'airlines' is metadata, not a column; name one of its columns, as in airlines.name"),
    (body("sum(flight)"), "body.x", "sum() is an aggregate"),
    (body("count(*)"), "body.x", "is an aggregate"),
    (body("row_number() over ()"), "body.x", "is a window function"),
    (body("(select 1)"), "body.x", "holds a subquery"),
    (body("exists (select 1)"), "body.x", "holds a subquery"),
    (body("now()"), "body.x", "now() returns another value each time"),
    (body("upper(gen_random_uuid()::varchar)"), "body.x", "gen_random_uuid() returns another value each time"),
    (body("case when random() > 0.5 then 1 end"), "body.x", "random() returns another value each time"),
    (body("age(scheduled_departure)"), "body.x", "age() returns another value each time"),
    (body("current_date"), "body.x", "there is no column 'current_date'"),
    (body("*"), "body.x", "holds `*`"),
    (body("columns('.*')"), "body.x", "holds `*`"),
    (body("$1"), "body.x", "holds a parameter"),
    (body("flight +"), "body.x", "is not SQL"),
    (body("'open"), "body.x", "is not SQL"),
    (body("flight; drop table x"), "body.x", "is not SQL"),
    (body("flight) , (origin"), "body.x", "is not one expression"),
    (body("flight) from (select 1"), "body.x", "is not one expression"),
    (body(" "), "body.x", "is empty"),
    (body("upper(flight)"), "body.x", "No function matches the given name and argument types 'upper(INTEGER)'"),
    (body("nosuch(flight)"), "body.x", "Scalar Function with name nosuch does not exist"),
    (body("scheduled_arrival - scheduled_departure"), "body.x", "type INTERVAL has no JSON; turn it into a number"),
    (body("list_transform([1], lambda y: y + z)"), "body.x", "there is no column 'z'"),
    ({"body": {"a.b": {"c d": "nope"}}}, 'body."a.b"."c d"', "there is no column 'nope'"),
    ({"prediction_id": "nope"}, "prediction_id", "there is no column 'nope'"),
    ({"prediction_id": "distance_miles"}, "prediction_id", "is DOUBLE, which has no one text; cast it to varchar"),
    ({"prediction_id": "scheduled_departure"}, "prediction_id", "strftime(scheduled_departure, '%Y-%m-%dT%H:%M:%SZ')"),
    ({"subject": {"carrier": "nope"}}, "subject.carrier", "there is no column 'nope'"),
    (
        {"subject": {}},
        "subject.carrier",
        "there is no expression for the claim 'carrier', which serve/datasets.py names; add it, e.g. 'carrier':",
    ),
    (
        {"subject": {"carrier": "carrier", "airport": "origin"}},
        "subject.airport",
        "serve/datasets.py names no claim 'airport' for this dataset; known are carrier",
    ),
    (
        {"subject": {"carrier": "carrier", "urn:carrier": "origin"}},
        'subject."urn:carrier"',
        "names no claim 'urn:carrier' for this dataset; did you mean 'carrier'?",
    ),
    ({"subject": ["carrier"]}, "subject", "is ['carrier'], and a mapping from each claim to its expression"),
    (
        metadata("dest", "select a from b", {"dest": "a"}),
        "metadata.dest",
        "the name is used twice, by columns.dest too",
    ),
    (metadata("Planes", "select a from b", {"dest": "a"}), "metadata.Planes", "the name is used twice"),
    (metadata("x", "selec a from b", {"dest": "a"}), "metadata.x.sql", "is not one Athena query"),
    (metadata("x", "select 1 as a; select 2", {"dest": "a"}), "metadata.x.sql", "is not one Athena query"),
    (metadata("x", "drop table b", {"dest": "a"}), "metadata.x.sql", "is not one Athena query"),
    (metadata("x", "select a from b", {"dest": "c"}), "metadata.x.on", "the query has no column 'c'"),
    (metadata("x", "select a from b", {"airlines.name": "a"}), "metadata.x.on", "there is no column 'airlines'"),
    (metadata("x", "select a from b", "a"), "metadata.x.on", "there is no column 'a'"),
    (metadata("x", "select a from b", {}), "metadata.x.on", "is empty"),
    ({"source": replace(SOURCE, columns={**SOURCE.columns, "X": "txet"})}, "columns.X", "is not a DuckDB type"),
    (
        {"source": replace(SOURCE, columns={**SOURCE.columns, "DEST": "varchar"})},
        "columns.DEST",
        "the name is used twice",
    ),
    (
        {"source": replace(SOURCE, columns={**SOURCE.columns, "larder.row": "bigint"})},
        "columns.larder.row",
        "are taken",
    ),
    ({"source": replace(SOURCE, marker="run/DONE")}, "source.marker", "write the name of the object alone"),
    ({"source": replace(SOURCE, prefix="/x")}, "source.prefix", "begin object keys without a slash"),
    (
        {"source": replace(SOURCE, format="csv", columns={**SOURCE.columns, "l": "integer[]"})},
        "columns.l",
        "integer[] can't be read from csv",
    ),
    ({"derive": Derive(lambda frame: frame, {"origin": "varchar"})}, "derive.origin", "the name is used twice"),
    ({"derive": Derive(lambda frame: frame, {"x": "txet"})}, "derive.x", "is not a DuckDB type"),
    (body("upper(flihgt) || flihgt"), "body.x", "there is no column 'flihgt'; did you mean 'flight'?"),
    (body("sum(sum(flight))"), "body.x", "sum() is an aggregate"),
    (metadata("larder.x", "select a from b", {"dest": "a"}), "metadata.larder.x", "are taken"),
    ({"as_of": FromColumn("nope")}, "as_of", "there is no column 'nope'"),
    ({"as_of": FromKey("scored=")}, "as_of", "needs one {}"),
    ({"as_of": FromKey("YYYY/MM/DD")}, "as_of", "write e.g. scored={} or year={year}/month={month}/day={day}"),
    ({"as_of": FromKey("dt={}/{}")}, "as_of", "has a placeholder twice"),
    ({"as_of": FromKey("dt={date}")}, "as_of", "'dt={date}' has {date}, and known are {}, {year}, {month}, {day}"),
    ({"as_of": FromKey("dt={")}, "as_of", "has a brace"),
    ({"as_of": FromKey("{year}/{day}")}, "as_of", "the parts after it without a gap"),
    ({"as_of": FromKey("{month}/{day}")}, "as_of", "the parts after it without a gap"),
    ({"as_of": FromKey("dt={}/{minute}")}, "as_of", "the parts after it without a gap"),
    ({"as_of": FromKey("{}/{year}")}, "as_of", "needs one {}, or"),
    (
        {"as_of": FromKey("dt={}", zone="Berlin")},
        "as_of",
        "'Berlin' is no time zone; write its name in the IANA database",
    ),
    ({"as_of": FromColumn("flight_date", zone="../x")}, "as_of", "is no time zone"),
    ({"as_of": FromKey("dt={}", ahead=timedelta(days=-1))}, "as_of", "ahead is -1 day"),
    ({"ttl": timedelta(0)}, "ttl", "say how long"),
    ({"tolerated": Tolerated(share=2)}, "tolerated.share", "give a share from 0 to 1"),
]


@pytest.mark.parametrize(("change", "place", "message"), MISTAKES, ids=[f"{m[1]}-{m[2][:30]}" for m in MISTAKES])
def test_each_mistake_is_found_in_its_place(change: Mapping[str, Any], place: str, message: str) -> None:
    """The message says where, what, and what to do."""
    found = [str(mistake) for mistake in check_dataset(replace(FLIGHTS, **change))]
    assert any(each.startswith(f"flight-delays {place}: ") and message in each for each in found), found


@pytest.mark.parametrize(("change", "place", "message"), MISTAKES, ids=[f"{m[1]}-{m[2][:30]}" for m in MISTAKES])
def test_each_mistake_is_reported_once(change: Mapping[str, Any], place: str, message: str) -> None:
    """No two rules report the same, and nothing is reported that only follows from another mistake."""
    found = [str(mistake) for mistake in check_dataset(replace(FLIGHTS, **change))]
    assert len(found) == 1, (place, message)


def test_all_mistakes_are_found_at_once() -> None:
    """Whoever mends a dataset sees all of its mistakes, not one after the other."""
    broken = replace(
        FLIGHTS, subject={"carrier": "nope"}, body={"a": "nope", "b": {"c": "now()"}}, prediction_id="sum(flight)"
    )
    assert [mistake.place for mistake in check_dataset(broken)] == [
        "flight-delays subject.carrier",
        "flight-delays prediction_id",
        "flight-delays body.a",
        "flight-delays body.b.c",
    ]


FINE = [
    "upper(planes.model) || lower(weather.temp)",
    "round(weather.temp, 1) + 1",
    "date_trunc('day', weather.hour)",
    "list_transform([1, 2], lambda flight: flight * 2)",
    "case when planes.seats > 100 then 'large' else 'small' end",
    "coalesce(planes.model, 'unknown') -- with a comment",
    "try_cast(planes.seats as integer)",
    "{'a': flight, 'b': [origins.lat, origins.lon]}",
    "age(scheduled_arrival, scheduled_departure)::varchar",
]


@pytest.mark.parametrize("expression", FINE)
def test_what_some_type_of_metadata_suits_is_no_mistake(expression: str) -> None:
    """Types of metadata are not known offline; an expression that suits any is left to the run."""
    assert check_dataset(replace(FLIGHTS, body={"x": expression})) == []


def test_columns_that_a_star_hides_are_left_to_the_run() -> None:
    """A query with `*` does not tell its columns."""
    assert parse_query("select * from reference.airlines") is None
    hidden = {**FLIGHTS.metadata, "airlines": Metadata("select * from reference.airlines", "carrier")}
    assert check_dataset(replace(FLIGHTS, metadata=hidden, body={"x": "airlines.anything"})) == []


def test_writer_and_reader_must_have_the_same_datasets() -> None:
    """A dataset that only one side knows is a mistake that names the file to edit."""
    alone: dict[str, Dataset] = {}
    flights = {"flight-delays": SERVED["flight-delays"]}
    assert [str(each) for each in check_datasets(alone, flights, None)] == [
        "flight-delays: is in serve/datasets.py only; add it to DATASETS in enrich/datasets.py"
    ]
    claims = SERVED["flight-delays"]._replace(subject=("carrier", "origin"))
    (differs,) = check_datasets({"flight-delays": FLIGHTS}, {"flight-delays": claims}, None)
    assert str(differs).startswith(
        "flight-delays served: `served` is Served(name='flight-delays', subject=('carrier',)"
    )
    assert str(differs).endswith("write served=SERVED['flight-delays']")
    (misnamed,) = check_datasets({"flight-delays": FLIGHTS}, {"flight-delays": claims._replace(name="delays")}, None)
    assert str(misnamed).startswith("flight-delays: the entry of SERVED in serve/datasets.py has the name 'delays'")
    assert any("is in enrich/datasets.py only" in str(each) for each in check_datasets(DATASETS, {}, None))
    assert any(
        "openapi.yaml has no path /v1/flight-delays" in str(each) for each in check_dataset(FLIGHTS, {"paths": {}})
    )


@pytest.mark.parametrize(
    ("pattern", "object_key", "as_of"),
    [
        ("scored={}", "flight-delays/scored=2026-11-20/part-0.parquet", datetime(2026, 11, 20, tzinfo=UTC)),
        ("scored={}", "scored=2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
        ("scored={}", "x/scored=2026-11-20T06:15:00Z/a", datetime(2026, 11, 20, 6, 15, tzinfo=UTC)),
        ("scored={}", "x/scored=2026-11-20T06%3A15%3A00.5%2B01%3A00/a", datetime(2026, 11, 20, 5, 15, 0, 500000, UTC)),
        ("scored={}", "x/scored=20261120T061500Z/a", datetime(2026, 11, 20, 6, 15, tzinfo=UTC)),
        ("scored={}", "x/scored=2026-11-20 06:15/a", datetime(2026, 11, 20, 6, 15, tzinfo=UTC)),
        ("out-{}.csv", "x/out-2026-11-20.csv", datetime(2026, 11, 20, tzinfo=UTC)),
        ("out-{}.csv", "x/out-2026-11-20.csv.gz", datetime(2026, 11, 20, tzinfo=UTC)),
        ("date={}", "s/train_date=2020-01-01/date=2026-11-20/a", datetime(2026, 11, 20, tzinfo=UTC)),
        ("/date={}", "date=20261120/a", datetime(2026, 11, 20, tzinfo=UTC)),
        ("dt={}", "s/dt=20261120/a", datetime(2026, 11, 20, tzinfo=UTC)),
        ("dt={}", "s/dt=2026-11-20T06/a", datetime(2026, 11, 20, 6, tzinfo=UTC)),
        ("dt={}/hour={hour}", "s/dt=2026-11-20/hour=6/a", datetime(2026, 11, 20, 6, tzinfo=UTC)),
        ("dt={year}-{month}-{day}-{hour}", "s/dt=2026-11-20-06/a", datetime(2026, 11, 20, 6, tzinfo=UTC)),
        ("dt={year}{month}{day}{hour}", "s/dt=2026112006/a", datetime(2026, 11, 20, 6, tzinfo=UTC)),
        ("year={year}/month={month}/day={day}", "s/year=2026/month=1/day=2/a", datetime(2026, 1, 2, tzinfo=UTC)),
        ("year={year}/month={month}", "s/year=2026/month=11/a", datetime(2026, 11, 1, tzinfo=UTC)),
        ("{year}/{month}/{day}", "s/2026/11/20/06/a", datetime(2026, 11, 20, tzinfo=UTC)),
        ("{year}/{month}/{day}/{hour}", "v12/2026/11/20/06/a", datetime(2026, 11, 20, 6, tzinfo=UTC)),
        ("*-{}.csv", "s/eu-2024-model-2026-11-20.csv", datetime(2026, 11, 20, tzinfo=UTC)),
        (
            "*_{year}{month}{day}{hour}{minute}{second}",
            "s/a_20261120061501",
            datetime(2026, 11, 20, 6, 15, 1, tzinfo=UTC),
        ),
        ("run={}", "run=2026-11-20/x/run=20261120/a", datetime(2026, 11, 20, tzinfo=UTC)),
    ],
)
def test_as_of_from_the_object_key(pattern: str, object_key: str, as_of: datetime) -> None:
    """A date is its midnight in UTC; an instant without a zone is UTC; escapes are undone."""
    assert parse_as_of(FromKey(pattern), object_key) == as_of


@pytest.mark.parametrize(
    ("zone", "text", "as_of"),
    [
        ("Europe/Berlin", "2026-11-20", datetime(2026, 11, 19, 23, tzinfo=UTC)),
        ("Europe/Berlin", "2026-07-20T06:00", datetime(2026, 7, 20, 4, tzinfo=UTC)),
        ("Europe/Berlin", "2026-07-20T06:00Z", datetime(2026, 7, 20, 6, tzinfo=UTC)),
        ("Pacific/Auckland", "2026-11-21", datetime(2026, 11, 20, 11, tzinfo=UTC)),
        ("America/Los_Angeles", "20261120", datetime(2026, 11, 20, 8, tzinfo=UTC)),
    ],
)
def test_a_local_date_is_its_midnight_in_its_zone(zone: str, text: str, as_of: datetime) -> None:
    """Summer time included; an offset in the key itself decides."""
    assert parse_as_of(FromKey("day={}", zone=zone), f"x/day={text}/a") == as_of


@pytest.mark.parametrize(
    ("pattern", "object_key", "message"),
    [
        ("scored={}", "x/a.parquet", "no path segment that begins like the pattern 'scored={}'"),
        ("scored={}", "x/scored=/a", "no path segment"),
        ("scored={}", "x/scored=today/a", "'today' is neither a date"),
        ("scored={}", "x/scored=2026-13-01/a", "'2026-13-01' is neither a date"),
        ("date={}", "x/train_date=2026-11-20/a", "no path segment"),
        ("dt={}/hour={hour}", "x/dt=2026-11-20/hour=24/a", "'2026-11-20 hour 24' is neither a date"),
        ("{year}/{month}/{day}", "x/2026/02/30/a", "'year 2026 month 02 day 30' is neither a date"),
        ("{year}{month}{day}", "x/2026112/a", "no path segment"),
        ("day={}", "day=2026-11-20/day=2026-11-21/a", "2 different dates"),
    ],
)
def test_a_key_without_as_of_is_an_error_that_names_it(pattern: str, object_key: str, message: str) -> None:
    """Nothing is guessed where the key does not tell."""
    with pytest.raises(BadAsOf, match="object key") as error:
        parse_as_of(FromKey(pattern), object_key)
    assert message in str(error.value)
