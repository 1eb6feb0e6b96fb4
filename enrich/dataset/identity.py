"""Identify what an output is checked and rendered with: a run must not mix two definitions of its dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import duckdb

from enrich.dataset.definition import Dataset
from enrich.release import RELEASE


def identify_definition(dataset: Dataset, code_version: str | None) -> str:
    """Return a text that is another one if an output could have other keys, bodies, rejects or decisions.

    Nothing is compiled, so it is the same in a driver that holds no metadata. The code of a `derive` step is that of
    `code_version`, since the step can call any other code.
    """
    served = dataset.served._replace(scope=None)
    # Only consumers, the sweep and the events of items read these.
    described = replace(dataset, served=served, about="", members={}, start=None, changes=None)
    rules = {
        "definition": _describe(described),
        "code": code_version if dataset.derive else None,
        "renderer": RELEASE,
        "duckdb": duckdb.__version__,
    }
    return hashlib.sha256(json.dumps(rules).encode()).hexdigest()[:16]


def _describe(value: Any) -> Any:
    """Describe a value as JSON, whatever a dataset's file has: its mistakes are found where it is compiled."""
    if is_dataclass(value) and not isinstance(value, type):
        return [_describe(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, Mapping):
        return [[_describe(name), _describe(each)] for name, each in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [_describe(each) for each in value]
    if callable(value):  # its address differs between processes
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value)
