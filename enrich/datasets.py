"""Load the datasets of a project: one file per dataset in its folder `datasets/`, which is the user's.

A file defines one `Dataset`, with the names that this module exports. A file whose name begins with `_` defines no
dataset; other files can import it with `from ._name import ...`.

python -m enrich.datasets       prints who can read each dataset, as JSON for serve
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from enrich.dataset.definition import (
    Changes,
    Dataset,
    Derive,
    FromColumn,
    FromKey,
    Guard,
    LastModified,
    Member,
    Metadata,
    Shares,
    Source,
    Tolerated,
)
from enrich.dataset.definition_files import load_definitions
from enrich.dataset.mistakes import DatasetMistakes, Mistake
from serve.datasets import Served, render_served

__all__ = [
    "Changes",
    "Dataset",
    "DatasetFileError",
    "Derive",
    "FromColumn",
    "FromKey",
    "Guard",
    "LastModified",
    "Member",
    "Metadata",
    "Served",
    "Shares",
    "Source",
    "Tolerated",
    "find_project",
    "load_datasets",
]

_ROOT = Path(__file__).resolve().parent.parent
# The folder is a package under this name: `datasets` itself is a well-known package on PyPI.
_PACKAGE = "larder_datasets"


class DatasetFileError(DatasetMistakes):
    """Files in datasets/ do not define a dataset; the places of the mistakes begin with the file."""


def find_project() -> Path:
    """Return the folder that has `datasets/`, `openapi.yaml`, and `environments.yaml` and `gateway.yaml` in `infra/`.

    It is the checkout (or the bundle), unless LARDER_PROJECT names another one, as the demo and Larder's tests do.
    """
    return Path(os.environ.get("LARDER_PROJECT") or _ROOT).resolve()


def load_datasets(folder: Path | None = None) -> dict[str, Dataset]:
    """Load the datasets of a folder by name, in the order of their files; `datasets/` of the project by default.

    Each call executes the files again, so that changes are seen.

    Raises:
        DatasetFileError: a file cannot be imported, does not define exactly one dataset, or defines one whose name
            another file uses.
    """
    datasets: dict[str, Dataset] = {}
    files: dict[str, Path] = {}
    wrong: list[Mistake] = []
    example = "NAME = Dataset(served=Served(...), ...)"
    for path, loaded in load_definitions(folder or find_project() / "datasets", _PACKAGE, Dataset, example):
        if not isinstance(loaded, Dataset):
            wrong += loaded
        elif unroutable := list(_find_unroutable(loaded)):
            wrong += [replace(each, place=f"{path}: {each.place}") for each in unroutable]
        elif other := files.get(loaded.name):
            wrong.append(Mistake(str(path), f"defines the dataset {loaded.name!r}, as {other.name} does", "rename one"))
        else:
            served = loaded.served._replace(
                places=loaded.places(), rank_tag=_find_rank_tag(loaded), version_place=loaded.version_place
            )
            files[loaded.name], datasets[loaded.name] = path, replace(loaded, served=served)
    if wrong:
        raise DatasetFileError(wrong)
    return datasets


def load_served(folder: Path | None = None) -> dict[str, Served]:
    """Load who can read each dataset.

    Raises:
        DatasetFileError: as in `load_datasets`.
    """
    return {name: dataset.served for name, dataset in load_datasets(folder).items()}


def _find_rank_tag(dataset: Dataset) -> str:
    """Return the tag of a dataset's rank; none of what is no text, which is for `check` to report."""
    rank: Any = dataset.rank
    return dataset.rank_tag if isinstance(rank, str) else ""


def _find_unroutable(dataset: Dataset) -> Iterator[Mistake]:
    """Yield the mistakes in name and prefix, without which no object can be assigned to the dataset."""
    served: Any = dataset.served
    source: Any = dataset.source
    for place, value, kind in (
        ("served", served, Served),
        ("served.name", getattr(served, "name", None), str),
        ("source", source, Source),
        ("source.prefix", getattr(source, "prefix", None), str),
    ):
        if not isinstance(value, kind):
            from enrich.dataset.field_types import find_type_mistakes  # imports DuckDB, which not every command needs

            yield from find_type_mistakes(place, value, kind)
            return


if __name__ == "__main__":
    try:
        # Imported under its own name: as __main__, this module would have a second class DatasetFileError.
        from enrich.datasets import load_served as load

        sys.stdout.write(render_served(load()))
    except Exception as error:  # noqa: BLE001 - the caller shows the message
        sys.exit(str(error))
