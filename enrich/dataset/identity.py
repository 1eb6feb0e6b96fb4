"""Identify what an output is checked and rendered with: a run must not mix two definitions of its dataset."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import duckdb

from enrich.dataset.definition import Dataset
from enrich.release import RELEASE


def identify_definition(dataset: Dataset, code_version: str | None) -> str:
    """Return a text that is another one if an output could have other keys, bodies, rejects or decisions.

    Nothing is compiled, so it is the same in a driver that holds no metadata. The code of a `derive` step is that of
    `code_version`, since the step can call any other code.
    """
    described = replace(dataset, about="", members={})  # only consumers read these
    rules = {
        "definition": asdict(described),
        "code": code_version if dataset.derive else None,
        "renderer": RELEASE,
        "duckdb": duckdb.__version__,
    }
    return hashlib.sha256(json.dumps(rules, default=_describe).encode()).hexdigest()[:16]


def _describe(value: Any) -> str:
    """Describe what is no JSON; a function by its name, since its address differs between processes."""
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else repr(value)
