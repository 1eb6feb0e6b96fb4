"""Parse a dataset's SQL expressions: find the columns and metadata that they name, and reject what is not allowed.

DuckDB itself parses them (`json_serialize_sql`), so the SQL that is checked is the SQL that is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import duckdb

from enrich.dataset.empty_database import open_empty
from enrich.dataset.mistakes import DatasetMistakes, Mistake
from enrich.dataset.suggestions import find_close, suggest

_NULL_SAFE = {"OPERATOR_COALESCE", "CASE_EXPR", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"}
_BLANK = re.compile(r"(\s|--[^\n]*|/\*.*?\*/)*", re.DOTALL)
# Function of another SQL dialect, in lower case -> the DuckDB equivalent.
_FOREIGN_FUNCTIONS = {
    **dict.fromkeys(["date_format", "format_datetime", "to_char", "to_iso8601"], "strftime(x, '%Y-%m-%d')"),
    **dict.fromkeys(["date_parse", "parse_datetime", "to_date", "str_to_date"], "strptime(x, '%Y-%m-%d')"),
    **dict.fromkeys(["from_iso8601_timestamp", "from_iso8601_date"], "x::timestamptz or x::date"),
    **dict.fromkeys(["from_unixtime", "timestamp_seconds"], "to_timestamp(x)"),
    **dict.fromkeys(["to_unixtime", "unix_timestamp", "unix_seconds"], "epoch(x)"),
    **dict.fromkeys(["nvl", "isnull", "zeroifnull"], "coalesce(x, y) or x is null"),
    **dict.fromkeys(["iff", "nvl2", "decode", "ifelse"], "case when ... then ... else ... end"),
    **dict.fromkeys(["json_extract_scalar", "get_json_object", "json_value"], "x ->> '$.member'"),
    **dict.fromkeys(["json_parse", "parse_json", "json_format"], "x::json or x::varchar"),
    **dict.fromkeys(["regexp_like", "rlike"], "regexp_matches(x, 'pattern')"),
    **dict.fromkeys(["charindex", "locate"], "strpos(x, 'part')"),
    **dict.fromkeys(["array_join", "concat_array"], "array_to_string(x, ', ')"),
    **dict.fromkeys(["size", "array_size"], "len(x)"),
    **dict.fromkeys(["array_max", "array_min", "array_sum", "array_average"], "list_max, list_min, list_sum, list_avg"),
    "transform": "list_transform(x, lambda y: ...)",
    "truncate": "trunc(x)",
    "url_extract_host": "regexp_extract(x, 'pattern', 1)",
    "to_base64": "base64(x)",
    "unhex": "from_hex(x)",
    "to_hex": "hex(x)",
}
# Keywords for values of the session in SQL; DuckDB's parser returns them as column names.
_SESSION_VALUES = {
    *("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"),
    *("current_catalog", "current_role", "current_schema", "current_user", "session_user", "user"),
}
# Functions that DuckDB calls consistent, and that depend on the time, the database or the release of DuckDB.
_UNSTABLE = {"current_localtime", "current_localtimestamp", "index_key", "json_serialize_plan", "version"}
_SUBQUERY = "(select)"  # stands for a function that a macro with a subquery calls: it reads DuckDB's catalog
_MANY_ROWS = {"unnest", "unlist"}
_FORBIDDEN = {
    "WINDOW": ("is a window function, which reads other rows", "compute it in the model or in the metadata query"),
    "SUBQUERY": ("contains a subquery", "make it a metadata query and join it"),
    "STAR": ("contains `*`", "name the columns"),
    "PARAMETER": ("contains a parameter", "write the value"),
    "POSITIONAL_REFERENCE": ("contains the position of a column", "name the column"),
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression.

    Attributes:
        place: where it is in the dataset, e.g. `body.origin.name`.
        sql: its text.
        columns: the prediction's columns that it names.
        required: those of `columns` that it names outside `coalesce`, `case` and `is null`.
        metadata: the metadata columns that it names, as (metadata, column). For metadata that is a list: all of its
            columns, or "" if they are unknown.
        plain: it is only a name, so it can't fail and is cheap to repeat.
    """

    place: str
    sql: str
    columns: frozenset[str]
    required: frozenset[str]
    metadata: frozenset[tuple[str, str]]
    plain: bool


class Names:
    """The names that a dataset's expressions can use: columns, metadata, functions. DuckDB's names ignore case."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        columns: Collection[str],
        metadata: Mapping[str, Collection[str] | None],
        lists: Collection[str] = (),
    ) -> None:
        """`metadata`: name -> columns, None if they are unknown; `lists`: metadata joined with a list's elements."""
        self.con = con
        self.lists = frozenset(lists)
        self.columns = {name.lower(): name for name in columns}
        self.metadata = {name.lower(): name for name in metadata}
        self.fields = {
            name.lower(): None if fields is None else {field.lower(): field for field in fields}
            for name, fields in metadata.items()
        }
        self.functions = find_functions()


class Functions(NamedTuple):
    """The names of DuckDB's functions in lower case. Expressions can use only those that are allowed.

    Attributes:
        aggregates: they read several rows.
        volatile: they can return another value each time.
        many_rows: they make several rows of one.
        allowed: all others.
    """

    aggregates: frozenset[str]
    volatile: frozenset[str]
    many_rows: frozenset[str]
    allowed: frozenset[str]


@cache
def find_functions() -> Functions:
    """Find the functions of the installed DuckDB. A macro is of the kind of the functions that it calls."""
    members = ", ".join(
        f"json_extract_string(tree, '$..{each}')" for each in ("function_name", "column_names[0]", "class")
    )
    tree = "json_serialize_sql('select (' || macro_definition || ')') as tree"
    with open_empty() as con:
        rows = con.execute(
            f"select lower(function_name), function_type, stability, parameters, {members} "
            f"from (select *, {tree} from duckdb_functions())"
        ).fetchall()
    macros: dict[str, set[str]] = {}  # name -> the functions and the values of the session that it uses
    for name, kind, _, parameters, called, named, classes in rows:
        if kind == "macro":
            uses = {each.lower() for each in (*called, *(set(named) - set(parameters)))}
            macros.setdefault(name, set()).update(uses, [_SUBQUERY] if "SUBQUERY" in classes else [])
    scalar = {name for name, kind, *_ in rows if kind in {"scalar", "macro"}}
    aggregates = _add_macros({name for name, kind, *_ in rows if kind == "aggregate"} - scalar, macros)
    declared = {name for name, _, stability, *_ in rows if stability not in {None, "CONSISTENT"}}
    # error() has no value, so a macro that fails with it depends on nothing else
    volatile = {"error"} | _add_macros({*declared, *_UNSTABLE, *_SESSION_VALUES, _SUBQUERY} - {"error"}, macros)
    many_rows = _add_macros(_MANY_ROWS, macros)
    allowed = scalar - aggregates - volatile - many_rows
    return Functions(frozenset(aggregates), frozenset(volatile), frozenset(many_rows), frozenset(allowed))


def _add_macros(functions: Iterable[str], macros: Mapping[str, Collection[str]]) -> set[str]:
    """Add the macros that use one of some functions, at any depth."""
    found = set(functions)
    while more := {name for name, uses in macros.items() if name not in found and not found.isdisjoint(uses)}:
        found |= more
    return found


def parse_expression(names: Names, place: str, sql: str) -> Expression:
    """Parse one expression and check what it names.

    Raises:
        DatasetMistakes: it is not one SQL expression, has an unknown name, or uses something that is not allowed.
    """
    return walk_tree(names, place, sql, parse_tree(names.con, place, sql))


def walk_tree(names: Names, place: str, sql: str, tree: Any) -> Expression:
    """Check what the tree of an expression names.

    Raises:
        DatasetMistakes: an unknown name, or what is not allowed.
    """
    walk = _Walk(names, place)
    walk.visit(tree, frozenset(), safe=False)
    if walk.mistakes:
        raise DatasetMistakes(walk.mistakes)
    return Expression(
        place=place,
        sql=sql,
        columns=frozenset(walk.columns),
        required=frozenset(walk.required),
        metadata=frozenset(walk.metadata),
        plain=tree["class"] == "COLUMN_REF",
    )


def parse_tree(con: duckdb.DuckDBPyConnection, place: str, sql: str) -> Any:
    """Parse one expression to DuckDB's syntax tree.

    Raises:
        DatasetMistakes: it is not one SQL expression.
    """
    answer = parse_tree_of(con, place, sql)
    node = answer["statements"][0]["node"]
    selected = node.pop("select_list", [])
    if len(answer["statements"]) != 1 or node != _parse_nothing() or len(selected) != 1 or selected[0]["alias"]:
        raise DatasetMistakes(
            [Mistake(place, f"{sql!r} is not one expression", "write one expression, as after SELECT")]
        )
    return selected[0]


@cache
def _parse_nothing() -> Any:
    """Parse a SELECT of one expression, and return its syntax tree without the expression."""
    with open_empty() as con:
        node = _parse(con, "SELECT 1")["statements"][0]["node"]
    del node["select_list"]
    return node


def parse_tree_of(
    con: duckdb.DuckDBPyConnection, place: str, sql: str, *, before: str = "SELECT (", after: str = "\n)"
) -> Any:
    """Parse a part of a statement, between `before` and `after`, to DuckDB's syntax trees of its statements.

    Raises:
        DatasetMistakes: it is not valid SQL at this place.
    """
    if _BLANK.fullmatch(sql):
        raise DatasetMistakes([Mistake(place, "is empty", "write an expression")])

    def parses(part: str) -> bool:
        return not _parse(con, f"{before}{part}{after}")["error"]

    answer = _parse(con, f"{before}{sql}{after}")
    if answer["error"]:
        at = int(answer.get("position") or 0) - len(before)
        what, remedy = answer["error_message"], "fix it; a name that is an SQL keyword needs double quotes"
        if at > len(sql.encode()):
            what, remedy = "it is incomplete", "complete it: a value, a bracket or an END is missing"
        elif sql.rstrip().endswith(";"):
            what, remedy = "it ends with a semicolon", "remove it"
        elif (alias := re.search(r"(?i)\s+as\s+(\w+|\"[^\"]+\")\s*$", sql)) and parses(sql[: alias.start()]):
            what, remedy = f"it has an alias, {alias[1]}", f"remove{alias[0]}: its place gives it a name"
        remedy = quote_reserved(con, sql, parses) or remedy
        raise DatasetMistakes([Mistake(place, f"{sql!r} is not SQL: {what}", remedy)])
    return answer


def _parse(con: duckdb.DuckDBPyConnection, statements: str) -> Any:
    ((found,),) = con.execute("select json_serialize_sql(?)", [statements]).fetchall()
    return json.loads(found)


def suggest_function(name: str) -> str:
    """Suggest a function of DuckDB for an unknown one."""
    if name.lower() in _FOREIGN_FUNCTIONS:
        return f"expressions are DuckDB SQL: write e.g. {_FOREIGN_FUNCTIONS[name.lower()]}"
    close = find_close(name.lower(), find_functions().allowed, cutoff=0.75)
    return f"did you mean {close}?" if close else "expressions are DuckDB SQL: use one of its functions"


def quote_reserved(con: duckdb.DuckDBPyConnection, sql: str, parses: Callable[[str], bool]) -> str | None:
    """Return the remedy for SQL that does not parse because a name in it is a reserved word; None for another cause.

    Args:
        con: a connection to any database.
        sql: an expression or a type.
        parses: returns whether such SQL parses.
    """
    found = con.execute(
        "select keyword_name, keyword_category from duckdb_keywords() where keyword_category <> 'unreserved'"
    ).fetchall()
    categories: dict[str, set[str]] = {}
    for name, category in found:
        categories.setdefault(name, set()).add(category)
    words = [
        each for each in re.finditer(r"\"[^\"]*\"|'[^']*'|[A-Za-z_][A-Za-z_0-9]*", sql) if each[0].lower() in categories
    ]
    fully = [word for word in words if "reserved" in categories[word[0].lower()]]  # STRUCT, a type, is less reserved
    for chosen in [*([word] for word in words), fully]:
        changed = sql
        for word in reversed(chosen):
            changed = f'{changed[: word.start()]}"{word[0]}"{changed[word.end() :]}'
        if chosen and parses(changed):
            names = ", ".join(repr(word[0]) for word in chosen)
            return f"{names}: a reserved word needs double quotes, as in {changed}"
    return None


class _Walk:
    def __init__(self, names: Names, place: str) -> None:
        self.names, self.place = names, place
        self.columns: set[str] = set()
        self.required: set[str] = set()
        self.metadata: set[tuple[str, str]] = set()
        self.mistakes: list[Mistake] = []

    def visit(self, node: Any, parameters: frozenset[str], *, safe: bool) -> None:
        """Visit a node. `parameters`: names that the lambdas around it define; `safe`: nulls are handled around it."""
        if isinstance(node, list):
            for child in node:
                self.visit(child, parameters, safe=safe)
        elif isinstance(node, dict):
            kind = node.get("class")
            if kind in _FORBIDDEN:
                self._add(*_FORBIDDEN[kind])
            elif kind == "COLUMN_REF":
                self._name(node["column_names"], parameters, safe=safe)
            elif kind == "LAMBDA" and node["syntax_type"] != "SINGLE_ARROW":  # `a -> b` is JSON's operator
                inner = parameters | {name.lower() for name in _parameters(node["lhs"])}
                self.visit(node["expr"], inner, safe=safe)
            elif self._is_old_lambda(node, parameters):
                name = node["lhs"]["column_names"][0]
                hint = suggest(name, self.names.columns.values())
                self._add(f"there is no column {name!r}", f"{hint}; a lambda is written `lambda {name}: ...`")
            else:
                if kind == "FUNCTION":
                    self._call(node["function_name"].lower(), len(node["arguments"]))
                for child in node.values():
                    self.visit(child, parameters, safe=safe or node.get("type") in _NULL_SAFE)

    def _is_old_lambda(self, node: Any, parameters: frozenset[str]) -> bool:
        """Return whether the left side of an arrow is a single unknown name: a lambda in the old syntax."""
        if node.get("class") != "LAMBDA" or node["lhs"]["class"] != "COLUMN_REF":
            return False
        name = node["lhs"]["column_names"][0].lower()
        return name not in parameters and name not in self.names.columns and name not in self.names.metadata

    def _call(self, function: str, arguments: int) -> None:
        functions = self.names.functions
        if function in functions.aggregates:
            self._add(
                f"{function}() is an aggregate, which reads other rows", "compute it in the model or the metadata query"
            )
        if function in functions.many_rows:
            self._add(f"{function}() makes several rows of one", "keep the list, or use list_transform or similar")
        if function in functions.volatile or (function == "age" and arguments == 1):
            self._add(
                f"{function}() can return another value each time", "a body must depend only on its row and metadata"
            )

    def _name(self, path: list[str], parameters: frozenset[str], *, safe: bool) -> None:
        first = path[0].lower()
        if first in parameters:
            return
        if first in self.names.columns:
            self.columns.add(self.names.columns[first])
            if not safe:
                self.required.add(self.names.columns[first])
        elif first in self.names.metadata:
            self._field(self.names.metadata[first], path[1:])
        else:
            known = [*self.names.columns.values(), *self.names.metadata.values()]
            remedy = suggest(path[0], known)
            if first in _SESSION_VALUES:
                remedy = "the SQL keyword depends on the session; a body must depend only on its row and metadata"
            self._add(f"there is no column {path[0]!r}", remedy)

    def _field(self, metadata: str, path: list[str]) -> None:
        fields = self.names.fields[metadata.lower()]
        if metadata in self.names.lists:
            if path:
                message = f"metadata {metadata!r} is a list, with one row for each element"
                remedy = (
                    f"write [each.{path[0]} for each in {metadata}], or {metadata}[i].{path[0]} within another list"
                )
                self._add(message, remedy)
            # A lambda can use any of them by a name of its own, so all count as used.
            self.metadata |= {(metadata, field) for field in (fields or {"": ""}).values()}
            return
        if not path:
            self._add(f"{metadata!r} is metadata, not a column", f"name one of its columns, as in {metadata}.name")
        elif fields is not None and path[0].lower() not in fields:
            self._add(f"metadata {metadata!r} has no column {path[0]!r}", suggest(path[0], fields.values()))
        else:
            self.metadata.add((metadata, path[0] if fields is None else fields[path[0].lower()]))

    def _add(self, message: str, remedy: str) -> None:
        mistake = Mistake(self.place, message, remedy)
        if mistake not in self.mistakes:  # a name that is used twice is one mistake
            self.mistakes.append(mistake)


def _parameters(lhs: Any) -> Iterator[str]:
    if lhs["class"] == "COLUMN_REF":
        yield lhs["column_names"][0]
    for argument in lhs.get("arguments", []):
        yield from _parameters(argument["expression"])
