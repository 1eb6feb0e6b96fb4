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
