"""Load the datasets of a project: one file per dataset in its folder `datasets/`, which is the user's.

A file defines one `Dataset`, with the names that this module exports. A file whose name begins with `_` defines no
dataset; other files can import it with `from ._name import ...`.

python -m enrich.datasets       prints who can read each dataset, as JSON for serve
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import RLock
from types import ModuleType
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
from enrich.dataset.file_errors import describe_error
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
# The folder's modules are replaced in sys.modules: one thread at a time, e.g. of those that build the bundles.
LOADING = RLock()


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
    with LOADING:
        return _load_folder(folder or find_project() / "datasets")


def _load_folder(folder: Path) -> dict[str, Dataset]:
    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]
    importlib.invalidate_caches()
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[_PACKAGE] = package
    datasets: dict[str, Dataset] = {}
    files: dict[str, Path] = {}
    wrong: list[Mistake] = []
    for path in sorted(folder.glob("*.py")):
        if path.name.startswith("_"):
            continue
        try:
            dataset = _load_file(path)
        except DatasetFileError as error:
            wrong += error.mistakes
            continue
        if other := files.get(dataset.name):
            wrong.append(
                Mistake(str(path), f"defines the dataset {dataset.name!r}, as {other.name} does", "rename one")
            )
            continue
        files[dataset.name], datasets[dataset.name] = path, dataset
    if wrong:
        raise DatasetFileError(wrong)
    return datasets


def load_served(folder: Path | None = None) -> dict[str, Served]:
    """Load who can read each dataset.

    Raises:
        DatasetFileError: as in `load_datasets`.
    """
    return {name: dataset.served for name, dataset in load_datasets(folder).items()}


def _load_file(path: Path) -> Dataset:
    if not path.stem.isidentifier():
        mistake = Mistake(str(path), "the file name is not a Python module's", "rename it, e.g. to my_dataset.py")
        raise DatasetFileError([mistake])
    # Cached bytecode would hide an edit within the same second that does not change the file's length.
    keeps_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        module = importlib.import_module(f"{_PACKAGE}.{path.stem}")
    except (Exception, SystemExit) as error:  # user code can raise anything
        raise DatasetFileError(describe_error(path, error)) from error
    finally:
        sys.dont_write_bytecode = keeps_none
    found = {id(value): value for value in _defined(module)}
    if len(found) != 1:
        what = "defines no Dataset" if not found else f"defines {len(found)} datasets"
        raise DatasetFileError([Mistake(str(path), what, "expected one: NAME = Dataset(served=Served(...), ...)")])
    dataset = next(iter(found.values()))
    if mistakes := list(_find_unroutable(dataset)):
        raise DatasetFileError([replace(each, place=f"{path}: {each.place}") for each in mistakes])
    return replace(dataset, served=dataset.served._replace(places=dataset.places(), rank_tag=_find_rank_tag(dataset)))


def _find_rank_tag(dataset: Dataset) -> str:
    """Return the tag of a dataset's rank; none of what is no text, which is for `check` to report."""
    rank: Any = dataset.rank
    return dataset.rank_tag if isinstance(rank, str) else ""


def _defined(module: ModuleType) -> Iterator[Dataset]:
    for value in vars(module).values():
        if isinstance(value, Dataset):
            yield value


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
