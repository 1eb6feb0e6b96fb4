"""The writer and boto3 leave the same table: a differential test over the stand-in, with real HTTP and signing."""

import random
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from enrich.write.item_size import gzip
from enrich.write.writer import Writer
from serve.item import Item, Order, body_text, decode
from wire.credentials import find_source
from wire.endpoint import resolve
from wire.transport import Transport

OLDER, OURS, NEWER = Order(1, 1000, 1), Order(1, 2000, 2), Order(1, 3000, 3)
EXPIRES = int(time.time()) + 86_400
LETTERS = 'abc"\\/\u2028\u00e9\U0001f6eb\x7f \n'


def rows_of(count: int) -> Iterator[Any]:
    """Build rows of all kinds: small, over a unit, large, any Unicode, tombstones."""
    rng = random.Random(7)
    for row in range(count):
        size = rng.choice([0, 10, 400, 400, 400, 2000, 60_000])
        body = None if row % 29 == 0 else "".join(rng.choices(LETTERS, k=size))
        rank = None if body is None or row % 3 else f"tag:1{row % 7}:id-{row}"
        item = {"pk": f"d#{rng.randint(0, 5)}", "sk": f"id-{row}", "body": body, "rank": rank}
        yield {**item, "row": row, "entries": int(rank is not None)}


def scan(client: Any, table: Any) -> Any:
    """Return every item of a table by its key."""
    pages = client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    items = [decode(item) for page in pages for item in page["Items"]]
    return {(item.pk, item.sk): item for item in items}


@pytest.fixture
def writer_of(aws: Any) -> Iterator[Any]:
    env = {**aws.env, "AWS_ENDPOINT_URL": aws.endpoint}
    transport = Transport(resolve("dynamodb", aws.region, env), find_source(env), connections=4)
    yield lambda table: Writer(transport, table, clock=time.monotonic, random=random.random)
    transport.close()


def test_batches_leave_the_table_that_boto3_leaves(aws: Any, writer_of: Any) -> None:
    """Items written in batches equal, attribute by attribute, those that boto3 writes from the same rows."""
    client, ours, theirs = aws.client("dynamodb"), aws.table(), aws.table()
    rows = list(rows_of(400))
    writer = writer_of(ours)
    writer.put(pa.Table.from_pylist(rows), order=OURS, expires_at=EXPIRES, conditional=False)
    assert writer.flush().written == 400
    stored = scan(client, ours)
    for row in rows:
        item = {"pk": {"S": row["pk"]}, "sk": {"S": row["sk"]}, "o": {"S": OURS.text}, "e": {"N": str(EXPIRES)}}
        if row["body"] is not None:
            packed = isinstance(stored[row["pk"], row["sk"]].body, bytes)
            item["b"] = {"B": gzip(row["body"])} if packed else {"S": row["body"]}
        if row["rank"] is not None:
            item["r"] = {"S": row["rank"]}
        client.put_item(TableName=theirs, Item=item)
    assert stored == scan(client, theirs)
    assert any(isinstance(item.body, bytes) for item in stored.values())
    texts = {key: None if item.body is None else body_text(item.body) for key, item in stored.items()}
    assert texts == {(row["pk"], row["sk"]): row["body"] for row in rows}


def test_conditional_puts_leave_the_newer_items(aws: Any, writer_of: Any) -> None:
    """Over a table with older, equal and newer items, only the newer ones stay, and their rows are returned."""
    client, table = aws.client("dynamodb"), aws.table()
    rows: list[dict[str, Any]] = [
        {"pk": "d#1", "sk": str(row), "body": "{}", "rank": f"tag:1:{row}", "row": row, "entries": 1}
        for row in range(40)
    ]
    for row in rows[:30]:
        order = (OLDER, OURS, NEWER)[row["row"] % 3]
        item = {"pk": {"S": "d#1"}, "sk": {"S": row["sk"]}, "o": {"S": order.text}, "e": {"N": str(EXPIRES)}}
        client.put_item(TableName=table, Item={**item, "b": {"S": "before"}})
    writer = writer_of(table)
    writer.put(pa.Table.from_pylist(rows), order=OURS, expires_at=EXPIRES, conditional=True)
    written = writer.flush()
    assert (written.written, written.superseded) == (30, 10)
    assert sorted(written.superseded_rows) == list(range(2, 30, 3))
    stored = scan(client, table)
    for number in range(40):
        kept = number < 30 and number % 3 == 2  # an equal order is our own earlier write, with another body perhaps
        order = NEWER if kept else OURS
        body, rank = ("before", None) if kept else ("{}", f"tag:1:{number}")
        assert stored["d#1", str(number)] == Item("d#1", str(number), body, order.text, EXPIRES, rank)
