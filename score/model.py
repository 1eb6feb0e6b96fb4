"""Model definition types: who can score, and the features of a request. Pure values, standard library only.

A project has one file per model in its folder `models/`. The Lambda does not import it: `render_models` writes the
definitions into the bundle as JSON, and `parse_models` reads them, so that a cold start runs no code of these files.
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
    """The default of `missing`: a request without the feature is refused."""

    REQUIRED = "required"


REQUIRED = Required.REQUIRED


class Number(NamedTuple):
    """A finite number; a boolean or a text is refused.

    Attributes:
        low: the smallest value that is accepted; None for no bound.
        high: the largest value that is accepted; None for no bound.
        missing: the value of an absent or null feature: a number, or None for NaN, if the model was trained with
            missing values. By default such a request is refused.
        integer: only whole numbers are accepted.
        about: description with the unit, for the contract.
    """

    low: float | None = None
    high: float | None = None
    missing: float | Required | None = REQUIRED
    integer: bool = False
    about: str = ""


class Category(NamedTuple):
    """One of a list of texts, compared exactly.

    Attributes:
        choices: the texts that are accepted. A model whose input is a number gets the index in this list, from 0.
        missing: the value of an absent or null feature: a text, or None for the empty text (NaN if the input is a
            number). By default such a request is refused.
        about: description for the contract.
    """

    choices: tuple[str, ...]
    missing: str | Required | None = REQUIRED
    about: str = ""


class Boolean(NamedTuple):
    """`true` or `false`; the model gets 1 or 0.

    Attributes:
        missing: the value of an absent or null feature, or None for NaN. By default such a request is refused.
        about: description for the contract.
    """

    missing: bool | Required | None = REQUIRED
    about: str = ""


class Text(NamedTuple):
    """Any text.

    Attributes:
        longest: the largest number of characters (code points) that is accepted.
        missing: the value of an absent or null feature; None for the empty text. By default such a request is refused.
        about: description for the contract.
    """

    longest: int = 20_000
    missing: str | Required | None = REQUIRED
    about: str = ""


class Stored(NamedTuple):
    """A member of an item of the caller's own subject: a stored batch prediction.

    Attributes:
        dataset: name of the dataset. The claims of its subject must also be in the model's subject, and the token must
            have its scope too: otherwise scoring would circumvent the read scope.
        id: the prediction_id, with members of the request in braces: `{flight_id}`. A name that is not a feature of the
            model becomes a member of the request, with the characters that a prediction_id can have.
        at: JSON pointer (RFC 6901) to the member of the item's body.
        missing: the value if there is none: a number, a text or a boolean; None for NaN or the empty text. By default
            such a request is refused. The log counts each reason separately.
        max_age: an item whose as_of is longer ago is missing.
        kind: type of the member; its own `missing` is ignored. A value that it does not accept is missing.
        about: description for the contract.
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
        """The members of the request that are parts of the prediction_id."""
        return tuple(_PLACEHOLDER.findall(self.id))


Feature = Number | Category | Boolean | Text | Stored
# Forms of a request besides `{"instance": {...}}` and `{"instances": [...]}`: a bare object of features,
# `{"values": {...}}`, and a list of texts for a model whose only feature is a text.
Form = Literal["bare", "values", "texts"]
FORMS: tuple[Form, ...] = ("bare", "values", "texts")
Task = Literal["classification", "regression"]
TASKS: tuple[Task, ...] = ("classification", "regression")

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Keep(NamedTuple):
    """Keep the features of a sample of the requests, for training and drift, in the table of kept features.

    Attributes:
        share: share of the requests, above 0 and up to 1.
        texts: also keep `Text` features, which can contain anything that a caller wrote.
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
    """One model as its callers see it. The manifest of a version describes that version.

    Attributes:
        name: used in paths, object keys and metrics: 1 to 64 ASCII letters, digits, - and _.
        subject: the claims whose values make the caller's subject; it selects stored features and the canary.
        scope: one of the token's scopes must be equal to it; with None, any valid token of an issuer can score.
        task: `classification` answers `{"label", "probability"}`, `regression` answers `{"value"}`.
        features: name -> kind. Names are members of a request, except those of `Stored`, which Larder reads.
        forms: forms of a request that are accepted in addition to `instance` and `instances`.
        direct: accept `lambda.invoke` without a token. Not possible for a model with stored features.
        decimals: decimals of the numbers in an answer; None for seven significant digits, the precision of a float32.
        about: what it predicts, in a sentence without a full stop, for the contract.
        keep: keep the features of a sample of the requests; None to keep nothing.
    """

    @cached_property
    def stored(self) -> dict[str, Stored]:
        """The features that Larder reads from items."""
        return {name: each for name, each in self.features.items() if isinstance(each, Stored)}

    @cached_property
    def datasets(self) -> tuple[str, ...]:
        """The datasets of the stored features, each once."""
        return tuple(dict.fromkeys(each.dataset for each in self.stored.values()))

    @cached_property
    def sent(self) -> dict[str, Number | Category | Boolean | Text]:
        """The features that are members of a request."""
        return {name: each for name, each in self.features.items() if not isinstance(each, Stored)}

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Members of a request that are not features, but only parts of prediction_ids."""
        names = [name for each in self.stored.values() for name in each.names]
        return tuple(dict.fromkeys(name for name in names if name not in self.features))


FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "models.json")
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Number, Category, Boolean, Text, Stored)}


def render_models(models: Mapping[str, Model]) -> str:
    """Render definitions as JSON, for the bundle of score."""
    return json.dumps([_dump(model) for model in models.values()], indent=1) + "\n"


def parse_models(text: str) -> dict[str, Model]:
    """Parse the text of `render_models`."""
    return {one["name"]: _load(one) for one in json.loads(text)}


def load_models(path: str = FILE) -> dict[str, Model]:
    """Load the definitions from the file of the bundle.

    Raises:
        ValueError: the file does not exist, as in a checkout.
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
    """Yield the name and kind of each feature; for a stored one, the kind of its value."""
    for name, each in model.features.items():
        yield name, each.kind if isinstance(each, Stored) else each
