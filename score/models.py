"""Load the models of a project: one file per model in its folder `models/`, which is the user's.

A file defines one `Model`, with the names that this module exports. A file whose name begins with `_` defines none:
others import it with `from ._name import ...`. Not in the bundle, which has the definitions as JSON.

python -m score.models       prints the definitions, as the bundle has them
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from enrich.dataset.file_errors import describe_error
from enrich.dataset.mistakes import DatasetMistakes, Mistake
from enrich.datasets import LOADING, find_project
from score.dev.checks import check_models
from score.model import (
    REQUIRED,
    Boolean,
    Category,
    Model,
    Number,
    Stored,
    Text,
    render_models,
)
from serve.datasets import Served

__all__ = [
    "REQUIRED",
    "Boolean",
    "Category",
    "Model",
    "ModelFileError",
    "Number",
    "Stored",
    "Text",
    "load_models",
]

_PACKAGE = "larder_models"


class ModelFileError(DatasetMistakes):
    """Files in models/ define no model, or one with mistakes; their places begin with the file or the model."""


def load_models(served: Mapping[str, Served], folder: Path | None = None) -> dict[str, Model]:
    """Load and check the models of a folder by name, in the order of their files; `models/` of the project by default.

    Args:
        served: who can read each dataset: models can have stored features of them.
        folder: need not exist.

    Raises:
        ModelFileError: a file can't be imported or does not define exactly one model, or a definition has mistakes.
    """
    with LOADING:
        return _load_folder(folder or find_project() / "models", served)


def _load_folder(folder: Path, served: Mapping[str, Served]) -> dict[str, Model]:
    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]
    importlib.invalidate_caches()
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[_PACKAGE] = package
    found: list[Model] = []
    mistakes: list[Mistake] = []
    for path in sorted(folder.glob("*.py")):
        if not path.name.startswith("_"):
            loaded = _load_file(path)
            if isinstance(loaded, Model):
                found.append(loaded)
            else:
                mistakes += loaded
    mistakes += check_models(found, served)
    if mistakes:
        raise ModelFileError(mistakes)
    return {model.name: model for model in found}


def _load_file(path: Path) -> Model | list[Mistake]:
    if not path.stem.isidentifier():
        return [Mistake(str(path), "the name is no Python module's", "rename it, e.g. to my_model.py")]
    # Kept bytecode would hide an edit of the same length within the same second.
    keeps_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        module = importlib.import_module(f"{_PACKAGE}.{path.stem}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a file of the user's can raise anything
        return describe_error(path, error)
    finally:
        sys.dont_write_bytecode = keeps_none
    found = {id(value): value for value in vars(module).values() if isinstance(value, Model)}
    if len(found) != 1:
        what = "defines no Model" if not found else f"defines {len(found)} models"
        return [Mistake(str(path), what, 'expected one: NAME = Model(name="...", ...)')]
    return next(iter(found.values()))


if __name__ == "__main__":
    from enrich.datasets import load_served

    try:
        sys.stdout.write(render_models(load_models(load_served())))
    except Exception as error:  # noqa: BLE001 - the caller shows the message
        sys.exit(str(error))
