"""Find a dataset's mistakes without AWS: types, values, names, SQL, subject, paths.

The types of metadata columns are not known here, so an expression that uses one is a mistake only if it is valid for no
type. A run binds the expression again with the real types, before it reads the first prediction.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb

from enrich.dataset.as_of import LastModified, find_mistakes
from enrich.dataset.binding import Binder, find_constant_id
from enrich.dataset.coercion import coerce_json, coerce_text
from enrich.dataset.definition import Body, Dataset, Source, name_place
from enrich.dataset.empty_database import open_empty
from enrich.dataset.field_types import find_type_mistakes
from enrich.dataset.guards import find_guard_mistakes
from enrich.dataset.json_sql import SqlType
from enrich.dataset.mistakes import Mistake
from enrich.dataset.suggestions import find_close
from enrich.dataset.type_names import parse_type
from serve.datasets import Served

# A name is used in paths, object keys, tags and metrics.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NAME_HELP = "1 to 64 ASCII letters, digits, - and _"
_METADATA_NAME = re.compile(r"[^\s/'\"\\][^/'\"\\\x00-\x1f]{0,127}")  # it is part of the location that Athena writes to
_NO_KEY = re.compile(r"[*?{}\\\x00-\x1f]")
_NO_NAME = re.compile(r"[/*?{}\\\x00-\x1f]")
_LONGEST_PREFIX = 1_000
_CONTEXT = 100  # characters before an error that sqlglot gives
_KEYWORDS = frozenset(
    """
    select distinct from where group order by having limit join inner left right full outer cross union all as on and or
    not in is null like between case when then else end with cast values over partition
    """.split()  # noqa: SIM905 - quoted, the words are hard to read
)
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749 section 3.3: a blank separates two scopes


class ToolMissing(ImportError):
    """A package that only checking needs is not installed; the message says which and how to get it."""


class BadQuery(ValueError):
    """Athena can't run or unload a query; the message says why, `remedy` what to do."""

    def __init__(self, problem: str, remedy: str = "fix the query") -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class _Unknown:
    """The type of a metadata column that is known by name only."""

    id: str = "null"
    children: Any = ()


def check_datasets(datasets: Mapping[str, Dataset], document: Mapping[str, Any] | None) -> list[Mistake]:
    """Check each dataset, and all of them together. Each place begins with a dataset's name.

    Args:
        datasets: by name, as `enrich.datasets` loads them.
        document: the parsed openapi.yaml; None: its paths are not checked.

    Raises:
        ToolMissing: sqlglot is not installed.
    """
    mistakes: list[Mistake] = []
    for key, dataset in datasets.items():
        found = list(find_type_mistakes(str(key), dataset, Dataset)) or check_dataset(dataset, document)
        mistakes += found
    mistakes += _check_prefixes(datasets)
    mistakes += _check_names(datasets)
    return mistakes


def _check_prefixes(datasets: Mapping[str, Dataset]) -> Iterator[Mistake]:
    """Yield a mistake for each dataset whose prefix also contains the outputs of another one."""
    prefixes = {
        name: each.source.prefix
        for name, each in datasets.items()
        if isinstance(each, Dataset) and isinstance(each.source, Source) and isinstance(each.source.prefix, str)
    }
    for name, prefix in prefixes.items():
        for other, longer in prefixes.items():
            if name != other and prefix and longer.startswith(prefix):
                message = f"{prefix!r} also contains the outputs of {other}, whose prefix is {longer!r}"
                remedy = "move one of them, so that no prefix begins with another"
                yield Mistake(f"{name} source.prefix", message, remedy)


def _check_names(datasets: Mapping[str, Dataset]) -> Iterator[Mistake]:
    """Yield a mistake for names that differ only in case, - and _: their schemas in openapi.yaml would be the same."""
    seen: dict[str, str] = {}
    for name in map(str, datasets):
        other = seen.setdefault(re.sub("[-_]", "", name).lower(), name)
        if other != name:
            yield Mistake(name, f"the name differs from {other!r} only in case, - and _", "rename one")


def check_dataset(dataset: Dataset, document: Mapping[str, Any] | None = None) -> list[Mistake]:
    """Check one dataset and return its mistakes, in the order of its parts.

    If values have a wrong type, these are the only mistakes reported.

    Raises:
        ToolMissing: sqlglot is not installed.
    """
    if mistakes := list(find_type_mistakes(dataset.name, dataset, Dataset)):
        return mistakes
    mistakes = list(_check_values(dataset))
    queries: dict[str, Mapping[str, SqlType] | None] = {}
    for name, metadata in dataset.metadata.items():
        try:
            queries[name] = parse_query(metadata.sql)
        except BadQuery as error:
            place = f"{dataset.name} metadata.{name}.sql"
            mistakes.append(Mistake(place, f"is not one Athena query: {error}", error.remedy))
            queries[name] = None
    if not dataset.source.columns:
        message = "is empty: expressions would have no column to name"
        remedy = "write the columns of the files that the dataset uses, e.g. {'name': 'varchar'}"
        return [*mistakes, Mistake(f"{dataset.name} source.columns", message, remedy)]
    with open_empty() as con:
        binder = Binder(con, dataset, queries)
        bound = binder.bind()
        mistakes += binder.mistakes
        mistakes += filter(None, [find_constant_id(bound)] if bound else [])
        mistakes += _check_readable(con, dataset)
    if document is not None:
        mistakes += _check_paths(dataset, document)
    return mistakes


def parse_query(sql: str) -> dict[str, SqlType] | None:
    """Parse an Athena query; return its column names, each with an unknown type, or None if `*` hides the names.

    Raises:
        BadQuery: it is not one SELECT in Athena's dialect, or Athena can't unload its result.
        ToolMissing: sqlglot is not installed.
    """
    try:
        import sqlglot
        from sqlglot import exp
    except ImportError as error:
        raise ToolMissing(
            "checking metadata queries needs sqlglot: pip install -r tests/requirements.txt -c constraints.txt"
        ) from error
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it logs warnings about statements that are refused here
    try:
        statements = sqlglot.parse(sql, read="athena")
        tokens = sqlglot.tokenize(sql, read="athena")
    except sqlglot.errors.ParseError as error:
        raise _describe_syntax(sql, sqlglot.tokenize(sql, read="athena"), error.errors[0]) from error
    except sqlglot.errors.SqlglotError as error:
        raise BadQuery("a quote or a comment in it is not closed", "close it") from error
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise BadQuery("it must be one SELECT statement")
    if sql[tokens[-1].end + 1 :].strip() or sql.rstrip().endswith(";"):
        raise BadQuery("it ends with a semicolon or a comment, but Larder appends SQL to it", "remove that")
    query = statements[0]
    _require_athena(query, tokens)
    names = query.named_selects
    lower = [name.lower() for name in names]
    if twice := sorted({name for name in lower if name and name != "*" and lower.count(name) > 1}):
        raise BadQuery(f"two of its columns have the name {twice[0]!r}", f"rename one: ... as {twice[0]}_2")
    return None if "*" in names else dict.fromkeys(names, _Unknown())


def _require_athena(query: Any, tokens: Sequence[Any]) -> None:
    """Refuse queries that sqlglot parses, but that Athena does not execute or can't unload.

    Raises:
        BadQuery: with the remedy.
    """
    from sqlglot import exp

    kinds = [token.token_type.name for token in tokens]
    if "L_BRACE" in kinds or query.find(exp.Placeholder, exp.Parameter):
        raise BadQuery("it has a placeholder, and nothing fills it in", "write the value")
    for kind, follower in pairwise(kinds):
        if kind == "COMMA" and follower in {"FROM", "WHERE", "GROUP_BY", "ORDER_BY", "R_PAREN"}:
            raise BadQuery("it has a comma before the end of a list", "remove the comma")
    for table in query.find_all(exp.Table):
        name = table.name or table.this.sql("athena")
        is_function = not isinstance(table.this, exp.Identifier) and not name.lower().startswith("table(")
        if is_function or "/" in name:
            message = f"it reads {name!r}, but Athena reads only tables of its catalog"
            raise BadQuery(message, "make a table of it, and name that: DATABASE.TABLE")
    for part in query.find_all(exp.SetOperation):
        sides = [len(side.selects) for side in (part.left, part.right) if not side.is_star]
        if len(set(sides)) > 1:
            raise BadQuery(f"one side of its {part.key.upper()} has {sides[0]} columns, the other {sides[1]}")
    if not query.selects and not query.find(exp.Values):
        raise BadQuery("it selects no column", "name the columns")
    for number, column in enumerate(query.selects, 1):
        if (not isinstance(column, exp.Alias | exp.Column | exp.Dot) and not column.is_star) or not column.output_name:
            raise BadQuery(f"its column {number}, {column.sql('athena')}, has no name", "name it: ... as NAME")


def _describe_syntax(sql: str, tokens: Sequence[Any], error: Mapping[str, Any]) -> BadQuery:
    """Describe where a query is not valid SQL, and suggest a keyword for a misspelled word near that place."""
    at = len(error["start_context"]) + len(error["highlight"])
    is_whole = len(error["start_context"]) < _CONTEXT  # otherwise the place is not known
    before = [token for token in tokens if token.start < at] if is_whole else [*tokens]
    if "`" in sql:
        return BadQuery("it has a backtick", "write names that need quotes in double quotes")
    if re.search(r"%\(\w+\)s", sql):
        return BadQuery("it has a placeholder, and nothing fills it in", "write the value")
    for token in (*reversed(before[-3:]), *before[:1], *tokens[len(before) : len(before) + 1]):
        word = token.text.lower()
        if word.isalpha() and word not in _KEYWORDS and (close := find_close(word, _KEYWORDS, cutoff=0.7)):
            line = sql.count("\n", 0, token.start) + 1
            column = token.start - (sql.rfind("\n", 0, token.start) + 1) + 1
            where = f"column {column}" if line == 1 else f"line {line}, column {column}"
            return BadQuery(f"{token.text!r} at {where} is not SQL", f"did you mean {close}?")
    if not error["end_context"].strip() and error["description"].startswith("Required"):
        return BadQuery(f"it is incomplete after {error['highlight']!r}", "complete it")
    return BadQuery(f"{error['highlight']!r} at line {error['line']}, column {error['col']} is not expected there")


def read_document(path: Path) -> Mapping[str, Any]:
    """Read openapi.yaml.

    Raises:
        ToolMissing: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise ToolMissing(
            "reading openapi.yaml needs PyYAML: pip install -r tests/requirements.txt -c constraints.txt"
        ) from error
    with path.open(encoding="utf-8") as file:
        document: Mapping[str, Any] = yaml.safe_load(file)
    return document


def _check_values(dataset: Dataset) -> Iterator[Mistake]:
    """Yield a mistake for each value that has the right type but cannot work."""
    source, served, tolerated = dataset.source, dataset.served, dataset.tolerated
    share = "give a share from 0 to 1"
    century = timedelta(days=36_500)
    rules: list[tuple[str, object, bool, str]] = [  # place, value, whether it is right, remedy
        ("served.name", served.name, _is_routable(served.name), f"use {_NAME_HELP}, and not 'health' or 'models'"),
        (
            "served.scope",
            served.scope,
            served.scope is None or bool(_SCOPE.fullmatch(served.scope)),
            f"name one scope, as in {_scope(served)!r}",
        ),
        ("served.subject", served.subject, bool(served.subject), "name the claims of the token that make the subject"),
        ("ttl", dataset.ttl, dataset.ttl > timedelta(0), "set it above zero, e.g. timedelta(days=7)"),
        ("ttl", dataset.ttl, not timedelta(0) < dataset.ttl < timedelta(seconds=1), "set it to a second or more"),
        ("ttl", dataset.ttl, dataset.ttl <= century, "set it to a century at most, e.g. timedelta(days=7)"),
        ("unchanged_life", dataset.unchanged_life, 0 <= dataset.unchanged_life <= 1, share),
        ("tolerated.share", tolerated.share, 0 <= tolerated.share <= 1, share),
        ("tolerated.number", tolerated.number, (tolerated.number or 0) >= 0, "give a number from 0"),
        ("tolerated.few", tolerated.few, tolerated.few >= 0, "give a number from 0"),
    ]
    if dataset.start is not None:
        aware = dataset.start.tzinfo is not None
        rules.append(("start", dataset.start, aware, "give it a time zone, as in datetime(2026, 1, 31, tzinfo=UTC)"))
    if source.marker is not None:
        plain = bool(source.marker) and source.marker == source.marker.strip() and not _NO_NAME.search(source.marker)
        rules.append(("source.marker", source.marker, plain, "name the object without its folder, e.g. '_SUCCESS'"))
    for n, claim in enumerate(served.subject):
        alone = bool(claim) and claim == claim.strip() and claim.isprintable() and claim not in served.subject[:n]
        rules.append((f"served.subject[{n}]", claim, alone, "name each claim once, as the token spells it"))
    for each, columns in (("source", source.columns), ("derive", dataset.derive.columns if dataset.derive else {})):
        rules += [(name_place(f"{each}.columns", name), name, bool(name.strip()), "name it") for name in columns]
    for name, metadata in dataset.metadata.items():
        at = name_place("metadata", name)
        rules.append((at, name, bool(_METADATA_NAME.fullmatch(name)), "use letters, digits and _"))
        plausible = timedelta(0) <= metadata.max_age <= century
        rules.append((f"{at}.max_age", metadata.max_age, plausible, "use a positive time, of a century at most"))
    for place, value, right, remedy in rules:
        if not right:
            yield Mistake(f"{dataset.name} {place}", f"is {value!r}", remedy)
    for place, message, remedy in (*_find_empty("body", dataset.body), *find_guard_mistakes(dataset.guards)):
        yield Mistake(f"{dataset.name} {place}", message, remedy)
    if not isinstance(dataset.as_of, LastModified):
        yield from (Mistake(f"{dataset.name} as_of", *mistake) for mistake in find_mistakes(dataset.as_of))
    yield from _check_csv(f"{dataset.name} source", source)
    yield from _check_options(f"{dataset.name} source", source)
    if dataset.derive and (problem := _find_bad_step(dataset.derive.function)):
        remedy = "write a plain function of one argument, the DataFrame, which it returns"
        yield Mistake(f"{dataset.name} derive.function", problem, remedy)
    if problem := _find_prefix_problem(source.prefix):
        steps = re.sub(r"^[A-Za-z0-9]+:(//)?[^/]*", "", source.prefix).split("/")
        usable = [step.strip(" *") for step in steps if not _NO_KEY.search(step.strip(" *"))]
        better = "/".join(step for step in usable if step not in {"", ".", ".."})[:200] or dataset.name
        remedy = f"write it without a bucket and a leading slash, and with a slash at the end, e.g. {f'{better}/'!r}"
        yield Mistake(f"{dataset.name} source.prefix", problem, remedy)


def _check_csv(place: str, source: Source) -> Iterator[Mistake]:
    """Yield the mistakes in a CSV dialect."""
    characters = {"delimiter": source.delimiter, "quote": source.quote, "escape": source.escape}
    given = {**characters, "header": source.header, "null_words": source.null_words}
    defaults = {each.name: each.default for each in fields(Source)}
    if source.format != "csv":
        for each in given:
            if given[each] != defaults[each]:
                message = f"applies only to CSV, but the format is {source.format!r}"
                yield Mistake(f"{place}.{each}", message, "remove it")
        return
    for each, character in characters.items():
        if character is None:
            continue
        if not re.fullmatch(r"(?![A-Za-z0-9\r\n])[\x01-\x7f]", character):
            remedy = "give one ASCII character that is not a letter, digit or newline"
            if character.lower() in {"tab", "\\t"}:
                remedy += r', such as "\t" for a tab'
            yield Mistake(f"{place}.{each}", f"is {character!r}", remedy)
        elif each != "delimiter" and character == source.delimiter:
            message = f"is {character!r}, the same as the delimiter"
            yield Mistake(f"{place}.{each}", message, "give two different characters")


def _check_options(place: str, source: Source) -> Iterator[Mistake]:
    """Yield a mistake for each option that other options make ineffective, or that only Larder itself sets."""
    if source.output == "partial":
        for each, default in (("empty_snapshot", "refuse"), ("snapshot_files", "refuse")):
            if getattr(source, each) != default:
                yield Mistake(f"{place}.{each}", "applies only to snapshots, but the output is 'partial'", "remove it")
    elif source.marker is not None and source.snapshot_files != "refuse":
        message = f"applies only to snapshots without a marker, but the marker is {source.marker!r}"
        yield Mistake(f"{place}.snapshot_files", message, "remove it")
    if source.rejects_of is not None:
        yield Mistake(f"{place}.rejects_of", "is set by a replay", "remove it")
    if source.format == "rejects":
        message = "is 'rejects', the format of Larder's own files"
        yield Mistake(
            f"{place}.format", message, "write the format of the model's files; `./larder replay` reads rejects"
        )


def _find_bad_step(step: Callable[..., Any]) -> str | None:
    """Return why a derive step can't be called with one DataFrame; None if it can, or if its signature is unknown."""
    if inspect.iscoroutinefunction(step) or inspect.isgeneratorfunction(step) or inspect.isclass(step):
        return f"is {step!r}, which does not return a DataFrame"
    try:
        inspect.signature(step).bind(None)
    except TypeError as error:
        return f"{getattr(step, '__name__', step)!r} can't be called with one argument: {error}"
    except ValueError:  # a C function without a signature
        return None
    return None


def _find_empty(place: str, body: Body) -> Iterator[tuple[str, str, str]]:
    if not body:
        yield place, "is empty", "write its members, as in {'name': 'expression'}"
    for name, member in body.items():
        at = name_place(place, name)
        if not name.strip():
            yield at, "the name of a member is empty", "name it"
        if not isinstance(member, str):
            yield from _find_empty(at, member)


def _find_prefix_problem(prefix: str) -> str | None:
    if not prefix:
        return "is empty: every object of the bucket would belong to this dataset"
    if re.match(r"[A-Za-z0-9]+:", prefix):
        return f"is {prefix!r}, which contains a bucket or a scheme"
    is_relative = bool({".", ".."} & set(prefix.split("/")))
    if len(prefix.encode()) > _LONGEST_PREFIX:
        return f"has {len(prefix.encode()):,} bytes, but an object key has at most 1,024"
    if prefix.startswith("/") or "//" in prefix or prefix != prefix.strip() or _NO_KEY.search(prefix) or is_relative:
        return f"is {prefix!r}, which no object key begins with"
    if not prefix.endswith("/"):
        return f"is {prefix!r}: other folders whose names begin with it would also belong to this dataset"
    return None


def _is_routable(name: str) -> bool:
    """Return whether a dataset's name can be used in the paths of requests, in object keys and in tags."""
    return bool(_NAME.fullmatch(name)) and name.lower() not in ("health", "models")  # paths of the API


def _scope(served: Served) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', served.name)}:read"


def _check_readable(con: duckdb.DuckDBPyConnection, dataset: Dataset) -> Iterator[Mistake]:
    """Yield a mistake for each column whose type can't be read from the format."""
    readers = {"csv": coerce_text, "jsonl": coerce_json}
    reader = readers.get(dataset.source.format)
    if reader is None:
        return
    for name, declared in dataset.source.columns.items():
        kind = parse_type(con, declared)
        if kind is not None and reader("x", kind) is None:  # an invalid type is already a mistake
            message = f"{declared} can't be read from {dataset.source.format}"
            yield Mistake(
                f"{dataset.name} columns.{name}", message, "declare it varchar and cast it in the expressions"
            )


def _check_paths(dataset: Dataset, document: Mapping[str, Any]) -> Iterator[Mistake]:
    paths = document.get("paths", {})
    unfinished = set[str]()
    for path in (f"/v1/{dataset.name}", f"/v1/{dataset.name}/{{prediction_id}}"):
        if path not in paths:
            remedy = "write it: ./larder openapi --write"
            yield Mistake(dataset.name, f"openapi.yaml has no path {path}", remedy)
            continue
        unfinished |= set(_find_unfinished(document, paths[path], f"paths.{path}", set()))  # both refer to the body
    for place in sorted(unfinished):
        yield Mistake(
            dataset.name,
            f"openapi.yaml, {place}: a TODO is left",
            "give an example in `members`, or cast it in the metadata query",
        )


def _find_unfinished(document: Mapping[str, Any], node: Any, place: str, seen: set[str]) -> Iterator[str]:
    """Yield the places of texts that begin with TODO, in a part of the document and what it refers to."""
    if isinstance(node, str):
        if re.match(r"\s*TODO\b", node):
            yield place.removesuffix(".description")
    elif isinstance(node, Mapping):
        target = node.get("$ref")
        if isinstance(target, str) and target.startswith("#/") and target not in seen:
            seen.add(target)
            steps = target[2:].split("/")
            found: Any = document
            for step in steps:
                found = found.get(step, {})
            yield from _find_unfinished(document, found, ".".join(steps), seen)
        for name, inner in node.items():
            yield from _find_unfinished(document, inner, f"{place}.{name}", seen)
    elif isinstance(node, list):
        for n, inner in enumerate(node):
            yield from _find_unfinished(document, inner, f"{place}[{n}]", seen)
