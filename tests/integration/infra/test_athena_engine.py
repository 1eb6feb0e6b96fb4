"""SQL cannot reach the host: the parser refuses table functions, and DuckDB has no access to files or variables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from infra.local.athena.engine import run_statement
from infra.local.athena.errors import QueryFailedError
from infra.local.athena.statement import Statement, TableName, parse_statement

READERS = {
    "read_csv": "select * from read_csv('{file}')",
    "read_text": "select * from read_text('{file}')",
    "a reader inside query()": "select * from query('select * from read_text(''{file}'')')",
    "settings": "select * from duckdb_settings()",
    "inside WITH": "with x as (select * from read_text('{file}')) select * from x",
    "inside a join": "select * from (select 1 as one) a cross join read_text('{file}')",
    "inside a condition": "select 1 where exists (select * from read_text('{file}'))",
}


@pytest.mark.parametrize("sql", READERS.values(), ids=READERS)
def test_the_parser_refuses_table_functions(tmp_path: Path, sql: str) -> None:
    """Athena has none of DuckDB's table functions, so a statement with one never reaches DuckDB."""
    with pytest.raises(QueryFailedError, match=r"Table function .* not registered"):
        parse_statement(sql.format(file=tmp_path / "secret.csv"), "default")


REACHES = {
    "read_csv": "select * from read_csv('{file}')",
    "read_text": "select * from read_text('{file}')",
    "a file as a table": "select * from '{file}'",
    "glob": "select * from glob('{file}*')",
    "inside query()": "select * from query('select * from read_text(''{file}'')')",
    "our own variable": "select * from rows",
}


@pytest.mark.parametrize("sql", REACHES.values(), ids=REACHES)
def test_duckdb_has_no_access_to_the_host(tmp_path: Path, sql: str) -> None:
    """SQL that the parser did not refuse still reads neither a file nor a Python variable."""
    secret = tmp_path / "secret.csv"
    secret.write_text("secret\nthe-hosts-secret\n")
    tables = {TableName("lake", "one"): pa.table({"x": [1]})}
    with pytest.raises(QueryFailedError) as failed:
        run_statement(Statement(sql.format(file=secret), (), None), tables, started=lambda interrupt: None)
    assert "the-hosts-secret" not in str(failed.value)


def test_a_query_on_a_table_is_answered() -> None:
    """The same call with a table of the catalog gives its rows."""
    statement = parse_statement("select x + 1 as y from one", "lake")
    tables = {TableName("lake", "one"): pa.table({"x": [1]})}
    assert run_statement(statement, tables, started=lambda interrupt: None).to_pydict() == {"y": [2]}


ADDED = {
    "map_agg(k, v)['b']": 2,
    "array_union(array[1, 2], array[2, 3])": [1, 2, 3],
    "array_except(array[1, 2], array[2])": [1],
    "arrays_overlap(array[1, 2], array[2])": True,
    "day_of_week(date '2026-11-29')": 7,
    "day_of_month(date '2026-11-29')": 29,
    "codepoint('a')": 97,
}


def run(sql: str) -> list[object]:
    """Run a query over a table of two rows."""
    tables = {TableName("lake", "one"): pa.table({"k": ["a", "b"], "v": [1, 2]})}
    found = run_statement(parse_statement(sql, "lake"), tables, started=lambda interrupt: None)
    return list(found.to_pylist()[0].values())


def test_functions_of_athena_that_duckdb_lacks_are_added() -> None:
    """Each returns what Athena returns."""
    for expression, expected in ADDED.items():
        source = "from one" if "(k" in expression else ""
        found = run(f"select {expression} as x {source}")[0]
        assert (sorted(found) if isinstance(found, list) else found) == expected, expression


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "reduce_agg(v, 0, 0, 0)",
            "NOT_SUPPORTED: Athena has the function 'reduce_agg', only the local Athena does not",
        ),
        ("murmur3(k)", "NOT_SUPPORTED: Athena has the function 'murmur3'"),
        ("url_extract_host(k)", "NOT_SUPPORTED: Athena has the function 'url_extract_host'"),
        ("frobnicate(k)", "FUNCTION_NOT_FOUND: Function 'frobnicate' not registered"),
    ],
)
def test_a_function_that_only_the_stand_in_lacks_is_said_to_be_one(call: str, message: str) -> None:
    """A query that Athena would run is not called wrong."""
    with pytest.raises(QueryFailedError) as failed:
        run(f"select {call} as x from one")
    assert str(failed.value).startswith(message)
