"""The manifest of a version and the alias of a model: publishing writes them, and the function parses them strictly.

Both are JSON objects with a format number. A document with a later format, an unknown member, or a value that is out of
range is refused: the last good version keeps serving.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from score.model import TASKS, Task
from score.paths import MODEL_NAME, VERSION
from serve.tokens.strict import parse_json

FORMAT = 1
ELEMENT_TYPES = ("float", "double", "int64", "bool", "string")
MAX_MODEL_BYTES = 64 * 1024 * 1024
MAX_GOLDEN = 100

Scalar = float | int | str | bool | None  # the value of a feature; None: missing


class ManifestError(ValueError):
    """A manifest or alias is invalid; the message has the place, what was found and the remedy."""


class TextVectorizer(NamedTuple):
    """How a text becomes the row of a tensor: scikit-learn's TfidfVectorizer or CountVectorizer, in Python.

    The graph begins after this step, since the tokeniser of a converter depends on the machine's locale.

    Attributes:
        vocabulary: the terms, in the order of the tensor's columns; one space separates the words of an n-gram.
        lowercase: apply `str.lower` first.
        strip_accents: None, `unicode` or `ascii`, as in scikit-learn.
        token_pattern: regular expression of a token; if it has a group, the group is the token.
        stop_words: tokens that are removed before n-grams are made.
        ngram_range: the smallest and the largest number of tokens of a term.
        binary: count a term once.
        sublinear_tf: 1 + ln(count) instead of the count.
        idf: weight of each column; None for counts without weights.
        norm: `l1`, `l2` or None.
    """

    vocabulary: tuple[str, ...]
    lowercase: bool = True
    strip_accents: str | None = None
    token_pattern: str = r"(?u)\b\w\w+\b"  # noqa: S105 - no password
    stop_words: tuple[str, ...] = ()
    ngram_range: tuple[int, int] = (1, 1)
    binary: bool = False
    sublinear_tf: bool = False
    idf: tuple[float, ...] | None = None
    norm: str | None = None


class Input(NamedTuple):
    """One input tensor of the graph, of shape [rows, columns].

    Attributes:
        name: as in the graph.
        type: element type: float, double, int64, bool or string.
        features: the features of the columns, in order; with `text`, one text feature.
        text: how the text becomes the columns; None for one column per feature.
    """

    name: str
    type: str
    features: tuple[str, ...]
    text: TextVectorizer | None = None

    @property
    def columns(self) -> int:
        """Width of the tensor."""
        return len(self.text.vocabulary) if self.text else len(self.features)


class Golden(NamedTuple):
    """A row and its prediction: a container uses a version only if it predicts the same, within 1e-5.

    Attributes:
        instance: all features by name, including stored ones.
        prediction: the probabilities in the order of the labels, or the value.
    """

    instance: Mapping[str, Scalar]
    prediction: tuple[float, ...]


class Bins(NamedTuple):
    """Distribution of a feature, or of the score, in the training rows; drift is measured against it.

    Attributes:
        edges: for a number, ascending: k edges make k + 1 bins; a value on an edge is in the bin above. Else empty.
        values: for a category or boolean (`true`, `false`): k bins, and one for any other value. Else empty.
        shares: share of the rows in each bin, and last of the rows without a value; they add up to 1.
    """

    edges: tuple[float, ...]
    values: tuple[str, ...]
    shares: tuple[float, ...]


class Manifest(NamedTuple):
    """The description of a version.

    Attributes:
        model: the model's name.
        version: the first 16 hex digits of `sha256`.
        sha256: digest of the ONNX file, in hex.
        size: bytes of the ONNX file.
        task: classification or regression.
        labels: for a classification, in the order of the probabilities; empty for a regression.
        inputs: every input of the graph.
        output: name of the output tensor: probabilities [rows, labels] or values [rows] or [rows, 1]; float or double.
        baseline: feature -> the typical value that explanations compare with.
        golden: rows that the function checks before it uses the version.
        bins: feature -> distribution in training.
        scores: distribution of the probability of the predicted label, or of the value; None if unknown.
        created: time of publishing, RFC 3339 in UTC.
        release: the release of Larder that published it.
        signature: signature of the manifest without this member, in base64; None if not signed.
    """

    model: str
    version: str
    sha256: str
    size: int
    task: Task
    labels: tuple[str, ...]
    inputs: tuple[Input, ...]
    output: str
    baseline: Mapping[str, Scalar]
    golden: tuple[Golden, ...]
    bins: Mapping[str, Bins]
    scores: Bins | None
    created: str
    release: str
    signature: str | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that the version uses."""
        return tuple(dict.fromkeys(name for each in self.inputs for name in each.features))


class Share(NamedTuple):
    """A version and its share of the traffic, above 0 and up to 1."""

    version: str
    share: float


class Alias(NamedTuple):
    """Which versions of a model serve.

    Attributes:
        model: the model's name.
        live: the version that answers.
        previous: the version that was live before, which `rollback` restores; None for none.
        canary: the version that answers a share of the subjects instead; None for none.
        shadow: the version that also scores a share of the requests, with only the difference logged; None for none.
        by: name of the user who wrote this alias.
        at: time of the write, RFC 3339 in UTC.
    """

    model: str
    live: str
    previous: str | None
    canary: Share | None
    shadow: Share | None
    by: str
    at: str

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that a container loads."""
        shares = [each.version for each in (self.canary, self.shadow) if each]
        return tuple(dict.fromkeys([self.live, *shares]))


def dump_manifest(manifest: Manifest) -> bytes:
    """Render a manifest."""
    members = manifest._asdict()
    if manifest.signature is None:
        del members["signature"]
    members["inputs"] = [_dump_input(each) for each in manifest.inputs]
    members["golden"] = [each._asdict() for each in manifest.golden]
    members["bins"] = {name: each._asdict() for name, each in manifest.bins.items()}
    members["scores"] = manifest.scores._asdict() if manifest.scores else None
    return _dump({"format": FORMAT, **members})


def signed_bytes(manifest: Manifest) -> bytes:
    """Return the bytes that are signed: the manifest without its signature."""
    return dump_manifest(manifest._replace(signature=None))


def dump_alias(alias: Alias) -> bytes:
    """Render an alias."""
    members = alias._asdict()
    for name in ("canary", "shadow"):
        members[name] = members[name] and members[name]._asdict()
    return _dump({"format": FORMAT, **members})


def parse_manifest(data: bytes, place: str) -> Manifest:
    """Parse a manifest; `place` is where it was read, for messages.

    Raises:
        ManifestError: it is not a valid manifest of this format.
    """
    document = _Object.parse(data, place)
    sha256 = document.text("sha256")
    model = document.text("model")
    if not MODEL_NAME.match(model):
        raise document.wrong("model", model, "a model's name")
    version = document.version("version")
    if len(sha256) != 64 or sha256[:16] != version:
        raise document.wrong("sha256", sha256, f"64 hex digits that begin with the version {version}")
    task: Task = document.choice("task", TASKS)
    labels = document.texts("labels")
    if (task == "classification") != (len(labels) >= 2) or len(set(labels)) != len(labels):
        raise document.wrong("labels", labels, "two or more different labels, or none for a regression")
    inputs = tuple(_parse_input(each) for each in document.objects("inputs"))
    if not inputs:
        raise document.wrong("inputs", [], "one or more")
    width = len(labels) or 1
    golden = tuple(_parse_golden(each, width) for each in document.objects("golden"))
    if not 1 <= len(golden) <= MAX_GOLDEN:
        raise document.wrong("golden", f"{len(golden)} rows", f"1 to {MAX_GOLDEN}")
    scores = document.optional_object("scores")
    manifest = Manifest(
        model=model,
        version=version,
        sha256=sha256,
        size=document.integer("size", 1, MAX_MODEL_BYTES),
        task=task,
        labels=labels,
        inputs=inputs,
        output=document.text("output"),
        baseline=document.scalars("baseline"),
        golden=golden,
        bins={name: _parse_bins(each) for name, each in document.object("bins").inner_objects()},
        scores=_parse_bins(scores) if scores else None,
        created=document.text("created"),
        release=document.text("release"),
        signature=document.optional_text("signature", absent=True),
    )
    document.end()
    return manifest


def parse_alias(data: bytes, place: str) -> Alias:
    """Parse an alias; `place` is where it was read, for messages.

    Raises:
        ManifestError: it is not a valid alias of this format.
    """
    document = _Object.parse(data, place)
    alias = Alias(
        model=document.text("model"),
        live=document.version("live"),
        previous=document.version("previous") if document.get("previous") is not None else document.take("previous"),
        canary=_parse_share(document.optional_object("canary")),
        shadow=_parse_share(document.optional_object("shadow")),
        by=document.text("by"),
        at=document.text("at"),
    )
    document.end()
    return alias


def _dump(members: dict[str, Any]) -> bytes:
    return (json.dumps(members, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()


def _dump_input(one: Input) -> dict[str, Any]:
    members = {"name": one.name, "type": one.type, "features": one.features}
    return {**members, "text": one.text._asdict()} if one.text else members


def _parse_input(document: _Object) -> Input:
    text = document.optional_object("text", absent=True)
    one = Input(
        name=document.text("name"),
        type=document.choice("type", ELEMENT_TYPES),
        features=document.texts("features"),
        text=_parse_text(text) if text else None,
    )
    document.end()
    if not one.features or (one.text and (len(one.features) != 1 or one.type not in ("float", "double"))):
        raise document.wrong("features", one.features, "one or more; with text, one, and type float or double")
    return one


def _parse_text(document: _Object) -> TextVectorizer:
    sizes = document.numbers("ngram_range")
    text = TextVectorizer(
        vocabulary=document.texts("vocabulary"),
        lowercase=document.boolean("lowercase"),
        strip_accents=document.optional_choice("strip_accents", ("unicode", "ascii")),
        token_pattern=document.text("token_pattern"),
        stop_words=document.texts("stop_words"),
        ngram_range=(int(sizes[0]), int(sizes[1])) if len(sizes) == 2 else (0, 0),
        binary=document.boolean("binary"),
        sublinear_tf=document.boolean("sublinear_tf"),
        idf=document.numbers("idf") if document.get("idf") is not None else document.take("idf"),
        norm=document.optional_choice("norm", ("l1", "l2")),
    )
    document.end()
    if not 1 <= text.ngram_range[0] <= text.ngram_range[1] <= 5:
        raise document.wrong("ngram_range", sizes, "two whole numbers from 1 to 5, in order")
    if text.idf is not None and len(text.idf) != len(text.vocabulary):
        raise document.wrong("idf", f"{len(text.idf)} weights", f"one for each of {len(text.vocabulary)} terms")
    return text


def _parse_golden(document: _Object, width: int) -> Golden:
    golden = Golden(document.scalars("instance"), document.numbers("prediction"))
    document.end()
    if len(golden.prediction) != width:
        raise document.wrong("prediction", f"{len(golden.prediction)} numbers", str(width))
    return golden


def _parse_bins(document: _Object) -> Bins:
    bins = Bins(document.numbers("edges"), document.texts("values"), document.numbers("shares"))
    document.end()
    if (bins.edges and bins.values) or len(bins.shares) != len(bins.edges or bins.values) + 2:
        raise document.wrong("shares", f"{len(bins.shares)} shares", "two more than edges or values")
    if list(bins.edges) != sorted(set(bins.edges)):
        raise document.wrong("edges", bins.edges, "ascending numbers")
    return bins


def _parse_share(document: _Object | None) -> Share | None:
    if document is None:
        return None
    share = Share(document.version("version"), document.number("share"))
    document.end()
    if not 0 < share.share <= 1:
        raise document.wrong("share", share.share, "a number above 0, up to 1")
    return share


class _Object:
    """An object of a document. Each member is taken once; `end` refuses members that were not taken."""

    def __init__(self, members: dict[str, Any], place: str) -> None:
        self._members = members
        self._place = place

    @classmethod
    def parse(cls, data: bytes, place: str) -> _Object:
        """Parse the document itself, and check its format."""
        try:
            members = parse_json(data)
        except ValueError as error:
            raise ManifestError(f"{place}: is not strict JSON: {error}; publish or promote again") from error
        if not isinstance(members, dict):
            raise ManifestError(f"{place}: is not a JSON object; publish or promote again")
        document = cls(members, place)
        if (number := document.integer("format", 1, 10**6)) != FORMAT:
            message = f"{place}: found format {number}, expected {FORMAT}: deploy the newer release that wrote it"
            raise ManifestError(message)
        return document

    def wrong(self, name: str, found: object, expected: str) -> ManifestError:
        """Build the error for a member."""
        return ManifestError(f"{self._place}: {name}: found {str(found)[:80]!r}, expected {expected}")

    def get(self, name: str) -> Any:
        return self._members.get(name)

    def take(self, name: str) -> Any:
        if name not in self._members:
            raise ManifestError(f"{self._place}: the member {name!r} is missing")
        return self._members.pop(name)

    def end(self) -> None:
        if self._members:
            raise ManifestError(f"{self._place}: unknown member {min(self._members)[:64]!r}")

    def text(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, value, "a text that is not empty")
        return value

    def optional_text(self, name: str, *, absent: bool = False) -> str | None:
        if self.get(name) is None and (absent or name in self._members):
            self._members.pop(name, None)
            return None
        return self.text(name)

    def choice(self, name: str, choices: tuple[Any, ...]) -> Any:
        value = self.take(name)
        if not isinstance(value, str) or value not in choices:
            raise self.wrong(name, value, " or ".join(choices))
        return value

    def optional_choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        if self.get(name) is None:
            self.take(name)
            return None
        return str(self.choice(name, choices))

    def version(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str) or not VERSION.match(value):
            raise self.wrong(name, value, "16 hex digits")
        return value

    def boolean(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def number(self, name: str) -> float:
        value = self.take(name)
        if not _is_number(value):
            raise self.wrong(name, value, "a finite number")
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(name, value, f"a whole number from {low} to {high}")
        return value

    def numbers(self, name: str) -> tuple[float, ...]:
        values = self.take(name)
        if not isinstance(values, list) or not all(_is_number(each) for each in values):
            raise self.wrong(name, values, "a list of finite numbers")
        return tuple(float(each) for each in values)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.take(name)
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise self.wrong(name, values, "a list of texts")
        return tuple(values)

    def scalars(self, name: str) -> dict[str, Scalar]:
        values = self.take(name)
        if not isinstance(values, dict):
            raise self.wrong(name, values, "an object")
        for member, value in values.items():
            if not (value is None or isinstance(value, str | bool) or _is_number(value)):
                raise self.wrong(f"{name}.{member}", value, "a number, a text, a boolean or null")
        return values

    def object(self, name: str) -> _Object:
        value = self.take(name)
        if not isinstance(value, dict):
            raise self.wrong(name, value, "an object")
        return _Object(value, f"{self._place}: {name}")

    def optional_object(self, name: str, *, absent: bool = False) -> _Object | None:
        if self.get(name) is None and (absent or name in self._members):
            self._members.pop(name, None)
            return None
        return self.object(name)

    def objects(self, name: str) -> list[_Object]:
        values = self.take(name)
        if not isinstance(values, list):
            raise self.wrong(name, values, "a list of objects")
        pairs = list(enumerate(values))
        for number, each in pairs:
            if not isinstance(each, dict):
                raise self.wrong(f"{name}[{number}]", each, "an object")
        return [_Object(each, f"{self._place}: {name}[{number}]") for number, each in pairs]

    def inner_objects(self) -> list[tuple[str, _Object]]:
        return [(name, self.object(name)) for name in list(self._members)]


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
