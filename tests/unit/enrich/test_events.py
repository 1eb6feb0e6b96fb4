"""Every event that invokes enrich is parsed, whatever its form; others are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enrich.intake.events import (
    Arrived,
    Continue,
    JobEnded,
    Message,
    Sweep,
    UnknownEvent,
    WorkRequest,
    parse_event,
    parse_messages,
    parse_text,
)

# modelled on https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
EVENTBRIDGE: dict[str, Any] = {
    "version": "0",
    "id": "17793124-05d4-b198-2fde-7ededc63b103",
    "detail-type": "Object Created",
    "source": "aws.s3",
    "account": "111122223333",
    "time": "2026-11-20T04:00:00Z",
    "region": "eu-central-1",
    "resources": ["arn:aws:s3:::outputs"],
    "detail": {
        "version": "0",
        "bucket": {"name": "outputs"},
        "object": {
            "key": "d/a%20b+c.parquet",
            "size": 5,
            "etag": "b1946ac9",
            "version-id": "IYV3p45BT0ac8hjHg1houSdS1a",
        },
        "reason": "PutObject",
    },
}
# modelled on https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
NOTIFICATION: dict[str, Any] = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:CompleteMultipartUpload",
            "s3": {"bucket": {"name": "outputs"}, "object": {"key": "d/a%2520b%2Bc+d%C3%A9.parquet", "size": 5}},
        }
    ]
}
REMOVED = {"Records": [{**NOTIFICATION["Records"][0], "eventName": "ObjectRemoved:Delete"}]}

# modelled on https://docs.aws.amazon.com/glue/latest/dg/automating-awsglue-with-cloudwatch-events.html
JOB_ENDED: dict[str, Any] = {
    **{name: EVENTBRIDGE[name] for name in ("version", "id", "account", "time", "region")},
    "source": "aws.glue",
    "detail-type": "Glue Job State Change",
    "resources": [],
    "detail": {"jobName": "larder-job", "severity": "ERROR", "state": "FAILED", "jobRunId": "jr_1", "message": "died"},
}

CASES: dict[str, tuple[object, list[WorkRequest]]] = {
    "Glue reports that a job has ended": (JOB_ENDED, [JobEnded(1_795_147_200_000)]),
    "EventBridge gives object keys as they are": (EVENTBRIDGE, [Arrived("outputs", "d/a%20b+c.parquet")]),
    "EventBridge reports other things too": ({**EVENTBRIDGE, "detail-type": "Object Deleted"}, []),
    "S3 encodes object keys in its notifications": (NOTIFICATION, [Arrived("outputs", "d/a%20b+c dé.parquet")]),
    "a notification of a removal asks for nothing": (REMOVED, []),
    "S3 tests a notification when it is made": ({"Service": "Amazon S3", "Event": "s3:TestEvent"}, []),
    "the scheduler's sweep": ({"sweep": True}, [Sweep()]),
    "a sweep of one dataset": ({"sweep": "stock"}, [Sweep("stock")]),
    "a message to ourselves": ({"continue": {"dataset": "stock"}}, [Continue("stock")]),
    "a notification of an event without a name": ({"Records": [{"eventSource": "aws:s3", "s3": {}}]}, []),
    "a notification with the prefix of an old version": (
        {"Records": [{**NOTIFICATION["Records"][0], "eventName": "s3:ObjectCreated:Put"}]},
        [Arrived("outputs", "d/a%20b+c dé.parquet")],
    ),
    "several records": (
        {"Records": [*NOTIFICATION["Records"] * 2, *REMOVED["Records"]]},
        [Arrived("outputs", "d/a%20b+c dé.parquet")] * 2,
    ),
    "by hand": ({"bucket": "b", "object_key": "k%20"}, [Arrived("b", "k%20")]),
}

UNKNOWN: dict[str, object] = {
    "nothing": {},
    "not an object": [1],
    "a sweep of nothing": {"sweep": False},
    "no bucket": {"object_key": "k"},
    "an empty key": {"bucket": "b", "object_key": ""},
    "EventBridge without detail": {**EVENTBRIDGE, "detail": "?"},
    "EventBridge without a key": {**EVENTBRIDGE, "detail": {"bucket": {"name": "b"}, "object": {}}},
    "EventBridge without a bucket": {**EVENTBRIDGE, "detail": {"object": {"key": "k"}}},
    "EventBridge of another service": {**EVENTBRIDGE, "source": "aws.ec2"},
    "a key that is no text": {"bucket": "b", "object_key": 1},
    "a sweep of an empty name": {"sweep": ""},
    "a sweep of a number": {"sweep": 1},
    "a continuation of nothing": {"continue": {}},
    "a continuation of a text": {"continue": "dataset"},
    "a job that ended at no time": {**JOB_ENDED, "time": "yesterday"},
    "a notification that is no object": {"Records": ["aws:s3"]},
    "a key that is not UTF-8": {"Records": [{**NOTIFICATION["Records"][0], "s3": {"bucket": {"name": "b"}}}]},
    "a notification of another service": {"Records": [{"eventSource": "aws:ses"}]},
    "a notification without s3": {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}]},
}


@pytest.mark.parametrize("name", CASES)
def test_events_are_understood(name: str) -> None:
    """Each kind of event asks for the same, directly and as the text of a message."""
    event, requests = CASES[name]
    assert parse_event(event) == requests
    assert parse_text(json.dumps(event)) == requests


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_events_are_refused_with_the_accepted_ones(name: str) -> None:
    """An unknown event is an error that shows it and lists what enrich accepts."""
    with pytest.raises(UnknownEvent, match="expected EventBridge"):
        parse_event(UNKNOWN[name])


def test_a_message_that_is_not_json_is_refused() -> None:
    """A message that is not JSON, or an event, is shown in the error, up to a bound."""
    with pytest.raises(UnknownEvent, match=r"^message is not JSON: '{oops'; expected an event as JSON$"):
        parse_text("{oops")
    with pytest.raises(UnknownEvent, match=r"^message is not JSON: 'x{200}'; expected an event as JSON$"):
        parse_text("x" * 201)
    with pytest.raises(UnknownEvent) as caught:
        parse_event({"sweep": 1, "at": EVENTBRIDGE.keys()})
    assert str(caught.value) == (
        'unknown event {"sweep": 1}; expected EventBridge "Object Created" or "Glue Job State Change", an S3 '
        'notification, {"sweep": true}, {"sweep": "DATASET"}, {"continue": {"dataset": ...}} or '
        '{"bucket": ..., "object_key": ...}, alone or as the body of an SQS message'
    )
    with pytest.raises(UnknownEvent, match=r'^unknown event {"a": "x{493}; expected'):
        parse_event({"a": "x" * 600})
    with pytest.raises(UnknownEvent, match=r"^unknown event \[\"<object object at "):
        parse_event([object()])


def test_an_sqs_batch_is_split() -> None:
    """Each record of a batch keeps its id, for the response that names the failed ones."""
    records = [{"messageId": str(n), "eventSource": "aws:sqs", "body": str(n)} for n in range(2)]
    messages = parse_messages({"Records": records})
    assert messages is not None
    assert [(each.message_id, each.text) for each in messages] == [("0", "0"), ("1", "1")]
    assert parse_messages({"Records": [{"messageId": 1, "eventSource": "aws:sqs"}]}) == [Message("1", "")]
    assert parse_messages({"Records": [*records, *NOTIFICATION["Records"]]}) is None


@pytest.mark.parametrize("event", [{}, {"Records": []}, NOTIFICATION, {"Records": "no"}])
def test_other_records_than_sqs_are_not_a_batch(event: dict[str, Any]) -> None:
    """Only SQS records are messages."""
    assert parse_messages(event) is None
