"""Find which runs named an item, and what the table has for it. Reads the table, fingerprints and work folders.

The table says which run wrote the item, the fingerprints which run confirmed its body last. What earlier runs read is
in their work folders, which a lifecycle rule empties after a time: keys and digests of rows, no bodies.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from botocore.exceptions import BotoCoreError, ClientError

from enrich.dataset.definition import Dataset
from enrich.delta.buckets import KEY_BITS, Bucket
from enrich.delta.changes import compute_key
from enrich.delta.fingerprints import FingerprintTrust, fetch_table_id, read_fingerprints
from enrich.delta.store import Store
from enrich.errors import Stopped, first_line
from enrich.ledger.records import Run
from enrich.ledger.run_state import Kind, RunState
from enrich.run.context import build_work_prefix, name_notes
from enrich.s3 import list_objects
from enrich.services import Services
from serve.item import MAX_PREDICTION_ID, PK, PREDICTION_ID, SK, Item, Order, body_text, build_pk, decode, is_expired
from serve.item import is_subject as is_claim_value

MOST_BYTES = 256 * 1024 * 1024  # of work folders and fingerprints that one look-up downloads
_NOTED = re.compile(r"\d+-\d+\.parquet")
_BUCKET = re.compile(r"noted-buckets/[^/]+/(\d\d)-([0-9a-f]{4})\.parquet")


class BadQuestion(ValueError):
    """The subject or the prediction_id is not valid; the message says what is expected."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The item in the table. `state` is `served`, `expired`, `removed` (a tombstone) or `none`."""

    state: str
    run: int | None = None  # that wrote it
    expires_at: int | None = None
    body: str | None = None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What the fingerprints say: the newest run that wrote the item, found it unchanged, or removed it."""

    run: int
    removed: bool
    is_current: bool  # they describe this table


@dataclass(frozen=True, slots=True)
class Naming:
    """A run that named the item.

    Attributes:
        run: as in the ledger.
        rows: numbers of the output's rows with the item's key; more than one are duplicates, or count once.
        outcome: what the run did with the prediction, in words.
        body: `first`, `changed` or `same`, compared with the run before it in the list's order; None for a reject.
    """

    run: Run
    rows: Sequence[int]
    outcome: str
    body: str | None


@dataclass(frozen=True, slots=True)
class History:
    """An item's history.

    Attributes:
        stored: in the table.
        confirmed: by the fingerprints; None if they do not name it.
        namings: runs that named it, newest first.
        absent: number of runs that were looked at and do not name it.
        unknown: runs whose rows are not known, with the reason.
    """

    stored: Stored
    confirmed: Confirmed | None
    namings: Sequence[Naming]
    absent: int
    unknown: Sequence[tuple[Run, str]]


def parse_question(dataset: Dataset, subject: Mapping[str, str], prediction_id: str) -> tuple[str, str]:
    """Return the item's key, pk and sk, of values by claim and a prediction_id.

    Raises:
        BadQuestion: a value can't be one of a subject, or of a prediction_id.
    """
    for claim in dataset.served.subject:
        if not is_claim_value(subject.get(claim, "")):
            raise BadQuestion(f"{claim}: expected 1 to 256 visible characters, as in the token's claim")
    if not PREDICTION_ID.match(prediction_id):
        raise BadQuestion(
            f"prediction_id: expected 1 to {MAX_PREDICTION_ID} letters, digits and . _ ~ - : @ , = +, as in the path"
        )
    return build_pk(dataset.name, [subject[claim] for claim in dataset.served.subject]), prediction_id


def find_history(services: Services, dataset: Dataset, pk: str, sk: str, runs: Sequence[Run]) -> History:
    """Find which of some runs named an item.

    Args:
        services: the stack's services.
        dataset: the item's dataset.
        pk: the item's partition key.
        sk: its prediction_id.
        runs: newest first.
    """
    stored = _get_stored(services, pk, sk)
    k1, k2 = compute_key(pk, sk)
    namings, unknown, absent = list[Naming](), list[tuple[Run, str]](), 0
    with tempfile.TemporaryDirectory(dir=services.directory) as folder:
        reader = _Reader(services, Path(folder), k1, k2)
        confirmed = reader.read_confirmed(dataset.name)
        noted: list[tuple[Run, list[Any]]] = []
        for run in runs:
            rows = reader.read_noted(run)
            if isinstance(rows, str):
                unknown.append((run, rows))
            elif rows:
                noted.append((run, rows))
            else:
                absent += 1
        reader.close()
    digest: int | None = None
    for run, rows in sorted(noted, key=lambda each: _order(each[0])):
        kept = [row for row in rows if row[2]]
        is_duplicate = len(kept) > 1 and dataset.equal_rows != "once"
        body = None
        if kept and not is_duplicate and run.state is RunState.DONE and run.kind is not Kind.REMOVAL:
            body = "first" if digest is None else "same" if kept[0][1] == digest else "changed"
            digest = kept[0][1]
        reject = "rejected: duplicate" if is_duplicate else None if kept else "rejected"
        outcome = _describe(run, reject, stored, confirmed)
        namings.append(Naming(run, [row[0] for row in rows], outcome, body))
    return History(stored, confirmed, namings[::-1], absent, unknown)


def _order(run: Run) -> tuple[int, int, int]:
    return run.generation or 0, run.as_of_ms or 0, run.run


def _describe(run: Run, reject: str | None, stored: Stored, confirmed: Confirmed | None) -> str:
    """Describe what a run did with a prediction; `reject` is the reason if it was rejected."""
    if stored.run == run.run:
        return {"removed": "removed it from the table"}.get(stored.state, "wrote the item that the table has")
    if run.kind is Kind.REMOVAL:
        return "withdrew its output"
    if run.state is not RunState.DONE:
        return f"named it; the run is {run.state}"
    if reject:
        return reject
    if confirmed is not None and confirmed.run == run.run and not confirmed.removed:
        return "confirmed its body, unchanged"
    return "named it"


def _get_stored(services: Services, pk: str, sk: str) -> Stored:
    """Get the item, with the permission that `plan --show` needs too."""
    table = services.settings.table
    request: Any = {table: {"Keys": [{PK: {"S": pk}, SK: {"S": sk}}], "ConsistentRead": True}}
    answer = services.dynamodb.batch_get_item(RequestItems=request)
    if answer.get("UnprocessedKeys"):
        raise Stopped(f"table {table}: the item was not read because DynamoDB throttles; try again")
    found = answer["Responses"].get(table, [])
    if not found:
        return Stored("none")
    item: Item = decode(found[0])
    run = Order.parse(item.order).run
    if item.body is None:
        return Stored("removed", run, item.expires_at)
    state = "expired" if is_expired(item.expires_at, services.clock.now()) else "served"
    return Stored(state, run, item.expires_at, body_text(item.body))


class _Reader:
    """Reads files of keys and digests, up to a number of bytes."""

    def __init__(self, services: Services, folder: Path, k1: int, k2: int) -> None:
        self._services = services
        self._folder = folder
        self._key = {"k1": k1, "k2": k2}
        self._bucket = Bucket(KEY_BITS, k1)
        self._left = MOST_BYTES
        self._con = duckdb.connect(config={"memory_limit": "256MB", "threads": 1, "temp_directory": str(folder)})

    def close(self) -> None:
        """Close the database."""
        self._con.close()

    def read_confirmed(self, dataset: str) -> Confirmed | None:
        """Read what the dataset's fingerprints say of the item."""
        services = self._services
        state = services.ledger.get_state(dataset)
        store = Store(services.s3, services.settings.bucket)
        table_id = fetch_table_id(services.dynamodb, services.settings.table)
        known = read_fingerprints(store, state.fingerprints, table_id=table_id, scratch=self._folder)
        found = self._con.execute(
            f'select "order", removed from {known.sql(self._bucket)} where k1 = $k1 and k2 = $k2', self._key
        ).fetchall()
        if not found or not found[0][0]:
            return None
        order, removed = found[0]
        is_current = known.fingerprints.trust is FingerprintTrust.ALL
        return Confirmed(Order.parse(order).run, bool(removed), is_current)

    def read_noted(self, run: Run) -> list[Any] | str:
        """Return row, digest and kept of a run's rows that have the item's key, or a text: why they are unknown."""
        if run.rows is None and run.next_row == 0:
            return "it read no row" if run.state.is_closed else "it has not read its output yet"
        services = self._services
        prefix = build_work_prefix(run.dataset, run.run)
        try:
            entries = [
                entry
                for folder in ("noted-buckets/", name_notes(run))
                for entry in list_objects(services.s3, services.settings.bucket, f"{prefix}{folder}")
            ]
            files = self._choose(
                {entry["Key"].removeprefix(prefix): entry["Size"] for entry in entries}, name_notes(run)
            )
            if not files:
                return "what it read is no longer kept"
            if sum(files.values()) > self._left:
                return "it has too many keys to read for one look-up"
            self._left -= sum(files.values())
            rows: list[Any] = []
            for number, name in enumerate(files):
                path = self._folder / f"noted-{number}.parquet"
                if not Store(services.s3, services.settings.bucket, prefix).get(name, path):
                    return "what it read is no longer kept"
                rows += self._con.execute(
                    f"select row, digest, kept is distinct from false from read_parquet('{path}') "
                    "where k1 = $k1 and k2 = $k2",
                    self._key,
                ).fetchall()
                path.unlink()
        except (ClientError, BotoCoreError, duckdb.Error) as error:
            return first_line(error)
        return sorted(set(rows))  # files of two invocations can overlap

    def _choose(self, sizes: Mapping[str, int], log: str) -> dict[str, int]:
        """Choose the file of the key's bucket, if the run's notes were divided; else all files of the folder `log`."""
        for name, size in sizes.items():
            found = _BUCKET.fullmatch(name)
            if found and Bucket(int(found[1]), int(found[2], 16)).overlaps(self._bucket):
                return {name: size}
        return {name: size for name, size in sizes.items() if _NOTED.fullmatch(name.removeprefix(log))}
