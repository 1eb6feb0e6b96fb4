"""A first load by ImportTable: what `export` writes is imported under the table's name, and the run finds it there."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from enrich.commands.compare import ComparingTransport
from enrich.errors import Failed
from enrich.intake.find import find_output
from enrich.plan.export import export

ROWS = {
    "shop": ["x", "x", "y", "Ørsted #1", "z"],
    "sku": ["a", "b", "a", "a", None],
    "units": [1.0, 2.5, 3.0, 4.0, 5.0],
}


def export_output(shop: Any, object_key: str, location: str) -> Any:
    services = shop.services()
    output = find_output(services, shop.settings.outputs, object_key)
    assert output is not None
    return export(services, output, location)


def import_table(shop: Any, location: str) -> dict[str, Any]:
    """Do what the runbook says: delete the empty table, and import under its name."""
    dynamodb, name = shop.aws.client("dynamodb"), shop.settings.table
    table = dynamodb.describe_table(TableName=name)["Table"]
    indexes = [
        {member: each[member] for member in ("IndexName", "KeySchema", "Projection")}
        for each in table.get("GlobalSecondaryIndexes", [])
    ]
    dynamodb.delete_table(TableName=name)
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    parameters = {"TableName": name, "BillingMode": "PAY_PER_REQUEST"}
    parameters |= {member: table[member] for member in ("AttributeDefinitions", "KeySchema")}
    begun = dynamodb.import_table(
        S3BucketSource={"S3Bucket": bucket, "S3KeyPrefix": prefix},
        InputFormat="DYNAMODB_JSON",
        InputCompressionType="GZIP",
        TableCreationParameters={**parameters, **({"GlobalSecondaryIndexes": indexes} if indexes else {})},
    )["ImportTableDescription"]
    for _ in range(200):
        found = dynamodb.describe_import(ImportArn=begun["ImportArn"])["ImportTableDescription"]
        if found["ImportStatus"] != "IN_PROGRESS":
            return dict(found)
        time.sleep(0.05)
    pytest.fail("the import does not end")


def scan(shop: Any) -> dict[tuple[str, str], Any]:
    items = shop.aws.client("dynamodb").scan(TableName=shop.settings.table)["Items"]
    return {(item["pk"]["S"], item["sk"]["S"]): item for item in items}


def test_an_imported_table_is_that_of_a_run(shop: Any) -> None:
    """The items are equal, attribute by attribute; the run writes none, and the next one finds all unchanged."""
    object_key, location = f"stock/day={shop.day()}/p.parquet", f"s3://{shop.settings.bucket}/import/1/"
    shop.put(object_key, ROWS)
    done = export_output(shop, object_key, location)
    assert (done.items, done.files, done.run.counts.rejected, scan(shop)) == (4, 1, 1, {})
    assert shop.services().ledger.fetch_runs("stock") == []
    with pytest.raises(Failed, match="has objects"):
        export_output(shop, object_key, location)

    imported = import_table(shop, location)
    assert (imported["ImportStatus"], imported["ImportedItemCount"], imported["ErrorCount"]) == ("COMPLETED", 4, 0)
    before = scan(shop)
    services = shop.services()
    compared = ComparingTransport(services.open_transport(5.0))
    run = shop.run(object_key, open_transport=lambda _timeout: compared)
    assert (run.state, run.counts.written, run.counts.rejected, compared.equal) == ("done", 4, 1, 4)
    assert scan(shop) == before
    again = shop.run(f"stock/day={shop.day()}/q.parquet", ROWS)
    assert (again.counts.written, again.counts.unchanged) == (0, 4)

    shop.aws.client("dynamodb").delete_table(TableName=shop.settings.table)
    shop.aws.client("dynamodb").create_table(
        TableName=shop.settings.table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    shop.run(f"stock/day={shop.day()}/q2.parquet", ROWS)
    names = ("pk", "sk", "b", "e")  # the order has another run
    assert [{name: item[name] for name in names} for _, item in sorted(scan(shop).items())] == [
        {name: item[name] for name in names} for _, item in sorted(before.items())
    ]


def test_what_differs_is_written(shop: Any) -> None:
    """An item that the import lacks, one with another body, one of a newer order and one that expires earlier."""
    object_key, location = f"stock/day={shop.day()}/p.parquet", f"s3://{shop.settings.bucket}/import/1/"
    rows = {"shop": ["x"] * 5, "sku": ["a", "b", "c", "d", "e"], "units": [1.0, 2.0, 3.0, 4.0, 5.0]}
    shop.put_table("products", {"sku": rows["sku"], "title": ["A", "B", "C", "D", "E"]})
    shop.put(object_key, rows)
    export_output(shop, object_key, location)
    import_table(shop, location)
    expected = scan(shop)
    client, table = shop.aws.client("dynamodb"), shop.settings.table
    of = {sk: item for (_, sk), item in expected.items()}
    client.delete_item(TableName=table, Key={"pk": of["a"]["pk"], "sk": of["a"]["sk"]})
    client.put_item(TableName=table, Item={**of["b"], "b": {"S": "{}"}})
    client.put_item(TableName=table, Item={**of["c"], "o": {"S": "9" + of["c"]["o"]["S"][1:]}})
    client.put_item(TableName=table, Item={**of["d"], "e": {"N": "5000000000"}})
    compared = ComparingTransport(shop.services().open_transport(5.0))
    run = shop.run(object_key, open_transport=lambda _timeout: compared)
    assert (run.counts.written, compared.equal) == (5, 1)
    assert scan(shop) == expected


def test_what_can_not_be_exported(shop: Any) -> None:
    object_key = f"stock/day={shop.day()}/p.parquet"
    shop.put(object_key, {**ROWS, "sku": [None] * 5})
    for location in ("s3://bucket/import", "import/1/"):
        with pytest.raises(Failed, match="a prefix that ends with '/'"):
            export_output(shop, object_key, location)
    with pytest.raises(Failed, match="the run would end as failed"):
        export_output(shop, object_key, f"s3://{shop.settings.bucket}/import/2/")


def test_a_second_export_of_a_published_output(shop: Any) -> None:
    """An output that has run is exported in full, as another run of it."""
    object_key = f"stock/day={shop.day()}/p.parquet"
    shop.run(object_key, ROWS)
    done = export_output(shop, object_key, f"s3://{shop.settings.bucket}/import/3/")
    assert (done.items, done.run.kind) == (4, "replay")
    shop.dataset = replace(shop.dataset, body={"units": "units"})
    assert export_output(shop, object_key, f"s3://{shop.settings.bucket}/import/4/").items == 4
