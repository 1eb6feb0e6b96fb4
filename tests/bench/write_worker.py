"""Run one writer: each line on stdin is a number of rows to write; prints CPU, wall time and peak RSS."""
# mypy: disable-error-code="import-not-found,import-untyped,no-any-return"

from __future__ import annotations

import os
import random
import resource
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

ORDER, EXPIRES = "0001.1763640000000.00000012", 1764244800
TABLE = os.environ["BENCH_TABLE"]
Write = Callable[[int], None]


def rows(count: int | None = None) -> list[dict[str, Any]]:
    """Read the rows as Python objects."""
    import pyarrow.parquet as pq

    table = pq.read_table(os.environ["BENCH_ROWS"])
    return table.slice(0, count).to_pylist()


def larder() -> Write:
    """Larder's writer over its transport."""
    import pyarrow.parquet as pq

    from enrich.write.writer import Writer
    from serve.item import Order
    from wire.credentials import find_source
    from wire.endpoint import resolve
    from wire.transport import Transport

    chunk = pq.read_table(os.environ["BENCH_ROWS"]).combine_chunks()
    endpoint = resolve("dynamodb", "us-east-1", os.environ)
    transport = Transport(endpoint, find_source(os.environ), connections=64)
    writer = Writer(transport, TABLE, clock=time.monotonic, random=random.random)

    def write(count: int) -> None:
        for start in range(0, count, 50_000):
            part = chunk.slice(start, min(50_000, count - start))
            writer.put(part, order=Order.parse(ORDER), expires_at=EXPIRES, conditional=False)
        assert writer.flush().written == count

    return write


def limit() -> Write:
    """What no writer can leave out: gzip, JSON escapes, SHA-256 of each payload, the exchange over a plain socket."""
    import hashlib
    import socket
    from urllib.parse import urlsplit

    import orjson
    import pyarrow.parquet as pq

    from enrich.write.item_size import UNIT_BYTES, gzip
    from enrich.write.requests import BLOCK_ROWS, build_batches
    from serve.item import Order

    table = pq.read_table(os.environ["BENCH_ROWS"])
    columns = [table[name].to_pylist() for name in ("pk", "sk", "body")]
    large = [body for body in columns[2] if len(body) > UNIT_BYTES]
    payloads = [request.payload for request in build_batches(table, TABLE, Order.parse(ORDER), EXPIRES)]
    endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    connection = socket.create_connection((endpoint.hostname or "", endpoint.port or 80))

    def write(count: int) -> None:
        assert count == len(table)
        for texts in columns:
            for start in range(0, count, BLOCK_ROWS):
                orjson.dumps(texts[start : start + BLOCK_ROWS])
        for body in large:
            gzip(body)
        for payload in payloads:
            hashlib.sha256(payload).hexdigest()
            connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(payload) + payload)
            connection.recv(1 << 16)

    return write


def boto3_client() -> Write:
    """boto3's client with items as DynamoDB's JSON, without parameter validation: its fastest use."""
    import boto3
    from botocore.config import Config

    client: Any = boto3.client("dynamodb", config=Config(parameter_validation=False))
    items = [
        {
            "pk": {"S": row["pk"]},
            "sk": {"S": row["sk"]},
            "b": {"S": row["body"]},
            "o": {"S": ORDER},
            "e": {"N": str(EXPIRES)},
        }
        for row in rows()
    ]

    def write(count: int) -> None:
        for start in range(0, count, 25):
            puts = [{"PutRequest": {"Item": item}} for item in items[start : min(start + 25, count)]]
            client.batch_write_item(RequestItems={TABLE: puts})

    return write


def _plain() -> list[dict[str, Any]]:
    return [{"pk": row["pk"], "sk": row["sk"], "b": row["body"], "o": ORDER, "e": EXPIRES} for row in rows()]


def boto3_batch_writer() -> Write:
    """boto3's table resource, as in its documentation."""
    import boto3

    table = boto3.resource("dynamodb").Table(TABLE)
    items = _plain()

    def write(count: int) -> None:
        with table.batch_writer() as batch:
            for item in items[:count]:
                batch.put_item(Item=item)

    return write


def awswrangler() -> Write:
    """Awswrangler's put_df."""
    import awswrangler as wr
    import pandas as pd

    frame = pd.DataFrame([{**item, "e": Decimal(item["e"])} for item in _plain()])

    def write(count: int) -> None:
        wr.dynamodb.put_df(df=frame.iloc[:count], table_name=TABLE)

    return write


def feast() -> Write:
    """Feast's DynamoDB online store, from protobuf values."""
    import datetime

    from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.infra.online_stores.dynamodb import DynamoDBOnlineStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.types import String

    entity = Entity(name="prediction", join_keys=["prediction"], value_type=ValueType.STRING)
    source = FileSource(path="/none.parquet", timestamp_field="t")
    view = FeatureView(name="v", entities=[entity], schema=[Field(name="b", dtype=String)], source=source)
    online = {"type": "dynamodb", "region": "us-east-1", "endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    config = RepoConfig(
        project="p", provider="aws", registry="none", online_store=online, entity_key_serialization_version=3
    )
    now = datetime.datetime.now(datetime.UTC)
    data = [
        (
            EntityKey(join_keys=["prediction"], entity_values=[Value(string_val=f"{row['pk']}#{row['sk']}")]),
            {"b": Value(string_val=row["body"])},
            now,
            None,
        )
        for row in rows()
    ]
    store = DynamoDBOnlineStore()

    def write(count: int) -> None:
        store.online_write_batch(config, view, data[:count], None)

    return write


def main() -> None:
    """Print a line of figures for each count on stdin."""
    write: Write = {
        "larder": larder,
        "limit": limit,
        "boto3_client": boto3_client,
        "boto3_batch_writer": boto3_batch_writer,
        "awswrangler": awswrangler,
        "feast": feast,
    }[sys.argv[1]]()
    print("ready", flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        write(int(line))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(cpu, wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


if __name__ == "__main__":
    main()
