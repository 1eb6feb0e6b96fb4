"""Read and commit the ledger's records, in one DynamoDB table.

All records of a dataset share a partition. There is one way to write: `commit` puts and deletes records in a single
transaction, on the condition that none has changed since it was read. So a decision depends only on the records read,
and a crash leaves either all of its effect or nothing.

Each record has the format in which it was written, and the release that wrote it. A release that only adds attributes,
which an older one can ignore and drop, keeps the format. A change that an older release would misread, such as a new
value of a state, increases the format: then the older release refuses the record (docs/decisions/upgrades.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from email.utils import parsedate_to_datetime
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from enrich.errors import NewerFormat
from enrich.ledger.records import (
    Counter,
    Counts,
    DatasetState,
    Held,
    OutboxEntry,
    Pending,
    Record,
    Run,
    RunStatistics,
    SeenOutput,
)
from enrich.ledger.run_state import EngineKind, Kind, RunState, Stage
from enrich.release import RELEASE

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

PK = "pk"
SK = "sk"
_VERSION = "version"
_FORMAT = "format"
_RELEASE = "release"
FORMAT = 2  # newest format of records, and of the work folders of runs that are not closed; absent: 1
WALKED = 25  # runs in one request, where few of them are expected to be used
_NEW_STATES = {RunState.HELD, RunState.REJECTED}  # format 1 does not have these
_serialize = TypeSerializer().serialize
R = TypeVar("R", bound=Record)


class _Deserializer(TypeDeserializer):
    """boto3's deserializer, with int for numbers: the ledger has no fractions."""

    def _deserialize_n(self, value: str) -> int:
        return int(value)


_deserialize = _Deserializer().deserialize


class ConflictError(Exception):
    """A record has changed since it was read; read it again and decide again."""


@dataclass(frozen=True, slots=True)
class Delete:
    """A change of a commit: delete this record."""

    record: Record


class Ledger:
    """Reads and commits records; takes a boto3 DynamoDB client.

    Methods that read raise NewerFormat if a record has a format that this release does not know.
    """

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client = client
        self._table = table

    def get_state(self, dataset: str) -> DatasetState:
        """Get a dataset's state; a new one if there is none yet."""
        return self.read_state(dataset)[0]

    def read_state(self, dataset: str) -> tuple[DatasetState, float | None]:
        """Get a dataset's state, and DynamoDB's time in whole epoch seconds; None if the response does not have it."""
        like = DatasetState(dataset=dataset)
        response = self._fetch(like)
        date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        time = parsedate_to_datetime(date).timestamp() if date else None
        return _build(DatasetState, response["Item"]) if response.get("Item") else like, time

    def get_counter(self, dataset: str) -> Counter:
        """Get a dataset's run counter; a new one if there is none yet."""
        return self._get(Counter(dataset=dataset)) or Counter(dataset=dataset)

    def get_run(self, dataset: str, run: int) -> Run | None:
        """Get a run by its number."""
        return self._get(Run(dataset=dataset, run=run, bucket="", object_key="", identity="", arrived_ms=0))

    def get_seen(self, dataset: str, identity: str) -> SeenOutput | None:
        """Get the run of an output."""
        return self._get(SeenOutput(dataset=dataset, identity=identity, run=0, object_key="", etag="", arrived_ms=0))

    def get_pending(self, dataset: str, run: int) -> Pending | None:
        """Get the record that marks a run as not closed; None for a closed run."""
        return self._get(Pending(dataset=dataset, run=run, queued_ms=0))

    def fetch_runs(self, dataset: str, *, newest: int | None = None) -> list[Run]:
        """Fetch runs, newest first."""
        return [_build(Run, row) for row in islice(self._walk(dataset, "run#", page=newest), newest)]

    def walk_runs(self, dataset: str) -> Iterator[Run]:
        """Yield runs, oldest first; they are fetched only as far as the caller iterates."""
        return (_build(Run, row) for row in self._walk(dataset, "run#", page=WALKED, oldest_first=True))

    def fetch_seen(self, dataset: str) -> list[SeenOutput]:
        """Fetch every output that has a run."""
        return [_build(SeenOutput, row) for row in self._walk(dataset, "output#")]

    def fetch_seen_between(self, dataset: str, first: str, last: str, *, since_ms: int) -> list[SeenOutput]:
        """Fetch the outputs that have a run: object keys from `first` to `last`, arrived at `since_ms` or later."""
        # an identity is the object key, "@" and a version; "A" is the character after "@"
        values: dict[str, Any] = {
            ":pk": {"S": dataset},
            ":first": {"S": f"output#{first}@"},
            ":last": {"S": f"output#{last}A"},
            ":since": {"N": str(since_ms)},
        }
        rows = self._read_pages(
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            FilterExpression="arrived_ms >= :since",
            ExpressionAttributeValues=values,
        )
        return [_build(SeenOutput, row) for row in rows]

    def fetch_pending(self, dataset: str) -> list[Pending]:
        """Fetch the records of the runs that are not closed, oldest first."""
        return [_build(Pending, row) for row in self._walk(dataset, "pending#", oldest_first=True)]

    def get_held(self, dataset: str, run: int) -> Held | None:
        """Get the record that marks a run as held."""
        return self._get(Held(dataset=dataset, run=run, held_ms=0))

    def fetch_held(self, dataset: str) -> list[Held]:
        """Fetch the records of the runs that are held, oldest first."""
        return [_build(Held, row) for row in self._walk(dataset, "held#", oldest_first=True)]

    def get_statistics(self, dataset: str, run: int) -> RunStatistics | None:
        """Get the statistics of a run's output; None if no guard measured it."""
        return self._get(RunStatistics(dataset=dataset, run=run))

    def fetch_outbox(self, dataset: str) -> list[OutboxEntry]:
        """Fetch the events that the bus has not accepted yet, oldest run first."""
        return [_build(OutboxEntry, row) for row in self._walk(dataset, "outbox#", oldest_first=True)]

    def commit(self, *changes: Record | Delete) -> None:
        """Write all changes or none.

        Raises:
            ConflictError: a record has changed since it was read (or, with version 0, it exists).
        """
        try:
            # botocore sends the same ClientRequestToken with each retry, so a commit that was applied and reported as
            # failed is not a conflict when it is retried.
            self._client.transact_write_items(TransactItems=[self._action(change) for change in changes])
        except ClientError as error:
            if _is_conflict(error):
                raise ConflictError(", ".join(_record(change).sk for change in changes)) from error
            raise

    def _get(self, like: R) -> R | None:
        found = self._fetch(like).get("Item")
        return _build(type(like), found) if found else None

    def _fetch(self, like: Record) -> dict[str, Any]:
        item_key: Any = {PK: {"S": like.dataset}, SK: {"S": like.sk}}
        return dict(self._client.get_item(TableName=self._table, Key=item_key, ConsistentRead=True))

    def _walk(
        self, dataset: str, prefix: str, *, page: int | None = None, oldest_first: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of one kind of record, `page` in each request, at most."""
        values: dict[str, Any] = {":pk": {"S": dataset}, ":prefix": {"S": prefix}}
        return self._read_pages(
            KeyConditionExpression="pk = :pk AND begins_with(sk, :prefix)",
            ExpressionAttributeValues=values,
            ScanIndexForward=oldest_first,
            **({"Limit": page} if page else {}),
        )

    def _read_pages(self, **query: Any) -> Iterator[dict[str, Any]]:
        query = {"TableName": self._table, "ConsistentRead": True, **query}
        while True:
            page = self._client.query(**query)
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _action(self, change: Record | Delete) -> Any:
        record = _record(change)
        condition: dict[str, Any] = {"TableName": self._table, "ConditionExpression": "attribute_not_exists(pk)"}
        if record.version:
            condition["ConditionExpression"] = "#version = :version"
            condition["ExpressionAttributeNames"] = {"#version": _VERSION}
            condition["ExpressionAttributeValues"] = {":version": {"N": str(record.version)}}
        item_key = {PK: {"S": record.dataset}, SK: {"S": record.sk}}
        if isinstance(change, Delete):
            return {"Delete": {"Key": item_key, **condition}}
        attributes = {name: _serialize(value) for name, value in asdict(record).items() if name != "dataset"}
        attributes |= {
            _VERSION: {"N": str(record.version + 1)},
            _FORMAT: {"N": str(_find_format(record))},
            _RELEASE: {"S": RELEASE},
        }
        return {"Put": {"Item": {**attributes, **item_key}, **condition}}


def _record(change: Record | Delete) -> Record:
    return change.record if isinstance(change, Delete) else change


def _find_format(record: Record) -> int:
    """Return the oldest format that can express a record, so that older releases can read most records."""
    return 2 if isinstance(record, Run) and record.state in _NEW_STATES else 1


def _is_conflict(error: ClientError) -> bool:
    response: dict[str, Any] = dict(error.response)
    if response["Error"]["Code"] == "TransactionCanceledException":
        codes = {reason.get("Code") for reason in response.get("CancellationReasons", [])}
        return bool(codes & {"ConditionalCheckFailed", "TransactionConflict"})
    return response["Error"]["Code"] in {"TransactionConflictException", "TransactionInProgressException"}


def _build(kind: type[R], row: dict[str, Any]) -> R:
    values: dict[str, Any] = {name: _deserialize(value) for name, value in row.items()}
    values["dataset"] = values[PK]
    if values.get(_FORMAT, 1) > FORMAT:
        raise NewerFormat(
            f"ledger, dataset {values[PK]}, record {values[SK]}: its format is {values[_FORMAT]}, written by Larder "
            f"{values.get(_RELEASE, '(unknown)')}; this is Larder {RELEASE}, which knows formats up to {FORMAT}. "
            "Nothing was changed: deploy the newer release again (UPGRADING.md, Roll back)"
        )
    # An attribute that a newer release added is ignored, so that a deployment can be rolled back.
    known = _members(kind)  # type: ignore[arg-type] # mypy takes no class for hashable
    return kind(**{name: _PARSERS.get(name, _keep)(value) for name, value in values.items() if name in known})


@cache
def _members(kind: Any) -> frozenset[str]:
    return frozenset(member.name for member in fields(kind))


def _keep(value: Any) -> Any:
    return value


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "counts": lambda counts: Counts(**counts),
    "state": RunState,
    "stage": Stage,
    "kind": Kind,
    "engine": lambda engine: engine and EngineKind(engine),
}
