"""Model definition types: who can score, and the features of a request. Pure values, standard library only.

A project has one file per model in its folder `models/`. The Lambda does not import it: its bundle has the definitions
as JSON, which `render_models` makes and `parse_models` reads, so that no code of a model's file runs in a cold start.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from functools import cached_property
from typing import Any, Literal, NamedTuple

from serve.datasets import read_bundled


class Required(Enum):
    """What `missing` is where the model's definition has no value for a missing feature: the request is refused."""

    REQUIRED = "required"


REQUIRED = Required.REQUIRED


class Number(NamedTuple):
    """A finite number; a boolean or a text is none.

    Attributes:
        low: the smallest value that is accepted; None for no bound.
        high: the largest.
        missing: what an absent or null feature becomes: a number, or None for NaN, which only a model that was trained
            with missing values takes well. Without it such a request is refused.
        integer: 1.5 is refused.
        about: what it is, with its unit, for the contract.
    """

    low: float | None = None
    high: float | None = None
    missing: float | Required | None = REQUIRED
    integer: bool = False
    about: str = ""


class Category(NamedTuple):
    """One of some texts, exactly as written.

    Attributes:
        choices: the texts that are accepted. A model whose input is a number gets the place in it, from 0.
        missing: what an absent or null feature becomes: a text, or None for the empty text (NaN for a number).
        about: what it is, for the contract.
    """

    choices: tuple[str, ...]
    missing: str | Required | None = REQUIRED
    about: str = ""


class Boolean(NamedTuple):
    """`true` or `false`: 1 or 0 to the model.

    Attributes:
        missing: what an absent or null feature becomes, or None for NaN.
        about: what it is, for the contract.
    """

    missing: bool | Required | None = REQUIRED
    about: str = ""


class Text(NamedTuple):
    """Any text.

    Attributes:
        longest: characters (code points) that are accepted.
        missing: what an absent or null feature becomes; None for the empty text.
        about: what it is, for the contract.
    """

    longest: int = 20_000
    missing: str | Required | None = REQUIRED
    about: str = ""


class Stored(NamedTuple):
    """A member of the item that the batch path has stored for the caller's own subject.

    Attributes:
        dataset: the dataset. Its subject must be made of claims that are also in the model's subject, and the token
            must have its scope too: else scoring would be a way around the read scope.
        id: the prediction_id, with members of the request in braces: `{flight_id}`. A name that is no feature of the
            model becomes a member of the request with the characters of a prediction_id.
        at: JSON pointer (RFC 6901) to the member of the item's body.
        missing: what counts as the value if there is none: a number, a text or a boolean; None for NaN or the empty
            text. Without it such a request is refused. Each kind of missing has a counter of its own.
        max_age: an item whose as_of is longer ago is missing.
        kind: what the member is; its own `missing` does not count. A value that it does not accept is missing.
        about: what it is, for the contract.
    """

    dataset: str
    id: str
    at: str
    missing: float | str | bool | Required | None = REQUIRED
    max_age: timedelta | None = None
    kind: Number | Category | Boolean | Text = Number()
    about: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The members of the request that the prediction_id is made of."""
        return tuple(_PLACEHOLDER.findall(self.id))


Feature = Number | Category | Boolean | Text | Stored
# Forms of a request besides `{"instance": {...}}` and `{"instances": [...]}`: a bare object of features,
# `{"values": {...}}`, and a list of texts for a model whose one feature is a text.
Form = Literal["bare", "values", "texts"]
FORMS: tuple[Form, ...] = ("bare", "values", "texts")
Task = Literal["classification", "regression"]
TASKS: tuple[Task, ...] = ("classification", "regression")

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Keep(NamedTuple):
    """That what requests used is kept, for training and drift: a sample of the requests, in the table of kept features.

    Attributes:
        share: of the requests, above 0 and up to 1.
        texts: features that are `Text` are kept too; they can have anything that a caller wrote.
    """

    share: float
    texts: bool = False


class _Fields(NamedTuple):
    name: str
    subject: tuple[str, ...]
    scope: str | None
    task: Task
    features: Mapping[str, Feature]
    forms: tuple[Form, ...] = ()
    direct: bool = False
    decimals: int | None = None
    about: str = ""
    keep: Keep | None = None


class Model(_Fields):
    """One model as its callers see it; what a version of it is, is in the version's manifest.

    Attributes:
        name: in paths, object keys and metrics: 1 to 64 ASCII letters, digits, - and _.
        subject: the claims whose values make the caller's subject, which decides about stored features and canaries.
        scope: one of the token's scopes must be equal; with None, any valid token of an issuer can score.
        task: `classification` answers `{"label", "probability"}`, `regression` answers `{"value"}`.
        features: name -> kind. Names are members of a request; those of `Stored` are not: Larder fills them.
        forms: forms that are accepted besides `instance` and `instances`.
        direct: `lambda.invoke` without a token is accepted. Not for a model with stored features.
        decimals: of the numbers of an answer; None for seven significant digits, which is what a float32 has.
        about: what it predicts, in a sentence without a full stop, for the contract.
        keep: what requests used is kept, and of how many; None for none.
    """

    @cached_property
    def stored(self) -> dict[str, Stored]:
        """The features that Larder fills."""
        return {name: each for name, each in self.features.items() if isinstance(each, Stored)}

    @cached_property
    def sent(self) -> dict[str, Number | Category | Boolean | Text]:
        """The features that a request has."""
        return {name: each for name, each in self.features.items() if not isinstance(each, Stored)}

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Members of a request that are no features: only prediction_ids are made of them."""
        names = [name for each in self.stored.values() for name in each.names]
        return tuple(dict.fromkeys(name for name in names if name not in self.features))


FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models.json")
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Number, Category, Boolean, Text, Stored)}


def render_models(models: Mapping[str, Model]) -> str:
    """Render definitions as JSON: the file that the bundle of score has, made when it is built."""
    return json.dumps([_dump(model) for model in models.values()], indent=1) + "\n"


def parse_models(text: str) -> dict[str, Model]:
    """Parse what `render_models` made."""
    return {one["name"]: _load(one) for one in json.loads(text)}


def load_models(path: str = FILE) -> dict[str, Model]:
    """Load the definitions from the file of the bundle.

    Raises:
        ValueError: there is no such file, as in a checkout.
    """
    return parse_models(read_bundled(path, "score", "models/"))


def _dump(model: Model) -> dict[str, Any]:
    features = {name: _dump_feature(each) for name, each in model.features.items()}
    return {**model._asdict(), "features": features, "keep": model.keep and model.keep._asdict()}


def _dump_feature(feature: Feature) -> dict[str, Any]:
    members = {name: value for name, value in feature._asdict().items() if value is not REQUIRED}
    if isinstance(feature, Stored):
        members["kind"] = _dump_feature(feature.kind)
        members["max_age"] = feature.max_age and feature.max_age.total_seconds()
    return {"type": type(feature).__name__, **members}


def _load(one: dict[str, Any]) -> Model:
    features = {name: _load_feature(dict(each)) for name, each in one["features"].items()}
    keep = Keep(**one["keep"]) if one.get("keep") else None
    members = {"subject": tuple(one["subject"]), "forms": tuple(one["forms"]), "features": features, "keep": keep}
    return Model(**{**one, **members})


def _load_feature(members: dict[str, Any]) -> Any:
    kind = _KINDS[members.pop("type")]
    if "choices" in members:
        members["choices"] = tuple(members["choices"])
    if kind is Stored:
        members["kind"] = _load_feature(dict(members["kind"]))
        members["max_age"] = members["max_age"] and timedelta(seconds=members["max_age"])
    return kind(**members)


def iterate_features(model: Model) -> Iterator[tuple[str, Number | Category | Boolean | Text]]:
    """Yield each feature's name with what its value is, wherever it comes from."""
    for name, each in model.features.items():
        yield name, each.kind if isinstance(each, Stored) else each
