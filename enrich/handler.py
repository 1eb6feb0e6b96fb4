r"""The enrich Lambda: handle SQS messages, and return the ids of those that failed.

`event` is an SQS batch (in production, one message at a time):

    {"Records": [{"messageId": "...", "eventSource": "aws:sqs", "body": "{\"source\": \"aws.s3\", ...}"}]}

or, when invoked by hand, any event that such a body can hold (`enrich.intake.events`).
"""

from __future__ import annotations

import os
import uuid
from functools import cache
from typing import Any

from enrich.aws import open_services
from enrich.datasets import DatasetFileError, load_datasets
from enrich.intake.events import parse_event, parse_messages, parse_text
from enrich.intake.worker import handle_requests
from enrich.log import log_failure, log_line
from enrich.settings import Settings

_SERVICE = "enrich"
_datasets = cache(load_datasets)  # once per process


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handle an event; of an SQS batch, return the ids of failed messages, so that SQS redelivers only those."""
    try:
        datasets = _datasets()
    except DatasetFileError as error:  # no message can be handled: the invocation fails, and SQS redelivers the batch
        log_line(Settings.from_env(os.environ), "dataset files invalid", level="error", detail=str(error))
        raise
    services = open_services(
        os.environ,
        owner=f"{context.aws_request_id}-{uuid.uuid4().hex[:8]}",  # a retried invocation has the same request id
        remaining_seconds=context.get_remaining_time_in_millis() / 1000,
        datasets=datasets,
    )
    messages = parse_messages(event)
    if messages is None:
        handle_requests(services, parse_event(event))
        return {}
    failed: list[dict[str, str]] = []
    for message in messages:
        try:
            handle_requests(services, parse_text(message.text))
        except Exception as error:  # noqa: BLE001 - SQS redelivers the message, and moves it to the dead-letter queue in the end
            log_failure(services.settings, message.message_id, error)
            failed.append({"itemIdentifier": message.message_id})
    return {"batchItemFailures": failed}
