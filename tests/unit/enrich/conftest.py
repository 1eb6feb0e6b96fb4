"""Hypothesis without deadlines, since the first query of a DuckDB is slow; and one DuckDB instance for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.doubles import one_duckdb

settings.register_profile("engine", deadline=None)
settings.load_profile("engine")


@pytest.fixture(autouse=True)
def _one_duckdb() -> Iterator[None]:
    with one_duckdb.used_by_runs():
        yield
