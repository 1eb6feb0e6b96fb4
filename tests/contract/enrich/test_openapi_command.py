"""What `./larder openapi` writes about a dataset: types and nulls of its expressions, in the style of the file."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import openapi_spec_validator
import pytest
import yaml
from openapi_schema_validator import OAS30Validator

from enrich.__main__ import main
from enrich.dataset.definition import Dataset, FromKey, Member, Metadata, Source
from enrich.dataset.mistakes import DatasetMistakes
from enrich.datasets import load_datasets
from enrich.join.engine import Engine
from enrich.openapi.document import build_document
from enrich.openapi.schema import UNKNOWN, build_example, build_schema, describe_body, find_unknown
from infra.gateway import write_contract
from serve.datasets import Served

DATASETS = load_datasets()
FILE = Path(__file__).parents[3] / "examples/flights/openapi.yaml"
TEXT = FILE.read_text()
DOCUMENT: dict[str, Any] = yaml.load(TEXT, yaml.CSafeLoader)
WRITE = "run `./larder openapi --write`"
TODO = {"description": UNKNOWN}


def build(body: dict[str, Any], **changes: Any) -> Dataset:
    """Build a dataset with a column of each type, with metadata that can be missing and metadata that can't."""
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
    """Types are those that DuckDB binds; a member is not nullable only if a row with null would be rejected."""
    assert members[expression] == schema


def test_what_is_omitted_is_not_required() -> None:
    """If a dataset omits nulls, only members that are never null are required; large integers can be strings."""
    dataset = build({"o": {"sku": "sku", "big": "big"}}, nulls="omit", large_integers="string")
    members = {"sku": {"type": "string"}, "big": {"type": "string"}}
    inner = {"type": "object", "required": ["sku"], "properties": members}
    assert build_schema(dataset) == {"type": "object", "required": ["o"], "properties": {"o": inner}}


def test_what_is_not_known_is_named() -> None:
    """Each place that only the author of the dataset can describe is listed, including lists and structs."""
    dataset = build({"t": "must.title", "n": {"j": "doc", "s": "sku"}, "l": "[doc]", "s": "{'x': doc}"})
    assert find_unknown(build_schema(dataset)) == ["body.t", "body.n.j", "body.l[]", "body.s.x"]


def test_the_example_fits(tmp_path: Path) -> None:
    """The example is valid for its schema, and so are bodies that the engine renders, with all values or only nulls."""
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


def test_the_version_of_the_model_is_described_as_the_member() -> None:
    """In entries with the member's type, or null; as a header of one item. A dataset that names none has neither."""
    for body, name, kind in (
        ({"model": {"version": "sku"}}, "model.version", {"type": "string", "nullable": True}),
        ({"n": "n"}, "n", {"type": "integer", "nullable": True}),
        ({"day": "day"}, "day", {"type": "string", "format": "date", "nullable": True}),
        ({"sku": "sku"}, None, None),
    ):
        document = yaml.safe_load(build_document([build(body, model_version=name)]))
        openapi_spec_validator.validate(document)
        page = document["components"]["schemas"]["XSalesPage"]["properties"]
        headers = document["paths"]["/v1/x-sales/{prediction_id}"]["get"]["responses"]["200"]["headers"]
        assert ("Larder-Model-Version" in headers) == (name is not None)
        for entries in (page["items"]["items"], page["too_old"]["items"]):
            assert ("model_version" in entries["required"]) == (name is not None)
            described = entries["properties"].get("model_version")
            assert described == (kind and {**kind, "description": f"`{name}` of the body; null if the body has none"})


def test_a_dataset_more_adds_its_part_and_nothing_else() -> None:
    """With one more dataset the document is valid and has one more tag, two paths and two schemas; also without any."""
    more = build({"a": {"b": "units"}, "t": "must.title"})
    document = yaml.safe_load(build_document([*DATASETS.values(), more]))
    openapi_spec_validator.validate(document)
    assert set(document["paths"]) - set(DOCUMENT["paths"]) == {"/v1/x-sales", "/v1/x-sales/{prediction_id}"}
    schemas = document["components"]["schemas"]
    assert set(schemas) - set(DOCUMENT["components"]["schemas"]) == {"XSalesPage", "XSalesBody"}
    assert schemas["XSalesBody"]["example"] == {"a": {"b": 1.5}, "t": None}
    operations = [
        operation["operationId"]
        for path_item in document["paths"].values()
        for operation in path_item.values()
        if isinstance(operation, dict) and "operationId" in operation
    ]
    assert len(operations) == len(set(operations))
    for name in ("paths", "tags"):
        assert [one for one in document[name] if one in DOCUMENT[name]] == list(DOCUMENT[name])
    none = yaml.safe_load(build_document([]))
    openapi_spec_validator.validate(none)
    assert list(none["paths"]) == ["/v1/health", "/{proxy+}"]


def test_the_contract_of_the_example_is_written(tmp_path: Path) -> None:
    """After a change of the example: LARDER_PROJECT=examples/flights ./larder openapi --write."""
    project = tmp_path / "project"
    text = build_document(DATASETS.values())
    assert [path.name for path in write_contract(project, text)] == ["openapi.yaml", "gateway.yaml"]
    assert write_contract(project, text) == []
    for name in ("openapi.yaml", "infra/gateway.yaml"):
        assert (project / name).read_text() == (FILE.parent / name).read_text()


MEMBERS: list[tuple[dict[str, Any], str]] = [
    ({"o.tile": Member("x")}, "the body has no member 'o.tile'; did you mean 'o.title'?"),
    (
        {"n": Member("x", "one")},
        "x-sales members.n: the example 'one' does not have the type of the expression, integer",
    ),
    ({"n": Member("x", 1.5)}, "the example 1.5 does not have the type of the expression, integer"),
    ({"day": Member("x", "yesterday")}, "does not have the type of the expression, date"),
    ({"day": Member("x", "2026-01-02T03:00:00Z")}, "does not have the type of the expression, date"),
]


@pytest.mark.parametrize(("members", "message"), MEMBERS, ids=[message[-20:] for _, message in MEMBERS])
def test_members_that_do_not_fit_the_body(members: dict[str, Member], message: str) -> None:
    """A misspelled place and an example of another type are reported with their place, also by `check`."""
    dataset = build({"o": {"title": "must.title"}, "n": "n", "day": "day"}, members=members)
    with pytest.raises(DatasetMistakes, match=re.escape(message)):
        describe_body(dataset)


def test_check_finds_what_the_contract_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A contract that is missing or stale, a member without a type, an unknown member; then nothing."""
    monkeypatch.setenv("LARDER_PROJECT", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    path = tmp_path / "datasets" / "flight_delays.py"
    text = (FILE.parent / "datasets" / "flight_delays.py").read_text()

    def run(*words: str, source: str = text) -> tuple[int, str]:
        path.write_text(source)
        code = main(words)
        return code, "".join(capsys.readouterr())

    code, said = run("check")
    assert (code, said) == (1, f"{tmp_path}/openapi.yaml: there is no such file; {WRITE}\n")
    assert run("openapi", "--write") == (0, f"wrote {tmp_path}/openapi.yaml\nwrote {tmp_path}/infra/gateway.yaml\n")
    assert run("check") == (0, "flight-delays: no mistakes found\n")
    stale = text.replace("degrees north", "degrees")
    for words in (["check"], ["check", "flight-delays"]):
        assert run(*words, source=stale) == (1, f"{tmp_path}/openapi.yaml: is stale; {WRITE}\n")
    assert "body has no member 'flght'" in run("check", source=text.replace('"flight": Member', '"flght": Member'))[1]
    untyped = text.replace(', "JetBlue Airways"', "")
    assert "body.carrier.name: has no known type; add 'carrier.name': Member(" in run("check", source=untyped)[1]
    code, said = run("check", source=text + "\n)")
    assert (code, f"{path}:" in said) == (1, True)
    code, said = run("check", "--json", source=text + "\n)")
    assert [mistake["place"] for mistake in json.loads(said)] == [f"{path}:{text.count(chr(10)) + 2}"]
    assert json.loads(run("check", "--json")[1]) == []
    (tmp_path / "openapi.yaml").unlink()
    code, said = run("check", "--json", "flight-delays")
    assert (code, json.loads(said)[0]["message"]) == (1, "there is no such file")


def test_what_members_mean_is_in_the_contract() -> None:
    """Descriptions and examples are those of the dataset; an example gives the type if metadata hides it."""
    members = {
        "": Member("one product"), "o": Member("its names"), "o.title": Member("as printed", "Tea"),
        "a.b": Member("a dot in a name", 2), "city": Member("where"),
    }  # fmt: skip
    body = {"o": {"title": "must.title", "sku": "sku"}, "a.b": "units", "city": "may.city"}
    schema = describe_body(build(body, members=members))
    assert (schema["description"], schema["properties"]["o"]["description"]) == ("one product", "its names")
    title = {"type": "string", "nullable": True, "description": "as printed"}
    assert schema["properties"]["o"]["properties"]["title"] == title
    assert schema["properties"]["a.b"]["description"] == "a dot in a name"
    assert schema["example"] == {"o": {"title": "Tea", "sku": "sku"}, "a.b": 2, "city": None}
    assert find_unknown(schema) == ["body.city"]


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_what_openapi_says_agrees_with_the_expressions(dataset: Dataset) -> None:
    """Whatever the author wrote about a member, its type is that of its expression."""
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
