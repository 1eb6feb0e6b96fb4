"""What DynamoDB's answers to writes mean: written, superseded, to be sent again, or never. Pure."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from enrich.errors import Stopped
from enrich.write.requests import Request
from serve.item import ORDER
from wire.errors import Refused, Throttled, TransportError, WireError
from wire.response import Response, parse_failure


class WriteFailed(Stopped):
    """Writing can't go on; the message tells an operator what to do. Items written so far stay written."""


class WriteThrottled(WriteFailed):
    """The table asked for fewer writes until the budget of attempts or time was spent."""


class Outcome(NamedTuple):
    """What became of one request. `left` is what must be sent again, `reason` why."""

    written: int = 0
    superseded: int = 0
    left: Request | None = None
    reason: WireError | None = None


REMEDIES = {
    "AccessDeniedException": "let the role of this run write to the table (dynamodb:BatchWriteItem, dynamodb:PutItem)",
    "InvalidSignatureException": "check this machine's clock and its credentials",
    "MissingAuthenticationTokenException": "give this process AWS credentials",
    "ResourceNotFoundException": "check that the table's name and the region are those of the deployed stack",
    "UnrecognizedClientException": "check this process's AWS credentials",
    "ValidationException": "let Larder's stack make the table (its keys are pk and sk, strings); else it is our defect",
}


def parse_answer(request: Request, table: str, order: str, answer: Response | TransportError) -> Outcome:
    """Parse the answer to a request that wrote items with `order`.

    Raises:
        WriteFailed: DynamoDB refuses for good.
    """
    if isinstance(answer, TransportError):
        return Outcome(left=request, reason=answer)
    failure = parse_failure(answer)
    if failure is None:
        return _parse_taken(request, table, answer)
    if not isinstance(failure, Refused):
        return Outcome(left=request, reason=failure)
    if failure.code == "ConditionalCheckFailedException":
        return _parse_stored(table, order, answer)
    remedy = REMEDIES.get(failure.code, "look the code up in the DynamoDB API reference")
    raise WriteFailed(f"table {table} refuses to be written: {failure}; {remedy}, then run again")


def _parse_taken(request: Request, table: str, answer: Response) -> Outcome:
    try:
        unprocessed = (orjson.loads(answer.body).get("UnprocessedItems") or {}).get(table)
    except (orjson.JSONDecodeError, AttributeError) as error:  # some proxy's page: nothing is known of the write
        return Outcome(left=request, reason=TransportError(f"answer is not DynamoDB's: {error}"))
    if not unprocessed:
        return Outcome(written=request.items)
    left = len(unprocessed)
    again = request._replace(
        payload=orjson.dumps({"RequestItems": {table: unprocessed}}),
        items=left,
        units=-(-request.units * left // request.items),
    )
    return Outcome(
        written=request.items - left, left=again, reason=Throttled(f"{left} of {request.items} items left unprocessed")
    )


def _parse_stored(table: str, order: str, answer: Response) -> Outcome:
    """Tell our own earlier write, which was applied and reported as failed, from a newer run's."""
    stored = orjson.loads(answer.body).get("Item", {}).get(ORDER, {}).get("S")
    if stored is None:
        raise WriteFailed(
            f"table {table} holds an item without an order, which Larder did not write: delete it, or use another table"
        )
    return Outcome(written=1) if stored == order else Outcome(superseded=1)
