"""Mistakes in a dataset: each is found without AWS, and reported with its place and a remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from enrich.dataset.as_of import BadAsOf, parse_as_of
from enrich.dataset.definition import (
    Changes,
    Dataset,
    Derive,
    FromColumn,
    FromKey,
    LastModified,
    Metadata,
    Tolerated,
)
from enrich.dataset.expressions import suggest_function
from enrich.dataset.field_types import find_type_mistakes, require_types
from enrich.dataset.mistakes import DatasetMistakes
from enrich.dataset.validation import check_dataset, check_datasets, parse_query
from enrich.datasets import load_datasets

DATASETS = load_datasets()
SHORT = {"carrier": "airlines.name"}  # a short body, to save time
FLIGHTS = replace(DATASETS["flight-delays"], body=SHORT, guards=(), model_version=None)
SOURCE = FLIGHTS.source


def body(expression: str) -> dict[str, Any]:
    """Change the body to one member."""
    return {"body": {"x": expression}}


def column(kind: str) -> dict[str, Any]:
    """Add a column."""
    return {"source": replace(SOURCE, columns={**SOURCE.columns, "X": kind})}


def metadata(name: str, sql: str, on: Any) -> dict[str, Any]:
    """Add metadata."""
    return {"metadata": {**FLIGHTS.metadata, name: Metadata(sql, on)}}


def version(name: str) -> dict[str, Any]:
    """Name a member of a body as the version of the model."""
    members = {"b": "carrier", "c": "distance_miles", "d": "[flight]", "e": "flight > 1"}
    return {"model_version": name, "body": {"a": members, "carrier": "airlines.name"}}


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    (body("flihgt"), "body.x", "there is no column 'flihgt'; did you mean 'flight'?"),
    (body("airlines.nam"), "body.x", "metadata 'airlines' has no column 'nam'; did you mean 'name'?"),
    (body("airlines"), "body.x", "'airlines' is metadata, not a column; name one of its columns, as in airlines.name"),
    (body("sum(flight)"), "body.x", "sum() is an aggregate"),
    (body("count(*)"), "body.x", "is an aggregate"),
    (body("row_number() over ()"), "body.x", "is a window function"),
    (body("(select 1)"), "body.x", "contains a subquery"),
    (body("exists (select 1)"), "body.x", "contains a subquery"),
    (body("now()"), "body.x", "now() can return another value each time"),
    (body("upper(gen_random_uuid()::varchar)"), "body.x", "gen_random_uuid() can return another value each time"),
    (body("case when random() > 0.5 then 1 end"), "body.x", "random() can return another value each time"),
    (body("age(scheduled_departure)"), "body.x", "age() can return another value each time"),
    (body("current_localtimestamp()"), "body.x", "current_localtimestamp() can return another value each time"),
    (body("ago(interval '1 day')"), "body.x", "ago() can return another value each time"),
    (body("geomean(1)"), "body.x", "geomean() is an aggregate, which reads other rows"),
    (body("regexp_split_to_table('a', 'b')"), "body.x", "regexp_split_to_table() makes several rows of one"),
    (body("#1"), "body.x", "contains the position of a column; name the column"),
    (body("current_date"), "body.x", "there is no column 'current_date'"),
    (body("*"), "body.x", "contains `*`"),
    (body("columns('.*')"), "body.x", "contains `*`"),
    (body("$1"), "body.x", "contains a parameter"),
    (body("flight +"), "body.x", "is not SQL"),
    (body("'open"), "body.x", "is not SQL"),
    (body("flight; drop table x"), "body.x", "is not SQL"),
    (body("flight) , (origin"), "body.x", "is not one expression"),
    (body("flight) from (select 1"), "body.x", "is not one expression"),
    (body(" "), "body.x", "is empty"),
    (body("upper(flight)"), "body.x", "No function matches the given name and argument types 'upper(INTEGER)'"),
    (body("nosuch(flight)"), "body.x", "Scalar Function with name nosuch does not exist"),
    (body("scheduled_arrival - scheduled_departure"), "body.x", "type INTERVAL has no JSON; convert it to a number"),
    (body("list_transform([1], lambda y: y + z)"), "body.x", "there is no column 'z'"),
    (body("list_transform([1], y -> y + 1)"), "body.x", "a lambda is written `lambda y: ...`"),
    (body("carier -> '$.x'"), "body.x", "there is no column 'carier'; did you mean 'carrier'?"),
    (body("carrier -> nope"), "body.x", "there is no column 'nope'"),
    ({"body": {"a.b": {"c d": "nope"}}}, 'body."a.b"."c d"', "there is no column 'nope'"),
    (version("nope"), "model_version", "the body has no member 'nope'; known are a, a.b, a.c, a.d, a.e, carrier"),
    (version("carier"), "model_version", "the body has no member 'carier'; did you mean 'carrier'?"),
    (version("carrier.code"), "model_version", "the body has no member 'carrier.code'"),
    (version(""), "model_version", "the body has no member ''"),
    (version("a"), "model_version", "member 'a' of the body has members itself; name one of them, e.g. 'a.b'"),
    (version("a.c"), "model_version", "distance_miles is DOUBLE, expected a text or an integer; cast it to varchar"),
    (version("a.d"), "model_version", "[flight] is INTEGER[], expected a text or an integer"),
    (version("a.e"), "model_version", "flight > 1 is BOOLEAN, expected a text or an integer"),
    (
        version("a.b") | {"body": {"a.b": "carrier", "a": {"b": "carrier"}}},
        "model_version",
        "'a.b' is the name of 2 members of the body; rename one",
    ),
    ({"prediction_id": "nope"}, "prediction_id", "there is no column 'nope'"),
    (
        {"prediction_id": "distance_miles"},
        "prediction_id",
        "is DOUBLE, which can be written in several ways; cast it to varchar",
    ),
    ({"prediction_id": "scheduled_departure"}, "prediction_id", "strftime(scheduled_departure, '%Y-%m-%dT%H:%M:%SZ')"),
    ({"subject": {"carrier": "nope"}}, "subject.carrier", "there is no column 'nope'"),
    (
        {"subject": {}},
        "subject.carrier",
        "there is no expression for the claim 'carrier', which Served(subject=...) names; add it, e.g. 'carrier':",
    ),
    (
        {"subject": {"carrier": "carrier", "airport": "origin"}},
        "subject.airport",
        "there is no claim 'airport' in Served(subject=...); known are carrier",
    ),
    (
        {"subject": {"carrier": "carrier", "urn:carrier": "origin"}},
        'subject."urn:carrier"',
        "there is no claim 'urn:carrier' in Served(subject=...); did you mean 'carrier'?",
    ),
    (
        metadata("dest", "select a from b", {"dest": "a"}),
        "metadata.dest",
        "the name is also used by columns.dest",
    ),
    (metadata("Planes", "select a from b", {"dest": "a"}), "metadata.Planes", "the name is also used by"),
    (metadata("x", "selec a from b", {"dest": "a"}), "metadata.x.sql", "is not one Athena query"),
    (metadata("x", "select 1 as a; select 2", {"dest": "a"}), "metadata.x.sql", "is not one Athena query"),
    (metadata("x", "drop table b", {"dest": "a"}), "metadata.x.sql", "is not one Athena query"),
    (metadata("x", "select a from b", {"dest": "c"}), "metadata.x.on", "the query has no column 'c'"),
    (metadata("x", "select a from b", {"airlines.name": "a"}), "metadata.x.on", "there is no column 'airlines'"),
    (metadata("x", "select a from b", "a"), "metadata.x.on", "there is no column 'a'"),
    (metadata("x", "select a from b", {}), "metadata.x.on", "is empty"),
    (metadata("a'b", "select a from b", {"dest": "a"}), 'metadata."a\'b"', "use letters"),
    (metadata("a/b", "select a from b", {"dest": "a"}), 'metadata."a/b"', "use letters"),
    ({"source": replace(SOURCE, columns={**SOURCE.columns, "X": "txet"})}, "columns.X", "is not a DuckDB type"),
    (
        {"source": replace(SOURCE, columns={**SOURCE.columns, "DEST": "varchar"})},
        "columns.DEST",
        "the name is also used by",
    ),
    ({"source": replace(SOURCE, columns={**SOURCE.columns, "a\0b": "bigint"})}, "columns.a\\0b", "has a NUL character"),
    (
        {"source": replace(SOURCE, columns={**SOURCE.columns, "larder.row": "bigint"})},
        "columns.larder.row",
        "are reserved",
    ),
    (
        column("struct(order integer)"),
        "columns.X",
        "'order': a reserved word needs double quotes, as in struct(\"order\"",
    ),
    (column("struct(a struct(end date, desc varchar)[])"), "columns.X", "'end', 'desc': a reserved word needs double"),
    (column("map(varchar, struct(Group integer))"), "columns.X", 'as in map(varchar, struct("Group" integer))'),
    (body("order"), "body.x", "'order': a reserved word needs double quotes, as in \"order\""),
    (body("{end: flight, to: flight}"), "body.x", 'as in {"end": flight, "to": flight}'),
    (body("case when flight > 1 then 2"), "body.x", "it is incomplete; complete it"),
    (body("flight AND NOT"), "body.x", "it is incomplete"),
    (
        body("flight + / 2"),
        "body.x",
        'syntax error at or near "/"; fix it; a name that is an SQL keyword needs double quotes',
    ),
    (body("flight / 60 AS hours"), "body.x", "it has an alias, hours; remove AS hours: its place gives it a name"),
    (body("flight;"), "body.x", "it ends with a semicolon; remove it"),
    (body("-- nothing"), "body.x", "is empty; write an expression"),
    (body("/* no\nthing */ "), "body.x", "is empty; write an expression"),
    (body("unnest([flight, 2])"), "body.x", "unnest() makes several rows of one; keep the list"),
    (body("generate_subscripts([1], 1)"), "body.x", "makes several rows of one"),
    (
        body("current_timestamp"),
        "body.x",
        "there is no column 'current_timestamp'; the SQL keyword depends on the session",
    ),
    (body("date_format(flight_date, '%Y')"), "body.x", "expressions are DuckDB SQL: write e.g. strftime("),
    (body("nvl(origin, 'x')"), "body.x", "write e.g. coalesce(x, y)"),
    (body("strlenn(origin)"), "body.x", "with name strlenn does not exist; did you mean strlen?"),
    (body("xyzzy(origin)"), "body.x", "expressions are DuckDB SQL: use one of its functions"),
    (body("origin::float32"), "body.x", "Type with name float32 does not exist; did you mean float?"),
    (body("left(flight, 'x')"), "body.x", "cast its arguments, as in left("),
    (
        body("flight + origin"),
        "body.x",
        "'+(INTEGER, VARCHAR)'. You might need to add explicit type casts; cast one of",
    ),
    (body("origin.name"), "body.x", "origin is a column; did you mean origins.name?"),
    ({"subject": {"carrier": "'carrier'"}}, "subject.carrier", "did you mean the column, 'carrier' without single"),
    ({"body": {"\ud800": "flight"}}, 'body."\\ud800"', "has a lone surrogate; write the whole character"),
    ({"body": {"x": "'\udfff'"}}, "body.x", "has a lone surrogate"),
    (metadata("x", "select a from b", "origin,dest"), "metadata.x.on", "'origin,dest'; write ['origin', 'dest']"),
    (metadata("x", "select a from b", "dest = a"), "metadata.x.on", "there is no column 'a'"),
    (metadata("x", "select dest from b", "dest = dest"), "metadata.x.on", "write {'dest': 'dest'}"),
    (metadata("x", "select a from b", "orign"), "metadata.x.on", "there is no column 'orign'; did you mean 'origin'?"),
    (metadata("x", "select a from b", [""]), "metadata.x.on", "is empty; write an expression"),
    (
        {"source": replace(SOURCE, format="csv", columns={**SOURCE.columns, "l": "integer[]"})},
        "columns.l",
        "integer[] can't be read from csv",
    ),
    ({"derive": Derive(lambda frame: frame, {"origin": "varchar"})}, "derive.origin", "the name is also used by"),
    ({"derive": Derive(lambda frame: frame, {"x": "txet"})}, "derive.x", "is not a DuckDB type"),
    (body("upper(flihgt) || flihgt"), "body.x", "there is no column 'flihgt'; did you mean 'flight'?"),
    (body("sum(sum(flight))"), "body.x", "sum() is an aggregate"),
    (metadata("larder.x", "select a from b", {"dest": "a"}), "metadata.larder.x", "are reserved"),
    ({"as_of": FromColumn("nope")}, "as_of", "there is no column 'nope'"),
    ({"as_of": FromKey("scored=")}, "as_of", "needs one {}"),
    (
        {"as_of": FromColumn("origin")},
        "as_of",
        "column 'origin' is VARCHAR, expected a date or a timestamp; declare it",
    ),
    ({"as_of": FromColumn("flight")}, "as_of", "column 'flight' is INTEGER"),
    (
        {"as_of": FromColumn("made"), "derive": Derive(lambda frame: frame, {"made": "date"})},
        "as_of",
        "column 'made' is derived; as_of is read before",
    ),
    ({"prediction_id": "'flight'"}, "prediction_id", "did you mean the column, 'flight' without single quotes?"),
    ({"prediction_id": "concat('a', 1)"}, "prediction_id", "names no column"),
    ({"body": {}}, "body", "is empty"),
    ({"body": {"a": "flight", "b": {}}}, "body.b", "is empty"),
    ({"body": {"": "flight"}}, 'body.""', "the name of a member is empty"),
    ({"body": {"a": {" ": "flight"}}}, 'body.a." "', "the name of a member is empty"),
    *(
        (metadata("x", sql, {"dest": "a"}), "metadata.x.sql", message)
        for sql, message in {
            "select a from b;": "ends with a semicolon or a comment",
            "select a from b; ": "ends with a semicolon or a comment",
            "select a from b -- all": "ends with a semicolon or a comment",
            "select a from b\n/* all */": "ends with a semicolon or a comment",
            "": "must be one SELECT",
            "-- nothing": "must be one SELECT",
            "select 'a from b": "is not one Athena query",
            "select a, c as A from b": "two of its columns have the name 'a'; rename one: ... as a_2",
            "slect a from b": "'slect' at column 1 is not SQL; did you mean select?",
            "select a\nfrm b": "'frm' at line 2, column 1 is not SQL; did you mean from?",
            "select a from b wher a > 1": "'wher' at column 17 is not SQL; did you mean where?",
            "select a from b where": "it is incomplete after 'where'; complete it",
            "select a b c from d": "'c' at line 1, column 12 is not expected there",
            "select a from `b`": "it has a backtick; write names that need quotes in double quotes",
            "select a, from b": "it has a comma before the end of a list; remove the comma",
            "select a from b where d = '{day}' and e = {day}": "it has a placeholder, and nothing fills it in",
            "select a from b where d = ?": "it has a placeholder",
            "select a from b where d = :day": "it has a placeholder",
            "select a from b where d = %(day)s": "it has a placeholder",
            "select a from 's3://x/y.parquet'": "it reads 's3://x/y.parquet', but Athena reads only tables",
            "select a from read_csv('x')": "Athena reads only tables of its catalog; make a table of it",
            "select a, upper(c) from b": "its column 2, UPPER(c), has no name; name it: ... as NAME",
            "select a from b union select a, c from d": "one side of its UNION has 1 columns, the other 2",
            "select": "it selects no column",
            "show tables": "must be one SELECT",
        }.items()
    ),
]


async def answer_later(frame: Any) -> Any:
    """Return something that must be awaited."""
    return frame


def yield_frames(frame: Any) -> Any:
    """Yield instead of returning."""
    yield frame


def build(kind: Any, *values: Any, **members: Any) -> Any:
    """Build a part of a definition from values that its hints do not allow."""
    return kind(*values, **members)


def source(**changes: Any) -> dict[str, Any]:
    """Change the source."""
    return {"source": replace(SOURCE, **changes)}


def served(**changes: Any) -> dict[str, Any]:
    """Change who can read it."""
    return {"served": FLIGHTS.served._replace(**changes)}


def airlines(**changes: Any) -> dict[str, Any]:
    """Change one metadata."""
    return {"metadata": {**FLIGHTS.metadata, "airlines": replace(FLIGHTS.metadata["airlines"], **changes)}}


# Values that the type hints of the definition do not allow; they are reported without other mistakes of the dataset.
WRONG_TYPES: list[tuple[dict[str, Any], str, str]] = [
    (source(format="json"), "source.format", "is 'json'; did you mean 'jsonl'?"),
    (source(format="avro"), "source.format", "is 'avro'; known are csv, jsonl, parquet, rejects"),
    (source(format=None), "source.format", "is None, of type NoneType; expected one of 'parquet', 'csv',"),
    (source(output="partialy"), "source.output", "did you mean 'partial'?"),
    (source(unknown_columns="reject"), "source.unknown_columns", "is 'reject'; "),
    (
        source(unknown_columns=True),
        "source.unknown_columns",
        "is True, of type bool; expected one of 'ignore', 'refuse'",
    ),
    (source(prefix=None), "source.prefix", "is None, of type NoneType; expected a text"),
    (source(marker=True), "source.marker", "is True, of type bool; expected a text or None"),
    (source(columns=["carrier"]), "source.columns", "is ['carrier'], of type list; expected a mapping"),
    (
        source(columns={"a": str}),
        "source.columns.a",
        "is <class 'str'>, of type type; expected a text; did you mean varchar?",
    ),
    (source(columns={"a": float}), "source.columns.a", "did you mean double?"),
    (source(columns={"a": np.dtype("float32")}), "source.columns.a", "did you mean float?"),
    (source(columns={"a": pa.list_(pa.int64())}), "source.columns.a", "did you mean bigint[]?"),
    (
        source(columns={"a": None}),
        "source.columns.a",
        "is None, of type NoneType; expected a text; write a DuckDB type",
    ),
    (source(columns=None), "source.columns", "expected a mapping; write e.g. {'name': 'varchar'}"),
    (source(snapshot_files=None), "source.snapshot_files", "expected one of 'refuse', 'each'"),
    (source(empty_snapshot="remove_all"), "source.empty_snapshot", "did you mean 'remove-all'?"),
    (source(prefix=b"x/"), "source.prefix", "is b'x/', of type bytes; expected a text; write it in quotes"),
    ({"equal_rows": "Once"}, "equal_rows", "is 'Once'; did you mean 'once'?"),
    ({"ttl": np.timedelta64(7, "D")}, "ttl", "of type timedelta64; expected a timedelta"),
    ({"as_of": "LastModified"}, "as_of", "write LastModified()"),
    ({"as_of": build(FromKey, "{}", zone=UTC)}, "as_of.zone", "of type timezone; expected a text"),
    ({"as_of": build(FromKey, "{}", ahead=1)}, "as_of.ahead", "is 1, of type int; expected a timedelta"),
    ({"as_of": build(FromColumn, "flight_date", zone=None)}, "as_of.zone", "is None"),
    ({"tolerated": Tolerated}, "tolerated", "expected Tolerated; write Tolerated(...)"),
    ({"changes": Changes}, "changes", "write Changes(...)"),
    ({"changes": True}, "changes", "is True, of type bool; expected Changes or None; write Changes(...)"),
    ({"changes": build(Changes, bodies="yes")}, "changes.bodies", "is 'yes', of type str; expected a boolean"),
    ({"metadata": None}, "metadata", "expected a mapping; write e.g. {'name': Metadata(...)}"),
    ({"body": {"x": [{"y": "flight"}]}}, "body.x", 'write a list as one expression, e.g. "[a, b]"'),
    (source(columns={1: "date"}), "source.columns.1", 'is 1, of type int; expected a text; write "1"'),
    (airlines(missing="ignore"), "metadata.airlines.missing", "is 'ignore'; known are drop, fail, null, reject"),
    (airlines(missing=None), "metadata.airlines.missing", "expected one of 'reject', 'null', 'fail'"),
    (
        airlines(max_age=60),
        "metadata.airlines.max_age",
        "is 60, of type int; expected a timedelta; write e.g. timedelta(",
    ),
    (airlines(on={"carrier"}), "metadata.airlines.on", "expected a text, a list or a mapping"),
    (airlines(on=["carrier", 1]), "metadata.airlines.on[1]", "is 1, of type int; expected a text"),
    (airlines(on={"carrier": 1}), "metadata.airlines.on.carrier", "expected a text"),
    (airlines(sql=["select 1"]), "metadata.airlines.sql", "expected a text"),
    (
        {"metadata": {"x": "select 1"}},
        "metadata.x",
        "is 'select 1', of type str; expected Metadata; write Metadata(...)",
    ),
    ({"metadata": []}, "metadata", "expected a mapping"),
    ({"nulls": "drop"}, "nulls", "is 'drop'; known are keep, omit"),
    ({"large_integers": "text"}, "large_integers", "known are number, reject, string"),
    ({"ttl": 14}, "ttl", "is 14, of type int; expected a timedelta; write e.g. timedelta(days=7)"),
    ({"ttl": None}, "ttl", "is None"),
    ({"start": "2026-01-01"}, "start", "expected a datetime or None; write e.g. datetime(2026, 1, 31, tzinfo=UTC)"),
    ({"start": date(2026, 1, 1)}, "start", "expected a datetime or None"),
    ({"unchanged_life": "half"}, "unchanged_life", "expected a number"),
    ({"unchanged_life": True}, "unchanged_life", "expected a number"),
    ({"tolerated": 0.1}, "tolerated", "is 0.1, of type float; expected Tolerated"),
    (
        {"tolerated": build(Tolerated, number=1.5)},
        "tolerated.number",
        "is 1.5, of type float; expected a whole number or None",
    ),
    ({"tolerated": build(Tolerated, few="10")}, "tolerated.few", "is '10', of type str; expected a whole number"),
    ({"as_of": "scored={}"}, "as_of", "expected FromKey, FromColumn or LastModified"),
    ({"as_of": LastModified}, "as_of", "expected FromKey, FromColumn or LastModified"),
    ({"as_of": build(FromKey, None)}, "as_of.pattern", "is None, of type NoneType; expected a text"),
    ({"as_of": build(FromColumn, 3)}, "as_of.column", "expected a text"),
    ({"derive": lambda frame: frame}, "derive", "expected Derive or None"),
    (
        {"derive": build(Derive, "step", {"x": "date"})},
        "derive.function",
        "is 'step', of type str; expected a func",
    ),
    ({"derive": build(Derive, lambda frame: frame, ["x"])}, "derive.columns", "expected a mapping"),
    ({"body": {"x": 1}}, "body.x", 'is 1, of type int; expected a text or a mapping; write "1"'),
    ({"body": {"x": {"y": {"z": None}}}}, "body.x.y.z", "is None, of type NoneType; expected a text or a mapping"),
    ({"body": {"x": ["flight"]}}, "body.x", "is ['flight'], of type list; expected a text or a mapping"),
    ({"body": "flight"}, "body", "expected a mapping"),
    ({"subject": "carrier"}, "subject", "is 'carrier', of type str; expected a mapping"),
    ({"subject": ["carrier"]}, "subject", "is ['carrier'], of type list; expected a mapping"),
    ({"subject": {"carrier": None}}, "subject.carrier", "is None"),
    ({"prediction_id": ["flight"]}, "prediction_id", "is ['flight'], of type list; expected a text"),
    (served(subject="carrier"), "served.subject", "is 'carrier', of type str; expected a tuple; write e.g. ('name',)"),
    (served(subject=("carrier", None)), "served.subject[1]", "is None"),
    ({"source": SOURCE.prefix}, "source", "is 'flight-delays/', of type str; expected Source"),
]
# Values that have the right type but can't work.
WRONG_VALUES: list[tuple[dict[str, Any], str, str]] = [
    *(
        (source(prefix=prefix), "source.prefix", message)
        for prefix, message in {
            "": "is empty: every object of the bucket would belong to this dataset",
            "/x/": "no object key begins with",
            "x//y/": "no object key begins with; write it without a bucket and a leading slash",
            " x/": "no object key begins with",
            "x/*": "e.g. 'x/'",
            "x": "other folders whose names begin with it",
            "s3://bucket/x/": "contains a bucket or a scheme",
            "s3://bucket/x": "e.g. 'x/'",
            "s3a://bucket/": "e.g. 'flight-delays/'",
            "arn:aws:s3:::bucket/x/": "which contains a bucket or a scheme; write it without a bucket and a leading",
            "gs://bucket/x/y/": "e.g. 'x/y/'",
            "https://bucket.s3.amazonaws.com/x/": "e.g. 'x/'",
            "./x/": "e.g. 'x/'",
            "x/../y/": "no object key begins with",
            "day={}/x/": "e.g. 'x/'",
            "x" * 1_000 + "/": "has 1,001 bytes, but an object key has at most 1,024",
        }.items()
    ),
    (source(marker=""), "source.marker", "name the object without its folder"),
    *(
        (source(marker=marker), "source.marker", "name the object without its folder, e.g. '_SUCCESS'")
        for marker in ("x/_SUCCESS", "_SUCCESS/", "*", "part-*", " _SUCCESS", "_{}")
    ),
    (source(columns={}), "source.columns", "is empty: expressions would have no column to name"),
    (source(format="rejects"), "source.format", "write the format of the model's files"),
    (source(rejects_of="csv"), "source.rejects_of", "is set by a replay; remove it"),
    (
        source(empty_snapshot="remove-all"),
        "source.empty_snapshot",
        "applies only to snapshots, but the output is 'partial'",
    ),
    (source(snapshot_files="each"), "source.snapshot_files", "applies only to snapshots, but the output is 'partial'"),
    (
        source(output="snapshot", marker="_DONE", snapshot_files="each"),
        "source.snapshot_files",
        "applies only to snapshots without a marker, but the marker is '_DONE'; remove it",
    ),
    *(
        ({**served(subject=(claim,)), "subject": {claim: "carrier"}}, "served.subject[0]", "as the token spells it")
        for claim in ("carrier ", "car\u200brier", "a\tb")
    ),
    (airlines(max_age=timedelta.max), "metadata.airlines.max_age", "of a century at most"),
    (metadata("x" * 200, "select a from b", {"dest": "a"}), f"metadata.{'x' * 200}", "use letters, digits and _"),
    ({"ttl": timedelta(milliseconds=5)}, "ttl", "set it to a second or more"),
    ({"ttl": timedelta.max}, "ttl", "set it to a century at most"),
    *(
        ({"derive": build(Derive, step, {"x": "date"})}, "derive.function", message)
        for step, message in (
            (lambda: None, "'<lambda>' can't be called with one argument: too many positional arguments"),
            (lambda frame, other: frame, "missing a required argument: 'other'"),
            (lambda *, frame: frame, "write a plain function of one argument, the DataFrame, which it returns"),
            (answer_later, "which does not return a DataFrame"),
            (yield_frames, "which does not return a DataFrame"),
            (dict, "which does not return a DataFrame"),
        )
    ),
    ({"derive": Derive(len, {"": "date"})}, 'derive.columns.""', "name it"),
    (source(columns={**SOURCE.columns, " ": "date"}), 'source.columns." "', "name it"),
    *(
        (served(name=name), "served.name", "use 1 to 64 ASCII")
        for name in ("a/b", "health", "a b", "", "prévision", "a.b")
    ),
    (served(name="x" * 65), "served.name", "use 1 to 64 ASCII"),
    (served(scope=""), "served.scope", "is ''; name one scope, as in 'flight-delays:read'"),
    (served(scope="a b"), "served.scope", "name one scope"),
    (served(scope="lesen:äpfel"), "served.scope", "name one scope"),
    ({**served(subject=()), "subject": {}}, "served.subject", "name the claims"),
    (served(subject=("carrier", "carrier")), "served.subject[1]", "name each claim once"),
    ({**served(subject=("",)), "subject": {"": "carrier"}}, "served.subject[0]", "name each claim once"),
    (airlines(max_age=timedelta(days=-1)), "metadata.airlines.max_age", "use a positive time"),
    ({"ttl": timedelta(0)}, "ttl", "is datetime.timedelta(0); set it above zero, e.g. timedelta(days=7)"),
    ({"ttl": timedelta(days=-7)}, "ttl", "set it above zero"),
    ({"start": datetime(2026, 1, 1)}, "start", "give it a time zone"),
    *(({"unchanged_life": share}, "unchanged_life", "give a share from 0 to 1") for share in (50, -0.1, float("nan"))),
    *(
        ({"tolerated": Tolerated(share=n)}, "tolerated.share", "give a share from 0 to 1")
        for n in (2, -1, float("inf"))
    ),
    ({"tolerated": Tolerated(number=-1)}, "tolerated.number", "give a number from 0"),
    ({"tolerated": Tolerated(few=-1)}, "tolerated.few", "give a number from 0"),
]
FOREIGN_TYPES = {  # names of pandas, Arrow, Polars, Spark and BigQuery, and misspelled ones
    "float32": "float",
    "float64": "double",
    "float64[]": "double[]",
    "halffloat": "float",
    "object": "varchar",
    "category": "varchar",
    "string[pyarrow]": "varchar",
    "large_string": "varchar",
    "pl.Utf8": "varchar",
    "StringType()": "varchar",
    "dictionary<values=string, indices=int32>": "varchar",
    "datetime64[ns]": "timestamp",
    "datetime64[ns, UTC]": "timestamptz",
    "timestamp[us, tz=Europe/Berlin]": "timestamptz",
    "TimestampNTZType": "timestamp",
    "Datetime('us', 'UTC')": "timestamptz",
    "LongType": "bigint",
    "byte": "tinyint",
    "date32[day]": "date",
    "binary_view": "blob",
    "decimal128(10, 2)": "decimal(10, 2)",
    "BIGNUMERIC": "decimal(38, 9)",
    "list<item: int64>": "bigint[]",
    "list<element: list<float64>>": "double[][]",
    "fixed_size_list<item: float>[3]": "float[]",
    "ARRAY<STRING>": "varchar[]",
    "ArrayType(LongType())": "bigint[]",
    "struct<a: int64, b: list<string>>": "struct(a bigint, b varchar[])",
    "STRUCT<a INT64, b STRING>": "struct(a bigint, b varchar)",
    "map<string, list<float32>>": "map(varchar, float[])",
    "varchr": "varchar",
    "timestmp": "timestamp",
}
MISTAKES += [*WRONG_TYPES, *WRONG_VALUES]
MISTAKES += [
    (
        source(columns={**SOURCE.columns, "x": foreign}),
        "columns.x",
        f"{foreign!r} is not a DuckDB type; did you mean {own}?",
    )
    for foreign, own in FOREIGN_TYPES.items()
]
MISTAKES += [
    (source(columns={**SOURCE.columns, "x": text}), "columns.x", f"{text!r} is not a DuckDB type; write a DuckDB type")
    for text in ("", "<U5", "xyz", "3")
]
MISTAKES += [
    (column(declared), "columns.X", f"{declared!r} {message}")
    for declared, message in {
        "decimal(40, 2)": "is not a DuckDB type: DECIMAL type width must be between 1 and 38; write a DuckDB type",
        "map": 'is not a DuckDB type: Type "MAP" requires type parameters; write a DuckDB type',
        "struct(a integer, A date)": "is not a DuckDB type: Duplicate type parameter A",
        "struct": "has no values; write its type, such as varchar or struct(a integer)",
        "null": "has no values; write its type",
        '"null"': "has no values; write its type",
    }.items()
]
MISTAKES += [
    (
        column(declared),
        "columns.X",
        f"nests {levels} lists, maps and structs, expected at most 8; write it as JSON text",
    )
    for declared, levels in {
        "integer" + "[]" * 9: 9,
        "struct(a " * 200 + "integer" + ")" * 200: 200,
        "map(varchar, struct(b date[2], a " + "integer" + "[]" * 7 + "))": 9,
    }.items()
]
MISTAKES += [(body("[" * 9 + "flight" + "]" * 9), "body.x", "nests more than 8 lists, maps and structs; write it")]
MISTAKES += [
    ({"as_of": FromKey("YYYY/MM/DD")}, "as_of", "write e.g. scored={} or year={year}/month={month}/day={day}"),
    ({"as_of": FromKey("dt={}/{}")}, "as_of", "has a placeholder twice"),
    ({"as_of": FromKey("dt={date}")}, "as_of", "'dt={date}' has {date}; known are {}, {year}, {month}, {day}"),
    ({"as_of": FromKey("dt={")}, "as_of", "has a brace"),
    ({"as_of": FromKey("{year}/{day}")}, "as_of", "the parts after it without a gap"),
    ({"as_of": FromKey("{month}/{day}")}, "as_of", "the parts after it without a gap"),
    ({"as_of": FromKey("dt={}/{minute}")}, "as_of", "the parts after it without a gap"),
    ({"as_of": FromKey("{}/{year}")}, "as_of", "needs one {}, or"),
    (
        {"as_of": FromKey("dt={}", zone="Berlin")},
        "as_of",
        "'Berlin' is not a time zone; write its name in the IANA database",
    ),
    ({"as_of": FromColumn("flight_date", zone="../x")}, "as_of", "is not a time zone"),
    ({"as_of": FromKey("dt={}", ahead=timedelta(days=-1))}, "as_of", "ahead is -1 day"),
    ({"as_of": FromKey("dt={}", ahead=timedelta.max)}, "as_of", "ahead is 999999999 days"),
    ({"as_of": FromKey("dt={}", zone="europe/berlin")}, "as_of", "is not a time zone; did you mean 'Europe/Berlin'?"),
    ({"as_of": FromKey("dt={}", zone="asia/tokio")}, "as_of", "is not a time zone; did you mean 'Asia/Tokyo'?"),
    (
        {"as_of": FromKey("dt={}", zone="AMERICA/NEWYORK")},
        "as_of",
        "is not a time zone; did you mean 'America/New_York'?",
    ),
    ({"as_of": FromKey("s3://bucket/dt={}")}, "as_of", "has a bucket or an empty segment"),
    ({"as_of": FromKey("%Y-%m-%d")}, "as_of", "needs one {}, or {year}"),
]


@pytest.mark.parametrize(("change", "place", "message"), MISTAKES, ids=[f"{m[1]}-{m[2][:30]}" for m in MISTAKES])
def test_each_mistake_is_found_in_its_place_and_reported_once(
    change: Mapping[str, Any], place: str, message: str
) -> None:
    """The message names place, mistake and remedy; mistakes that only follow from another are not reported."""
    dataset = replace(FLIGHTS, **change)
    (found,) = check_dataset(dataset)
    assert found.place == f"{dataset.name} {place}"
    assert message in str(found)
    for part in (found.message, found.remedy):  # a message of one sentence
        assert re.match("[^A-Z]|[A-Z][A-Z]|DuckDB", part), part


@pytest.mark.parametrize(
    "expression", ["carrier", "flight", "'2.1'", "date '2026-01-31'", "airlines.name", "planes.seats"]
)
def test_a_version_is_a_text_or_an_integer(expression: str) -> None:
    """Also one from metadata, whose type only a run knows."""
    dataset = replace(FLIGHTS, body={"x": {"y": expression}}, model_version="x.y")
    assert check_dataset(dataset) == []
    assert dataset.version_place == ("x", "y")


# functions of DuckDB -> functions of other dialects
FOREIGN_FUNCTIONS = {
    "strftime(x, '%Y-%m-%d')": "date_format format_datetime to_char to_iso8601",
    "strptime(x, '%Y-%m-%d')": "date_parse parse_datetime to_date str_to_date",
    "x::timestamptz or x::date": "from_iso8601_timestamp from_iso8601_date",
    "to_timestamp(x)": "from_unixtime timestamp_seconds",
    "epoch(x)": "to_unixtime unix_timestamp unix_seconds",
    "coalesce(x, y) or x is null": "nvl isnull zeroifnull",
    "case when ... then ... else ... end": "iff nvl2 ifelse DECODE",
    "x ->> '$.member'": "json_extract_scalar get_json_object json_value",
    "x::json or x::varchar": "json_parse parse_json json_format",
    "regexp_matches(x, 'pattern')": "regexp_like rlike",
    "strpos(x, 'part')": "charindex locate",
    "array_to_string(x, ', ')": "array_join concat_array",
    "len(x)": "size array_size",
    "list_max, list_min, list_sum, list_avg": "array_max array_min array_sum array_average",
    "list_transform(x, lambda y: ...)": "transform",
    "trunc(x)": "truncate",
    "regexp_extract(x, 'pattern', 1)": "url_extract_host",
    "base64(x)": "to_base64",
    "from_hex(x)": "unhex",
    "hex(x)": "to_hex",
}


@pytest.mark.parametrize("own", FOREIGN_FUNCTIONS)
def test_a_function_of_another_dialect_has_its_counterpart(own: str) -> None:
    """Functions of Athena, Snowflake, BigQuery, Spark and MySQL, in any case."""
    for name in FOREIGN_FUNCTIONS[own].split():
        assert suggest_function(name) == f"expressions are DuckDB SQL: write e.g. {own}"


def test_all_mistakes_are_found_at_once() -> None:
    """All mistakes of a dataset are reported in one pass."""
    broken = replace(
        FLIGHTS, subject={"carrier": "nope"}, body={"a": "nope", "b": {"c": "now()"}}, prediction_id="sum(flight)"
    )
    assert [mistake.place for mistake in check_dataset(broken)] == [
        "flight-delays subject.carrier",
        "flight-delays prediction_id",
        "flight-delays body.a",
        "flight-delays body.b.c",
    ]


ONE_CHARACTER = "give one ASCII character that is not a letter, digit or newline"
DIALECTS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    (
        "csv",
        {"delimiter": "", "quote": "'\"", "escape": "é"},
        {
            "delimiter": f"is ''; {ONE_CHARACTER}",
            "quote": ONE_CHARACTER,
            "escape": f"is 'é'; {ONE_CHARACTER}",
        },
    ),
    (
        "csv",
        {"delimiter": "x", "escape": "\n"},
        {"delimiter": f"is 'x'; {ONE_CHARACTER}", "escape": f"is '\\n'; {ONE_CHARACTER}"},
    ),
    (
        "csv",
        {"quote": ",", "escape": ","},
        dict.fromkeys(["quote", "escape"], "is ',', the same as the delimiter; give two different characters"),
    ),
    (
        "csv",
        {"delimiter": None, "quote": False, "header": "no", "null_words": [None]},
        {
            "quote": "is False, of type bool; expected a text or None",
            "header": "is 'no', of type str; expected",
            "null_words[0]": "is None, of type NoneType; expected a text",
            "delimiter": "is None, of type NoneType; expected a text",
        },
    ),
    (
        "jsonl",
        {"header": False, "null_words": ["NA"]},
        dict.fromkeys(["header", "null_words"], "applies only to CSV, but the format is 'jsonl'; remove it"),
    ),
    ("csv", {"delimiter": "\x01", "quote": None, "escape": "\\", "header": False, "null_words": ["\\N"]}, {}),
]


@pytest.mark.parametrize(("format_", "dialect", "expected"), DIALECTS)
def test_each_mistake_in_a_dialect_is_found(format_: Any, dialect: dict[str, Any], expected: dict[str, str]) -> None:
    """A dialect that no file can have, or that does not apply to the format, is found before a file is read."""
    found = check_dataset(replace(FLIGHTS, source=replace(SOURCE, format=format_, **dialect)))
    messages = {each.place.removeprefix("flight-delays source."): str(each) for each in found}
    assert messages.keys() == expected.keys()
    assert [name for name, message in expected.items() if message not in messages[name]] == []


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
    """Types of metadata are not known offline; an expression that is valid for some type is left to the run."""
    assert check_dataset(replace(FLIGHTS, body={"x": expression})) == []


def test_columns_that_a_star_hides_are_left_to_the_run() -> None:
    """A query with `*` does not name its columns."""
    assert parse_query("select * from reference.airlines") is None
    hidden = {**FLIGHTS.metadata, "airlines": Metadata("select * from reference.airlines", "carrier")}
    assert check_dataset(replace(FLIGHTS, metadata=hidden, body={"x": "airlines.anything"})) == []


def test_a_contract_without_the_dataset() -> None:
    """openapi.yaml lacks a path: the mistake names the command that writes it."""
    assert next(str(each) for each in check_dataset(FLIGHTS, {"paths": {}})) == (
        "flight-delays: openapi.yaml has no path /v1/flight-delays; write it: ./larder openapi --write"
    )


def named(key: str, prefix: str, name: str | None = None) -> dict[str, Dataset]:
    """Build a dataset under a key."""
    return {
        key: replace(FLIGHTS, served=FLIGHTS.served._replace(name=name or key), source=replace(SOURCE, prefix=prefix))
    }


TOGETHER: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    (named("a", "x/") | named("b", "y/"), []),
    (
        named("a", "x/") | named("b", "x/"),
        [
            ("a source.prefix", "'x/' also contains the outputs of b"),
            ("b source.prefix", "also contains the outputs of a"),
        ],
    ),
    (
        named("a", "x/y/") | named("b", "x/"),
        [("b source.prefix", "'x/' also contains the outputs of a, whose prefix is 'x/y/'; move one of them")],
    ),
    (named("a", "x/") | named("b", "xy/"), []),
    (named("a-b", "x/") | named("A_b", "y/"), [("A_b", "the name differs from 'a-b' only in case, - and _")]),
    ({"a": FLIGHTS.source}, [("a", "of type Source; expected Dataset")]),
    ({"a": replace(FLIGHTS, served=build(str, "a"))}, [("a served", "is 'a', of type str; expected Served")]),
]


@pytest.mark.parametrize(("datasets", "expected"), TOGETHER, ids=range(len(TOGETHER)))
def test_mistakes_that_several_datasets_make_together(
    datasets: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    """Prefixes that overlap, keys that are not the name, and names with one model in openapi.yaml."""
    found = check_datasets(datasets, None)
    assert [each.place for each in found] == [place for place, _ in expected]
    for mistake, (_, message) in zip(found, expected, strict=True):
        assert message in str(mistake)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            FLIGHTS.served._replace(subject=build(str, "carrier")),
            "served.subject: is 'carrier', of type str; expected a tuple",
        ),
        (build(str, "x"), "served: is 'x', of type str; expected Served"),
    ],
)
def test_wrong_types_of_the_reader_are_found(read: Any, message: str) -> None:
    """Who can read a dataset is checked like the rest of it."""
    found = check_datasets({"flight-delays": replace(FLIGHTS, served=read)}, None)[0]
    assert message in str(found)


def test_every_literal_of_the_definition_is_checked() -> None:
    """Each option with a literal type is checked by its hint: a wrong word or type is found, also for new options."""
    parts: dict[str, Any] = {
        "": FLIGHTS,
        "source": SOURCE,
        "tolerated": FLIGHTS.tolerated,
        "as_of": FLIGHTS.as_of,
        "served": FLIGHTS.served,
        "metadata.x": FLIGHTS.metadata["airlines"],
        "derive": Derive(lambda frame: frame, {"x": "date"}),
    }
    for place, part in parts.items():
        for field in getattr(part, "_fields", None) or [each.name for each in fields(part)]:
            wrong = part._replace(**{field: object()}) if place == "served" else replace(part, **{field: object()})
            where = place.partition(".")[0]
            change: Any = {where: {"x": wrong} if where == "metadata" else wrong}
            whole = replace(FLIGHTS, **change) if place else wrong
            (found,) = find_type_mistakes("name", whole, Dataset)
            assert found.place == f"name {place}.{field}".replace(" .", " ")


def test_a_run_refuses_a_value_of_a_wrong_type() -> None:
    """If `check` was not run, a misspelled policy must not act as another one."""
    require_types(FLIGHTS)
    with pytest.raises(DatasetMistakes, match=r"metadata.airlines.missing: is 'ignore'; known are drop, fail"):
        require_types(replace(FLIGHTS, **airlines(missing="ignore")))


def test_a_todo_that_is_left_in_openapi_is_found() -> None:
    """Once, if both paths refer to it; but not in the parts of other datasets."""
    reference = {"$ref": "#/components/schemas/Body"}
    body = {"properties": {"a": {"description": "TODO say what it is"}, "b": {"items": reference}}}
    path = "/v1/flight-delays"
    document = {
        "paths": {
            path: {"get": reference},
            f"{path}/{{prediction_id}}": {"get": reference},
            "/v1/other": {"a": "TODO"},
        },
        "components": {"schemas": {"Body": body, "Other": {"description": "TODO"}}},
    }
    (found,) = check_dataset(FLIGHTS, document)
    assert str(found).startswith("flight-delays: openapi.yaml, components.schemas.Body.properties.a: a TODO is left")


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
    """Summer time is considered; an offset in the key takes precedence."""
    assert parse_as_of(FromKey("day={}", zone=zone), f"x/day={text}/a") == as_of


@pytest.mark.parametrize(
    ("pattern", "object_key", "message"),
    [
        ("scored={}", "x/a.parquet", "does not match the pattern 'scored={}'"),
        ("scored={}", "x/scored=/a", "does not match the pattern"),
        ("scored={}", "x/scored=today/a", "'today' is neither a date"),
        ("scored={}", "x/scored=2026-13-01/a", "'2026-13-01' is neither a date"),
        ("date={}", "x/train_date=2026-11-20/a", "does not match the pattern"),
        ("dt={}/hour={hour}", "x/dt=2026-11-20/hour=24/a", "'2026-11-20 hour 24' is neither a date"),
        ("{year}/{month}/{day}", "x/2026/02/30/a", "'year 2026 month 02 day 30' is neither a date"),
        ("{year}{month}{day}", "x/2026112/a", "does not match the pattern"),
        ("day={}", "day=2026-11-20/day=2026-11-21/a", "2 different dates"),
    ],
)
def test_a_key_without_as_of_is_an_error_that_names_it(pattern: str, object_key: str, message: str) -> None:
    """If the key does not say when the output was made, nothing is guessed."""
    with pytest.raises(BadAsOf, match="object key") as error:
        parse_as_of(FromKey(pattern), object_key)
    assert message in str(error.value)
