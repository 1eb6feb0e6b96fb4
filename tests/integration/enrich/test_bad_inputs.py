"""Bad input: an error names dataset, object and row; the message becomes a dead letter, or the row is rejected."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from enrich import aws
from enrich.dataset.definition import Metadata
from enrich.handler import handler

GOOD = {"shop": ["x"], "sku": ["a"], "units": [1.0]}


@pytest.fixture
def lambda_(shop: Any, aws_env: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The deployed function, as the event source mapping calls it, with a real queue and dead-letter queue."""
    sqs = aws_env.client("sqs")
    dead = aws_env.queue()
    dead_arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": "2"})
    sqs.set_queue_attributes(
        QueueUrl=shop.settings.queue, Attributes={"RedrivePolicy": redrive, "VisibilityTimeout": "0"}
    )
    for name in ("table", "ledger", "bucket", "outputs", "queue", "workgroup"):
        monkeypatch.setenv(f"LARDER_{name.upper()}", getattr(shop.settings, name))
    monkeypatch.setenv("AWS_ENDPOINT_URL_ATHENA", shop.athena_url)
    monkeypatch.setattr(aws, "_clients", aws._clients.__wrapped__)

    def deliver(object_key: str) -> list[str]:
        """Put the event of an object into the queue, let the mapping process it, and return the dead letters."""
        monkeypatch.setattr("enrich.handler._datasets", lambda: {shop.dataset.name: shop.dataset})
        event = {
            "source": "aws.s3",
            "detail-type": "Object Created",
            "detail": {"bucket": {"name": shop.settings.outputs}, "object": {"key": object_key}},
        }
        sqs.send_message(QueueUrl=shop.settings.queue, MessageBody=json.dumps(event))
        for _ in range(6):
            for message in sqs.receive_message(QueueUrl=shop.settings.queue).get("Messages", []):
                record = {"messageId": message["MessageId"], "eventSource": "aws:sqs", "body": message["Body"]}
                context = SimpleNamespace(aws_request_id="test", get_remaining_time_in_millis=lambda: 60_000)
                failed = handler({"Records": [record]}, context)["batchItemFailures"]
                if not failed:
                    sqs.delete_message(QueueUrl=shop.settings.queue, ReceiptHandle=message["ReceiptHandle"])
        letters = sqs.receive_message(QueueUrl=dead).get("Messages", [])
        return [json.loads(letter["Body"])["detail"]["object"]["key"] for letter in letters]

    return deliver


def error_of(shop: Any, run: int = 1) -> str:
    found = shop.services().ledger.get_run(shop.dataset.name, run)
    assert found is not None
    return f"{found.state}: {found.error}"


FILES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "not what its name says": (b"PK\x03\x04 a zip, say", ("failed", "Parquet")),
    "empty": (b"", ("failed", "empty")),
    "a column is missing": ({"shop": ["x"], "sku": ["a"]}, ("failed", "units")),
    "a column of another type": ({**GOOD, "units": [[1.0]]}, ("failed", "units")),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_used_is_in_the_dead_letter_queue(shop: Any, lambda_: Any, name: str) -> None:
    """Nothing is published; the ledger names the object and the mistake; its message reaches the dead-letter queue."""
    content, words = FILES[name]
    object_key = f"stock/day={shop.day()}/p.parquet"
    shop.put(object_key, content)
    assert lambda_(object_key) == [object_key]
    error = error_of(shop)
    assert object_key in error
    assert all(word in error for word in words), error
    assert shop.items() == {}


def test_a_metadata_query_that_fails_is_in_the_dead_letter_queue(shop: Any, lambda_: Any) -> None:
    """The error names the metadata and Athena's reason; the run continues once the query is fixed."""
    good = shop.dataset
    broken = Metadata("select sku, title from nowhere.products", on="sku")
    shop.dataset = replace(good, metadata={"products": broken})
    object_key = f"stock/day={shop.day()}/p.parquet"
    shop.put(object_key, GOOD)
    assert lambda_(object_key) == [object_key]
    error = error_of(shop)
    assert error.startswith("stopped: metadata 'products'")
    assert "nowhere" in error
    shop.dataset = good
    assert lambda_(object_key) == []
    assert shop.items() == {("stock#x", "a"): {"product": {"sku": "a", "title": "A"}, "units": 1.0}}


def test_an_as_of_in_the_future_is_refused(shop: Any, lambda_: Any) -> None:
    """One wrong clock must not make all later outputs look old."""
    object_key = "stock/day=2199-01-01/p.parquet"
    shop.put(object_key, GOOD)
    assert lambda_(object_key) == [object_key]
    assert "later than its arrival" in error_of(shop)
    shop.put(f"stock/day={shop.day()}/p.parquet", GOOD)
    assert lambda_(f"stock/day={shop.day()}/p.parquet") == []
    assert len(shop.items()) == 1


def test_an_object_key_without_as_of_is_refused(shop: Any, lambda_: Any) -> None:
    """If an output does not say when it was made, nothing is guessed."""
    shop.put("stock/p.parquet", GOOD)
    assert lambda_("stock/p.parquet") == ["stock/p.parquet"]
    assert "day={}" in error_of(shop)


def test_an_item_over_400_kb_is_rejected_and_the_others_are_served(shop: Any, lambda_: Any) -> None:
    """An item that is too large even when compressed is rejected; a large body that compresses well is served."""
    noise = Random(1).randbytes(450_000).hex()  # gzip can halve it, and no more
    source = replace(shop.dataset.source, columns={**shop.dataset.source.columns, "note": "varchar"})
    shop.dataset = replace(shop.dataset, source=source, body={"note": "note"})
    object_key = f"stock/day={shop.day()}/p.parquet"
    rows = {
        "shop": ["x", "x", "x"],
        "sku": ["a", "b", "c"],
        "units": [1.0] * 3,
        "note": ["short", noise, "z" * 500_000],
    }
    shop.put(object_key, rows)
    assert lambda_(object_key) == []
    run = shop.services().ledger.get_run("stock", 1)
    assert run is not None
    assert (run.counts.written, run.counts.rejected, run.reasons) == (2, 1, {"too-large": 1})
    (reject,) = shop.rejects(run)
    assert (reject["row"], reject["reason"], reject["prediction"]["sku"]) == (1, "too-large", "b")


def test_infinity_is_rejected_with_the_member(shop: Any, lambda_: Any) -> None:
    """JSON has no infinity: the row is saved with the place of the value."""
    object_key = f"stock/day={shop.day()}/p.parquet"
    shop.put(object_key, {"shop": ["x", "x"], "sku": ["a", "b"], "units": [float("inf"), 1.0]})
    assert lambda_(object_key) == []
    run = shop.services().ledger.get_run("stock", 1)
    assert run is not None
    (reject,) = shop.rejects(run)
    assert (reject["row"], reject["reason"]) == (0, "not-a-number")
    assert "units" in reject["detail"]


def test_an_object_that_is_no_output_is_acknowledged(shop: Any, lambda_: Any) -> None:
    """Events of other prefixes, and of deleted objects, have no effect."""
    shop.put("elsewhere/p.parquet", GOOD)
    assert lambda_("elsewhere/p.parquet") == []
    assert lambda_(f"stock/day={shop.day()}/gone.parquet") == []
    assert shop.services().ledger.fetch_runs("stock") == []
