"""One version of a model, loaded and proved: rows of features in, probabilities or values out.

Publishing also proves a version with `load_scorer`: the code that is compared with the original is the code that runs.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from score.manifest import Input, Manifest, Scalar
from score.memory import bounded_memory
from score.model import REQUIRED, Category, Model, Number, Text, iterate_features
from score.native import RuntimeFailed, Session, open_runtime
from score.onnx_file import ModelRefused, check_model
from score.text import Vectorizer

MAX_ROWS = 100  # in a request
TOLERANCE = 1e-5  # absolute for a probability, and for a value up to 1; relative for a larger value
PROOF_SECONDS = 5.0  # for the golden rows, and for MAX_ROWS rows
MAX_FLOAT32 = 3.4028234663852886e38
Row = Mapping[str, Scalar]
_Convert = Callable[[Scalar], Any]


class VersionRefused(ValueError):
    """A version can't be used; the message has the reason."""


class Scorer:
    """A loaded version. Threads can share it."""

    def __init__(self, session: Session, manifest: Manifest, model: Model) -> None:
        self.manifest = manifest
        self.model = model
        self.seconds = 0.0  # of CPU that the proof took for `MAX_ROWS` rows
        self._session = session
        self._width = len(manifest.labels) or 1
        kinds = dict(iterate_features(model))
        self._columns: list[tuple[Input, Vectorizer | None, list[tuple[str, _Convert]]]] = []
        for each in manifest.inputs:
            try:
                vectorizer = Vectorizer(each.text) if each.text else None
            except ValueError as error:
                raise VersionRefused(f"the input {each.name!r} has an invalid tokeniser: {error}") from error
            converters = [(name, _converter(each.type, kinds[name])) for name in each.features]
            self._columns.append((each, vectorizer, converters))
        # Largest absolute value of each feature whose input in the model has a smaller range than a 64-bit float.
        self.bounds = {
            name: MAX_FLOAT32 if each.type == "float" else 2.0**63 - 1024
            for each in manifest.inputs
            for name in each.features
            if each.type in ("float", "int64") and isinstance(kinds[name], Number)
        }

    @property
    def version(self) -> str:
        """The version's name."""
        return self.manifest.version

    @property
    def vectorizers(self) -> dict[str, Vectorizer]:
        """The text features that are vectorised in Python."""
        return {each.features[0]: vectorizer for each, vectorizer, _ in self._columns if vectorizer}

    def predict(self, rows: Sequence[Row], *, seconds: float | None = None) -> list[tuple[float, ...]]:
        """Return, for each row, the probabilities in the order of the labels, or the value.

        Args:
            rows: all features of the version by name; None for a missing one.
            seconds: time limit of the runtime; None for no limit.

        Raises:
            RuntimeFailed: the runtime refused a row, or an answer is not finite.
        """
        feeds: list[tuple[str, str, Sequence[Any]]] = []
        for each, vectorizer, converters in self._columns:
            if vectorizer:
                texts = [vectorizer.tokenize(str(row[each.features[0]] or "")) for row in rows]
                feeds.append((each.name, each.type, _vectorize(each, vectorizer, texts)))
            else:
                cells = [convert(row[name]) for row in rows for name, convert in converters]
                feeds.append((each.name, each.type, cells))
        return self._run(feeds, len(rows), seconds)

    def predict_tokens(self, row: Row, feature: str, texts: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """Return the predictions of a row whose text feature is replaced by each of some lists of tokens."""
        feeds: list[tuple[str, str, Sequence[Any]]] = []
        for each, vectorizer, converters in self._columns:
            if vectorizer:
                same = None if each.features[0] == feature else vectorizer.tokenize(str(row[each.features[0]] or ""))
                lists = texts if same is None else [same] * len(texts)
                feeds.append((each.name, each.type, _vectorize(each, vectorizer, lists)))
            else:
                feeds.append((each.name, each.type, [convert(row[name]) for name, convert in converters] * len(texts)))
        return self._run(feeds, len(texts), None)

    def _run(
        self, feeds: Sequence[tuple[str, str, Sequence[Any]]], rows: int, seconds: float | None
    ) -> list[tuple[float, ...]]:
        numbers = self._session.run(feeds, rows, self.manifest.output, seconds)
        width = self._width
        if len(numbers) != rows * width:
            raise RuntimeFailed(f"the output has {len(numbers)} numbers for {rows} rows; expected {width} for each")
        if not math.isfinite(sum(numbers)) and not all(map(math.isfinite, numbers)):
            raise RuntimeFailed("the answer is not finite")
        return [tuple(numbers[at : at + width]) for at in range(0, len(numbers), width)]


def load_scorer(model_bytes: bytes, manifest: Manifest, model: Model) -> Scorer:
    """Check a version's bytes, load them, and run its golden rows.

    Raises:
        VersionRefused: bytes, manifest and definition do not match, the file is not accepted, or the answer to a golden
            row differs.
    """
    if len(model_bytes) != manifest.size or sha256(model_bytes).hexdigest() != manifest.sha256:
        raise VersionRefused("the model file is not the one that the manifest names: publish it again")
    check_fit(manifest, model)
    try:
        check_model(model_bytes)
        with bounded_memory(len(model_bytes)):
            session = Session(open_runtime(), model_bytes)
            _check_tensors(session, manifest)
            scorer = Scorer(session, manifest, model)
            _check_golden(scorer)
    except (ModelRefused, RuntimeFailed, MemoryError) as error:
        raise VersionRefused(str(error) or "the model needs more memory than the function has") from error
    return scorer


def check_fit(manifest: Manifest, model: Model) -> None:
    """Check that a version matches the definition of the model.

    Raises:
        VersionRefused: its name or task differs, or it has features that the definition does not have.
    """
    if manifest.model != model.name or manifest.task != model.task:
        found = f"a {manifest.task} named {manifest.model!r}"
        raise VersionRefused(f"the version is {found}; expected a {model.task} named {model.name!r}")
    unknown = [name for name in manifest.features if name not in model.features]
    if unknown:
        raise VersionRefused(
            f"the version needs the feature {unknown[0]!r}, which models/ does not define: deploy the definition first"
        )
    kinds = dict(iterate_features(model))
    for each in manifest.inputs:
        for name in each.features:
            if bool(each.text) and not isinstance(kinds[name], Text):
                raise VersionRefused(f"the input {each.name!r} tokenises {name!r}; expected a Text feature")
            if isinstance(kinds[name], Text) and not each.text and each.type != "string":
                raise VersionRefused(f"the input {each.name!r} reads {name!r} as a number, but it is a Text feature")
            if isinstance(kinds[name], Number) and each.type in ("string", "bool"):
                raise VersionRefused(f"the input {each.name!r} reads {name!r} as a {each.type}, but it is a Number")
    for number, golden in enumerate(manifest.golden):
        if lost := [name for name in manifest.features if name not in golden.instance]:
            raise VersionRefused(f"golden row {number} does not have the feature {lost[0]!r}; publish again")


def _check_tensors(session: Session, manifest: Manifest) -> None:
    wanted = {each.name: each for each in manifest.inputs}
    if session.inputs.keys() != wanted.keys():
        raise VersionRefused(f"the graph has the inputs {sorted(session.inputs)}; the manifest has {sorted(wanted)}")
    for name, each in wanted.items():
        kind, shape = session.inputs[name]
        if kind != each.type or len(shape) != 2 or shape[1] not in (-1, each.columns) or shape[0] != -1:
            found = f"{kind} {list(shape)}"
            raise VersionRefused(f"the input {name!r} is {found}; expected {each.type} [-1, {each.columns}]")
    if manifest.output not in session.outputs:
        raise VersionRefused(f"the graph has no output {manifest.output!r}; it has {sorted(session.outputs)}")


def _check_golden(scorer: Scorer) -> None:
    golden = scorer.manifest.golden
    rows = [each.instance for each in golden]
    try:
        answers = scorer.predict(rows, seconds=PROOF_SECONDS)
        _check_missing(scorer, rows[0])
        # The largest request, within the same limits of time and memory.
        started = time.thread_time()
        scorer.predict([rows[number % len(rows)] for number in range(MAX_ROWS)], seconds=PROOF_SECONDS)
        scorer.seconds = time.thread_time() - started
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise VersionRefused(f"a golden row does not fit the model's inputs: {error}") from error
    for number, (each, answer) in enumerate(zip(golden, answers, strict=True)):
        for wanted, found in zip(each.prediction, answer, strict=True):
            if abs(wanted - found) > TOLERANCE * max(1.0, abs(wanted)):
                raise VersionRefused(f"golden row {number} gives {found!r}; expected {wanted!r}: publish again")


def _vectorize(each: Input, vectorizer: Vectorizer, texts: Sequence[Sequence[str]]) -> array[float]:
    """Return the rows of a tensor; most cells are 0."""
    cells = array("f" if each.type == "float" else "d")
    cells.frombytes(bytes(cells.itemsize * each.columns * len(texts)))
    for number, tokens in enumerate(texts):
        start = number * each.columns
        for column, weight in vectorizer.weigh(tokens).items():
            cells[start + column] = weight
    return cells


def _check_missing(scorer: Scorer, row: Row) -> None:
    """Check that the model gives an answer for each feature that can be missing according to the definition."""
    for name, kind in scorer.model.features.items():
        if name in scorer.manifest.features and kind.missing is not REQUIRED:
            try:
                scorer.predict([{**row, name: kind.missing}], seconds=PROOF_SECONDS)
            except (RuntimeFailed, KeyError, TypeError, ValueError, OverflowError) as error:
                message = f"the model gives no answer if {name!r} is missing ({error}): define another `missing` for it"
                raise VersionRefused(message) from error


def _converter(element: str, kind: object) -> _Convert:
    """Return the function from a feature's value to a cell; a missing value becomes NaN, empty text, or an error."""
    if element == "string":
        return _to_text
    number: _Convert = {"float": float, "double": float, "int64": int, "bool": int}[element]
    if isinstance(kind, Category):
        places: dict[Any, int] = {choice: place for place, choice in enumerate(kind.choices)}
        number = lambda value: places[value]  # noqa: E731 - one of three forms of a small function
    if element in ("float", "double"):
        return lambda value: math.nan if value is None else number(value)
    return number


def _to_text(value: Scalar) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode()
