"""Import a project's definitions: each file of a folder, which is the user's, defines one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import TypeVar

from enrich.dataset.file_errors import describe_error
from enrich.dataset.mistakes import Mistake

T = TypeVar("T")

# The folder's modules are replaced in sys.modules: one thread at a time, e.g. of those that build the bundles.
_LOADING = RLock()


def load_definitions(folder: Path, package: str, kind: type[T], example: str) -> list[tuple[Path, T | list[Mistake]]]:
    """Execute the files of a folder again, in the order of their names; files that begin with `_` define nothing.

    Args:
        folder: need not exist.
        package: name under which the files can import each other.
        kind: class of the definitions.
        example: an example of a definition, for messages.

    Returns:
        Each file with its definition, or with its mistakes: it cannot be imported, or does not define exactly one.
    """
    with _LOADING:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        importlib.invalidate_caches()
        module = ModuleType(package)
        module.__path__ = [str(folder)]
        sys.modules[package] = module
        paths = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]
        return [(path, _load_file(path, package, kind, example)) for path in paths]


def _load_file(path: Path, package: str, kind: type[T], example: str) -> T | list[Mistake]:
    noun = kind.__name__.lower()
    if not path.stem.isidentifier():
        remedy = f"rename it, e.g. to my_{noun}.py"
        return [Mistake(str(path), "the file name is not a Python module's", remedy)]
    # Cached bytecode would hide an edit within the same second that does not change the file's length.
    keeps_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        module = importlib.import_module(f"{package}.{path.stem}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code can raise anything
        return describe_error(path, error)
    finally:
        sys.dont_write_bytecode = keeps_none
    found = {id(value): value for value in vars(module).values() if isinstance(value, kind)}
    if len(found) != 1:
        what = f"defines no {kind.__name__}" if not found else f"defines {len(found)} {noun}s"
        return [Mistake(str(path), what, f"expected one: {example}")]
    return next(iter(found.values()))
