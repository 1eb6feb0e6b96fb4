"""Parse DynamoDB's responses to writes: written, superseded, to retry, or failed."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from enrich.errors import Stopped
from enrich.write.requests import WriteRequest
from serve.item import ORDER
from wire.errors import Refused, Throttled, TransportError, WireError
from wire.response import Response, parse_failure


class WriteFailed(Stopped):
    """Writing can't continue; the message has the remedy. Items written so far stay written."""


class WriteThrottled(WriteFailed):
    """The table throttled requests until the budget of tries or time was spent."""


class Outcome(NamedTuple):
    """The result of one request, in items."""

    written: int = 0
    superseded: int = 0
    retry: WriteRequest | None = None  # what must be sent again
    reason: WireError | None = None  # why


REMEDIES = {
    "AccessDeniedException": "allow this run's role to write to the table (dynamodb:BatchWriteItem, dynamodb:PutItem)",
    "InvalidSignatureException": "check this machine's clock and its credentials",
    "MissingAuthenticationTokenException": "give this process AWS credentials",
    "ResourceNotFoundException": "check that the table's name and the region are those of the deployed stack",
    "UnrecognizedClientException": "check this process's AWS credentials",
    "ValidationException": "deploy the table with Larder's stack (its keys are pk and sk, strings), or report a defect",
}


def parse_outcome(request: WriteRequest, table: str, response: Response | TransportError) -> Outcome:
    """Parse the response to a request that wrote items.

    Raises:
        WriteFailed: DynamoDB refused with an error that a retry can't fix.
    """
    if isinstance(response, TransportError):
        return Outcome(retry=request, reason=response)
    failure = parse_failure(response)
    if failure is None:
        return _parse_success(request, table, response)
    if not isinstance(failure, Refused):
        return Outcome(retry=request, reason=failure)
    if failure.code == "ConditionalCheckFailedException":
        return _parse_conflict(table, response)
    remedy = REMEDIES.get(failure.code, "look the code up in the DynamoDB API reference")
    raise WriteFailed(f"table {table}: a write was refused: {failure}; {remedy}, then run again")


def _parse_success(request: WriteRequest, table: str, response: Response) -> Outcome:
    try:
        unprocessed = (orjson.loads(response.body).get("UnprocessedItems") or {}).get(table)
    except (orjson.JSONDecodeError, AttributeError) as error:  # e.g. a proxy's page: the result of the write is unknown
        return Outcome(retry=request, reason=TransportError(f"the response is not DynamoDB's: {error}"))
    if not unprocessed:
        return Outcome(written=request.items)
    left = len(unprocessed)
    again = request._replace(
        payload=orjson.dumps({"RequestItems": {table: unprocessed}}),
        items=left,
        units=-(-request.units * left // request.items),
    )
    return Outcome(
        written=request.items - left, retry=again, reason=Throttled(f"{left} of {request.items} items left unprocessed")
    )


def _parse_conflict(table: str, response: Response) -> Outcome:
    """Return that a newer run's item is stored."""
    stored = orjson.loads(response.body).get("Item", {}).get(ORDER, {}).get("S")
    if stored is None:
        raise WriteFailed(
            f"table {table} has an item without an order, which Larder did not write; delete it, or use another table"
        )
    return Outcome(superseded=1)
