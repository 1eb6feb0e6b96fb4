"""Find a dataset's mistakes without AWS: types, values, names, SQL, subject, paths.

What can't be known here is the types of metadata columns: an expression that uses one is a mistake only if no type
suits it. A run binds it again with the true types, before it reads the first prediction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from enrich.dataset.as_of import LastModified, find_mistakes
from enrich.dataset.binding import Binder, Bound
from enrich.dataset.coercion import coerce_json, coerce_text
from enrich.dataset.definition import Body, Dataset, Source, name_place
from enrich.dataset.expressions import Mistake
from enrich.dataset.field_types import find_type_mistakes
from enrich.dataset.json_sql import SqlType
from enrich.dataset.type_names import parse_type
from serve.datasets import Served

# A name stands in paths, object keys, tags and metrics.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NAME_HELP = "1 to 64 ASCII letters, digits, - and _"
_METADATA_NAME = re.compile(r"[^\s/'\"\\][^/'\"\\\x00-\x1f]*")  # it stands in the location that Athena writes to
_NO_KEY = re.compile(r"[*?{}\\\x00-\x1f]")
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749 section 3.3: a blank separates two scopes


class ToolMissing(ImportError):
    """A package that only checking needs is not installed; the message says which and how to get it."""


@dataclass(frozen=True, slots=True)
class _Unknown:
    """The type of a metadata column that is known by name only."""

    id: str = "null"
    children: Any = ()


def check_datasets(datasets: Mapping[str, Dataset], document: Mapping[str, Any] | None) -> list[Mistake]:
    """Check every dataset, and all together. Each place begins with a dataset's name.

    Args:
        datasets: of `enrich.datasets`.
        document: openapi.yaml as parsed; None leaves the paths unchecked.

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
    """Yield a mistake for each dataset whose outputs another one would take, too."""
    prefixes = {
        name: each.source.prefix
        for name, each in datasets.items()
        if isinstance(each, Dataset) and isinstance(each.source, Source) and isinstance(each.source.prefix, str)
    }
    for name, prefix in prefixes.items():
        for other, longer in prefixes.items():
            if name != other and prefix and longer.startswith(prefix):
                message = f"{prefix!r} has the outputs of {other} below it, whose prefix is {longer!r}"
                remedy = "move one of them, so that no prefix begins with another"
                yield Mistake(f"{name} source.prefix", message, remedy)


def _check_names(datasets: Mapping[str, Dataset]) -> Iterator[Mistake]:
    """Yield a mistake for names that differ in case, - and _ only: their models in openapi.yaml would be one."""
    seen: dict[str, str] = {}
    for name in map(str, datasets):
        other = seen.setdefault(re.sub("[-_]", "", name).lower(), name)
        if other != name:
            yield Mistake(name, f"the name differs from {other!r} in case, - and _ only", "rename one")


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
        except ValueError as error:
            place = f"{dataset.name} metadata.{name}.sql"
            mistakes.append(Mistake(place, f"is not one Athena query: {error}", "fix the query"))
            queries[name] = None
    with duckdb.connect() as con:
        binder = Binder(con, dataset, queries)
        bound = binder.bind()
        mistakes += binder.mistakes
        mistakes += _check_prediction_id(bound) if bound else []
        mistakes += _check_readable(con, dataset)
    if document is not None:
        mistakes += _check_paths(dataset, document)
    return mistakes


def parse_query(sql: str) -> dict[str, SqlType] | None:
    """Parse an Athena query; return its column names, with a type that says nothing, or None if `*` hides them.

    Raises:
        ValueError: it is not one SELECT in Athena's dialect.
        ToolMissing: sqlglot is not installed.
    """
    try:
        import sqlglot
        from sqlglot import exp
    except ImportError as error:
        raise ToolMissing(
            "checking metadata queries needs sqlglot: pip install -r tests/requirements.txt -c constraints.txt"
        ) from error
    try:
        statements = sqlglot.parse(sql, read="athena")
        tokens = sqlglot.tokenize(sql, read="athena")
    except sqlglot.errors.SqlglotError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise ValueError("it must be one SELECT without a semicolon and more after it")
    if sql[tokens[-1].end + 1 :].strip() or sql.rstrip().endswith(";"):
        raise ValueError("it ends with a semicolon or a comment, and more SQL is put after it")
    names = statements[0].named_selects
    lower = [name.lower() for name in names]
    if twice := sorted({name for name in lower if name and name != "*" and lower.count(name) > 1}):
        raise ValueError(f"two of its columns have the name {twice[0]!r}")
    if "*" in names or not all(names):
        return None
    return dict.fromkeys(names, _Unknown())


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


def _check_prediction_id(bound: Bound) -> Iterator[Mistake]:
    """Yield a mistake if it is constant. It is none of a run: a subject with one prediction is served well."""
    expression = bound.prediction_id.expression
    if not expression.columns | expression.metadata:
        name = expression.sql.strip().strip("'")
        remedy = "name the columns that tell them apart"
        if name in bound.kinds:
            remedy = f"did you mean the column, {name!r} without single quotes?"
        message = f"{expression.sql} names no column: all predictions of a subject would have one item"
        yield Mistake(f"{bound.dataset.name} prediction_id", message, remedy)


def _check_values(dataset: Dataset) -> Iterator[Mistake]:
    """Yield the values that have the right type and can't work."""
    source, served, tolerated = dataset.source, dataset.served, dataset.tolerated
    share = "give a share from 0 to 1"
    rules: list[tuple[str, object, bool, str]] = [  # place, value, whether it is right, remedy
        ("served.name", served.name, _is_routable(served.name), f"use {_NAME_HELP}, and not 'health'"),
        (
            "served.scope",
            served.scope,
            served.scope is None or bool(_SCOPE.fullmatch(served.scope)),
            f"name one scope, as in {_scope(served)!r}",
        ),
        ("served.subject", served.subject, bool(served.subject), "name the claims of the token that make the subject"),
        ("ttl", dataset.ttl, dataset.ttl >= timedelta(seconds=1), "set it above zero, e.g. timedelta(days=7)"),
        ("unchanged_life", dataset.unchanged_life, 0 <= dataset.unchanged_life <= 1, share),
        ("tolerated.share", tolerated.share, 0 <= tolerated.share <= 1, share),
        ("tolerated.number", tolerated.number, (tolerated.number or 0) >= 0, "give a number from 0"),
        ("tolerated.few", tolerated.few, tolerated.few >= 0, "give a number from 0"),
    ]
    if dataset.start is not None:
        aware = dataset.start.tzinfo is not None
        rules.append(("start", dataset.start, aware, "give it a time zone, as in datetime(2026, 1, 31, tzinfo=UTC)"))
    if source.marker is not None:
        plain = bool(source.marker.strip()) and "/" not in source.marker
        rules.append(("source.marker", source.marker, plain, "name the object without its folder, e.g. '_SUCCESS'"))
    for n, claim in enumerate(served.subject):
        alone = bool(claim.strip()) and claim not in served.subject[:n]
        rules.append((f"served.subject[{n}]", claim, alone, "name each claim once, as the token spells it"))
    rules += [(name_place("source.columns", each), each, bool(each.strip()), "name it") for each in dataset.columns]
    for name, metadata in dataset.metadata.items():
        at = name_place("metadata", name)
        rules.append((at, name, bool(_METADATA_NAME.fullmatch(name)), "use letters, digits and _"))
        rules.append((f"{at}.max_age", metadata.max_age, metadata.max_age >= timedelta(0), "use a positive time"))
    for place, value, right, remedy in rules:
        if not right:
            yield Mistake(f"{dataset.name} {place}", f"is {value!r}", remedy)
    for place, message, remedy in _find_empty("body", dataset.body):
        yield Mistake(f"{dataset.name} {place}", message, remedy)
    if not isinstance(dataset.as_of, LastModified):
        yield from (Mistake(f"{dataset.name} as_of", *mistake) for mistake in find_mistakes(dataset.as_of))
    yield from _check_csv(f"{dataset.name} source", source)
    if problem := _find_prefix_problem(source.prefix):
        steps = re.sub(r"^s3[an]?://[^/]*", "", source.prefix.strip(" *")).split("/")
        better = "/".join(filter(None, steps)) or dataset.name
        remedy = f"begin object keys without bucket and slash, and end with a slash; write e.g. {f'{better}/'!r}"
        yield Mistake(f"{dataset.name} source.prefix", problem, remedy)


def _check_csv(place: str, source: Source) -> Iterator[Mistake]:
    """Yield the mistakes in a CSV dialect."""
    characters = {"delimiter": source.delimiter, "quote": source.quote, "escape": source.escape}
    given = {**characters, "header": source.header, "null_words": source.null_words}
    defaults = {each.name: each.default for each in fields(Source)}
    if source.format != "csv":
        for each in given:
            if given[each] != defaults[each]:
                yield Mistake(f"{place}.{each}", f"is of CSV, and the format is {source.format!r}", "leave it out")
        return
    for each, character in characters.items():
        if character is None:
            continue
        if not re.fullmatch(r"(?![A-Za-z0-9\r\n])[\x01-\x7f]", character):
            remedy = "give one ASCII character that is no letter, digit or newline"
            yield Mistake(f"{place}.{each}", f"is {character!r}", remedy)
        elif each != "delimiter" and character == source.delimiter:
            yield Mistake(f"{place}.{each}", f"is {character!r}, as the delimiter", "give two different characters")


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
        return f"is {prefix!r}, which has a bucket or a scheme in it"
    if prefix.startswith("/") or "//" in prefix or prefix != prefix.strip() or _NO_KEY.search(prefix):
        return f"is {prefix!r}, which no object key begins with"
    if not prefix.endswith("/"):
        return f"is {prefix!r}: other folders whose names begin like this would belong to this dataset, too"
    return None


def _is_routable(name: str) -> bool:
    """Return whether requests reach a dataset of this name, and object keys and tags can hold it."""
    return bool(_NAME.fullmatch(name)) and name.lower() != "health"


def _scope(served: Served) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', served.name)}:read"


def _check_readable(con: duckdb.DuckDBPyConnection, dataset: Dataset) -> Iterator[Mistake]:
    """Yield the columns whose type can't be read from the format."""
    readers = {"csv": coerce_text, "jsonl": coerce_json}
    reader = readers.get(dataset.source.format)
    if reader is None:
        return
    for name, declared in dataset.source.columns.items():
        kind = parse_type(con, declared)
        if kind is not None and reader("x", kind) is None:  # of what is no type the binder has said so
            message = f"{declared} can't be read from {dataset.source.format}"
            yield Mistake(
                f"{dataset.name} columns.{name}", message, "declare it varchar and cast it in the expressions"
            )


def _check_paths(dataset: Dataset, document: Mapping[str, Any]) -> Iterator[Mistake]:
    paths = document.get("paths", {})
    for path in (f"/v1/{dataset.name}", f"/v1/{dataset.name}/{{prediction_id}}"):
        if path not in paths:
            remedy = "write it: python -m enrich openapi --write"
            yield Mistake(dataset.name, f"openapi.yaml has no path {path}", remedy)
            continue
        for place in sorted(set(_find_unfinished(document, paths[path], f"paths.{path}", set()))):
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
