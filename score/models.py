"""Load the models of a project: one file per model in its folder `models/`, which is the user's.

A file defines one `Model`, with the names that this module exports. A file whose name begins with `_` defines none:
others import it with `from ._name import ...`. Not in the bundle, which has the definitions as JSON.

python -m score.models       prints the definitions as in the bundle
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from enrich.dataset.definition_files import load_definitions
from enrich.dataset.mistakes import DatasetMistakes, Mistake
from enrich.datasets import find_project
from score.dev.checks import check_models
from score.model import (
    REQUIRED,
    Boolean,
    Category,
    Keep,
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
    "Keep",
    "Model",
    "ModelFileError",
    "Number",
    "Stored",
    "Text",
    "load_models",
]

_PACKAGE = "larder_models"


class ModelFileError(DatasetMistakes):
    """Files in models/ define no model, or one with mistakes; each place begins with the file or the model."""


def load_models(served: Mapping[str, Served], folder: Path | None = None) -> dict[str, Model]:
    """Load and check the models of a folder, by name, in the order of their files.

    Args:
        served: who can read each dataset that a stored feature can name.
        folder: by default `models/` of the project. It does not have to exist.

    Raises:
        ModelFileError: a file can't be imported or does not define exactly one model, or a definition has mistakes.
    """
    found: list[Model] = []
    mistakes: list[Mistake] = []
    example = 'NAME = Model(name="...", ...)'
    for _, loaded in load_definitions(folder or find_project() / "models", _PACKAGE, Model, example):
        if isinstance(loaded, Model):
            found.append(loaded)
        else:
            mistakes += loaded
    mistakes += check_models(found, served)
    if mistakes:
        raise ModelFileError(mistakes)
    return {model.name: model for model in found}


if __name__ == "__main__":
    from enrich.datasets import load_served

    try:
        sys.stdout.write(render_models(load_models(load_served())))
    except Exception as error:  # noqa: BLE001 - the caller shows the message
        sys.exit(str(error))
