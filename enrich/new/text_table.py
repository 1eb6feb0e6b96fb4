"""Recognize the columns and types of CSV and JSON lines. What is ambiguous is refused, with the line.

DuckDB's detection always returns something: a table of one column for CSV with one bad line, a column `json` for an
array, the second of two equal names renamed, a date that is guessed from 01/02/2026.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb

from enrich.dataset.json_sql import identifier, literal
from enrich.errors import first_line
from enrich.new.sql_names import spell_type

_INSTANT = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?"
_EXACT = {  # type that DuckDB guesses -> the texts that a run reads as this type without losing anything
    "date": r"\d{4}-\d\d-\d\d",
    "timestamp": _INSTANT,
    "timestamptz": _INSTANT + r"(Z|[+-]\d\d(:?\d\d)?)",
    "boolean": "true|false",
    **dict.fromkeys(("bigint", "integer", "ubigint", "hugeint"), r"-?(0|[1-9]\d*)"),  # 007 is not a number
    "double": r"-?(0|[1-9]\d*)?(\.\d+)?([eE][+-]?\d+)?",
    **dict.fromkeys(("time", "interval", "uuid"), ""),
}
_DELIMITERS = ",;\t|"  # those that DuckDB looks for

Kind = Literal["csv", "jsonl"]


class BadTable(ValueError):
    """The text can't be read as a table without a guess; the message has the line and the remedy."""


@dataclass(frozen=True)
class TextTable:
    """The columns of a text.

    Attributes:
        names: of the columns.
        kinds: their DuckDB types.
        options: attributes of `Source` for the dialect of CSV.
    """

    names: Sequence[str]
    kinds: Sequence[str]
    options: Mapping[str, Any]


def read_text_table(
    con: duckdb.DuckDBPyConnection, path: Path, kind: Kind, *, header: bool | None = None, rows: int | None = None
) -> TextTable:
    """Recognize the columns of a text, and create the table `texts` of its rows, as text.

    Args:
        con: in UTC.
        path: plain UTF-8 without a byte order mark.
        kind: the format.
        header: whether CSV has one; by default it is guessed.
        rows: read at most so many.

    Raises:
        BadTable: it is not a table of this format, or there is more than one way to read it.
    """
    try:
        read = _read_csv if kind == "csv" else _read_json
        names, kinds, options = read(con, path, header, "" if rows is None else f"limit {rows}")
    except duckdb.Error as error:
        raise BadTable(_explain(path, kind, error)) from error
    return TextTable(names, kinds, options)


def narrow(con: duckdb.DuckDBPyConnection, guesses: Mapping[str, str]) -> dict[str, str]:
    """Return the types to declare for guessed types: they lose nothing of the texts, and a run reads them the same."""
    known = [name for name, guess in guesses.items() if guess in _EXACT]
    exact = _find_full(con, known, lambda name: _matches(name, guesses[name]))
    doubles = [name for name in known if name in exact and guesses[name] == "double"]
    kept = _find_full(con, doubles, _keeps_double)
    lossy = [name for name in doubles if name not in kept]
    whole = _find_full(con, lossy, lambda name: f"{_matches(name, 'hugeint')} and len({identifier(name)}) <= 38")
    texts = [name for name in known if name not in exact or (name in lossy and name not in whole)]
    return {**guesses, **dict.fromkeys(texts, "varchar"), **dict.fromkeys(whole, "hugeint")}


def _matches(name: str, kind: str) -> str:
    """Return the SQL that says whether a text is written as values of a type are."""
    return f"regexp_full_match({identifier(name)}, {literal(_EXACT[kind])})"


def _keeps_double(name: str) -> str:
    """Return the SQL that says whether a double keeps the digits of a text, which is its shortest or has 17 digits."""
    column = identifier(name)
    value = f"try_cast({column} as double)"
    shortest, long = f"cast({value} as varchar)", f"format('{{:.16e}}', {value})"
    return f"{_digits(column)} in ({_digits(shortest)}, {_digits(long)})"


def _digits(text: str) -> str:
    """Return the SQL of a number's significant digits."""
    return f"trim(regexp_replace({text}, '[eE].*$|[^0-9]', '', 'g'), '0')"


def check_numbers(path: Path) -> None:
    """Check that a double keeps the numbers with a fraction of JSON lines, since DuckDB reads all of them as doubles.

    Raises:
        BadTable: one has more digits.
    """
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                json.loads(text, parse_int=str, parse_float=partial(_check_number, line))


def _check_number(line: int, text: str) -> None:
    value = float(text)
    if Decimal(text) not in {Decimal(repr(value)), Decimal(f"{value:.16e}")}:
        raise BadTable(f"line {line}: {text} has more digits than a double keeps; write it as a string")


def check_names(names: Sequence[str], remedy: str = "") -> None:
    """Check that each column has a name of its own in SQL; `remedy` says how a writer names columns.

    Raises:
        BadTable: one has no name, or two names are the same in SQL.
    """
    seen: dict[str, str] = {}
    for n, name in enumerate(names, 1):
        if not name.strip():
            raise BadTable(f"column {n} has no name; name it{remedy}")
        if name.lower() in seen:
            raise BadTable(f"columns {seen[name.lower()]!r} and {name!r} have one name in SQL; rename one")
        seen[name.lower()] = name


def _find_full(con: duckdb.DuckDBPyConnection, names: Iterable[str], predicate: Callable[[str], str]) -> set[str]:
    """Return the columns whose predicate holds for all values that are not null, and that have at least one."""
    found = set[str]()
    for some in batched(names):
        held = ", ".join(f"coalesce(bool_and({predicate(name)}), false)" for name in some)
        (values,) = con.execute(f"select {held} from texts").fetchall()
        found |= {name for name, is_held in zip(some, values, strict=True) if is_held}
    return found


def batched(names: Iterable[str], size: int = 50) -> Iterator[list[str]]:
    """Yield names in lists of at most `size`, for one query each.

    DuckDB takes time for each column of a table, even if the query does not name it: with a query per column, time is
    quadratic. One query for all columns would take much memory.
    """
    left = iter(names)
    while some := list(itertools.islice(left, size)):
        yield some


def _read_csv(
    con: duckdb.DuckDBPyConnection, path: Path, header: bool | None, limit: str
) -> tuple[Sequence[str], list[str], dict[str, Any]]:
    blank = _count_blank(path)
    options = _sniff(con, path, blank)
    options |= {} if header is None else {"header": header}
    place = literal(str(path))
    bare = _as_sql({**options, "header": False}, blank)
    found = con.sql(f"from read_csv({place}, all_varchar=true, {bare}) limit 1").fetchall()
    if not found:
        raise BadTable("has no rows")
    first = [name or "" for name in found[0]]
    rows = con.sql(f"from read_csv({place}, all_varchar=true, {_as_sql(options, blank)})")
    # DuckDB takes the header line of pandas for a row, because the index has no name; it renames the second of two
    # equal names.
    is_pandas = first[0] == "" and all(re.match(r"[^\W\d]", name) for name in first[1:])
    names = first if options["header"] or is_pandas else rows.columns
    check_names(names, " (pandas: to_csv(index=False))")
    columns = ", ".join(map(identifier, names))
    con.execute(f"create temp table texts as select * from ({rows.sql_query()}) as t({columns}) {limit}")
    guessed = con.sql(f"from read_csv({place}, sample_size=-1, {_as_sql(options, blank)}) limit 0").types
    return names, [spell_type(each, text=True) for each in guessed], options


def _count_blank(path: Path) -> int:
    """Return the number of blank lines before the first other one; a run ignores them too."""
    with path.open("rb") as file:
        return sum(1 for _ in itertools.takewhile(lambda line: not line.strip(b"\r\n"), file))


def _sniff(con: duckdb.DuckDBPyConnection, path: Path, blank: int) -> dict[str, Any]:
    """Return the dialect of CSV that begins with so many blank lines, as attributes of `Source`.

    Raises:
        BadTable: DuckDB's dialect would skip lines, or take lines with several fields for one.
    """
    columns = "Delimiter, Quote, Escape, HasHeader, SkipRows, len(Columns)"
    sql = f"select {columns} from sniff_csv({literal(str(path))}, sample_size=-1)"
    ((delimiter, quote, escape, header, skipped, width),) = con.execute(sql).fetchall()
    skipped = max(0, skipped - blank)
    if (skipped or width == 1) and (problem := _find_odd_line(path)):
        raise BadTable(problem)
    if skipped:
        raise BadTable(_first_lines(skipped))
    quote = quote if len(quote) == 1 and quote != "\0" else '"'  # "(empty)" if no field is quoted
    escape = escape if len(escape) == 1 and escape not in ("\0", quote) else None
    return {"delimiter": delimiter, "quote": quote, "escape": escape, "header": header}


def _first_lines(number: int) -> str:
    return f"its first lines ({number}) are neither rows nor a header; write it without them"


def _as_sql(options: Mapping[str, Any], blank: int) -> str:
    names = {"delimiter": "delim", "quote": "quote", "escape": "escape"}
    texts = [f"{sql}={literal(options[name] or options['quote'])}" for name, sql in names.items()]
    # A run reads a quoted field as text: "" is not null. By default DuckDB looks for lines to skip.
    return ", ".join([*texts, f"header={str(options['header']).lower()}", "allow_quoted_nulls=false", f"skip={blank}"])


def _find_odd_line(path: Path) -> str | None:
    """Describe the first line that has another number of fields than most; None if there is none.

    The delimiter is the one by which most lines have the same number of fields, if that is more than one.
    """

    def count(delimiter: str) -> tuple[int, int]:
        widths = Counter(width for _, width in _count_fields(path, delimiter))
        width, lines = max(widths.items(), key=lambda item: item[1], default=(0, 0))  # of equals the first, the header
        return (lines, width) if width > 1 else (0, 0)

    best = max(_DELIMITERS, key=lambda delimiter: count(delimiter)[0])  # of equals the first
    if not (expected := count(best)[1]):
        return None
    if before := next(n for n, (_, width) in enumerate(_count_fields(path, best)) if width == expected):
        return _first_lines(before)
    line, width = next((each for each in _count_fields(path, best) if each[1] != expected), (0, expected))
    if width == expected:
        return None
    remedy = f"quote a field that has {best!r} in it" if width > expected else "add the missing ones, or remove it"
    return f"line {line} has {width} field{'s' * (width > 1)}, expected {expected}; {remedy}"


def _count_fields(path: Path, delimiter: str) -> Iterator[tuple[int, int]]:
    """Yield the number of each line that is not blank, and the number of its fields."""
    with path.open(encoding="utf-8", newline="") as file:
        rows, line = csv.reader(file, delimiter=delimiter), 1
        with suppress(csv.Error):  # a field is too long
            for row in rows:
                if row:
                    yield line, len(row)
                line = rows.line_num + 1


def _read_json(
    con: duckdb.DuckDBPyConnection, path: Path, _: bool | None, limit: str
) -> tuple[Sequence[str], list[str], dict[str, Any]]:
    objects = f"read_ndjson_objects({literal(str(path))})"
    if con.sql(f"from {objects} where json_type(json) <> 'OBJECT' limit 1").fetchall():
        raise BadTable(_find_bad_object(path) or "has lines that are no objects; write one object per line")
    names = [name for (name,) in con.sql(f"select distinct unnest(json_keys(json)) from {objects}").fetchall()]
    check_names(sorted(names))
    read = f"read_json({literal(str(path))}, format='newline_delimited'"
    guessed = con.sql(f"from {read}, sample_size=-1) limit 0")
    if set(guessed.columns) != set(names):  # DuckDB takes objects with many members for maps
        guessed = con.sql(f"from {read}, sample_size=-1, map_inference_threshold=-1) limit 0")
    kinds = [spell_type(each, text=True) for each in guessed.types]
    for n, (name, kind) in enumerate(zip(guessed.columns, kinds, strict=True)):
        if kind == "json":  # values of several types: as JSON, a run would parse its texts
            pointer = literal("/" + name.replace("~", "~0").replace("/", "~1"))  # RFC 6901
            sql = f"select distinct json_type(json, {pointer}) from {objects}"
            kinds[n] = "varchar" if ("VARCHAR",) in con.sql(sql).fetchall() else kind
    as_text = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in guessed.columns)
    con.execute(f"create temp table texts as from {read}, columns={{{as_text}}}) {limit}")
    return guessed.columns, kinds, {}


def _find_bad_object(path: Path) -> str | None:
    """Describe the first line that is not a JSON object; DuckDB's numbers of lines are too high."""
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                value = json.loads(text, parse_int=str)  # Python limits the digits of an integer
            except json.JSONDecodeError as error:
                return f"line {line} is not JSON at column {error.colno}: {error.msg}"
            if not isinstance(value, dict):
                return f"line {line} is JSON, but no object; write one object per line"
    return None


def _explain(path: Path, kind: Kind, error: duckdb.Error) -> str:
    """Say why DuckDB can't read a text, with the number of the line."""
    if kind == "jsonl":
        said, what, expected = _find_bad_object(path), "JSON lines", "one object per line"
    else:
        said, what, expected = _find_odd_line(path), "CSV", "RFC 4180, as pandas does"
    said = said or first_line(error).replace(str(path), "the file")
    return f"can't be read as {what}: {said}; write it as {expected}"
