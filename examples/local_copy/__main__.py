r"""Keep a local copy of items, from the events in a queue (docs/events.md, "An example: a local copy").

LARDER_TOKEN=... python -m examples.local_copy copy.db --queue https://sqs... \
    --api https://predictions.example.com/v1/flight-delays --subject carrier=B6
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import boto3

from examples.local_copy.api import Api
from examples.local_copy.copy import LocalCopy, Unknown, parse_time

KIND = "Larder Item Change"
DAY = 86_400.0
KEPT = 14 * DAY  # the longest time that SQS stores a message


def load_if_needed(copy: LocalCopy, api: Api, now: float, after: float) -> bool:
    """Load all items if the copy is new, or if no event was received for `after` seconds: some could be lost."""
    if copy.get("loaded_at") and now - copy.get("received_at") < after:
        return False
    items = list(api.list())
    copy.load(items, api.began)
    return True


def receive(copy: LocalCopy, api: Api, sqs: Any, queue: str, wait: int) -> int:
    """Apply the next messages; return their number. A message is deleted from the queue when the copy has it.

    A message that can't be applied stays in the queue and is received again, as often as the redrive policy allows.
    """
    answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=wait)
    messages = answer.get("Messages", [])
    for message in messages:
        try:
            event = json.loads(message["Body"])
            if event["detail-type"] == KIND:
                apply(copy, api, event["detail"], time.time())
        except (ValueError, LookupError, OSError) as error:  # OSError: the API did not respond
            print(f"message {message['MessageId']} stays in the queue: {error!r}", file=sys.stderr)
            continue
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    copy.keep("received_at", time.time())
    return len(messages)


def apply(copy: LocalCopy, api: Api, detail: Any, now: float) -> None:
    """Apply an event. If it has no body, read the item from the API.

    Raises:
        LookupError: the API does not return the change yet, since its reads are eventually consistent.
    """
    try:
        copy.apply(detail)
    except Unknown:
        item = api.get(detail["prediction_id"])
        if item is None and parse_time(detail["expires_at"]) > now:
            raise LookupError(f"{detail['prediction_id']}: the API does not return it yet, or it was removed") from None
        if item is None:
            copy.apply({**detail, "change": "expired"})
        elif (item.as_of, item.run) < (parse_time(detail["as_of"]), detail["run"]):
            raise LookupError(f"{detail['prediction_id']}: the API returns an older item than in the event") from None
        else:
            copy.apply(detail, item)


def main() -> int:
    """Keep the copy until the process ends."""
    parser = argparse.ArgumentParser(prog="python -m examples.local_copy", description="Keep a local copy of items.")
    parser.add_argument("file", type=Path, help="the SQLite file")
    parser.add_argument("--queue", required=True, help="URL of the queue")
    parser.add_argument("--api", required=True, help="URL of the dataset in the read API")
    parser.add_argument(
        "--subject", required=True, metavar="CLAIM=VALUE", nargs="+", help="claims of the token that make its subject"
    )
    parser.add_argument(
        "--load-after", type=float, default=DAY, help="load all items after so many seconds without receiving"
    )
    parser.add_argument("--until-empty", action="store_true", help="end when the queue is empty")
    options = parser.parse_args()
    dataset = options.api.rstrip("/").rpartition("/")[2]
    copy = LocalCopy(options.file, dataset, dict(one.split("=", 1) for one in options.subject))
    sqs = boto3.client("sqs")
    token = os.environ.get("LARDER_TOKEN", "")
    try:
        while True:
            now = time.time()
            if load_if_needed(copy, Api(options.api, token), now, options.load_after):
                print(f"loaded {len(copy.items(now))} items", flush=True)
                copy.keep("received_at", now)
            count = receive(copy, Api(options.api, token), sqs, options.queue, 0 if options.until_empty else 20)
            copy.discard_old(now, KEPT)
            if options.until_empty and not count:
                return 0
    finally:
        copy.close()


if __name__ == "__main__":
    sys.exit(main())
