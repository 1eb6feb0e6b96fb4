"""One DuckDB instance for all histories: opening an instance, and making its tables, takes longer than a run.

A connection has a schema of its own, with the tables that are always made; these are committed, everything else is
one transaction. Closing rolls it back, so that the next `Delta` finds the tables empty, and need not make them.
"""

from __future__ import annotations

import itertools
from functools import cache, lru_cache
from typing import Any

import duckdb

_connect = duckdb.connect
_numbers = itertools.count()
_idle: list[Schema] = []


class Schema:
    """A schema of the shared instance, a cursor into it, and the statements that made its tables."""

    def __init__(self) -> None:
        name = f"s{next(_numbers)}"
        self.tables: set[str] = set()
        self.cursor = _instance().cursor()
        self.cursor.execute(f"create schema {name}")
        self.cursor.execute(f"set schema = '{name}'")
        self.cursor.execute("pragma disable_optimizer")  # it takes longer than the dozen rows that a statement sees


@cache
def _instance() -> duckdb.DuckDBPyConnection:
    return _connect(":memory:", config={"threads": 1})


@lru_cache(512)
def _parse(sql: str) -> Any:
    """Parse a statement once for all histories: parsing takes a third of the time of executing it over a dozen rows."""
    (statement,) = _instance().extract_statements(sql)
    return statement


class Connection:
    """The result of `duckdb.connect`, for the calls that `Delta` makes."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._schema = _idle.pop() if _idle else Schema()
        self._in_transaction = False

    def execute(self, sql: str, *values: Any) -> Any:
        """Execute a statement; do not create a table that the schema already has."""
        if sql in self._schema.tables:
            return self
        if not self._in_transaction:
            if sql.startswith(("create table ", "set ")):
                self._schema.tables.add(sql)
            else:
                self._begin()
        return self._schema.cursor.execute(_parse(sql), *values)

    def sql(self, sql: str, **values: Any) -> Any:
        """Return the relation of a query."""
        if not self._in_transaction:
            self._begin()
        return self._schema.cursor.sql(_parse(sql), **values)

    def __getattr__(self, name: str) -> Any:
        if not self._in_transaction:
            self._begin()
        return getattr(self._schema.cursor, name)

    def _begin(self) -> None:
        self._schema.cursor.execute("begin transaction")
        self._in_transaction = True

    def close(self) -> None:
        """Undo everything except the tables."""
        if self._in_transaction:
            self._schema.cursor.execute("rollback")
        _idle.append(self._schema)
