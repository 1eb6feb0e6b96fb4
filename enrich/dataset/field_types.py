"""Check a dataset's values against the type hints of its definition.

The hints of `enrich.dataset.definition` and `serve.datasets` are the only list of what is allowed, so a new option is
checked as soon as it has a hint. Python does not check hints, and a misspelled policy would act as another one.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, ForwardRef, Literal, Union, get_args, get_origin, get_type_hints

from enrich.dataset import definition
from enrich.dataset.definition import Dataset, name_place
from enrich.dataset.empty_database import open_empty
from enrich.dataset.mistakes import DatasetMistakes, Mistake
from enrich.dataset.suggestions import suggest
from enrich.dataset.type_names import suggest_type

_EXAMPLES: dict[Any, tuple[str, str]] = {  # type -> its name, and what to write
    str: ("a text", "write it in quotes"),
    bool: ("a boolean", "write True or False"),
    int: ("a whole number", "write e.g. 10"),
    float: ("a number", "write e.g. 0.01"),
    timedelta: ("a timedelta", "write e.g. timedelta(days=7)"),
    datetime: ("a datetime", "write e.g. datetime(2026, 1, 31, tzinfo=UTC)"),
    Mapping: ("a mapping", "write e.g. {'name': 'expression'}"),
    Sequence: ("a list", "write e.g. ['name']"),
    tuple: ("a tuple", "write e.g. ('name',)"),
    Callable: ("a function", "name the function, without calling it"),
    type(None): ("None", "leave it out"),
}


def require_types(dataset: Dataset) -> None:
    """Check that every value of a dataset has the type of its hint.

    Raises:
        DatasetMistakes: with every value that has another type.
    """
    if mistakes := list(find_type_mistakes(dataset.name, dataset, Dataset)):
        raise DatasetMistakes(mistakes)


def find_type_mistakes(name: str, value: Any, hint: Any) -> Iterator[Mistake]:
    """Yield a mistake for each value within `value` that its type hint does not allow.

    Args:
        name: the dataset's name, with which places begin.
        value: of any type.
        hint: a class whose fields have hints, or any hint that the definition uses.
    """
    for place, message, remedy in _find("", value, hint):
        yield Mistake(f"{name} {place}".rstrip(), message, remedy)


def _find(place: str, value: Any, hint: Any) -> Iterator[tuple[str, str, str]]:
    chosen = _choose(value, hint)
    if chosen is None:
        yield _describe(place, value, hint)
    elif chosen is Any:
        return
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):  # neither S3 nor DynamoDB can store it
            yield place, f"is {value!r}, which has a lone surrogate", "write the whole character"
    elif isinstance(value, Mapping):
        key_hint, value_hint = get_args(chosen)
        for name, inner in value.items():
            at = _member(place, str(name))
            yield from _find(at, name, key_hint)
            yield from _find(at, inner, value_hint)
    elif hints := _field_hints(value):
        for name, inner_hint in hints.items():
            yield from _find(_member(place, name), getattr(value, name), inner_hint)
    elif isinstance(value, Sequence):
        for n, inner in enumerate(value):
            yield from _find(f"{place}[{n}]", inner, get_args(chosen)[0])


def _choose(value: Any, hint: Any) -> Any:
    """Return the alternative of a hint that matches a value's outermost type; None if there is none."""
    return next((each for each in _alternatives(hint) if _belongs(value, each)), None)


def _belongs(value: Any, hint: Any) -> bool:
    kind = get_origin(hint) or hint
    if kind is Any:
        return True
    if kind is Literal:
        return any(value is each or (isinstance(value, str) and value == each) for each in get_args(hint))
    if kind is float and isinstance(value, int):
        return not isinstance(value, bool)
    if isinstance(value, bool) and kind is int:
        return False
    if isinstance(value, str) and kind is Sequence:  # a string is a sequence too, but is never meant as one
        return False
    return isinstance(value, kind)


def _alternatives(hint: Any) -> list[Any]:
    if isinstance(hint, ForwardRef):  # a recursive type, such as `Body`
        holder = type("Holder", (), {"__annotations__": {"hint": hint}})
        hint = get_type_hints(holder, vars(definition))["hint"]
    if get_origin(hint) in {Union, types.UnionType}:
        return [each for inner in get_args(hint) for each in _alternatives(inner)]
    return [hint]


def _field_hints(value: Any) -> dict[str, Any]:
    """Return the hints of the fields of a dataclass or named tuple; for other values, an empty dictionary."""
    return _hints_of(type(value))  # type: ignore[arg-type] # mypy takes no class for hashable


@cache
def _hints_of(kind: Any) -> dict[str, Any]:
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {each.name: hints[each.name] for each in fields(kind)}
    return get_type_hints(kind) if hasattr(kind, "_fields") else {}


def _describe(place: str, value: Any, hint: Any) -> tuple[str, str, str]:
    alternatives = _alternatives(hint)
    words = [str(word) for each in alternatives if get_origin(each) is Literal for word in get_args(each)]
    if words and isinstance(value, str):
        return place, f"is {value!r}", suggest(value, words)
    expected = [_name(each) for each in alternatives]
    names = " or ".join(filter(None, [", ".join(expected[:-1]), expected[-1]]))
    message = f"is {value!r}, of type {type(value).__name__}; expected {names}"
    return place, message, _remedy(place, value, alternatives)


def _name(hint: Any) -> str:
    kind = get_origin(hint) or hint
    if kind is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return _EXAMPLES[kind][0] if kind in _EXAMPLES else str(kind.__name__)


def _remedy(place: str, value: Any, alternatives: Sequence[Any]) -> str:
    """Return what to write: the value in the right form, if it is close to one, otherwise an example for the hint."""
    kinds = [get_origin(each) or each for each in alternatives]
    for kind in kinds:
        if kind not in _EXAMPLES and kind is not Literal and (value is kind or value == kind.__name__):
            return f"write {kind.__name__}({'...' if get_type_hints(kind) else ''})"
    if str in kinds and isinstance(value, int | float):
        return f'write "{value}"'
    if place.rpartition(".")[0].endswith("columns"):
        with open_empty() as con:  # a type of Python, NumPy or Arrow, not in quotes
            name = "int64" if value is int else "float64" if value is float else getattr(value, "__name__", str(value))
            return suggest_type(con, name)
    if str in kinds and Mapping in kinds and isinstance(value, list | tuple | set):
        return 'write a list as one expression, e.g. "[a, b]"'
    first, kind = alternatives[0], kinds[0]
    if kind is Literal:
        return f"write e.g. {get_args(first)[0]!r}"
    if kind is Mapping:
        inner = _alternatives(get_args(first)[1])[0]
        text = "'varchar'" if place.endswith("columns") else "'expression'"
        return f"write e.g. {{'name': {text if inner is str else f'{inner.__name__}(...)'}}}"
    return _EXAMPLES[kind][1] if kind in _EXAMPLES else f"write {kind.__name__}(...)"


def _member(place: str, name: str) -> str:
    return name_place(place, name).removeprefix(".")
