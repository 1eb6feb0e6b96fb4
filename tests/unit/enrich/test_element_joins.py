"""Metadata of the elements of a list: indexes, policies, nulls, names, types, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from enrich.dataset.definition import Body, Dataset, LastModified, Metadata, Source
from enrich.dataset.mistakes import DatasetMistakes
from enrich.dataset.validation import check_dataset
from enrich.join.engine import Engine, JoinMultiplies
from enrich.openapi.schema import build_schema, find_unknown
from serve.datasets import Served

PRODUCTS = Metadata(
    "select cast(sku as varchar) as sku, cast(title as varchar) as title, cast(price as double) as price from r.p",
    on={"items.sku": "sku"},
    each="items",
    missing="null",
)
BASKETS = Dataset(
    served=Served("baskets", ("shop",), "baskets:read"),
    source=Source(
        prefix="baskets/",
        format="parquet",
        columns={
            "shop": "varchar",
            "id": "varchar",
            "region": "varchar",
            "items": "struct(sku varchar, score double)[]",
            "skus": "varchar[]",
            "codes": "bigint[]",
        },
    ),
    as_of=LastModified(),
    ttl=timedelta(days=1),
    metadata={"products": PRODUCTS},
    subject={"shop": "shop"},
    prediction_id="id",
    body={"items": "[{'sku': item.sku, 'title': products[i].title} for item, i in items]"},
)
ROWS = pa.table({"sku": ["a", "b", "c", None], "title": ["A", 'B "2"', None, "no sku"], "price": [1.5, 2.0, 3.0, 4.0]})
KINDS = {
    "shop": pa.string(),
    "id": pa.string(),
    "region": pa.string(),
    "items": pa.list_(pa.struct([("sku", pa.string()), ("score", pa.float64())])),
    "skus": pa.list_(pa.string()),
    "codes": pa.list_(pa.int64()),
}


def baskets(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """Build a chunk of BASKETS; `items` can be given as skus."""
    full = [{"shop": "s", "id": f"p{n}", **row} for n, row in enumerate(rows)]
    for row in full:
        if row.get("items"):
            row["items"] = [{"sku": sku, "score": 1.0} if isinstance(sku, str) else sku for sku in row["items"]]
    return pa.RecordBatch.from_pylist(full, pa.schema(KINDS))


def render(
    tmp_path: Path, dataset: Dataset, rows: list[dict[str, Any]], metadata: Mapping[str, pa.Table] | None = None
) -> list[dict[str, Any]]:
    """Render one chunk with a new engine."""
    with Engine(dataset, metadata or {"products": ROWS}, directory=tmp_path) as engine:
        rendered: list[dict[str, Any]] = engine.render(baskets(rows), 0).to_pylist()
    return rendered


def bodies(rendered: list[dict[str, Any]]) -> list[Any]:
    """Return the bodies, or the reason of a reject."""
    return [json.loads(row["body"]) if row["body"] else row["reason"] for row in rendered]


def products(**changes: Any) -> dict[str, Metadata]:
    """Return the metadata of BASKETS with changes."""
    return {"products": replace(PRODUCTS, **changes)}


MIXED: list[dict[str, Any]] = [
    {"items": ["b", "a", "b"]},
    {"items": ["a", "?", "c"]},
    {"items": []},
    {"items": None},
    {"items": ["a", None, {"sku": None, "score": 2.0}]},
]
FULL = [("b", 'B "2"'), ("a", "A"), ("b", 'B "2"')]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("null", [FULL, [("a", "A"), ("?", None), ("c", None)], [], None, [("a", "A"), (None, None), (None, None)]]),
        ("reject", [FULL, "missing-metadata", [], None, "missing-metadata"]),
        ("fail", [FULL, "missing-metadata-fatal", [], None, "missing-metadata-fatal"]),
        ("drop", [FULL, [("a", "A"), ("c", None)], [], None, [("a", "A")]]),
    ],
)
def test_each_element_has_its_policy_and_keeps_its_place(tmp_path: Path, missing: Any, expected: list[Any]) -> None:
    """Null and empty lists do not change; a null element and a null key match nothing, as in a flat join."""
    rendered = render(tmp_path, replace(BASKETS, metadata=products(missing=missing)), MIXED)
    found = [
        body if isinstance(body, str) else body["items"] and [(each["sku"], each["title"]) for each in body["items"]]
        for body in bodies(rendered)
    ]
    assert found == expected
    details = [row["detail"] for row in rendered if row["reason"]]
    assert details == (
        [
            "metadata 'products' has no row for this items.sku: element 2 of 'items'",
            "metadata 'products' has no row for this items.sku: element 2 of 'items'",
        ]
        if missing in {"reject", "fail"}
        else []
    )


def test_every_element_dropped_leaves_an_empty_list(tmp_path: Path) -> None:
    """A list from which all elements are dropped is empty, not null, wherever it is used."""
    dataset = replace(BASKETS, metadata=products(missing="drop"), body={"n": "len(items)", "p": "products"})
    assert bodies(render(tmp_path, dataset, [{"items": ["?", None]}])) == [{"n": 0, "p": []}]


CASES: list[tuple[dict[str, Metadata], Body, dict[str, Any], Any]] = [
    # metadata, body, a row, its body
    (
        products(on={"skus": "sku"}, each="skus"),
        {"t": "[each.title for each in products]", "s": "skus"},
        {"skus": ["b", "?", None, "a"]},
        {"t": ['B "2"', None, None, "A"], "s": ["b", "?", None, "a"]},
    ),
    (  # keys of another type: cast per element
        products(on={"cast(codes as varchar)": "sku"}, each="codes"),
        {"t": "[each.title for each in products]"},
        {"codes": [2, 1, None, 9]},
        {"t": ["two", "one", None, None]},
    ),
    (  # one that can fail, and text functions
        products(on={"lower(items.sku)": "sku"}),
        {"t": "[each.title for each in products]"},
        {"items": ["A", "b"]},
        {"t": ["A", 'B "2"']},
    ),
    (  # arithmetic across the list and the prediction's own columns
        products(),
        {"total": "list_sum([products[i].price * item.score for item, i in items])", "best": "products[1].title"},
        {"items": ["a", "b"]},
        {"total": 3.5, "best": "A"},
    ),
    (  # two metadatas of one list, one of another, one flat
        {
            "products": replace(PRODUCTS, missing="drop"),
            "stock": replace(PRODUCTS, sql="select sku, left_over from r.stock"),
            "related": replace(PRODUCTS, each="skus", on={"skus": "sku"}),
            "regions": Metadata("select region, name from r.regions", on="region", missing="null"),
        },
        {
            "items": "[{'t': products[i].title, 'left': stock[i].left_over, 'r': regions.name} for item, i in items]",
            "related": "[each.price for each in related]",
            "region": "regions.name",
        },
        {"items": ["b", "?", "a"], "skus": ["c", "?"], "region": "n"},
        {
            "items": [{"t": 'B "2"', "left": 7, "r": "North"}, {"t": "A", "left": None, "r": "North"}],
            "related": [3.0, None],
            "region": "North",
        },
    ),
    (  # matched by the element and a column of the prediction
        {"local": Metadata("select x", on={"items.sku": "sku", "region": "region"}, each="items", missing="null")},
        {"t": "[each.name for each in local]"},
        {"items": ["a", "b"], "region": "s"},
        {"t": ["a in s", None]},
    ),
]
TABLES = {
    "products": pa.concat_tables([ROWS, pa.table({"sku": ["1", "2"], "title": ["one", "two"], "price": [0.0, 0.0]})]),
    "related": ROWS,
    "stock": pa.table({"sku": ["b"], "left_over": [7]}),
    "regions": pa.table({"region": ["n"], "name": ["North"]}),
    "local": pa.table({"sku": ["a", "a", "b"], "region": ["s", "n", "n"], "name": ["a in s", "a in n", "b in n"]}),
}


@pytest.mark.parametrize(("metadata", "body", "row", "expected"), CASES)
def test_joined_members_are_used_like_a_list(
    tmp_path: Path, metadata: dict[str, Metadata], body: Body, row: dict[str, Any], expected: Any
) -> None:
    """Keys, types, several metadatas and expressions of all kinds."""
    dataset = replace(BASKETS, metadata=metadata, body=body)
    assert bodies(render(tmp_path, dataset, [row], {name: TABLES[name] for name in metadata})) == [expected]


def test_names_with_dots_quotes_and_capitals(tmp_path: Path) -> None:
    """A column, a member, a metadata column and a metadata can have any name that a flat join allows."""
    source = replace(
        BASKETS.source, columns={"shop": "varchar", "id": "varchar", 'My "list".x': 'struct("a.b" varchar)[]'}
    )
    lists = Metadata("select 1", on={'"My ""list"".x"."a.b"': 'k."y"'}, each='My "list".x', missing="drop")
    body = {"out": '[{\'k\': e."a.b", \'v\': "My.meta"[i]."the ""V"""} for e, i in "My ""list"".x"]'}
    dataset = replace(BASKETS, source=source, metadata={"My.meta": lists}, body=body)
    rows = [{"shop": "s", "id": "x", 'My "list".x': [{"a.b": "?"}, {"a.b": "1"}]}]
    kinds = pa.schema([*list(pa.schema(KINDS))[:2], ('My "list".x', pa.list_(pa.struct([("a.b", pa.string())])))])
    table = pa.table({'k."y"': ["1"], 'the "V"': [5]})
    with Engine(dataset, {"My.meta": table}, directory=tmp_path) as engine:
        (found,) = engine.render(pa.RecordBatch.from_pylist(rows, kinds), 0).to_pylist()
    assert json.loads(found["body"]) == {"out": [{"k": "1", "v": 5}]}


def test_an_element_whose_expression_fails_rejects_the_row_and_is_named(tmp_path: Path) -> None:
    """Only its row is rejected; the detail has the expression and the element's index."""
    dataset = replace(BASKETS, metadata=products(on={"cast(skus as integer)": "price"}, each="skus"), body={"id": "id"})
    good, bad = render(tmp_path, dataset, [{"skus": ["1", "2"]}, {"skus": ["1", None, "x"]}])
    assert good["reason"] is None
    assert bad["reason"] == "bad-value"
    assert bad["detail"].endswith("'cast(skus as integer)' fails for this row: element 3 of 'skus'")


def test_metadata_that_matches_an_element_twice_is_refused(tmp_path: Path) -> None:
    """Duplicates are found when the metadata is loaded, as for a flat join."""
    with pytest.raises(JoinMultiplies, match=r"metadata\.products: 2 rows have sku = a, expected one"):
        render(tmp_path, BASKETS, [], {"products": pa.concat_tables([ROWS, ROWS.slice(0, 1)])})


def test_a_body_changes_if_the_metadata_of_an_element_does(tmp_path: Path) -> None:
    """The digest, by which unchanged items are found, depends only on what the body shows of the metadata."""
    other = ROWS.set_column(1, "title", pa.array(["A", "B 3", None, None]))
    unused = ROWS.set_column(2, "price", pa.array([9.0, 9.0, 9.0, 9.0]))
    found = [
        [
            row["digest"]
            for row in render(tmp_path, BASKETS, [{"items": ["a", "b"]}, {"items": ["a"]}], {"products": table})
        ]
        for table in (ROWS, other, unused)
    ]
    assert found[0] == found[2]
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("missing", ["null", "drop"])
def test_thousands_of_random_lists_equal_a_loop_in_python(tmp_path: Path, missing: Any) -> None:
    """Vectors of DuckDB have 2,048 rows: order and indexes must be right across them."""
    chance = random.Random(1)
    known = {f"k{n}": n for n in range(500)}
    rows = [{"skus": [f"k{chance.randrange(700)}" for _ in range(chance.randrange(6))]} for _ in range(5000)]
    table = pa.table({"sku": list(known), "n": list(known.values())})
    metadata = {"products": Metadata("select 1", on={"skus": "sku"}, each="skus", missing=missing)}
    dataset = replace(BASKETS, metadata=metadata, body={"x": "[{'s': s, 'n': products[i].n} for s, i in skus]"})
    found = bodies(render(tmp_path, dataset, rows, {"products": table}))
    assert found == [
        {"x": [{"s": sku, "n": known.get(sku)} for sku in row["skus"] if missing == "null" or sku in known]}
        for row in rows
    ]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"metadata": products(each="itms")}, "metadata.products.each: there is no column 'itms'; did you mean 'items'?"),
    (
        {"metadata": products(each="id", on={"id": "sku"})},
        "each: column 'id' is VARCHAR, expected a list; name a column",
    ),
    (
        {"metadata": products(each="orders.items")},
        "a list within a struct or within another list needs a column of its",
    ),
    ({"metadata": products(each=None), "body": {"x": "id"}}, "add each='items' to match each of its elements"),
    (
        {"metadata": products(each=None, on={"lower(skus)": "sku"}), "body": {"x": "id"}},
        "add each='skus' to match each of its elements",
    ),
    ({"metadata": products(on={"region": "sku"})}, "no expression names the list 'items'"),
    ({"metadata": products(on={"items.nope": "sku"})}, "nope"),
    ({"metadata": products(on={})}, "metadata.products.on: is empty"),
    (
        {"metadata": {"r": Metadata("select region", on="region", missing="drop")}, "body": {"x": "id"}},
        "r.missing: is 'drop'",
    ),
    ({"body": {"x": "products.title"}}, "is a list, with one row for each element; write [each.title for each in"),
    ({"body": {"x": "[each.titel for each in products]"}}, "titel"),
    ({"metadata": products(missing="skip")}, "is 'skip'; known are drop, fail, null, reject"),
    ({"metadata": products(each=["items"])}, "metadata.products.each"),
    *(
        (
            {
                "source": replace(BASKETS.source, columns={**BASKETS.source.columns, "items": kind}),
                "body": {"x": "id"},
                "metadata": products(on={"items": "sku"}),
            },
            message,
        )
        for kind, message in (
            ("varchar[][]", "is VARCHAR[][], a list of lists, expected a list of structs or of keys; flatten it"),
            ("varchar[3]", "expected a list; declare it as a list, without the size"),
        )
    ),
]


@pytest.mark.parametrize(("changes", "expected"), MISTAKES)
def test_a_mistake_is_reported_by_check_with_its_remedy(changes: dict[str, Any], expected: str) -> None:
    """One mistake each, found without AWS."""
    found = check_dataset(replace(BASKETS, **changes))
    assert len(found) == 1, found
    assert expected in str(found[0])


def test_key_types_that_can_not_match_are_refused(tmp_path: Path) -> None:
    """The run knows the actual types: text is not compared with numbers, per element as per row."""
    dataset = replace(BASKETS, metadata=products(on={"codes": "sku"}, each="codes"), body={"id": "id"})
    with pytest.raises(DatasetMistakes, match=r"products\.on: codes is BIGINT and sku is VARCHAR; cast one of them"):
        render(tmp_path, dataset, [])


def test_the_contract_describes_the_joined_members() -> None:
    """Members have the types that the query casts to; one without a type is listed with its place."""
    schema = build_schema(BASKETS)
    member = {"type": "string", "nullable": True}
    assert schema["properties"]["items"] == {
        "type": "array",
        "nullable": True,
        "items": {
            "type": "object",
            "required": ["sku", "title"],
            "properties": {"sku": member, "title": member},
            "nullable": True,
        },
    }
    for sql, unknown in (
        ("select sku, title from r.products", ["body.items[].title"]),
        ("select * from r.products", ["body.items"]),
    ):
        assert find_unknown(build_schema(replace(BASKETS, metadata=products(sql=sql)))) == unknown
        assert check_dataset(replace(BASKETS, metadata=products(sql=sql))) == []
