"""Execute a statement in DuckDB, in memory, without access to the host's files, network or variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress

import duckdb
import pyarrow as pa

from infra.local.athena.errors import QueryFailedError
from infra.local.athena.functions import ATHENA_FUNCTIONS, MACROS
from infra.local.athena.statement import UNNAMED, Statement, TableName

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,  # no file, no network, no extension
    "python_enable_replacements": False,  # Python variables are not tables
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "memory_limit": "1GB",
    "integer_division": True,  # 7/2 is 3 in Trino
    "ieee_floating_point_ops": False,  # errors as in Trino
}
_BIGINT = {"HUGEINT", "UHUGEINT", "UBIGINT", "UINTEGER"}  # Trino's sums and counts are bigint
_SMALL_UNSIGNED = {"UTINYINT": "SMALLINT", "USMALLINT": "INTEGER"}


def run_statement(
    statement: Statement,
    tables: Mapping[TableName, pa.Table],
    *,
    started: Callable[[Callable[[], None]], None],
) -> pa.Table:
    """Run a statement over its tables.

    Args:
        statement: the statement to run.
        tables: the rows of every table that it names.
        started: called with the function that interrupts the run.

    Raises:
        QueryFailedError: DuckDB cannot run the statement.
        duckdb.InterruptException: the run was interrupted.
    """
    with duckdb.connect(":memory:", config=CONFIG) as connection:
        connection.execute("set TimeZone = 'UTC'; set lock_configuration = true")  # not possible in `config`
        for macro in MACROS:
            connection.execute(macro)

        def interrupt() -> None:
            with suppress(duckdb.ConnectionException):  # closed, because the run has ended
                connection.interrupt()

        started(interrupt)
        try:
            for number, (name, rows) in enumerate(tables.items()):
                connection.register(f"table {number}", rows)
                connection.execute(f"create schema if not exists {_quote(name.database)}")
                view = f"{_quote(name.database)}.{_quote(name.name)}"
                connection.execute(f'create view {view} as select * from "table {number}"')
            return connection.sql(_output_sql(connection, statement)).to_arrow_table()
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            raise QueryFailedError(_reason(error, statement)) from error


def _output_sql(connection: duckdb.DuckDBPyConnection, statement: Statement) -> str:
    """Wrap the query so that its columns have Athena's types."""
    columns = []
    for position, (name, kind, *_) in enumerate(connection.execute(f"describe {statement.duckdb_sql}").fetchall()):
        if name == UNNAMED and statement.unload:
            raise QueryFailedError(f"MISSING_COLUMN_NAME: Column name not specified at position {position + 1}")
        label = f"_col{position}" if name == UNNAMED else name
        athena_type = _athena_type(kind, unload=statement.unload is not None)
        columns.append(f"cast(#{position + 1} as {athena_type}) as {_quote(label)}")
    return f"select {', '.join(columns)} from ({statement.duckdb_sql})"


def _athena_type(duckdb_type: str, *, unload: bool) -> str:
    if duckdb_type in _BIGINT:
        return "BIGINT"
    if unload and duckdb_type == "TIMESTAMP WITH TIME ZONE":
        raise QueryFailedError("NOT_SUPPORTED: Unsupported Hive type: timestamp(3) with time zone")
    return _SMALL_UNSIGNED.get(duckdb_type, duckdb_type)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _reason(error: duckdb.Error, statement: Statement) -> str:
    """Return Athena's error code, followed by DuckDB's message."""
    said = str(error).split("\n\n")[0].replace("\n", " ").strip()
    if "Division by zero" in said:
        return "DIVISION_BY_ZERO: Division by zero"
    if isinstance(error, duckdb.ConversionException):
        return f"INVALID_CAST_ARGUMENT: {said}"
    if isinstance(error, duckdb.OutOfRangeException):
        return f"NUMERIC_VALUE_OUT_OF_RANGE: {said}"
    if isinstance(error, duckdb.PermissionException):
        return f"PERMISSION_DENIED: {said}"
    if match := re.search(r'Referenced column "(.*?)" (?:not found|was not found)', said):
        return f"COLUMN_NOT_FOUND: Column '{match[1]}' cannot be resolved or requester is not authorized"
    if match := re.search(r'Function with name "?(\w+)"? (?:does not exist|is not in the catalog)', said):
        # Functions that Athena lacks were refused before. The translation to DuckDB's dialect renames some functions.
        own = match[1].lower() in ATHENA_FUNCTIONS
        if own or statement.functions:
            name = match[1] if own else " or ".join(dict.fromkeys(statement.functions))
            return (
                f"NOT_SUPPORTED: Athena has the function '{name}', but the local Athena, which runs DuckDB, does not; "
                "use another function on the laptop, or add a macro to infra/local/athena/functions.py"
            )
        return f"FUNCTION_NOT_FOUND: Function '{match[1]}' not registered"
    return f"GENERIC_USER_ERROR: {said}"
