"""Our models respond like moto's DynamoDB and S3 to the requests that enrich makes."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from serve.item import Item, Order, encode
from serve.storage import Storage
from tests.doubles.modelled_table import ModelledTable
from tests.doubles.moto_aws import moto_aws
from tests.doubles.query import answer_query
from tests.doubles.services import ModelDynamo, ModelS3
from tests.faults.world import Calm

STEPS = 60
KEYS = [{"pk": {"S": pk}, "sk": {"S": sk}} for pk in "ab" for sk in ("run#1", "run#2", "state")]


@pytest.fixture
def client() -> Iterator[Any]:
    """Return a function that opens a boto3 client of moto's."""
    with moto_aws("items", "ledger") as client:
        yield client


@pytest.fixture
def dynamodb(client: Any) -> Any:
    """Return moto's DynamoDB."""
    return client("dynamodb")


def ask(call: Any, **request: Any) -> Any:
    """Return the response of a client or model, without what only a server adds; for errors, what enrich reads."""
    try:
        answer = call(**request) or {}
    except ClientError as error:
        response = cast(dict[str, Any], error.response)
        reasons = [reason["Code"] for reason in response.get("CancellationReasons", [])]
        return response["Error"]["Code"], reasons
    return {name: answer[name] for name in ("Item", "Items") if name in answer}


def ask_pages(client: Any, query: Any, limit: int | None) -> list[Any]:
    """Return the rows of all pages of a query."""
    query, rows = {**query, **({"Limit": limit} if limit else {})}, []
    while True:
        page = client.query(**query)
        rows += page["Items"]
        if "LastEvaluatedKey" not in page:
            return rows
        query["ExclusiveStartKey"] = page["LastEvaluatedKey"]


def choose_condition(random: Random) -> dict[str, Any]:
    """Choose one of the ledger's conditions."""
    if random.random() < 0.4:
        return {"ConditionExpression": "attribute_not_exists(pk)"}
    return {
        "ConditionExpression": "#version = :version",
        "ExpressionAttributeNames": {"#version": "version"},
        "ExpressionAttributeValues": {":version": {"N": str(random.randint(1, 3))}},
    }


def choose_action(random: Random, key: dict[str, Any]) -> dict[str, Any]:
    """Choose a put or a delete of an item key."""
    condition = {"TableName": "ledger", **choose_condition(random)}
    if random.random() < 0.2 and "#version" in condition["ConditionExpression"]:
        return {"Delete": {"Key": key, **condition}}
    numbers = {name: {"N": str(random.randint(1, 3))} for name in ("version", "arrived_ms")}
    return {"Put": {"Item": {**key, **numbers, "x": {"M": {}}}, **condition}}


@pytest.mark.parametrize("seed", range(3))
def test_ledger_model_answers_as_moto_does(dynamodb: Any, seed: int) -> None:
    """Transactions with their reasons of cancellation, reads by key, and queries of both kinds, in both directions."""
    random, model = Random(seed), ModelDynamo(cast(Any, Calm()))
    outcomes = set()
    for _ in range(STEPS):
        actions = [choose_action(random, key) for key in random.sample(KEYS, random.randint(1, 3))]
        answers = [ask(each.transact_write_items, TransactItems=actions) for each in (dynamodb, model)]
        assert answers[0] == answers[1]
        outcomes.add(str(answers[0]))
        get = {"TableName": "ledger", "Key": random.choice(KEYS), "ConsistentRead": True}
        assert ask(dynamodb.get_item, **get) == ask(model.get_item, **get)
        query = {
            "TableName": "ledger",
            "KeyConditionExpression": "pk = :pk AND begins_with(sk, :prefix)",
            "ExpressionAttributeValues": {":pk": {"S": random.choice("ab")}, ":prefix": {"S": "run#"}},
            "ConsistentRead": True,
            "ScanIndexForward": random.random() < 0.5,
        }
        assert ask_pages(dynamodb, query, random.choice([None, 1, 2])) == ask_pages(model, query, None)
        values = {
            ":pk": {"S": random.choice("ab")},
            ":first": {"S": random.choice(["a", "run#1", "run#11"])},
            ":last": {"S": random.choice(["run#1", "run#2", "z"])},
            ":since": {"N": str(random.randint(1, 4))},
        }
        query |= {
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :first AND :last",
            "ExpressionAttributeValues": values,
            "FilterExpression": "arrived_ms >= :since",
        }
        if values[":first"]["S"] <= values[":last"]["S"]:
            assert ask_pages(dynamodb, query, None) == ask_pages(model, query, random.choice([None, 1, 2]))
    assert len(outcomes) > 3  # some commits were applied, and some were refused in several ways


@pytest.mark.parametrize("seed", range(3))
def test_table_of_items_answers_as_moto_does(dynamodb: Any, seed: int) -> None:
    """Batches, and conditional puts that return the newer item; in the end the tables are equal."""
    random, model = Random(seed), ModelledTable()
    refused = 0
    for _ in range(STEPS):
        order = Order(1, random.randint(1, 5), 1)
        keys = random.sample([("d#x", "1"), ("d#x", "2"), ("d#y", "1")], random.randint(1, 3))
        items = [build_item(pk, sk, random.choice(["{}", gzip.compress(b"{}"), None]), order) for pk, sk in keys]
        if random.random() < 0.5:
            request: dict[str, Any] = {"RequestItems": {"items": [{"PutRequest": {"Item": item}} for item in items]}}
            theirs = dynamodb.batch_write_item(**request)
            status, ours = send(model, "BatchWriteItem", request)
            assert (status, ours["UnprocessedItems"]) == (200, theirs["UnprocessedItems"])
            continue
        request = {
            "TableName": "items",
            "Item": items[0],
            "ConditionExpression": "attribute_not_exists(pk) OR o <= :o",
            "ExpressionAttributeValues": {":o": {"S": order.text}},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        status, ours = send(model, "PutItem", request)
        newer = put(dynamodb, request)
        refused += newer is not None
        assert (status, ours.get("Item")) == (200 if newer is None else 400, plain(newer))
        assert ours.get("__type", "").endswith("#ConditionalCheckFailedException") == (newer is not None)
    stored = dynamodb.scan(TableName="items")["Items"]
    assert {(item["pk"]["S"], item["sk"]["S"]): plain(item) for item in stored} == model.stored.rows
    assert refused > 3


def test_query_model_answers_as_moto_does(client: Any) -> None:
    """Queries of the reader, of table and index: pages, start keys without an item, expired items, tombstones."""
    dynamodb, random = client("dynamodb"), Random(11)
    rows: dict[str, Any] = {}
    for _ in range(STEPS):
        sk, tag, digit = random.choice("abcdefgh"), random.choice(["t1", "t2"]), random.randint(0, 3)
        body, expires_at = random.choice(["{}", "{}", None]), random.choice([50, 200])
        rank = None if body is None or random.random() < 0.2 else f"{tag}:1{digit}:{sk}"
        rows[sk] = encode(Item("p", sk, body, Order(1, 1, 1).text, expires_at, rank))
        dynamodb.put_item(TableName="items", Item=rows[sk])
        answers = []
        for send in (partial(query_moto, dynamodb), partial(answer_query, list(rows.values()))):
            storage = Storage(partial(ask_query, send), "items")
            place, limit = f"1{digit}:{'abz'[digit % 3]}", 1 + digit
            answers.append(
                [storage.query("p", prefix, 100, after, limit) for prefix, after in (("", ""), ("", sk), (sk, ""))]
                + [storage.query_ranked("p", "t1", 100, after, limit) for after in ("", place, f"1{digit}:{sk}")]
            )
        for theirs, ours in zip(*answers, strict=True):
            assert theirs.items == ours.items
            assert theirs.last in {ours.last, None}  # DynamoDB's, also if the items are exactly the limit


def ask_query(send: Callable[[Any], Any], _: str, payload: bytes) -> bytes:
    """Send a request as the reader's client does."""
    return json.dumps(send(json.loads(payload))).encode()


def query_moto(dynamodb: Any, request: Any) -> Any:
    """Send a Query as boto3 does; return what the reader uses of its answer."""
    answer = dynamodb.query(**request)
    return {name: answer[name] for name in ("Items", "LastEvaluatedKey") if name in answer}


def build_item(pk: str, sk: str, body: str | bytes | None, order: Order) -> dict[str, Any]:
    """Build an item as boto3 accepts it: binary values as bytes."""
    encoded: dict[str, Any] = encode(Item(pk, sk, body, order.text, 1000))
    return encoded | ({"b": {"B": body}} if isinstance(body, bytes) else {})


def put(dynamodb: Any, request: Any) -> Any:
    """Put an item; return the stored one for which the put is refused."""
    try:
        dynamodb.put_item(**request)
    except dynamodb.exceptions.ConditionalCheckFailedException as error:
        return error.response["Item"]
    return None


def send(model: ModelledTable, operation: str, request: Any) -> tuple[int, Any]:
    """Send a request to the model as the writer does; return status and body of the response."""
    model.send(f"DynamoDB_20120810.{operation}", json.dumps(plain(request)).encode())
    ((_, answer),) = model.wait(1.0)
    return cast(Any, answer).status, json.loads(cast(Any, answer).body)


def plain(value: Any) -> Any:
    """Return what a request on the wire has for binary values: base64 text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    return [plain(member) for member in value] if isinstance(value, list) else value


@pytest.mark.parametrize("versioned", [False, True])
def test_s3_model_answers_as_moto_does(client: Any, versioned: bool) -> None:
    """Objects, versions, ranges, pins by version or ETag, lists, and the codes for missing objects."""
    s3, random = client("s3"), Random(7)
    s3.create_bucket(Bucket="outputs")
    if versioned:
        s3.put_bucket_versioning(Bucket="outputs", VersioningConfiguration={"Status": "Enabled"})
    world: Any = Calm()
    world.time = 1_800_000_000.0
    model = ModelS3(world, {"outputs"} if versioned else set())
    pins: list[tuple[Any, Any]] = [({}, {})]
    for _ in range(STEPS):
        key = random.choice(["a/1", "a/2", "b/1"])
        if random.random() < 0.5:
            body = random.randbytes(random.randint(1, 9))
            for each in (s3, model):
                each.put_object(Bucket="outputs", Key=key, Body=body)
            heads = [each.head_object(Bucket="outputs", Key=key) for each in (s3, model)]
            assert heads[0]["ETag"] == heads[1]["ETag"]
            assert ("VersionId" in heads[0]) == ("VersionId" in heads[1]) == versioned
            name, part = ("VersionId", "VersionId") if versioned else ("IfMatch", "ETag")
            pins.append(({name: heads[0][part]}, {name: heads[1][part]}))
        pin = random.choice(pins)
        span = random.choice([{}, {"Range": f"bytes={random.randint(0, 2)}-{random.randint(2, 20)}"}])
        answers = [
            read(each, Bucket="outputs", Key=key, **mine, **span) for each, mine in zip((s3, model), pin, strict=True)
        ]
        assert answers[0] == answers[1], (pin, span)
        listed = [
            [(entry["Key"], entry["Size"], entry["ETag"]) for entry in found.get("Contents", [])]
            for found in (each.list_objects_v2(Bucket="outputs", Prefix="a/") for each in (s3, model))
        ]
        assert listed[0] == listed[1]
    assert ask(s3.head_object, Bucket="outputs", Key="no") == ask(model.head_object, Bucket="outputs", Key="no")


def read(s3: Any, **request: Any) -> Any:
    """Return an object's bytes and range, or the code of the error."""
    try:
        found = s3.get_object(**request)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return found["Body"].read(), found.get("ContentRange")
