"""Parse one Athena SQL statement: its kind, the tables that it reads, and its text in DuckDB's dialect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import traverse_scope

from enrich.dataset.suggestions import find_close
from infra.local.athena.errors import InvalidRequestError, QueryFailedError
from infra.local.athena.functions import ATHENA_FUNCTIONS

DIALECT = "athena"
DEFAULT_CATALOG = "awsdatacatalog"
UNNAMED = "(unnamed)"
SUPPORTED_UNLOAD = {"format", "compression"}
_BEFORE_AN_ALIAS = {"ALIAS", "WITH", "RECURSIVE", "VAR", "R_PAREN", "IDENTIFIER", "ORDINALITY"}
CODECS = {"gzip": "gzip", "snappy": "snappy", "zstd": "zstd", "lz4": "lz4", "none": "none"}

_UNLOAD = re.compile(
    r"\s*UNLOAD\s*\((?P<query>.*)\)\s*TO\s*'(?P<location>[^']*)'\s*(?:WITH\s*\((?P<options>.*)\))?\s*;?\s*\Z",
    re.IGNORECASE | re.DOTALL,
)
_OPTION = re.compile(r"\s*(\w+)\s*=\s*'([^']*)'\s*")


@dataclass(frozen=True)
class TableName:
    """A table of the Glue catalog, in lower case as in Athena."""

    database: str
    name: str


@dataclass(frozen=True)
class Unload:
    """Location and compression of the Parquet files of an UNLOAD."""

    location: str
    codec: str


@dataclass(frozen=True)
class Statement:
    """A SELECT, alone or inside an UNLOAD: its text in DuckDB's dialect, and its tables."""

    duckdb_sql: str
    tables: tuple[TableName, ...]
    unload: Unload | None
    functions: tuple[str, ...] = ()  # names of the functions that it calls, as written


def parse_statement(sql: str, database: str) -> Statement:
    """Parse an Athena statement.

    Args:
        sql: one statement, SELECT (or WITH, UNION, VALUES) or UNLOAD of one.
        database: the database of tables that are named without one.

    Raises:
        InvalidRequestError: it does not parse, or is of a kind that the local Athena does not support.
        QueryFailedError: it parses, but fails on Athena, e.g. because a table function does not exist.
    """
    unload = None
    if re.match(r"\s*UNLOAD\b", sql, re.IGNORECASE):
        sql, unload = _parse_unload(sql)
    query = _parse_query(sql)
    tables = _find_tables(query, database)
    functions = tuple(_find_functions(sql))
    for name in functions:
        if name.lower() not in ATHENA_FUNCTIONS:  # if DuckDB has it, the query would run here and fail on AWS
            close = find_close(name.lower(), ATHENA_FUNCTIONS, cutoff=0.8)
            hint = f"; did you mean {close}?" if close else ""
            raise QueryFailedError(f"FUNCTION_NOT_FOUND: Function '{name}' not registered{hint}")
    _mark_unnamed(query)
    return Statement(query.sql(dialect="duckdb"), tables, unload, functions)


def _find_functions(sql: str) -> Iterator[str]:
    """Yield the names of the functions that a statement calls, as written: parsing gives some of them DuckDB's name.

    A name before a parenthesis can also be an alias with a list of columns: `t(a, b)`, `with t(a, b) as (...)`.
    """
    tokens = sqlglot.tokenize(sql, dialect=DIALECT)
    kinds = [token.token_type.name for token in tokens]
    for at, token in enumerate(tokens[:-1]):
        if kinds[at] != "VAR" or kinds[at + 1] != "L_PAREN":
            continue
        before = kinds[at - 1] if at else ""
        if before in _BEFORE_AN_ALIAS or (before == "COMMA" and _is_common_table(kinds, at + 1)):
            continue
        yield token.text


def _is_common_table(kinds: Sequence[str], opening: int) -> bool:
    """Return whether the list in the parentheses from `opening` on is followed by AS and a query."""
    depth = 0
    for at in range(opening, len(kinds)):
        depth += (kinds[at] == "L_PAREN") - (kinds[at] == "R_PAREN")
        if depth == 0:
            return list(kinds[at + 1 : at + 3]) == ["ALIAS", "L_PAREN"]
    return False


def _parse_query(sql: str) -> exp.Query:
    try:
        statements = [parsed for parsed in sqlglot.parse(sql, dialect=DIALECT) if parsed is not None]
    except SqlglotError as error:
        raise InvalidRequestError(re.sub(r"\x1b\[\d+m", "", str(error)), "MALFORMED_QUERY") from error
    if len(statements) != 1:
        raise InvalidRequestError("Only one sql statement is allowed.", "MALFORMED_QUERY")
    query = statements[0]
    if not isinstance(query, exp.Query):
        kind = sql.split(maxsplit=1)[0].upper()
        raise InvalidRequestError(f"Queries of this type are not supported by the local Athena: {kind}", "UNSUPPORTED")
    return query


def _parse_unload(sql: str) -> tuple[str, Unload]:
    match = _UNLOAD.match(sql)
    if match is None:
        raise InvalidRequestError(
            "mismatched input in UNLOAD. Expecting: UNLOAD (query) TO 's3://...' WITH (...)", "MALFORMED_QUERY"
        )
    options = {}
    for option in filter(None, (match["options"] or "").split(",")):
        parsed = _OPTION.fullmatch(option)
        if parsed is None or parsed[1].lower() not in SUPPORTED_UNLOAD:
            raise InvalidRequestError(f"UNLOAD option not supported by the local Athena: {option.strip()}")
        options[parsed[1].lower()] = parsed[2].lower()
    if options.get("format") != "parquet":
        raise InvalidRequestError("The local Athena unloads to PARQUET only: WITH (format = 'PARQUET')")
    codec = CODECS.get(options.get("compression", "gzip"))
    if codec is None:
        raise InvalidRequestError(f"Unsupported compression: {options['compression']}")
    if not re.fullmatch(r"s3://[^/]+/.+", match["location"]):
        raise InvalidRequestError(f"UNLOAD location is not an S3 path: {match['location']!r}")
    return match["query"], Unload(match["location"].rstrip("/") + "/", codec)


def _find_tables(query: exp.Query, database: str) -> tuple[TableName, ...]:
    """Find the tables of the catalog, not those of a WITH clause, and qualify each with its database."""
    for table in query.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            # DuckDB has table functions such as read_csv; Athena has none.
            raise QueryFailedError(f"FUNCTION_NOT_FOUND: Table function {table.sql(DIALECT)!r} not registered")
    found: dict[TableName, None] = {}
    for scope in traverse_scope(query):
        for source in scope.sources.values():
            if isinstance(source, exp.Table):
                catalog = (source.catalog or DEFAULT_CATALOG).lower()
                if catalog != DEFAULT_CATALOG:
                    raise QueryFailedError(f"CATALOG_NOT_FOUND: Catalog '{catalog}' does not exist")
                name = TableName((source.db or database).lower(), source.name.lower())
                found[name] = None
                # Without an alias the bare name can still qualify columns in DuckDB.
                source.set("catalog", None)
                source.set("db", exp.to_identifier(name.database, quoted=True))
                source.set("this", exp.to_identifier(name.name, quoted=True))
    return tuple(found)


def _mark_unnamed(query: exp.Query) -> None:
    """Mark the output columns without a name; Athena names them by position, which is known after `*` is expanded."""
    for column in query.selects:
        if not column.output_name and not column.is_star:
            column.replace(exp.alias_(column.copy(), UNNAMED, quoted=True))
