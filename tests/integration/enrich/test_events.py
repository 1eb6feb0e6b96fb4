"""Events on the stand-in: from DynamoDB's stream through EventBridge and SQS to a copy whose process is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enrich.intake.events import Sweep
from enrich.intake.worker import handle_requests
from enrich.outbox.lineage import KIND as LINEAGE
from enrich.outbox.run_event import KIND as RUN
from enrich.services import Bus
from examples.local_copy.copy import LocalCopy
from notify.changes import Watched
from notify.handler import Services, handle
from tests.integration.conftest import Aws
from tests.integration.enrich.conftest import Shop
from tests.unit.enrich.shop_with_bus import ITEM_EVENT, RUN_EVENT

ROOT = Path(__file__).resolve().parents[3]
ROWS: dict[str, list[Any]] = {"shop": ["x", "x", "y"], "sku": ["a", "b", "a"], "units": [1.0, 2.0, 3.0]}


class Route:
    """A bus, and a queue to which a rule sends the bus's events of one kind."""

    def __init__(self, aws: Aws, pattern: Mapping[str, Any]) -> None:
        self.aws, self.bus, self.queue = aws, aws.name("bus"), aws.queue()
        events, sqs = aws.client("events"), aws.client("sqs")
        events.create_event_bus(Name=self.bus)
        events.put_rule(
            Name=self.bus, EventBusName=self.bus, EventPattern=json.dumps({"source": ["larder"], **pattern})
        )
        arn = sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        events.put_targets(Rule=self.bus, EventBusName=self.bus, Targets=[{"Id": "queue", "Arn": arn}])

    def receive(self) -> Iterator[Any]:
        """Yield every event that is in the queue."""
        sqs = self.aws.client("sqs")
        while found := sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages", []):
            for message in found:
                yield json.loads(message["Body"])
                sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])


def test_runs_are_reported_on_a_bus(shop: Shop) -> None:
    """A rule gets run events and OpenLineage events; if EventBridge is down, events wait, but runs do not."""
    route = Route(shop.aws, {})
    client: Any = shop.aws.client("events")
    down: Any = shop.aws.client("events", endpoint_url="http://127.0.0.1:9")
    settings = replace(shop.settings, bus=route.bus)
    key = f"stock/day={shop.day()}/p.parquet"
    assert shop.run(key, ROWS, settings=settings, bus=Bus(down)).state == "done"
    assert list(route.receive()) == []
    shop.offset += 100
    services = shop.services(settings=settings, bus=Bus(client))
    handle_requests(services, [Sweep("stock")])
    found = list(route.receive())
    assert [each["detail-type"] for each in found] == [LINEAGE, RUN, LINEAGE]
    (event,) = [each["detail"] for each in found if each["detail-type"] == RUN]
    RUN_EVENT.validate(event)
    assert (event["state"], event["counts"]["written"], event["output"]) == (
        "done",
        3,
        f"s3://{shop.settings.outputs}/{key}",
    )
    assert services.ledger.fetch_outbox("stock") == []


def read_stream(aws: Aws, table: str) -> list[Any]:
    """Read the table's stream through its API, as records of a Lambda event."""
    arn = aws.client("dynamodb").describe_table(TableName=table)["Table"]["LatestStreamArn"]
    streams = aws.client("dynamodbstreams")
    records = []
    for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
        place = {"StreamArn": arn, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
        iterator: str | None = streams.get_shard_iterator(**place)["ShardIterator"]
        while iterator:
            page = streams.get_records(ShardIterator=iterator)
            records += page["Records"]
            iterator = page.get("NextShardIterator") if page["Records"] else None
    for record in records:
        at = record["dynamodb"]["ApproximateCreationDateTime"]
        record["dynamodb"]["ApproximateCreationDateTime"] = at.timestamp()
    return records


def committed(copy: LocalCopy) -> int:
    """Return a number that changes when another process commits to the copy."""
    found: int = copy._db.execute("pragma data_version").fetchone()[0]
    return found


@pytest.fixture
def env(aws: Aws) -> dict[str, str]:
    return {**os.environ, **aws.env, "AWS_REGION": aws.region, "AWS_DEFAULT_REGION": aws.region}


def test_copy_is_right_after_kills_of_its_process(shop: Shop, tmp_path: Path, env: dict[str, str]) -> None:
    """Real runs, stream, bus and queue: a consumer that is killed many times ends with the content of the table."""
    aws = shop.aws
    stream = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    aws.client("dynamodb").update_table(TableName=shop.settings.table, StreamSpecification=stream)
    route = Route(aws, {"detail-type": ["Larder Item Change"], "detail": {"subject": {"shop": ["x"]}}})
    chance = random.Random(1)
    for day in (3, 2, 1):
        skus = chance.sample("abcd", 3)
        rows: dict[str, list[Any]] = {
            "shop": ["x"] * 3 + ["y"],
            "sku": [*skus, "a"],
            "units": [float(day), 2.0, chance.random(), 1.0],
        }
        assert shop.run(f"stock/day={shop.day(day)}/p.parquet", rows).state == "done"
    watched = {"stock": Watched(("shop",), bodies=True, renewals=True)}
    services = Services(aws.client("events"), aws.client("sqs"), route.bus, "", "test", watched)
    records = read_stream(aws, shop.settings.table)
    for batch in (records, records[:5]):  # a batch that arrives twice
        assert handle(services, {"Records": batch}) == {"batchItemFailures": []}
    aws.client("sqs").set_queue_attributes(QueueUrl=route.queue, Attributes={"VisibilityTimeout": "1"})

    place = tmp_path / "copy.db"
    copy = LocalCopy(place, "stock", {"shop": "x"})
    copy.keep("loaded_at", 1.0)  # a copy that is not new does not load
    copy.keep("received_at", time.time())
    command = [sys.executable, "-m", "examples.local_copy", str(place), "--queue", route.queue, "--until-empty"]
    command += ["--api", "http://127.0.0.1:9/v1/stock", "--subject", "shop=x"]
    killed = 0
    for _ in range(3):
        before = committed(copy)
        process = subprocess.Popen(command, env=env, cwd=ROOT)
        while committed(copy) == before and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    deadline = time.monotonic() + 240
    mine = {sk: body for (pk, sk), body in shop.items().items() if pk == "stock#x" and body is not None}
    while copy.items(time.time()) != mine and time.monotonic() < deadline:
        subprocess.run(command, env=env, cwd=ROOT, check=True)
    assert copy.items(time.time()) == mine
    assert len(mine) >= 3
    assert {each["eventName"] for each in records} == {"INSERT", "MODIFY"}


def test_stream_records_become_valid_events(shop: Shop) -> None:
    """Events from the stream of a real run, which has the table's real format, conform to the schema."""
    aws = shop.aws
    stream = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    aws.client("dynamodb").update_table(TableName=shop.settings.table, StreamSpecification=stream)
    route = Route(aws, {"detail": {"subject": {"shop": ["y"]}}})
    shop.run(f"stock/day={shop.day(1)}/p.parquet", ROWS)
    services = Services(aws.client("events"), None, route.bus, "", "test", {"stock": Watched(("shop",), bodies=True)})
    handle(services, {"Records": read_stream(aws, shop.settings.table)})
    (found,) = route.receive()
    ITEM_EVENT.validate(found["detail"])
    assert found["detail"]["body"] == {"product": {"sku": "a", "title": "A"}, "units": 3.0}
