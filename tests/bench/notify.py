"""`python -m tests.bench.notify`: events of changed items per CPU-second of `notify`, in batches of 100 records.

The bus accepts at once: boto3 builds, signs and parses, and nothing is sent over a network.
"""

from __future__ import annotations

import io
import json
import time
from contextlib import redirect_stdout
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse

from notify.changes import Watched
from notify.handler import Services, handle
from serve.item import Item, Order, encode

BATCHES, RECORDS, ROUNDS = 20, 100, 5
DATASET = "flight-delays"


def build_record(number: int) -> dict[str, Any]:
    """Build a record of an item of about 500 B whose body changed."""
    images = []
    for run, delay in enumerate((4.5, 5.5), 1):
        body = json.dumps({"flight": f"B6{number}", "delay_minutes": delay, "text": "x" * 400})
        order = Order(1, int(time.time() * 1000), run).text
        images.append(encode(Item(f"{DATASET}#B6", f"2026-11-20.{number}", body, order, int(time.time()) + 86_400)))
    keys = {name: images[0][name] for name in ("pk", "sk")}
    stream: dict[str, Any] = {"Keys": keys, "OldImage": images[0], "NewImage": images[1], "SequenceNumber": str(number)}
    stream["ApproximateCreationDateTime"] = time.time()
    return {"eventID": str(number), "eventName": "MODIFY", "dynamodb": stream}


def open_bus() -> Any:
    """Return a client of EventBridge whose requests are all accepted, without a network."""
    client = boto3.client("events", "us-east-1", aws_access_key_id="bench", aws_secret_access_key="bench")

    def accept(request: Any, **_: Any) -> Any:
        count = len(json.loads(request.body)["Entries"])
        answer = {"FailedEntryCount": 0, "Entries": [{"EventId": "e"}] * count}
        headers: Any = {"content-type": "application/x-amz-json-1.1"}
        return AWSResponse(request.url, 200, headers, _Raw(json.dumps(answer).encode()))

    client.meta.events.register("before-send.events.PutEvents", accept)
    return client


class _Raw(io.BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()


def main() -> None:
    """Print the best of some rounds, without bodies in the events and with them."""
    batches = [
        {"Records": [build_record(n) for n in range(k, k + RECORDS)]} for k in range(0, BATCHES * RECORDS, RECORDS)
    ]
    for bodies in (False, True):
        services = Services(open_bus(), None, "bus", "queue", "bench", {DATASET: Watched(("carrier",), bodies, False)})
        seconds = []
        for _ in range(ROUNDS):
            began = time.process_time()
            with redirect_stdout(io.StringIO()):
                failed = [handle(services, batch)["batchItemFailures"] for batch in batches]
            seconds.append(time.process_time() - began)
            assert not any(failed)
        print(
            f"{'with' if bodies else 'without'} bodies: {BATCHES * RECORDS / min(seconds):,.0f} events per CPU-second"
        )


if __name__ == "__main__":
    main()
