"""Build the Athena query that makes a training set from kept features: one column per feature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from score.model import Boolean, Category, Model, Stored, Text, iterate_features

# A message that SQS delivers twice can be kept twice, with equal rows; SELECT DISTINCT returns them once.
_SHARED = ("request_id", "instance", "scored_at", "version", "role", "subject")


def build_training_query(model: Model, table: str, since: date, until: date) -> str:
    """Return a SELECT of the kept requests of a model, from the day `since` to the day `until` in UTC, both included.

    Columns: request_id and others of the request; each feature (null: missing); `NAME_as_of`, `NAME_run` and
    `NAME_missing` of each stored feature; the members that are only parts of prediction_ids, on which the outcome can
    be joined; the prediction.

    Args:
        model: the model; its features become columns.
        table: database and name, as in LARDER_KEPT_TABLE.
        since: the first day.
        until: the last day.
    """
    database, _, name = table.rpartition(".")
    columns = [*_SHARED, *_list_features(model), *(_read("ids", each, each) for each in model.ids)]
    columns += ["label", "probability"] if model.task == "classification" else ["value"]
    place = f"{_quote(database)}.{_quote(name)}" if database else _quote(name)
    days = f"dt BETWEEN '{since}' AND '{until}'"
    return "SELECT DISTINCT\n  " + ",\n  ".join(columns) + f"\nFROM {place}\nWHERE model = '{model.name}' AND {days}"


def _list_features(model: Model) -> Iterator[str]:
    for name, kind in iterate_features(model):
        if isinstance(kind, Text) and not (model.keep and model.keep.texts):
            continue
        column = "texts" if isinstance(kind, Text | Category) else "numbers"
        if isinstance(kind, Boolean):
            yield f"element_at(numbers, {_text(name)}) = 1 AS {_quote(name)}"
        else:
            yield _read(column, name, name)
        if isinstance(model.features[name], Stored):
            for member in ("as_of", "run", "missing"):
                yield _read("stored", name, f"{name}_{member}", f".{member}")


def _read(column: str, name: str, alias: str, member: str = "") -> str:
    """Return the expression of a member of a map; it is null if the map does not have it."""
    return f"element_at({column}, {_text(name)}){member} AS {_quote(alias)}"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quote(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'
