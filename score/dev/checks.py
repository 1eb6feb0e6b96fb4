"""Find mistakes in model definitions: each with its place, what was found, and the remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from enrich.dataset.mistakes import Mistake
from enrich.dataset.suggestions import suggest
from score.model import FORMS, REQUIRED, TASKS, Boolean, Category, Keep, Model, Number, Stored, Text
from score.paths import MODEL_NAME
from serve.datasets import Served

_RESERVED = ("instance", "instances", "values", "model", "texts")
_FEATURE = re.compile(r"[^\x00-\x1f\x7f]{1,64}\Z")
_ID = re.compile(r"(?:\{[A-Za-z_][A-Za-z0-9_]*\}|[A-Za-z0-9._~:@,=+-])+\Z")
_KINDS = (Number, Category, Boolean, Text, Stored)


def check_models(models: Sequence[Model], served: Mapping[str, Served]) -> list[Mistake]:
    """Return the mistakes of all models; `served` has the datasets that stored features can name."""
    mistakes = [mistake for model in models for mistake in _check_model(model, served)]
    names = [model.name for model in models]
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    return mistakes + [Mistake(name, "two files define this model", "rename one") for name in twice]


def _check_model(model: Any, served: Mapping[str, Served]) -> Iterator[Mistake]:
    name = model.name if isinstance(model.name, str) else repr(model.name)
    if not isinstance(model.name, str) or not MODEL_NAME.match(model.name):
        yield Mistake(f"{name} name", f"found {model.name!r}", "use 1 to 64 ASCII letters, digits, - and _")
    if not _is_texts(model.subject) or not model.subject:
        yield Mistake(f"{name} subject", f"found {model.subject!r}", 'write the claims as a tuple, e.g. ("sub",)')
        return
    if model.scope is not None and (not isinstance(model.scope, str) or not re.fullmatch(r"[!#-\[\]-~]+", model.scope)):
        yield Mistake(f"{name} scope", f"found {model.scope!r}", f'use one scope, e.g. "{name}:score", or None')
    if model.task not in TASKS:
        yield Mistake(f"{name} task", f"found {model.task!r}", f"use {' or '.join(TASKS)}")
    if not _is_texts(model.forms) or set(model.forms) - set(FORMS):
        yield Mistake(f"{name} forms", f"found {model.forms!r}", f"use some of {', '.join(FORMS)}, as a tuple")
    if model.decimals is not None and (type(model.decimals) is not int or not 0 <= model.decimals <= 15):
        yield Mistake(f"{name} decimals", f"found {model.decimals!r}", "use 0 to 15, or None")
    yield from _check_keep(f"{name} keep", model.keep)
    if not isinstance(model.features, Mapping) or not model.features:
        yield Mistake(f"{name} features", f"found {model.features!r}", 'define some, e.g. {"age": Number(low=0)}')
        return
    for feature, kind in model.features.items():
        yield from _check_feature(f"{name} features.{feature}", feature, kind)
    if all(isinstance(kind, _KINDS) for kind in model.features.values()):
        yield from _check_together(name, model, served)


def _check_keep(place: str, keep: Any) -> Iterator[Mistake]:
    if keep is None:
        return
    if not isinstance(keep, Keep):
        yield Mistake(place, f"found {keep!r}", "use Keep(share=0.05), or None")
    elif not _is_number(keep.share) or not 0 < keep.share <= 1:
        yield Mistake(f"{place}.share", f"found {keep.share!r}", "use a share of the requests above 0, up to 1")
    elif keep.texts not in (True, False):
        yield Mistake(f"{place}.texts", f"found {keep.texts!r}", "use True or False")


def _check_feature(place: str, name: Any, kind: Any) -> Iterator[Mistake]:
    if not isinstance(name, str) or not _FEATURE.match(name) or name in _RESERVED:
        yield Mistake(place, f"found the name {name!r}", f"use up to 64 characters, and none of {', '.join(_RESERVED)}")
    if not isinstance(kind, _KINDS):
        kinds = ", ".join(each.__name__ for each in _KINDS)
        yield Mistake(place, f"found {kind!r}", f"use one of {kinds}, e.g. Number(low=0)")
        return
    if isinstance(kind, Stored):
        yield from _check_stored(place, kind)
    yield from _check_kind(place, kind.kind if isinstance(kind, Stored) else kind)


def _check_kind(place: str, kind: Any) -> Iterator[Mistake]:
    missing: Any = kind.missing
    if isinstance(kind, Number):
        bounds = [each for each in (kind.low, kind.high) if each is not None]
        if not all(_is_number(each) for each in bounds) or bounds != sorted(bounds):
            message = f"found low={kind.low!r} and high={kind.high!r}"
            yield Mistake(place, message, "use finite numbers, low before high")
        if missing not in (REQUIRED, None) and not _is_number(missing):
            yield Mistake(f"{place}.missing", f"found {missing!r}", "use a finite number, or None for NaN")
    elif isinstance(kind, Category):
        if not _is_texts(kind.choices) or not kind.choices or len(set(kind.choices)) < len(kind.choices):
            yield Mistake(f"{place}.choices", f"found {kind.choices!r}", 'list different texts, e.g. ("EWR", "JFK")')
        elif missing not in (REQUIRED, None, *kind.choices):
            yield Mistake(f"{place}.missing", f"found {missing!r}", "use one of the choices, or None")
    elif isinstance(kind, Text):
        if type(kind.longest) is not int or not 1 <= kind.longest <= 1_000_000:
            yield Mistake(f"{place}.longest", f"found {kind.longest!r}", "use 1 to 1000000 characters")
        if missing not in (REQUIRED, None) and not isinstance(missing, str):
            yield Mistake(f"{place}.missing", f"found {missing!r}", "use a text, or None for the empty one")
    elif missing not in (REQUIRED, None, True, False):
        yield Mistake(f"{place}.missing", f"found {missing!r}", "use True, False, or None for NaN")


def _check_stored(place: str, kind: Any) -> Iterator[Mistake]:
    if not isinstance(kind.id, str) or not _ID.match(kind.id):
        remedy = "use members of the request in braces, and characters of a prediction_id, e.g. {flight_id}"
        yield Mistake(f"{place}.id", f"found {kind.id!r}", remedy)
    if not isinstance(kind.at, str) or not re.fullmatch(r"(?:/(?:[^~/]|~[01])*)+", kind.at):
        yield Mistake(f"{place}.at", f"found {kind.at!r}", "write a JSON pointer, e.g. /prediction/score")
    if kind.max_age is not None and (not isinstance(kind.max_age, timedelta) or kind.max_age <= timedelta(0)):
        yield Mistake(f"{place}.max_age", f"found {kind.max_age!r}", "set it above zero, e.g. timedelta(hours=36)")
    if not isinstance(kind.kind, Number | Category | Boolean | Text):
        yield Mistake(f"{place}.kind", f"found {kind.kind!r}", "use Number(), Category(...), Boolean() or Text()")


def _check_together(name: str, model: Model, served: Mapping[str, Served]) -> Iterator[Mistake]:
    """Yield mistakes of features that depend on other features, on datasets, or on forms."""
    for feature, kind in model.stored.items():
        place = f"{name} features.{feature}"
        dataset = served.get(kind.dataset)
        if dataset is None:
            yield Mistake(
                f"{place}.dataset", f"there is no dataset {kind.dataset!r}", suggest(str(kind.dataset), served)
            )
        elif missing := [claim for claim in dataset.subject if claim not in model.subject]:
            message = f"the subject of {kind.dataset} has the claim {missing[0]!r}, and the model's subject does not"
            yield Mistake(f"{place}.dataset", message, f"add {missing[0]!r} to the model's subject")
        for each in kind.names if isinstance(kind.id, str) else ():
            if isinstance(model.features.get(each), Stored | Boolean):
                yield Mistake(f"{place}.id", f"{each!r} is not a number or text of the request", "name another member")
    if not model.sent and not model.ids:
        yield Mistake(f"{name} features", "a request would have no members", "add a feature that is not Stored")
    is_one_text = len(model.features) == 1 and isinstance(next(iter(model.features.values())), Text)
    if "texts" in model.forms and not is_one_text:
        message = "found texts, for a model that has other features"
        yield Mistake(f"{name} forms", message, "use it only for a model with one Text feature")
    if model.direct and model.stored:
        message = "found True, for a model with stored features, which need a token's subject"
        yield Mistake(f"{name} direct", message, "remove it")


def _is_texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(each, str) and each for each in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
