"""Commands that need no AWS: list, check, openapi."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from enrich import datasets
from enrich.cli.exit_codes import DONE, FAILED, USAGE, UsageError, print_error
from enrich.cli.table import render_duration, render_table
from enrich.dataset.definition import Dataset
from serve.datasets import SERVED

ROOT = Path(__file__).resolve().parents[2]


def execute(options: argparse.Namespace) -> int:
    """Run a command and return its exit code.

    Raises:
        UsageError: the named dataset does not exist.
    """
    require_dataset(getattr(options, "dataset", None), datasets.DATASETS)
    try:
        return {"list": _list, "check": _check, "openapi": _openapi}[options.command](options)
    except ImportError as error:
        return print_error(error, USAGE)


def require_dataset(name: str | None, known: Mapping[str, Dataset]) -> None:
    """Refuse the name of a dataset that does not exist; None is no name.

    Raises:
        UsageError: with the names that exist.
    """
    if name is not None and name not in known:
        close = difflib.get_close_matches(name, known, 1)
        raise UsageError(
            f"no dataset {name!r}; {f'did you mean {close[0]}? ' if close else ''}"
            f"datasets: {', '.join(sorted(map(str, known))) or 'none'}"
        )


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return what `list` shows of a dataset, as JSON values."""
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


def _list(options: argparse.Namespace) -> int:
    found = [describe_dataset(dataset) for _, dataset in sorted(datasets.DATASETS.items())]
    if options.json:
        print(json.dumps(found))  # noqa: T201
        return DONE
    for each in found:
        each |= {"ttl_s": render_duration(each["ttl_s"]), "metadata": ", ".join(each["metadata"]) or None}
        each |= {"claims": ", ".join(each["claims"])}
    head = ["dataset", "prefix", "format", "output", "ttl", "claims", "scope", "metadata"]
    print(render_table(head, [list(each.values()) for each in found]))  # noqa: T201
    return DONE


def _check(options: argparse.Namespace) -> int:
    import yaml  # needed by this command only, and not in the bundle

    from enrich.dataset.validation import check_datasets

    names = [options.dataset] if options.dataset else sorted(map(str, datasets.DATASETS))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster
    document = yaml.load((ROOT / "openapi.yaml").read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
    mistakes = check_datasets(
        datasets.DATASETS, SERVED, document
    )  # all: a dataset's prefix must differ from all others
    if options.dataset:
        mistakes = [
            each for each in mistakes if each.place == options.dataset or each.place.startswith(f"{options.dataset} ")
        ]
    if options.json:
        print(json.dumps([asdict(mistake) for mistake in mistakes]))  # noqa: T201
    else:
        print("\n".join(map(str, mistakes)) if mistakes else f"{', '.join(names)}: no mistakes found")  # noqa: T201
    return FAILED if mistakes else DONE


def _openapi(options: argparse.Namespace) -> int:
    from enrich.dataset.expressions import DatasetMistakes
    from enrich.openapi import document as contract  # its dependencies are not in the bundle

    try:
        found = contract.build_contract(datasets.DATASETS[options.dataset])
        written = contract.write_contract(ROOT / "openapi.yaml", found) if options.write else False
    except (DatasetMistakes, contract.NoPlace) as error:
        return print_error(error, FAILED)
    if not options.write:
        print(contract.render_contract(found))  # noqa: T201
    elif not written:
        print(f"openapi.yaml describes {options.dataset} already; nothing was written")  # noqa: T201
        return DONE
    else:
        print(f"openapi.yaml: wrote the tag, the paths and the schemas of {options.dataset}; review them")  # noqa: T201
    for place in found.unknown:
        print_error(
            f"{options.dataset} {place}: has no known type; add it to openapi.yaml, or cast it in the metadata query",
            DONE,
        )
    return DONE
