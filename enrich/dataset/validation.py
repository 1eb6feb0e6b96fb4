"""Find a dataset's mistakes without AWS: names, types, SQL, subject, paths. Pure.

What can't be known here is the types of metadata columns: an expression that uses one is a mistake only if no type
suits it. A run binds it again with the true types, before it reads the first prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from enrich.dataset.as_of import LastModified, find_mistakes
from enrich.dataset.binding import Binder
from enrich.dataset.coercion import coerce_json, coerce_text
from enrich.dataset.definition import Dataset
from enrich.dataset.expressions import Mistake
from enrich.dataset.json_sql import SqlType
from serve.datasets import Served


class ToolMissing(ImportError):
    """A package that only checking needs is not installed; the message says which and how to get it."""


@dataclass(frozen=True, slots=True)
class _Unknown:
    """The type of a metadata column that is known by name only."""

    id: str = "null"
    children: Any = ()


def check_datasets(
    datasets: Mapping[str, Dataset], served: Mapping[str, Served], document: Mapping[str, Any] | None
) -> list[Mistake]:
    """Check every dataset, and that writer and reader have the same ones.

    Args:
        datasets: of `enrich.datasets`.
        served: of `serve.datasets`.
        document: openapi.yaml as parsed; None leaves the paths unchecked.

    Raises:
        ToolMissing: sqlglot is not installed.
    """
    mistakes = [mistake for dataset in datasets.values() for mistake in check_dataset(dataset, document)]
    for here, there, where, what in (
        (served, datasets, "serve/datasets.py", "DATASETS in enrich/datasets.py"),
        (datasets, served, "enrich/datasets.py", "SERVED in serve/datasets.py"),
    ):
        mistakes += [
            Mistake(name, f"is in {where} only", f"add it to {what}") for name in sorted(set(here) - set(there))
        ]
    for name in sorted(set(datasets) & set(served)):
        mistakes += _check_served(name, datasets[name].served, served[name])
    return mistakes


def _check_served(name: str, written: Served, read: Served) -> Iterator[Mistake]:
    """Yield a mistake if the writer's idea of the reader differs: items would be under keys that no token reads."""
    if read.name != name:
        yield Mistake(name, f"the entry of SERVED in serve/datasets.py has the name {read.name!r}", "use one name")
    elif written != read:
        message = f"`served` is {written}, and serve/datasets.py has {read}"
        yield Mistake(f"{name} served", message, f"write served=SERVED[{name!r}]")


def check_dataset(dataset: Dataset, document: Mapping[str, Any] | None = None) -> list[Mistake]:
    """Check one dataset and return its mistakes, in the order of its parts.

    Raises:
        ToolMissing: sqlglot is not installed.
    """
    mistakes = list(_check_policies(dataset))
    queries: dict[str, Mapping[str, SqlType] | None] = {}
    for name, metadata in dataset.metadata.items():
        try:
            queries[name] = parse_query(metadata.sql)
        except ValueError as error:
            place = f"{dataset.name} metadata.{name}.sql"
            mistakes.append(Mistake(place, f"is not one Athena query: {error}", "mend the query"))
            queries[name] = None
    with duckdb.connect() as con:
        binder = Binder(con, dataset, queries)
        binder.bind()
        mistakes += binder.mistakes
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
    except sqlglot.ParseError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise ValueError("it must be one SELECT without a semicolon and more after it")
    names = statements[0].named_selects
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


def _check_policies(dataset: Dataset) -> Iterator[Mistake]:
    name, source = dataset.name, dataset.source
    if not isinstance(dataset.as_of, LastModified):
        yield from (Mistake(f"{name} as_of", *mistake) for mistake in find_mistakes(dataset.as_of))
    if dataset.ttl.total_seconds() <= 0:
        yield Mistake(f"{name} ttl", f"is {dataset.ttl}", "say how long an item lives")
    if not source.prefix or source.prefix.startswith("/"):
        yield Mistake(f"{name} source.prefix", f"is {source.prefix!r}", "begin object keys without a slash")
    if source.marker and "/" in source.marker:
        yield Mistake(
            f"{name} source.marker", f"is {source.marker!r}", "write the name of the object alone, as _SUCCESS"
        )
    if not 0 <= dataset.tolerated.share <= 1:
        yield Mistake(f"{name} tolerated.share", f"is {dataset.tolerated.share}", "give a share from 0 to 1")
    if len(source.delimiter) != 1:
        yield Mistake(f"{name} source.delimiter", f"is {source.delimiter!r}", "give one character")


def _check_readable(con: duckdb.DuckDBPyConnection, dataset: Dataset) -> Iterator[Mistake]:
    """Yield the columns whose type can't be read from the format."""
    readers = {"csv": coerce_text, "jsonl": coerce_json}
    reader = readers.get(dataset.source.format)
    if reader is None:
        return
    for name, declared in dataset.source.columns.items():
        try:
            kind = con.sql(f"select cast(null as {declared})").types[0]
        except duckdb.Error:
            continue  # the binder has said so
        if reader("x", kind) is None:
            message = f"{declared} can't be read from {dataset.source.format}"
            yield Mistake(
                f"{dataset.name} columns.{name}", message, "declare it varchar and cast it in the expressions"
            )


def _check_paths(dataset: Dataset, document: Mapping[str, Any]) -> Iterator[Mistake]:
    for path in (f"/v1/{dataset.name}", f"/v1/{dataset.name}/{{prediction_id}}"):
        if path not in document.get("paths", {}):
            yield Mistake(
                dataset.name,
                f"openapi.yaml has no path {path}",
                f"write it: python -m enrich openapi {dataset.name} --write",
            )
