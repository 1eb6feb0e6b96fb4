"""Events of the deployed template, with IAM enforced: of runs by enrich, of items by notify through the stream."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from examples.flights.datasets import flight_delays
from tests.integration.infra.deployed import deploy_larder, find_resource, object_key, parquet, run_stand_in
from tests.unit.enrich.shop_with_bus import ITEM_EVENT, RUN_EVENT

pytestmark = pytest.mark.slow  # it builds bundles with its own dataset

BUS = "events-events"  # of the stack `events`


def test_runs_and_items_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run and its items are reported on the bus that the stack created; an equal output adds no event of an item."""
    (tmp_path / "datasets").mkdir()
    source = Path(flight_delays.__file__).read_text().replace("import Dataset", "import Changes, Dataset")
    source = source.replace("    about=", "    changes=Changes(bodies=True),\n    about=", 1)
    (tmp_path / "datasets" / "flight_delays.py").write_text(source)
    monkeypatch.setenv("LARDER_PROJECT", str(tmp_path))
    with run_stand_in(tmp_path / "ministack.log", auth=True) as (client, endpoint):
        parameters = {"EventBus": "own", "ItemEvents": "true"}
        larder = deploy_larder(client, endpoint, "events", parameters=parameters)
        sqs, events = client("sqs"), client("events")
        queue = sqs.create_queue(QueueName="events")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        events.put_rule(Name="all", EventBusName=BUS, EventPattern=json.dumps({"source": ["larder"]}))
        events.put_targets(Rule="all", EventBusName=BUS, Targets=[{"Id": "queue", "Arn": arn}])

        found: dict[str, list[Any]] = {}

        def receive(kind: str, count: int) -> list[Any]:
            deadline = time.monotonic() + 120
            while len(found.get(kind, [])) < count and time.monotonic() < deadline:
                answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
                for message in answer.get("Messages", []):
                    event = json.loads(message["Body"])
                    found.setdefault(event["detail-type"], []).append(event["detail"])
                    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            return found.get(kind, [])

        assert larder.run(larder.put(object_key(1), parquet(3))) == ""
        assert larder.wait(object_key(1), 120) == "done"
        (run,) = receive("Larder Run State Change", 1)
        RUN_EVENT.validate(run)
        assert (run["state"], run["counts"]["written"]) == ("done", 3)
        items = receive("Larder Item Change", 3)
        for item in items:
            ITEM_EVENT.validate(item)
        assert {(item["change"], item["subject"]["carrier"]) for item in items} == {("created", "B6")}
        assert {item["body"]["flight"] for item in items} == {"B60", "B61", "B62"}

        assert larder.wait(larder.put(object_key(0), parquet(3)), 120) == "done"
        # two of three rows, 45 minutes later: the dataset's guards accept that
        assert larder.wait(larder.put(object_key(0, 1), parquet(2, delay=50.0)), 120) == "done"
        assert [each["run"] for each in receive("Larder Run State Change", 3)] == [1, 2, 3]
        changed = receive("Larder Item Change", 5)[3:]
        found_now = sorted((item["change"], item["body"]["prediction"]["delay_minutes"]) for item in changed)
        assert found_now == [("changed", 50.0)] * 2
        letters = find_resource(client, "events", "NotifyDeadLetters")
        counted = sqs.get_queue_attributes(QueueUrl=letters, AttributeNames=["ApproximateNumberOfMessages"])
        assert counted["Attributes"]["ApproximateNumberOfMessages"] == "0"
