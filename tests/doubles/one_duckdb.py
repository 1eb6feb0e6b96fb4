"""One DuckDB instance for many tests: opening an instance takes 15 ms of CPU, a database within it takes 1 ms.

Everything else is real: each connection has a database of its own in memory, with the settings that it was opened with.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Self
from unittest import mock

import duckdb

_numbers = itertools.count()
_SPILL = tempfile.TemporaryDirectory()


class Connection:
    """The result of `duckdb.connect`: a connection to a new database in memory, which closing removes."""

    def __init__(self, database: str = ":memory:", *, config: dict[str, Any] | None = None) -> None:
        assert database == ":memory:"
        settings = {**(config or {})}
        settings["temp_directory"] = _SPILL.name  # an instance has one
        instance, self._set = _instance(tuple(sorted(settings.items())))
        self._cursor = instance.cursor()
        self._name = f"d{next(_numbers)}"
        self._cursor.execute(f"attach ':memory:' as {self._name}")
        self._cursor.execute(f"use {self._name}")

    def execute(self, sql: Any, *values: Any, **named: Any) -> Any:
        """Execute a statement; a setting that the instance has already is not set again, because it can be locked."""
        if sql in self._set:
            return self
        result = self._cursor.execute(sql, *values, **named)
        if isinstance(sql, str) and sql.startswith("set "):
            self._set.add(sql)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the database."""
        if self._name:
            name, self._name = self._name, ""
            self._cursor.execute("use memory")
            self._cursor.execute(f"detach {name}")
            self._cursor.close()


@cache
def _instance(settings: tuple[tuple[str, Any], ...]) -> tuple[duckdb.DuckDBPyConnection, set[str]]:
    return duckdb.connect(config=dict(settings)), set()


@contextmanager
def used_by_runs() -> Iterator[None]:
    """Make all modules of a run, and of a comparison, open their databases here."""
    module = _Module()
    with (
        mock.patch("enrich.join.engine.duckdb", module),
        mock.patch("enrich.delta.changes.duckdb", module),
        mock.patch("enrich.diff.extract.duckdb", module),
    ):
        yield


class _Module:
    """Replaces the module `duckdb` in a module under test: everything but `connect` is DuckDB's."""

    connect = Connection

    def __getattr__(self, name: str) -> Any:
        return getattr(duckdb, name)
