"""Commands that need no AWS: new (unless the sample is on S3), list, check, openapi."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from enrich.cli.exit_codes import DONE, FAILED, INTERRUPTED, USAGE, UsageError, print_error
from enrich.cli.table import render_duration, render_table
from enrich.dataset.definition import Dataset
from enrich.dataset.file_errors import find_repeated_keys
from enrich.dataset.mistakes import DatasetMistakes, Mistake
from enrich.dataset.suggestions import suggest
from enrich.datasets import find_project, load_datasets

_WRITE = "run `./larder openapi --write`"


def execute(options: argparse.Namespace) -> int:
    """Run a command and return its exit code.

    Raises:
        UsageError: the named dataset does not exist.
    """
    try:
        datasets = load_datasets()
        require_dataset(getattr(options, "dataset", None), datasets)
        return {"new": _new, "list": _list, "check": _check, "openapi": _openapi}[options.command](options, datasets)
    except ImportError as error:
        return print_error(error, USAGE)
    except DatasetMistakes as error:
        if options.command == "check" and options.json:  # a file that can't be imported is one more mistake
            return _print_mistakes(error.mistakes)
        return print_error(error, FAILED)


def require_dataset(name: str | None, known: Mapping[str, Dataset]) -> None:
    """Check that a dataset exists. None means that none was named.

    Raises:
        UsageError: with the names that exist.
    """
    if name is not None and name not in known:
        raise UsageError(f"no dataset {name!r}; {suggest(name, known)}")


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return the members of a dataset that `list` shows, as JSON values."""
    return {
        "name": dataset.name,
        "prefix": dataset.source.prefix,
        "format": dataset.source.format,
        "output": dataset.source.output,
        "ttl_s": dataset.ttl.total_seconds(),
        "claims": list(dataset.served.subject),
        "scope": dataset.served.scope,
        "metadata": list(dataset.metadata),
    }


def _new(options: argparse.Namespace, datasets: Mapping[str, Dataset]) -> int:
    from botocore.exceptions import BotoCoreError, ClientError

    from enrich.new.command import create_dataset
    from enrich.new.sample import BadSample

    try:
        path = create_dataset(options, find_project() / "datasets", datasets)
    except BadSample as error:
        return print_error(error, FAILED)
    except KeyboardInterrupt:  # at a question
        return print_error("nothing was written", INTERRUPTED)
    except (BotoCoreError, ClientError) as error:
        return print_error(f"{options.location}: a call to AWS failed: {error}", FAILED)
    print(f"wrote {path}; read it, then {_WRITE}")  # noqa: T201
    return DONE


def _list(options: argparse.Namespace, datasets: Mapping[str, Dataset]) -> int:
    found = [describe_dataset(dataset) for _, dataset in sorted(datasets.items())]
    if options.json:
        print(json.dumps(found))  # noqa: T201
        return DONE
    for each in found:
        each |= {"ttl_s": render_duration(each["ttl_s"]), "metadata": ", ".join(each["metadata"]) or None}
        each |= {"claims": ", ".join(each["claims"])}
    head = ["dataset", "prefix", "format", "output", "ttl", "claims", "scope", "metadata"]
    print(render_table(head, [list(each.values()) for each in found]))  # noqa: T201
    return DONE


def _check(options: argparse.Namespace, datasets: Mapping[str, Dataset]) -> int:
    from enrich.dataset.validation import check_datasets, read_document

    names = [options.dataset] if options.dataset else sorted(datasets)
    contract = find_project() / "openapi.yaml"
    try:
        # All datasets, even if one is named: their prefixes must differ.
        mistakes = check_datasets(datasets, read_document(contract))
        mistakes = mistakes or _check_contract(datasets, contract)
    except FileNotFoundError:
        mistakes = [Mistake(str(contract), "there is no such file", _WRITE)]
    if options.dataset:
        whole = {options.dataset, str(contract)}  # the contract describes all datasets, so it is reported for each
        mistakes = [each for each in mistakes if each.place in whole or each.place.startswith(f"{options.dataset} ")]
    files = [path for folder in ("datasets", "models") for path in sorted((find_project() / folder).glob("*.py"))]
    mistakes = [mistake for path in files for mistake in find_repeated_keys(path)] + mistakes
    if options.json:
        return _print_mistakes(mistakes)
    if mistakes:
        print("\n".join(map(str, mistakes)))  # noqa: T201
    else:
        print(f"{', '.join(names)}: no mistakes found" if names else "datasets/ has no dataset; add one")  # noqa: T201
    return FAILED if mistakes else DONE


def _print_mistakes(mistakes: list[Mistake]) -> int:
    print(json.dumps([asdict(mistake) for mistake in mistakes]))  # noqa: T201
    return FAILED if mistakes else DONE


def _check_contract(datasets: Mapping[str, Dataset], path: Path) -> list[Mistake]:
    """Check that openapi.yaml is up to date with datasets that have no mistakes."""
    from enrich.openapi.document import find_untyped
    from infra.gateway import build_project_document

    try:
        text = build_project_document(datasets)
    except DatasetMistakes as error:
        return error.mistakes
    is_stale = path.read_text(encoding="utf-8") != text
    return [*find_untyped(datasets.values()), *([Mistake(str(path), "is stale", _WRITE)] if is_stale else [])]


def _openapi(options: argparse.Namespace, datasets: Mapping[str, Dataset]) -> int:
    from enrich.openapi.document import find_untyped  # its dependencies are not in the bundle
    from infra.gateway import build_project_document

    text = build_project_document(datasets)
    if options.write:
        from infra.gateway import write_contract

        written = write_contract(find_project(), text)
        print("\n".join(f"wrote {path}" for path in written) or "openapi.yaml is up to date; nothing was written")  # noqa: T201
    else:
        print(text, end="")  # noqa: T201
    for mistake in find_untyped(datasets.values()):
        print_error(mistake, DONE)
    return DONE
