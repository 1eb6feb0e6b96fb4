"""The reference of a dataset's options names every option, and its example is a dataset that `check` accepts."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from enrich.dataset import definition
from enrich.dataset.as_of import find_mistakes
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
from enrich.dataset.validation import check_datasets
from serve.datasets import Served

PAGE = (Path(__file__).parents[3] / "docs/reference.md").read_text()
INTERNAL = {"rejects_of", "places", "rank_tag", "version_place"}  # set by a replay, and when a dataset is loaded
TYPES = [
    Dataset,
    Source,
    Metadata,
    Member,
    Changes,
    Derive,
    Tolerated,
    Guard,
    Shares,
    FromKey,
    FromColumn,
    LastModified,
    Served,
]
BY_POSITION = {"sql", "function", "description", "pattern", "column"}


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_every_option_is_documented(kind: Any) -> None:
    """Its docstring has each option, the page has the type, and the example of a dataset sets the option."""
    assert f"::: {kind.__module__}.{kind.__name__}" in PAGE
    text = inspect.getdoc(kind) or ""
    calls = re.findall(rf"\b{kind.__name__}\(((?:[^()]|\([^()]*\))*)\)", PAGE)  # also with calls within its arguments
    assert kind is Dataset or calls
    options = kind._fields if kind is Served else [field.name for field in fields(kind)]
    for option in set(options) - INTERNAL:
        assert re.search(rf"^ +{option}:", text, re.MULTILINE), f"{kind.__name__}.{option} is not in its docstring"
        if option not in BY_POSITION:
            shown = [PAGE] if kind is Dataset else calls
            assert any(re.search(rf"\b{option}=", call) for call in shown), f"no example sets {kind.__name__}.{option}"


def test_the_example_is_a_dataset() -> None:
    """`check` finds no mistake in it."""
    code, rules = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {**vars(definition), "Served": Served, "UTC": UTC, "datetime": datetime, "timedelta": timedelta}
    dataset = eval(code, {**names, "add_related": lambda frame: frame})
    assert [str(each) for each in check_datasets({dataset.name: dataset}, None)] == []
    found = [eval(line.partition("  #")[0], names) for line in rules.splitlines()]
    assert [mistake for rule in found if rule != LastModified() for mistake in find_mistakes(rule)] == []
