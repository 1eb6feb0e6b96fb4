"""What `python -m enrich openapi` says of a dataset: types and nulls of its expressions, in the style of the file."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import openapi_spec_validator
import pytest
import yaml
from openapi_schema_validator import OAS30Validator

from enrich.dataset.definition import Dataset, FromKey, Metadata, Source
from enrich.datasets import DATASETS
from enrich.join.engine import Engine
from enrich.openapi.document import ANCHORS, NoPlace, build_contract, insert_contract, write_contract
from enrich.openapi.paths import PATHS
from enrich.openapi.schema import UNKNOWN, build_example, build_schema, find_unknown
from serve.datasets import Served

FILE = Path(__file__).parents[3] / "openapi.yaml"
TEXT = FILE.read_text()
DOCUMENT: dict[str, Any] = yaml.safe_load(TEXT)
TODO = {"description": UNKNOWN}


def build(body: dict[str, Any], **changes: Any) -> Dataset:
    """Build a dataset of a column per type, with metadata that may be missing and metadata that may not."""
    columns = {
        "region": "varchar", "sku": "varchar", "day": "date", "made": "timestamptz", "units": "double", "n": "integer",
        "big": "bigint", "flag": "boolean", "price": "decimal(9,2)", "id": "uuid", "raw": "blob", "doc": "json",
        "kind": "enum('a','b')", "tags": "varchar[]", "pair": "integer[2]", "spot": "struct(lat double, lon double)",
        "counts": "map(varchar, integer)", "clock": "time",
    }  # fmt: skip
    arguments: dict[str, Any] = {
        "served": Served("x-sales", ("region",), "x-sales:read"),
        "source": Source(prefix="x/", format="parquet", columns=columns),
        "as_of": FromKey("made={}"),
        "ttl": timedelta(days=1),
        "metadata": {
            "must": Metadata("select sku, title, cast(price as double) as price from a.b", on="sku"),
            "may": Metadata("select n, cast(seats as integer) as seats, city from a.c", on="n", missing="null"),
        },
        "subject": {"region": "region"},
        "prediction_id": "concat(day, '.', sku)",
        "body": body,
    }
    return Dataset(**arguments | changes)


CASES: dict[str, dict[str, Any]] = {
    "day": {"type": "string", "format": "date"},
    "sku": {"type": "string"},
    "REGION": {"type": "string"},
    "made": {"type": "string", "format": "date-time", "nullable": True},
    "units": {"type": "number", "nullable": True},
    "n": {"type": "integer", "nullable": True},
    "big": {"type": "integer", "nullable": True},
    "flag": {"type": "boolean", "nullable": True},
    "price": {"type": "number", "nullable": True},
    "id": {"type": "string", "format": "uuid", "nullable": True},
    "raw": {"type": "string", "format": "byte", "nullable": True},
    "clock": {"type": "string", "nullable": True},
    "kind": {"type": "string", "nullable": True},
    "'a'::enum('a', 'b')": {"type": "string", "enum": ["a", "b"]},
    "tags": {"type": "array", "items": {"type": "string", "nullable": True}, "nullable": True},
    "pair": {
        "type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer", "nullable": True}, "nullable": True,
    },
    "counts": {"type": "object", "nullable": True},
    "doc": TODO,
    "must.title": TODO,
    "may.city": TODO,
    "must.price": {"type": "number", "nullable": True},
    "may.seats": {"type": "integer", "nullable": True},
    "round(units * must.price, 2)": {"type": "number", "nullable": True},
    "round(may.city, 1)": {"type": "number", "nullable": True},
    "concat(must.title, may.city)": {"type": "string"},
    "upper(sku)": {"type": "string"},
    "upper(must.title)": {"type": "string", "nullable": True},
    "coalesce(units, 0)": {"type": "number"},
    "coalesce(must.price, units)": {"type": "number", "nullable": True},
    "sku || may.city": {"type": "string", "nullable": True},
    "day - 1": {"type": "string", "format": "date"},
    "day::timestamp": {"type": "string", "format": "date-time"},
    "try_cast(sku as integer)": {"type": "integer", "nullable": True},
    "units is null": {"type": "boolean"},
    "'x'": {"type": "string"},
    "null": TODO,
    "nullif(sku, 'x')": {"type": "string", "nullable": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def members() -> Any:
    """The schemas of all cases, as members of one body."""
    return build_schema(build({expression: expression for expression in CASES}))["properties"]


@pytest.mark.parametrize(("expression", "schema"), CASES.items(), ids=CASES)
def test_the_schema_of_an_expression(members: Any, expression: str, schema: dict[str, Any]) -> None:
    """Types are those that DuckDB binds; a null is promised not to come only where a row with it is rejected."""
    assert members[expression] == schema


def test_what_is_omitted_is_not_required() -> None:
    """A dataset that leaves nulls out requires what is never null; large integers that are strings are strings."""
    dataset = build({"o": {"sku": "sku", "big": "big"}}, nulls="omit", large_integers="string")
    members = {"sku": {"type": "string"}, "big": {"type": "string"}}
    inner = {"type": "object", "required": ["sku"], "properties": members}
    assert build_schema(dataset) == {"type": "object", "required": ["o"], "properties": {"o": inner}}


def test_what_is_not_known_is_named() -> None:
    """Whoever adds a dataset is told each place of which only they know what it is, lists and structs included."""
    dataset = build({"t": "must.title", "n": {"j": "doc", "s": "sku"}, "l": "[doc]", "s": "{'x': doc}"})
    assert find_unknown(build_schema(dataset)) == ["body.t", "body.n.j", "body.l[]", "body.s.x"]


def test_the_example_fits(tmp_path: Path) -> None:
    """The example is valid for its schema, and so are bodies that the engine renders, full and full of nulls."""
    columns = ["sku", "day", "made", "units", "n", "big", "flag", "price", "id", "raw", "kind", "tags", "pair", "spot"]
    dataset = build({name: name for name in [*columns, "counts", "clock"]}, metadata={})
    schema = build_schema(dataset)
    OAS30Validator(schema).validate(build_example(schema))
    values = {
        "region": "'r'", "sku": "'s'", "day": "date '2026-01-02'", "made": "timestamptz '2026-01-02 03:00Z'",
        "kind": "'a'", "tags": "[null, 'a']", "pair": "[1, null]", "spot": "{'lat': 1.5, 'lon': null}",
        "counts": "map {'a': 1}", "clock": "time '03:00'", "raw": "'a'::blob", "id": "uuid()", "flag": "true",
    }  # fmt: skip
    nothing = dict.fromkeys(set(dataset.columns) - {"region", "sku", "day"}, "null")
    chosen = [
        ", ".join(f'cast({row.get(name, 1)} as {kind}) as "{name}"' for name, kind in dataset.columns.items())
        for row in (values, values | nothing)
    ]
    with duckdb.connect() as con, Engine(dataset, {}, directory=tmp_path) as engine:
        con.execute("set TimeZone='UTC'")
        chunk = con.sql(" union all ".join(f"select {row}" for row in chosen)).to_arrow_table()
        rows = engine.render(chunk, 0).to_pylist()
    for row in rows:
        assert row["reason"] is None, row
        OAS30Validator(schema).validate(json.loads(row["body"]))


def test_the_file_with_a_dataset_more_is_valid_and_else_the_same(tmp_path: Path) -> None:
    """Writing adds lines and takes none away; the document is valid and has the tag, two paths and two schemas more."""
    path = tmp_path / "openapi.yaml"
    path.write_text(TEXT)
    contract = build_contract(build({"a": {"b": "units"}, "t": "must.title"}))
    assert write_contract(path, contract)
    after = path.read_text()
    added = after
    for part in contract.parts.values():
        assert added.count(part) == 1
        added = added.replace(part, "")
    assert added == TEXT
    document = yaml.safe_load(after)
    openapi_spec_validator.validate(document)
    assert set(document["paths"]) - set(DOCUMENT["paths"]) == {"/v1/x-sales", "/v1/x-sales/{prediction_id}"}
    assert set(document["components"]["schemas"]) - set(DOCUMENT["components"]["schemas"]) == {
        "XSalesPage",
        "XSalesBody",
    }
    assert document["components"]["schemas"]["XSalesBody"]["example"] == {"a": {"b": 1.5}, "t": None}
    operations = [
        operation["operationId"]
        for path_item in document["paths"].values()
        for operation in path_item.values()
        if isinstance(operation, dict) and "operationId" in operation
    ]
    assert len(operations) == len(set(operations))
    assert not write_contract(path, contract)
    assert path.read_text() == after


def test_half_a_dataset_is_refused(tmp_path: Path) -> None:
    """With one path there and the other gone, or a line gone that says where to write, nothing is written."""
    contract = build_contract(build({"a": "units"}))
    whole = insert_contract(TEXT, DOCUMENT, contract)
    half = whole.replace("  /v1/x-sales/{prediction_id}:\n", "  /v1/other/{prediction_id}:\n")
    for text, message in [
        (half, r"path /v1/x-sales, tag x-sales.*remove it"),
        *((TEXT.replace(f"{anchor}\n", ""), anchor.strip()) for anchor in ANCHORS.values()),
    ]:
        path = tmp_path / "openapi.yaml"
        path.write_text(text)
        with pytest.raises(NoPlace, match=message):
            write_contract(path, contract)
        assert path.read_text() == text


def test_paths_are_those_of_the_file() -> None:
    """What is written for a dataset is what openapi.yaml says of flight-delays, but for its own names and summaries."""
    made = yaml.safe_load(PATHS.replace("NAME", "flight-delays").replace("MODEL", "FlightDelays"))
    for path, operations in made.items():
        assert _plain(operations) == _plain(DOCUMENT["paths"][path])


def _plain(node: Any) -> Any:
    """Leave out what differs from dataset to dataset."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return "the body" if str(node).startswith("#/components/schemas/FlightDelay") else node
    return {name: _plain(one) for name, one in node.items() if name not in ("operationId", "summary")}


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_what_openapi_says_agrees_with_the_expressions(dataset: Dataset) -> None:
    """Whatever a human wrote of a member, its type is the one that its expression has."""
    schemas = DOCUMENT["components"]["schemas"]
    answer = DOCUMENT["paths"][f"/v1/{dataset.name}/{{prediction_id}}"]["get"]["responses"]["200"]
    stated = answer["content"]["application/json"]["schema"]
    assert _types(stated, schemas, build_schema(dataset)) == []


def _types(stated: Any, schemas: Any, built: Any, place: str = "body") -> list[str]:
    while "$ref" in stated:
        stated = schemas[stated["$ref"].rpartition("/")[2]]
    faults = []
    for name, member in built.get("properties", {}).items():
        faults += _types(stated.get("properties", {}).get(name, {}), schemas, member, f"{place}.{name}")
    if "type" in built and (stated.get("type"), stated.get("format")) != (built["type"], built.get("format")):
        faults.append(f"{place}: {stated.get('type')} is said to be what is {built['type']}")
    return faults
