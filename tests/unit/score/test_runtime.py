"""The C library through ctypes, compared with its Python API; and hostile model files."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from score.manifest import Golden, Input, Manifest, ManifestError, dump_manifest, parse_alias, parse_manifest
from score.model import Category, Model, Number
from score.native import RuntimeFailed, Session, check_places, open_runtime
from score.onnx_file import MAX_NODES, ModelRefused, check_model
from score.scorer import VersionRefused, load_scorer
from score.text import Vectorizer
from tests.doubles.onnx_writer import classifier, field, model, node, regressor, varint
from tests.unit.score.fuzz_models import TREE, fuzz_models, fuzz_requests
from tests.unit.score.kit import alias_of, iris_version, news_version

ROOT = Path(__file__).parents[3]
IDENTITY = [node("Identity", ["x"], ["y"])]
ONE = {"x": ("float", 1)}, {"y": ("float", 1)}
RNG = random.Random(7)


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_the_answers_equal_those_of_the_python_api(kind: str, rows: int) -> None:
    """They are bit-identical for a classifier and a regression, for one row or many."""
    for made, output in (
        (classifier([[RNG.gauss(0, 1) for _ in range(5)] for _ in range(3)], [0.1, 0.2, 0.3], kind), "probabilities"),
        (regressor([RNG.gauss(0, 1) for _ in range(5)], 0.5, kind), "value"),
    ):
        cells = [RNG.gauss(0, 10) for _ in range(5 * rows)]
        data = np.array(cells, np.float32 if kind == "float" else np.float64).reshape(rows, 5)
        expected = onnxruntime.InferenceSession(made).run([output], {"x": data})[0].ravel().tolist()
        session = Session(open_runtime(), made)
        assert session.run([("x", kind, cells)], rows, output) == expected
        assert session.run([("x", kind, cells)], rows, output, seconds=10) == expected
        assert {name: tuple(each) for name, each in session.inputs.items()} == {"x": (kind, (-1, 5))}


def test_texts_and_integers_are_inputs_too() -> None:
    """One category is a text for an encoder, another is the index of the choice."""
    nodes = [
        node("LabelEncoder", ["city"], ["c"], "ai.onnx.ml", keys_strings=["a", "é"], values_floats=[2.0, 4.0]),
        node("Cast", ["n"], ["f"], to=1),
        node("Add", ["c", "f"], ["value"]),
    ]
    made = model(nodes, {"city": ("string", 1), "n": ("int64", 1)}, {"value": ("float", 1)})
    digest = sha256(made).hexdigest()
    definition = Model("m", ("sub",), None, "regression", {"city": Category(("a", "é", "")), "n": Category(("x", "y"))})
    inputs = (Input("city", "string", ("city",)), Input("n", "int64", ("n",)))
    golden = (Golden({"city": "é", "n": "y"}, (5.0,)),)
    manifest = Manifest(
        "m", digest[:16], digest, len(made), "regression", (), inputs, "value", {}, golden, {}, None, "now", "0.1.0"
    )
    scorer = load_scorer(made, manifest, definition)
    rows: list[dict[str, Any]] = [{"city": "a", "n": "x"}, {"city": "é", "n": "y"}, {"city": None, "n": "y"}]
    assert scorer.predict(rows) == [(2.0,), (5.0,), (1.0,)]


def test_an_invalid_call_is_an_error() -> None:
    """The runtime checks names, types and shapes; an output that is not a matrix of floats is refused."""
    session = Session(open_runtime(), classifier([[1.0, 2.0], [3.0, 4.0]], [0.0, 0.0]))
    for feeds, output in (
        ([("y", "float", [1, 2])], "probabilities"),
        ([("x", "double", [1, 2])], "probabilities"),
        ([("x", "string", [b"a", b"b"])], "probabilities"),
        ([("x", "float", [1, 2, 3])], "probabilities"),
        ([], "probabilities"),
        ([("x", "float", [1, 2])], "unknown"),
    ):
        with pytest.raises(RuntimeFailed):
            session.run(feeds, 1, output)
    assert len(session.run([("x", "float", [1, 2])], 1, "probabilities")) == 2, "it still works"
    label = Session(
        open_runtime(), model([node("ArgMax", ["x"], ["y"], axis=1)], *({"x": ("float", 2)}, {"y": ("int64", 1)}))
    )
    with pytest.raises(RuntimeFailed, match="the output is int64"):
        label.run([("x", "float", [1, 2])], 1, "y")


HEADER = "struct OrtApi {\n%s\n};\n"


def test_places_are_compared_with_a_header() -> None:
    """If a header has a new function before all others, every index differs."""
    from score.native import _PLACES

    names = [""] * (max(_PLACES.values()) + 1)
    for name, place in _PLACES.items():
        names[place] = name
    lines = [
        f"  ORT_CLASS_RELEASE({name.removeprefix('Release')});"
        if name.startswith("Release")
        else f"  const char*(ORT_API_CALL* {name})(_In_ const OrtStatus* status);"
        if name == "GetErrorMessage"
        else f"  /* a comment ( */ ORT_API2_STATUS({name or 'Other'}, _In_ int x); // another"
        for name in names
    ]
    assert check_places(HEADER % "\n".join(lines)) == []
    assert len(check_places(HEADER % "\n".join(["ORT_API2_STATUS(New, int x);", *lines]))) == len(_PLACES)


def test_the_version_of_the_library() -> None:
    """It is the version of the installed package."""
    assert open_runtime().version == onnxruntime.__version__


def _external() -> bytes:
    data = field(1, 1) + field(2, 1) + field(8, "w") + field(13, field(1, "location") + field(2, "/etc/passwd"))
    return model([node("Add", ["x", "w"], ["y"])], *ONE, [data + field(14, 1)])


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes"),
    "text": (b"not a model", "member that is not accepted"),
    "html": (b"<html>" * 100, "member that is not accepted"),
    "a pickle": (b"\x80\x04\x95\x1b\x00\x00\x00", "member that is not accepted"),
    "the runtime's own format": (b"\x18\0\0\0ORTM" + b"\0" * 100, "ORT format"),
    "external data": (_external(), "external_data|number 13"),
    "an endless loop": (model([node("Loop", ["x"], ["y"])], *ONE), "'Loop' is not accepted"),
    "a branch": (model([node("If", ["x"], ["y"])], *ONE), "'If'"),
    "a scan": (model([node("Scan", ["x"], ["y"])], *ONE), "'Scan'"),
    "an operator of another domain": (model([node("Add", ["x"], ["y"], "com.microsoft")], *ONE), "com.microsoft.Add"),
    "another domain is imported": (model(IDENTITY, *ONE, domains=("", "com.microsoft")), "com.microsoft"),
    "a huge shape": (model([node("ConstantOfShape", ["x"], ["y"])], *ONE), "ConstantOfShape"),
    "a subgraph": (
        model([node("Identity", ["x"], ["y"]) + field(5, field(1, "body") + field(6, b""))], *ONE),
        "number 6",
    ),
    "a function": (model(IDENTITY, *ONE, more=field(25, b"")), "number 25"),
    "training": (model(IDENTITY, *ONE, more=field(20, b"")), "number 20"),
    "two graphs": (model(IDENTITY, *ONE, more=field(7, b"")), "2 graphs|graph twice"),
    "an operator twice": (model([node("Identity", ["x"], ["y"]) + field(4, "Loop")], *ONE), "op_type twice"),
    "a domain twice": (model([node("Identity", ["x"], ["y"], "ai.onnx.ml") + field(7, "")], *ONE), "domain twice"),
    "a sparse tensor": (model(IDENTITY, *ONE, more_graph=field(15, b"")), "number 15"),
    "a group": (model(IDENTITY, *ONE, more=bytes([7 << 3 | 3])), "wire type 3"),
    "a long tag": (model(IDENTITY, *ONE, more=b"\xba\x80\x80\x00" + varint(0)), "cut off|not an ONNX"),
    "too many nodes": (model(IDENTITY * (MAX_NODES + 1), *ONE), f"more than {MAX_NODES}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_never_reaches_the_runtime(name: str) -> None:
    """It is refused, and the message has what was found."""
    data, message = HOSTILE[name]
    with pytest.raises(ModelRefused, match=message):
        check_model(data)


def test_a_model_that_needs_too_much_memory_is_refused_and_the_process_survives() -> None:
    """Small tensors can have a huge product, which the list of operators allows: in a golden row, or while loading.

    The product has 1.6 GB: this machine has that much memory, but it is more than half of the function's.
    """
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from tests.unit.score.test_runtime import *
from tests.doubles.onnx_writer import model, node, tensor
from score.scorer import VersionRefused
big = 20_000
for constant in (False, True):
    left = "c" if constant else "x2"
    nodes = [node("Mul", ["x", "c"], ["x2"]), node("MatMul", [left, "b"], ["m"]),
             node("ReduceSum", ["m", "axes"], ["r"], keepdims=1), node("Add", ["x", "r"], ["value"])]
    made = model(nodes, {{"x": ("float", 1)}}, {{"value": ("float", 1)}},
        [tensor("c", [1.0] * big, (big, 1)), tensor("b", [1.0] * big, (1, big)), tensor("axes", [0, 1], (2,), "int64")])
    digest = sha256(made).hexdigest()
    manifest = Manifest("m", digest[:16], digest, len(made), "regression", (), (Input("x", "float", ("x",)),), "value",
        {{}}, (Golden({{"x": 1.0}}, (1.0,)),), {{}}, None, "now", "0.1.0")
    try:
        load_scorer(made, manifest, Model("m", ("sub",), None, "regression", {{"x": Number()}}))
    except VersionRefused as error:
        print("refused", "memory" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == ["refused True"] * 2, done.stderr[-500:]


def test_the_process_survives_changed_files_and_requests() -> None:
    """Changed models are refused, or give numbers; responses to changed bodies have a status of the contract."""
    assert fuzz_models(400, 7)["run"] > 5
    assert fuzz_requests(300, 7).keys() >= {200, 400, 422}


def test_a_tree_is_accepted_and_its_lists_are_skipped() -> None:
    """Converters write lists of unpacked numbers and of short texts."""
    check_model(TREE)
    assert Session(open_runtime(), TREE).run([("x", "float", [0, 1.5, 0, 1.6])], 2, "value") == [10.0, 20.0]


def test_the_vectorizer_equals_that_of_scikit_learn() -> None:
    """With every setting, for texts with accents, capitals, digits and signs."""
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

    texts = ["The Game of the games", "Été à l'île — ÉTÉ 2024!", "x_y a1 b2 İstanbul straße", "", "ﬁn ﬁn fin game the"]
    settings: tuple[dict[str, Any], ...] = (
        {},
        {"lowercase": False, "norm": "l1"},
        {"strip_accents": "unicode", "ngram_range": (1, 3), "sublinear_tf": True},
        {"strip_accents": "ascii", "binary": True, "norm": None},
        {"stop_words": ["the", "of"], "ngram_range": (2, 2), "min_df": 1},
        {"token_pattern": r"(?u)\b(\w)\w*\b", "use_idf": False},
    )
    for options in settings:
        fitted = TfidfVectorizer(**options).fit(texts)
        text = news_version()[1].inputs[0].text
        assert text
        given = text._replace(
            vocabulary=tuple(fitted.get_feature_names_out()),
            lowercase=fitted.lowercase,
            strip_accents=fitted.strip_accents,
            token_pattern=fitted.token_pattern,
            stop_words=tuple(fitted.stop_words or ()),
            ngram_range=fitted.ngram_range,
            binary=fitted.binary,
            sublinear_tf=fitted.sublinear_tf,
            idf=tuple(fitted.idf_) if fitted.use_idf else None,
            norm=fitted.norm,
        )
        vectorizer = Vectorizer(given)
        for one, expected in zip(texts, fitted.transform(texts).toarray(), strict=True):
            weights = vectorizer.weigh(vectorizer.tokenize(one))
            found = [weights.get(column, 0.0) for column in range(len(given.vocabulary))]
            assert found == pytest.approx(expected.tolist(), abs=1e-12), (options, one)
    assert CountVectorizer().token_pattern == news_version()[1].inputs[0].text.token_pattern  # type: ignore[union-attr]


@pytest.mark.parametrize("made", [iris_version()[1], news_version()[1]])
def test_a_manifest_is_parsed_strictly(made: Manifest) -> None:
    """Each member is required and has one type, and no other member is allowed."""
    text = dump_manifest(made)
    assert parse_manifest(text, "place") == made
    document = json.loads(text)
    for name in document:
        for changed in ({**document, name: object}, {key: value for key, value in document.items() if key != name}):
            wrong: Any = changed if name not in changed else {**changed, name: [[]] if name != "golden" else 5}
            with pytest.raises(ManifestError, match=r"^place: "):
                parse_manifest(json.dumps(wrong).encode(), "place")
    for wrong in (b"", b"[]", b"{}", text + b" ", text.replace(b'"format": 1', b'"format": true')):
        if wrong != text + b" ":
            with pytest.raises(ManifestError):
                parse_manifest(wrong, "place")


@pytest.mark.parametrize(
    "change",
    [
        {"live": "x"}, {"live": None}, {"previous": 5}, {"canary": {"version": "0" * 16, "share": 0}},
        {"canary": {"version": "0" * 16, "share": 1.01}}, {"canary": {"version": "0" * 16, "share": True}},
        {"canary": "0" * 16}, {"shadow": {}}, {"by": ""}, {"other": 1}, {"format": 2},
    ],
)  # fmt: skip
def test_an_alias_is_strict(change: Any) -> None:
    """A share is above 0 and up to 1; versions are 16 hex digits."""
    good = {"format": 1, "model": "m", "live": "0" * 16, "previous": None, "canary": None, "shadow": None, "by": "me"}
    assert parse_alias(json.dumps({**good, "at": "now"}).encode(), "place").live == "0" * 16
    with pytest.raises(ManifestError, match=r"^place: "):
        parse_alias(json.dumps({**good, "at": "now", **change}).encode(), "place")
    assert alias_of(iris_version()).versions == (iris_version()[1].version,)


def test_an_answer_that_is_not_finite_is_refused() -> None:
    """A version with a NaN for a golden row is not loaded; a later NaN is an error and not a prediction."""
    made = model([node("Log", ["x"], ["value"])], {"x": ("float", 1)}, {"value": ("float", 1)})
    digest = sha256(made).hexdigest()
    inputs, golden = (Input("x", "float", ("x",)),), (Golden({"x": 1.0}, (0.0,)),)
    manifest = Manifest(
        "m", digest[:16], digest, len(made), "regression", (), inputs, "value", {}, golden, {}, None, "now", "0.1.0"
    )
    scorer = load_scorer(made, manifest, Model("m", ("sub",), None, "regression", {"x": Number()}))
    assert scorer.predict([{"x": math.e}]) == [pytest.approx((1.0,))]
    for value in (-1.0, 0.0, None):
        with pytest.raises(RuntimeFailed, match="not finite"):
            scorer.predict([{"x": value}])
    with pytest.raises(VersionRefused, match="gives no answer if 'x' is missing"):
        load_scorer(made, manifest, Model("m", ("sub",), None, "regression", {"x": Number(missing=None)}))
