"""Understand one Athena SQL statement: what it is, which tables it reads, how DuckDB spells it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import TokenType, exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import traverse_scope

from infra.local.athena.errors import InvalidRequestError, QueryFailedError

DIALECT = "athena"
DEFAULT_CATALOG = "awsdatacatalog"
UNNAMED = "(unnamed)"
SUPPORTED_UNLOAD = {"format", "compression"}
CODECS = {"gzip": "gzip", "snappy": "snappy", "zstd": "zstd", "lz4": "lz4", "none": "none"}

_UNLOAD = re.compile(
    r"\s*UNLOAD\s*\((?P<query>.*)\)\s*TO\s*'(?P<location>[^']*)'\s*(?:WITH\s*\((?P<options>.*)\))?\s*;?\s*\Z",
    re.IGNORECASE | re.DOTALL,
)
_OPTION = re.compile(r"\s*(\w+)\s*=\s*'([^']*)'\s*")


@dataclass(frozen=True)
class TableName:
    """A table of the Glue catalog, in lower case as Athena has it."""

    database: str
    name: str


@dataclass(frozen=True)
class Unload:
    """Where UNLOAD writes its Parquet, and how it is compressed."""

    location: str
    codec: str


@dataclass(frozen=True)
class Statement:
    """A SELECT, alone or inside an UNLOAD: its tables, and its text in DuckDB's dialect."""

    duckdb_sql: str
    tables: tuple[TableName, ...]
    unload: Unload | None


def parse_statement(sql: str, database: str, parameters: Sequence[str] = ()) -> Statement:
    """Parse an Athena statement.

    Args:
        sql: one statement, SELECT (or WITH, UNION, VALUES) or UNLOAD of one.
        database: what a table without a database is looked up in.
        parameters: SQL literals for the statement's `?`, in order.

    Raises:
        InvalidRequestError: it does not parse, or is of a kind that this Athena does not have.
        QueryFailedError: it parses, but Athena would fail it, e.g. for a table function that does not exist.
    """
    unload = None
    if re.match(r"\s*UNLOAD\b", sql, re.IGNORECASE):
        sql, unload = _parse_unload(sql)
    query = _parse_query(_fill_parameters(sql, parameters))
    tables = _find_tables(query, database)
    _mark_unnamed(query)
    return Statement(query.sql(dialect="duckdb"), tables, unload)


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
        raise InvalidRequestError(f"UNLOAD location is no S3 path: {match['location']!r}")
    return match["query"], Unload(match["location"].rstrip("/") + "/", codec)


def _fill_parameters(sql: str, parameters: Sequence[str]) -> str:
    """Put parameters in place of a statement's `?`, each as the one expression that it has to be."""
    try:
        tokens = sqlglot.tokenize(sql, dialect=DIALECT)
        values = [sqlglot.parse_one(text, dialect=DIALECT, into=exp.Condition).sql(DIALECT) for text in parameters]
    except SqlglotError as error:
        raise InvalidRequestError(str(error), "MALFORMED_QUERY") from error
    places = [token for token in tokens if token.token_type == TokenType.PLACEHOLDER]
    if len(places) != len(values):
        raise InvalidRequestError(f"Incorrect number of parameters: expected {len(places)} but found {len(values)}")
    for place, value in zip(reversed(places), reversed(values), strict=True):
        sql = f"{sql[: place.start]}({value}){sql[place.end + 1 :]}"
    return sql


def _find_tables(query: exp.Query, database: str) -> tuple[TableName, ...]:
    """Find the catalog's tables and give each its database; what a WITH clause names is none of them."""
    for table in query.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            # DuckDB has read_csv and its like, which Athena has not.
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
                # Without an alias, the bare name stays usable as a qualifier in DuckDB too.
                source.set("catalog", None)
                source.set("db", exp.to_identifier(name.database, quoted=True))
                source.set("this", exp.to_identifier(name.name, quoted=True))
    return tuple(found)


def _mark_unnamed(query: exp.Query) -> None:
    """Mark the output columns that have no name, before DuckDB makes one up; their place is known after `*` only."""
    for column in query.selects:
        if not column.output_name and not column.is_star:
            column.replace(exp.alias_(column.copy(), UNNAMED, quoted=True))
