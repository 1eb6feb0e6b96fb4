"""The table of kept features: messages of `score.kept` in, rows and Parquet out. Pure.

infra/template.yaml defines the same table for Athena; a test compares the columns.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from score.paths import KEPT_FORMAT, KEPT_PREFIX, MODEL_NAME

_NAMES = pa.map_(pa.string(), pa.string())
_ORIGIN = pa.struct([("as_of", pa.string()), ("run", pa.int64()), ("missing", pa.string())])
# A column for each kind of feature, not for each feature: all models fit, and can change without a new table.
SCHEMA = pa.schema(
    [
        ("version", pa.string()),
        ("role", pa.string()),  # live or canary
        ("scored_at", pa.timestamp("ms")),
        ("request_id", pa.string()),
        ("instance", pa.int32()),  # index in the request
        ("subject", pa.string()),  # hashed, as in the log
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("value", pa.float64()),
        ("numbers", pa.map_(pa.string(), pa.float64())),  # a boolean is 1 or 0; a missing feature is in no map
        ("texts", _NAMES),
        ("ids", _NAMES),  # members of the request that are only parts of prediction_ids
        ("stored", pa.map_(pa.string(), _ORIGIN)),  # origin of each stored feature
    ]
)
Row = dict[str, Any]
Place = tuple[str, str]  # model and day, the partition


class BadMessage(ValueError):
    """A message is not in the format of this release; the text says what is wrong, and contains none of its data."""


def parse_message(body: str) -> tuple[Place, list[Row]]:
    """Return the partition of a message's rows, and the rows.

    Raises:
        BadMessage: its format differs, or a member is missing or of another type.
    """
    try:
        message = json.loads(body)
        if message["format"] != KEPT_FORMAT:
            found = f"found format {message['format']!r:.20}, expected {KEPT_FORMAT}"
            raise BadMessage(f"{found}: deploy score and keep of the same release")
        if not MODEL_NAME.match(message["model"]):
            raise BadMessage("the name of the model is not valid")
        scored_at = datetime.fromtimestamp(message["time"], UTC)
        shared = {name: message[name] for name in ("version", "role", "request_id", "subject")}
        rows = [_build_row(row, shared, scored_at) for row in message["rows"]]
        pa.Table.from_pylist(rows, SCHEMA)  # checks the types
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, pa.ArrowException) as error:
        raise error if isinstance(error, BadMessage) else BadMessage(f"{type(error).__name__} in a message") from error
    return (message["model"], f"{scored_at:%Y-%m-%d}"), rows


def _build_row(row: Mapping[str, Any], shared: Mapping[str, Any], scored_at: datetime) -> Row:
    given = {name: row.get(name) for name in ("label", "probability", "value")}
    maps = {name: list(row[name].items()) for name in ("numbers", "texts", "ids", "stored")}
    return {**shared, **given, **maps, "instance": row["instance"], "scored_at": scored_at.replace(tzinfo=None)}


def build_key(place: Place, ids: Iterable[str]) -> str:
    """Return the object key of a batch's rows. It depends on the messages: a repeated batch overwrites its file."""
    model, day = place
    digest = hashlib.sha256("\0".join(sorted(ids)).encode()).hexdigest()
    return f"{KEPT_PREFIX}model={model}/dt={day}/{digest[:32]}.parquet"


def render_rows(rows: Sequence[Row]) -> bytes:
    """Return rows as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), file, compression="zstd")
    return file.getvalue()


def parse_key(key: str) -> Place | None:
    """Return the partition of an object key; None if it is not a key of the table."""
    found = re.fullmatch(KEPT_PREFIX + r"model=([^/]+)/dt=(\d{4}-\d\d-\d\d)/[^/]+\.parquet", key)
    return (found[1], found[2]) if found else None
