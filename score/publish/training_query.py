"""Build the query of Athena that makes a training set of what was kept: a column for each feature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from score.model import Boolean, Category, Model, Stored, Text, iterate_features

# A request that SQS delivers twice is kept twice, with equal rows; one row of it is selected.
_SHARED = ("request_id", "instance", "scored_at", "version", "role", "subject")


def build_training_query(model: Model, table: str, since: date, until: date) -> str:
    """Return a SELECT of the kept requests of a model, from the day `since` to the day `until` in UTC, both included.

    Columns: those of the request; of each feature its value (null: missing); of each stored feature `NAME_as_of`,
    `NAME_run` and `NAME_missing`; the members that only name items, to join the outcome with; the prediction.

    Args:
        model: the model; its features decide about the columns.
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
    """Return the expression of a member of a map, which is null if the map lacks it."""
    return f"element_at({column}, {_text(name)}){member} AS {_quote(alias)}"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quote(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'
