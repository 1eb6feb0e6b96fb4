"""One DuckDB instance for all histories, a schema for each `Delta`: opening an instance takes longer than a run."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import duckdb

_connect = duckdb.connect
_numbers = itertools.count()


@cache
def _instance() -> duckdb.DuckDBPyConnection:
    return _connect(":memory:", config={"threads": 1})


class Connection:
    """A connection to the shared instance that sees its own schema only."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._schema = f"s{next(_numbers)}"
        self._cursor = _instance().cursor()
        self._cursor.execute(f"create schema {self._schema}")
        self._cursor.execute(f"set schema = '{self._schema}'")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def close(self) -> None:
        """Drop the schema with all that is in it."""
        self._cursor.execute("set schema = 'main'")
        self._cursor.execute(f"drop schema {self._schema} cascade")
        self._cursor.close()
