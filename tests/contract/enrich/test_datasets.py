"""Every dataset has no mistakes; what enrich writes has the key that serve reads and the shape of the contract."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from openapi_schema_validator import OAS30Validator

from enrich.dataset.definition import Body, Dataset
from enrich.dataset.json_sql import TIMESTAMPS, identifier, literal
from enrich.dataset.validation import check_datasets, parse_query, read_document
from enrich.datasets import load_datasets
from enrich.join.engine import Engine
from serve.access import build_partition
from serve.datasets import Served
from serve.item import PREDICTION_ID

DATASETS = load_datasets()
DOCUMENT = read_document(Path(__file__).parents[3] / "examples/flights/openapi.yaml")
EACH = pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)

# SQL of the n-th value of each type; for any other scalar type it is n itself
SAMPLES = {
    "date": "date '2026-01-02' + {n}",
    "time": "time '03:00:00' + interval {n} minute",
    "time with time zone": "(time '03:00:00' + interval {n} minute)::timetz",
    "interval": "interval {n} day",
    "boolean": "true",
    "uuid": "uuid '00000000-0000-0000-0000-{n:012d}'",
    "varchar": "'Ab{n}'",
    "blob": "'Ab{n}'::blob",
    "bit": "'1{n:b}'::bit",
    "timestamp with time zone": "timestamptz '2026-01-02 03:00:00Z' + interval {n} hour",
    **dict.fromkeys(TIMESTAMPS - {"timestamp with time zone"}, "timestamp '2026-01-02 03:00:00' + interval {n} hour"),
}


def sample_sql(kind: Any, n: int) -> str:
    """Build the SQL of the n-th value of a type, through lists, structs, maps and unions."""
    name = kind.id
    if str(kind).upper() == "JSON":
        return f"""'{{"n": {n}}}'::json"""
    parts = list(kind.children) if name in {"list", "array", "struct", "map", "union", "enum", "decimal"} else []
    if name in {"list", "array"}:
        size = dict(parts).get("size", 1)
        text = f"[{', '.join([sample_sql(dict(parts)['child'], n)] * size)}]"
    elif name == "struct":
        text = f"struct_pack({', '.join(f'{identifier(part)} := {sample_sql(inner, n)}' for part, inner in parts)})"
    elif name == "map":
        text = f"map([{sample_sql(dict(parts)['key'], n)}], [{sample_sql(dict(parts)['value'], n)}])"
    elif name == "union":
        text = f"union_value({identifier(parts[0][0])} := {sample_sql(parts[0][1], n)})"
    elif name == "enum":
        values = dict(parts)["values"]
        text = literal(values[n % len(values)])
    elif name == "decimal":
        room = dict(parts)["precision"] - dict(parts)["scale"]
        text = str(n % 10**room) if room else "0"
    else:
        text = SAMPLES.get(name, "{n}").format(n=n)
    return f"cast({text} as {kind})"


def sample(dataset: Dataset) -> pa.Table:
    """Build one prediction with a different value in every column."""
    with duckdb.connect() as con:
        con.execute("set TimeZone='UTC'")
        columns = dataset.source.columns
        kinds = {name: con.sql(f"select cast(null as {kind})").types[0] for name, kind in columns.items()}
        values = [f"{sample_sql(kind, n)} as {identifier(name)}" for n, (name, kind) in enumerate(kinds.items(), 1)]
        return con.sql(f"select {', '.join(values)}").to_arrow_table()


def nothing(dataset: Dataset) -> dict[str, pa.Table]:
    """Build empty metadata; its columns have no type, as if nothing were known of them."""
    tables = {}
    for name, metadata in dataset.metadata.items():
        columns = parse_query(metadata.sql)
        assert columns is not None, f"{name}: name the columns, for `*` hides them from this test"
        tables[name] = pa.table({column: pa.nulls(0) for column in columns})
    return tables


def test_no_dataset_has_a_mistake() -> None:
    """openapi.yaml has every dataset, and every expression and query is sound."""
    assert [str(mistake) for mistake in check_datasets(DATASETS, DOCUMENT)] == []


def key_of_columns(dataset: Dataset, directory: Path) -> str:
    """Return the partition key that enrich gives the sample."""
    with Engine(dataset, nothing(dataset), directory=directory) as engine:
        (row,) = engine.render(sample(dataset), 0).to_pylist()
    assert PREDICTION_ID.match(row["sk"])
    assert row["reason"] in {None, "missing-metadata", "missing-metadata-fatal"}
    return str(row["pk"])


def key_of_claims(dataset: Dataset, served: Served) -> str:
    """Return the partition key that serve reads for a token whose claims have the sample's values."""
    with duckdb.connect() as con:
        con.execute("set TimeZone='UTC'")
        con.register("chunk", sample(dataset))
        claims = {
            claim: str(con.sql(f"select cast({sql} as varchar) from chunk").fetchall()[0][0])
            for claim, sql in dataset.subject.items()
        }
    assert len(set(claims.values())) == len(claims), f"a swap of claims would not be seen: {claims}"
    return build_partition(claims, served)


@EACH
def test_the_item_key_from_columns_equals_the_one_from_claims(dataset: Dataset, tmp_path: Path) -> None:
    """A token whose claims have the values of the subject's expressions reads the items of exactly these rows."""
    assert key_of_columns(dataset, tmp_path) == key_of_claims(dataset, dataset.served)


TYPES = (
    "varchar[]", "integer[][]", "double[3]", "struct(a integer, b varchar[])", "struct(a struct(b date))[]",
    "map(varchar, integer)", "map(varchar, struct(x double, y timestamp)[])", "enum('a', 'b')", "decimal(4, 3)",
    "decimal(3, 3)", "decimal(38, 9)", "json", "blob", "time", "uuid", "uuid[]", "boolean[]", "hugeint", "uhugeint",
    "utinyint", "float", "timestamp_ns", "timestamp_s", "timestamp_ms", "timestamptz[]", "date[]", "json[]",
)  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_a_column_of_any_type_can_be_sampled_and_rendered(kind: str, tmp_path: Path) -> None:
    """These tests must not fail for a valid dataset: columns can be lists, structs and maps, also nested."""
    flights = DATASETS["flight-delays"]
    source = replace(flights.source, columns={**flights.source.columns, "more": kind})
    dataset = replace(flights, source=source, metadata={}, body={"more": "more"}, guards=(), model_version=None)
    assert check_datasets({dataset.name: dataset}, DOCUMENT) == []
    with Engine(dataset, {}, directory=tmp_path) as engine:
        (row,) = engine.render(sample(dataset), 0).to_pylist()
    assert row["reason"] is None, row
    assert json.loads(row["body"])["more"] not in (None, [], {})
    assert key_of_columns(dataset, tmp_path) == key_of_claims(dataset, dataset.served)


def test_a_swap_of_claims_is_found(tmp_path: Path) -> None:
    """The order of the mapping does not matter; if writer and reader have different orders, the keys differ."""
    flights, expressions = DATASETS["flight-delays"], {"origin": "origin", "carrier": "carrier"}
    served = flights.served._replace(subject=("carrier", "origin"))
    dataset = replace(flights, served=served, subject=expressions)
    assert list(dataset.subject) != list(served.subject)
    assert key_of_columns(dataset, tmp_path) == key_of_claims(dataset, served) == "flight-delays#Ab2#Ab4"
    assert check_datasets({dataset.name: dataset}, DOCUMENT) == []

    swapped = served._replace(subject=("origin", "carrier"))
    assert key_of_columns(dataset, tmp_path) != key_of_claims(dataset, swapped)


@EACH
def test_the_body_has_the_shape_that_openapi_promises(dataset: Dataset) -> None:
    """The members of the body are those of its schema, required unless nulls are omitted, at every level."""
    answer = DOCUMENT["paths"][f"/v1/{dataset.name}/{{prediction_id}}"]["get"]["responses"]["200"]
    schema = answer["content"]["application/json"]["schema"]
    assert differences(schema, dataset.body, omits=dataset.nulls == "omit") == []


@EACH
def test_the_example_in_openapi_is_a_body(dataset: Dataset) -> None:
    """The example conforms to the schema, which shows that the schema is realistic."""
    answer = DOCUMENT["paths"][f"/v1/{dataset.name}/{{prediction_id}}"]["get"]["responses"]["200"]
    schema = resolve(answer["content"]["application/json"]["schema"])
    example = schema.get("example") or answer["content"]["application/json"]["example"]
    OAS30Validator(json.loads(json.dumps({**DOCUMENT, **schema}))).validate(example)


def resolve(schema: Any) -> Any:
    """Follow references within the document."""
    while "$ref" in schema:
        found: Any = DOCUMENT
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        schema = found
    return schema


def differences(schema: Any, body: Body, *, omits: bool, place: str = "body") -> list[str]:
    """Find where a schema does not have exactly the members of a body; an expression can also be an object."""
    schema = resolve(schema)
    properties, required = schema.get("properties", {}), set(schema.get("required", []))
    found = []
    if set(properties) != set(body):
        found.append(f"{place}: openapi.yaml has {sorted(properties)}, the dataset {sorted(body)}")
    elif required != set(body) and not (omits and required <= set(body)):
        found.append(f"{place}: {sorted(set(body) - required)} are always there, so openapi.yaml has to require them")
    for name, member in body.items():
        if not isinstance(member, str) and name in properties:
            found += differences(properties[name], member, omits=omits, place=f"{place}.{name}")
    return found
