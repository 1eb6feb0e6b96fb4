"""moto in this process, for boto3 clients: no server, no sockets, empty for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import boto3
from moto import mock_aws

from serve.item import PK, RANK, RANKED, SK

ENV = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


def _build_keys(sort: str) -> list[Any]:
    return [{"AttributeName": PK, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]


@contextmanager
def moto_aws(*tables: str) -> Iterator[Any]:
    """Yield a function that opens clients; DynamoDB has the named tables, with keys and index as in the template."""
    with mock.patch.dict(os.environ, ENV), mock_aws():
        for table in tables:
            create_table(boto3.client("dynamodb"), table)
        yield boto3.client


def create_table(client: Any, table: str) -> None:
    """Create a table with keys and index as in the template."""
    index: Any = {"IndexName": RANKED, "KeySchema": _build_keys(RANK), "Projection": {"ProjectionType": "ALL"}}
    client.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in (PK, SK, RANK)],
        KeySchema=_build_keys(SK),
        GlobalSecondaryIndexes=[index],
    )
