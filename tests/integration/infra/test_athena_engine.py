"""SQL cannot reach the host: the parser refuses table functions, and DuckDB has no access to files or variables."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from infra.local.athena.engine import _reason, run_statement
from infra.local.athena.errors import InvalidRequestError, QueryFailedError
from infra.local.athena.functions import ATHENA_FUNCTIONS, MACROS
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


def test_a_query_on_a_table_is_executed() -> None:
    """The same call with a table of the catalog returns its rows."""
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
    "infinity()": float("inf"),
    "yow(date '2027-01-01')": 2026,
    "every(v > 0)": True,
    "array_first(array[1, 2])": 1,
    "array_last(array[1, 2])": 2,
}


def run(sql: str) -> list[object]:
    """Run a query over a table of two rows."""
    tables = {TableName("lake", "one"): pa.table({"k": ["a", "b"], "v": [1, 2]})}
    found = run_statement(parse_statement(sql, "lake"), tables, started=lambda interrupt: None)
    return list(found.to_pylist()[0].values())


def test_functions_of_athena_that_duckdb_lacks_are_added() -> None:
    """Each returns what Athena returns."""
    for expression, expected in ADDED.items():
        source = "from one" if "(k" in expression or "(v" in expression else ""
        found = run(f"select {expression} as x {source}")[0]
        assert (sorted(found) if isinstance(found, list) else found) == expected, expression


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "reduce_agg(v, 0, 0, 0)",
            "NOT_SUPPORTED: Athena has the function 'reduce_agg', but the local Athena, which runs DuckDB, does not",
        ),
        ("murmur3(k)", "NOT_SUPPORTED: Athena has the function 'murmur3'"),
        ("url_extract_host(k)", "NOT_SUPPORTED: Athena has the function 'url_extract_host'"),
        ("ST_Area(k)", "NOT_SUPPORTED: Athena has the function 'st_area'"),
        ("split_to_map(k, ',', '=')", "NOT_SUPPORTED: Athena has the function 'split_to_map'"),
        ("frobnicate(k)", "FUNCTION_NOT_FOUND: Function 'frobnicate' not registered"),
        ("date_formt(v, '%Y')", "FUNCTION_NOT_FOUND: Function 'date_formt' not registered; did you mean date_format?"),
        # functions of DuckDB that Athena lacks: they would run here, and fail on AWS
        ("list_sum(array[v])", "FUNCTION_NOT_FOUND: Function 'list_sum' not registered"),
        ("strftime(now(), '%Y')", "FUNCTION_NOT_FOUND: Function 'strftime' not registered"),
        ("coalesce(strptime(k, '%Y'), now())", "FUNCTION_NOT_FOUND: Function 'strptime' not registered"),
        ("nvl(k, 'x')", "FUNCTION_NOT_FOUND: Function 'nvl' not registered"),
    ],
)
def test_a_function_that_only_the_stand_in_lacks_is_reported_as_such(call: str, message: str) -> None:
    """A query that Athena would run is not called wrong."""
    with pytest.raises(QueryFailedError) as failed:
        run(f"select {call} as x from one")
    assert str(failed.value).startswith(message)


def test_no_function_of_athena_is_called_unknown() -> None:
    """Each function of Athena that DuckDB lacks is reported as missing only here."""
    reasons = {}
    with duckdb.connect(config={"threads": 1}) as connection:
        for macro in MACROS:
            connection.execute(macro)
        connection.execute("create schema lake; create table lake.one as select 'a' as k")
        (own,) = connection.execute("select list(distinct function_name) from duckdb_functions()").fetchone() or ([],)
        for name in sorted(ATHENA_FUNCTIONS - set(own)):
            try:
                statement = parse_statement(f"select {name}(k) as x from one", "lake")
                connection.sql(statement.duckdb_sql)
            except duckdb.Error as error:
                reasons[name] = _reason(error, statement)
            except InvalidRequestError:  # syntax of Athena, e.g. cast(k as ...)
                continue
    assert len(reasons) > 100
    assert [name for name, reason in reasons.items() if reason.startswith("FUNCTION_NOT_FOUND")] == []


def test_a_name_before_a_parenthesis_that_is_no_function() -> None:
    """Aliases with columns, common tables, types and keywords."""
    assert run("with a(x) as (select 1), b(y) as (select x from a) select y from b where y in (1)") == [1]
    assert run("select z from unnest(array[7]) as t(z)") == [7]
    assert run("select z from unnest(array[7]) t(z)") == [7]
    assert run("select cast(v as decimal(9, 2)) + 1 as x from one where k in ('a') and exists (select 1)")
    assert run("select row_number() over (order by k) as x, count(*) filter (where v > 0) over () from one")[0] == 1
