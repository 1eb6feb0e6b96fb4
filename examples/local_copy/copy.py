"""The copy: one SQLite file. Events change it, and a list from the read API replaces it.

Each change is one transaction, and its message is acknowledged after it: after a crash at most the last change is
repeated. Events can arrive twice and in any order: the one with the larger `sequence` is newer. To compare with later
events, the row of a removed item remains, without a body.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

# Seconds that clocks can differ, and that a read can be behind a write: for a change less than this before a load, the
# event counts and not the list.
MARGIN = 60.0
_SCHEMA = """
create table if not exists items (
    prediction_id text primary key,
    body text,                -- JSON; null: the item was removed
    expires_at real not null, -- epoch seconds
    version text not null,    -- sequence of the newest event; empty: the item was read, and has had no event since
    changed_at real not null  -- time of the newest event, epoch seconds
);
create table if not exists state (name text primary key, value real not null);
"""


class Unknown(Exception):
    """An event has no body: read the item through the API."""


class Read(NamedTuple):
    """An item as the read API returns it, with times in epoch seconds."""

    prediction_id: str
    body: Any
    expires_at: float
    as_of: float = 0.0
    run: int = 0


class LocalCopy:
    """The items of one dataset that one subject can read; events of others are ignored."""

    def __init__(self, path: Path, dataset: str, subject: Mapping[str, str]) -> None:
        self._dataset, self._subject = dataset, dict(subject)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")  # an acknowledged change is on disk
        self._db.executescript(_SCHEMA)

    def apply(self, detail: Mapping[str, Any], read: Read | None = None) -> bool:
        """Apply an event; return whether it changed the copy. An event that is older than the copy is ignored.

        Args:
            detail: the event's detail.
            read: for an event without a body, the item, read after the event arrived.

        Raises:
            Unknown: the event has no body, and `read` is None.
        """
        if (detail["dataset"], detail["subject"]) != (self._dataset, self._subject):
            return False
        version, changed_at = detail["sequence"], parse_time(detail["time"])
        with self._transaction():
            if changed_at < self.get("loaded_at") - MARGIN:  # the last load has it already
                return False
            known = self._find(detail["prediction_id"])
            if known and known["version"] >= version:
                return False
            body, expires_at = self._read_body(detail, known, read), parse_time(detail["expires_at"])
            self._put(detail["prediction_id"], body, expires_at, version, changed_at)
            return True

    def load(self, items: Iterable[Read], began: float) -> None:
        """Replace the copy by the list of the read API, except items with an event since the list began.

        Args:
            items: all items of the list.
            began: time of reading the first page, by the API's clock, in epoch seconds.
        """
        with self._transaction():
            self._db.execute("delete from items where changed_at < ?", (began - MARGIN,))
            for item in items:
                if self._find(item.prediction_id) is None:
                    self._put(item.prediction_id, json.dumps(item.body), item.expires_at, "", 0.0)
            self._set("loaded_at", began)

    def items(self, now: float) -> dict[str, Any]:
        """Return the bodies of the items that a reader would find now, by prediction_id."""
        found = "select prediction_id, body from items where body is not null and expires_at > ?"
        return {name: json.loads(body) for name, body in self._db.execute(found, (now,))}

    def get(self, name: str) -> float:
        """Return a stored time, such as `loaded_at`; 0.0 if there is none."""
        row = self._db.execute("select value from state where name = ?", (name,)).fetchone()
        return row[0] if row else 0.0

    def keep(self, name: str, value: float) -> None:
        """Store a time."""
        with self._transaction():
            self._set(name, value)

    def discard_old(self, now: float, after: float) -> None:
        """Delete the rows of items that were removed or expired `after` seconds ago.

        It must be longer than a queue stores events of them.
        """
        with self._transaction():
            gone = "(body is null and changed_at < ?) or expires_at < ?"
            self._db.execute(f"delete from items where {gone}", (now - after, now - after))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _read_body(self, detail: Mapping[str, Any], known: sqlite3.Row | None, read: Read | None) -> str | None:
        if detail["change"] in {"removed", "expired"}:
            return None
        if "body" in detail:
            return json.dumps(detail["body"])
        if detail["change"] == "renewed" and known and known["body"] is not None:
            body: str = known["body"]
            return body
        if read is None:
            raise Unknown(detail["prediction_id"])
        return json.dumps(read.body)

    def _find(self, prediction_id: str) -> sqlite3.Row | None:
        with closing(self._db.cursor()) as cursor:
            cursor.row_factory = sqlite3.Row
            found: sqlite3.Row | None = cursor.execute(
                "select * from items where prediction_id = ?", (prediction_id,)
            ).fetchone()
            return found

    def _put(self, *row: object) -> None:
        self._db.execute("insert or replace into items values (?, ?, ?, ?, ?)", row)

    def _set(self, name: str, value: float) -> None:
        self._db.execute("insert or replace into state values (?, ?)", (name, value))

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """A transaction; two processes that use one file wait for each other."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("begin immediate")

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("rollback" if kind else "commit")


def parse_time(text: str) -> float:
    """Parse RFC 3339 to epoch seconds."""
    return datetime.fromisoformat(text).timestamp()
