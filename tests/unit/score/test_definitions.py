"""Definitions of models: files, mistakes, the JSON of the bundle, and the part of the HTTP contract."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from jsonschema import Draft7Validator
from openapi_spec_validator import validate

from enrich.openapi.document import build_document
from infra.gateway import build_gateway
from score.dev.checks import check_models
from score.dev.openapi import build_model_parts
from score.model import (
    REQUIRED,
    Boolean,
    Category,
    Feature,
    Keep,
    Model,
    Number,
    Stored,
    Text,
    parse_models,
    render_models,
)
from score.models import ModelFileError, load_models
from serve.datasets import Served
from tests.unit.score.kit import IRIS, MODELS, VIRGINICA, WINE, App
from tests.unit.serve.kit import SERVED, item

ROOT = Path(__file__).parents[3]
STORED = Stored("flight-delays", id="{flight_id}", at="/prediction/late", missing=None, max_age=timedelta(hours=36))
BASE = IRIS._replace(features={"a": Number()}, forms=())


WRONG: Any = "xy"
HEAD = "from score.models import *\n"
GOOD = 'Model("a", ("s",), None, "regression", {"x": Number()})'


def _with(**changes: Any) -> Model:
    return BASE._replace(**changes)


def _feature(kind: Any, name: Any = "a") -> Model:
    return _with(features={name: kind}, subject=("carrier",))


@pytest.mark.parametrize(
    ("model", "place", "remedy"),
    [
        (_with(name="a b"), "a b name", "ASCII letters"),
        (_with(name=5), "5 name", "ASCII letters"),
        (_with(subject="sub"), "iris subject", "tuple"),
        (_with(subject=()), "iris subject", "tuple"),
        (_with(scope="a b"), "iris scope", "one scope"),
        (_with(task="ranking"), "iris task", "classification or regression"),
        (_with(forms=("other",)), "iris forms", "bare, values, texts"),
        (_with(forms=("texts",)), "iris forms", "one Text feature"),
        (_with(decimals=-1), "iris decimals", "0 to 15"),
        (_with(keep=0.05), "iris keep", "Keep(share=0.05)"),
        (_with(keep=Keep(0)), "iris keep.share", "above 0, up to 1"),
        (_with(keep=Keep(1.5)), "iris keep.share", "above 0, up to 1"),
        (_with(keep=Keep(float("nan"))), "iris keep.share", "above 0, up to 1"),
        (_with(keep=Keep(True)), "iris keep.share", "above 0, up to 1"),
        (_with(keep=Keep(0.5, texts=WRONG)), "iris keep.texts", "True or False"),
        (_with(features={}), "iris features", "define some"),
        (_feature(Number(), "instance"), "iris features.instance", "none of instance"),
        (_feature(Number(), "a\n"), "iris features.a\n", "64 characters"),
        (_feature("number"), "iris features.a", "Number, Category"),
        (_feature(Number(low=2, high=1)), "iris features.a", "low before high"),
        (_feature(Number(low=float("nan"))), "iris features.a", "finite"),
        (_feature(Number(missing=float("nan"))), "iris features.a.missing", "None for NaN"),
        (_feature(Category(())), "iris features.a.choices", "different texts"),
        (_feature(Category(("x", "x"))), "iris features.a.choices", "different texts"),
        (_feature(Category(WRONG)), "iris features.a.choices", "different texts"),
        (_feature(Category(("x",), missing="y")), "iris features.a.missing", "one of the choices"),
        (_feature(Boolean(missing=WRONG)), "iris features.a.missing", "True, False"),
        (_feature(Text(longest=0)), "iris features.a.longest", "1 to 1000000"),
        (_feature(STORED._replace(dataset="flight-delay")), "iris features.a.dataset", "did you mean 'flight-delays'?"),
        (_feature(STORED._replace(id="{flight_id} b")), "iris features.a.id", "braces"),
        (_feature(STORED._replace(at="prediction")), "iris features.a.at", "JSON pointer"),
        (_feature(STORED._replace(max_age=timedelta(0))), "iris features.a.max_age", "above zero"),
        (_feature(STORED._replace(kind=cast(Any, STORED))), "iris features.a.kind", "Number()"),
        (_feature(STORED)._replace(subject=("sub",)), "iris features.a.dataset", "add 'carrier'"),
        (_feature(STORED)._replace(direct=True), "iris direct", "remove it"),
        (_feature(STORED._replace(id="x")), "iris features", "not Stored"),
        (
            _with(features={"a": STORED._replace(id="{b}"), "b": Boolean()}, subject=("carrier",)),
            "iris features.a.id",
            "name",
        ),
    ],
)
def test_a_mistake_has_its_place_and_remedy(model: Model, place: str, remedy: str) -> None:
    """The wrong value is reported, and nothing else."""
    (found,) = check_models([model], SERVED)
    assert found.place == place
    assert remedy in found.remedy


def test_correct_definitions_have_no_mistakes_and_are_complete_in_the_bundle() -> None:
    """The JSON of the bundle gives equal definitions."""
    assert check_models(list(MODELS.values()), SERVED) == []
    kinds: dict[str, Feature] = {"n": Number(1, 2, missing=0.5, integer=True), "b": Boolean(missing=None), "s": STORED}
    models = {**MODELS, "more": Model("more", ("carrier",), None, "regression", kinds, decimals=2)}
    assert parse_models(render_models(models)) == models
    assert [each.place for each in check_models([IRIS, IRIS], SERVED)] == ["iris"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no Model; expected one"),
        ("import nothing_like_this", "iris.py:1"),
        ("from score.models import *\na = Model(", "iris.py:2"),
        ("raise SystemExit(3)", "iris.py:1"),
        (f"{HEAD}a = {GOOD}\nb = a._replace(name='b')", "defines 2 models"),
        (f"{HEAD}a = {GOOD.replace('regression', 'regres')}", "a task: found 'regres'"),
    ],
)
def test_a_file_that_defines_no_model_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The message has the line too, if there is one."""
    (tmp_path / "iris.py").write_text(text)
    with pytest.raises(ModelFileError, match=message):
        load_models(SERVED, tmp_path)


def test_models_are_loaded_from_their_files(tmp_path: Path) -> None:
    """One model per file; files that begin with an underscore are helpers; the folder is optional."""
    (tmp_path / "_kinds.py").write_text("from score.models import Number\nSIZE = Number(low=0)\n")
    text = "from score.models import Model\n\nfrom ._kinds import SIZE\n\n"
    (tmp_path / "iris.py").write_text(f'{text}iris = Model("iris", ("sub",), None, "regression", {{"size": SIZE}})\n')
    assert load_models({}, tmp_path) == {"iris": Model("iris", ("sub",), None, "regression", {"size": Number(low=0)})}
    assert load_models({}, tmp_path / "none") == {}


def test_threads_can_load_at_once(tmp_path: Path) -> None:
    """Several threads build the bundles, and each loads the project's files."""
    for number in range(5):
        (tmp_path / f"m{number}.py").write_text(f"{HEAD}a = {GOOD.replace(chr(34) + 'a', chr(34) + f'a{number}', 1)}")
    with ThreadPoolExecutor(8) as pool:
        assert {len(found) for found in pool.map(lambda _: load_models({}, tmp_path), range(40))} == {5}


def _document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(build_document([], build_model_parts(MODELS.values())))
    return document


def test_the_contract_is_valid_and_describes_the_responses() -> None:
    """The response of each status conforms to its schema; problems have the codes and titles of their examples."""
    document = _document()
    validate(document)
    app = App(item("a", '{"prediction": {"late": 0.5}}'))
    wine: dict[str, Any] = {"alcohol": 1, "region": "north"}
    requests: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("iris", {"instance": VIRGINICA}, {}),
        ("iris", {"instances": [VIRGINICA] * 2}, {}),
        ("iris", {"instance": {}}, {}),
        ("iris", {}, {"Content_Type": "text/plain"}),
        ("wine", {"instance": wine}, {}),
        ("news", ["good game"], {}),
        ("delay", {"instance": {"departure_delay": 1, "flight_id": "a"}}, {}),
        ("delay", {"instance": {"departure_delay": 1, "flight_id": "b"}}, {}),
    )
    for model, body, headers in requests:
        for query in ({}, {"explain": "true"}):
            answer = app.post(body, model, query=query, **headers)
            described = document["paths"][f"/v1/models/{model}/score"]["post"]["responses"][str(answer.status)]
            _check(document, described, answer)
        described = document["paths"][f"/v1/models/{model}"]["get"]["responses"]["200"]
        _check(document, described, app.post(b"", method="GET", path=f"/v1/models/{model}"))


def _check(document: dict[str, Any], described: dict[str, Any], answer: Any) -> None:
    if "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rpartition("/")[2]]
    (kind,) = described["content"]
    assert answer.headers["content-type"] == kind
    schema = {**described["content"][kind]["schema"], "components": document["components"]}
    Draft7Validator(schema).validate(answer.json)
    example = described["content"][kind].get("example")
    if example:
        assert {name: answer.json[name] for name in ("type", "title", "status", "code")}.items() <= example.items()


def test_a_request_is_accepted_if_and_only_if_it_conforms_to_its_schema() -> None:
    """The schema has the types, bounds, choices and required features of the definition."""
    document = _document()
    app = App()
    instances: dict[str, list[dict[str, Any]]] = {
        "iris": [
            VIRGINICA,
            {**VIRGINICA, "sepal_length": 31},
            {**VIRGINICA, "sepal_length": "5"},
            {"sepal_length": 5},
        ],
        "wine": [
            {"region": "north"},
            {"region": None},
            {"region": "x"},
            {"region": "north", "alcohol": None, "red": None},
        ],
        "news": [{"text": "x" * 100}, {"text": "x" * 101}],
        "delay": [
            {"departure_delay": 1},
            {"departure_delay": 1, "flight_id": "a b"},
            {"departure_delay": 1, "flight_id": "a"},
        ],
    }
    for model, instance in [(model, each) for model, many in instances.items() for each in many]:
        schema = document["components"]["schemas"][f"{model.title()}ModelInstance"]
        for kind in schema["properties"].values():
            if kind.pop("nullable", False):
                kind["type"] = [kind["type"], "null"]
        is_valid = Draft7Validator({**schema, "components": document["components"]}).is_valid(instance)
        assert is_valid == (app.post({"instance": instance}, model).status == 200), (model, instance)


def test_the_gateway_asks_for_keys_and_calls_score() -> None:
    """If API keys are required, scoring and the description need one, but not a preflight. Paths call score's alias."""
    document = build_gateway(_document())
    for model in MODELS:
        for path, methods in ((f"/v1/models/{model}", ("get", "head")), (f"/v1/models/{model}/score", ("post",))):
            described = document["paths"][path]
            for method in methods:
                assert described[method]["security"]["Fn::If"][0] == "HasApiKeys"
            assert described["options"]["security"] == []
            for each in described.values():
                assert "${ScoreFunction.Alias}" in each["x-amazon-apigateway-integration"]["uri"]["Fn::Sub"]
    assert "ScoreFunction" not in build_document([])


def test_the_import_set_of_a_cold_start() -> None:
    """It has neither numpy, nor the Python API of the runtime, nor modules for a laptop."""
    code = "import sys; before = set(sys.modules); import score.handler; print('\\n'.join(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    tops = {each.partition(".")[0] for each in modules}
    assert tops - sys.stdlib_module_names == {"score", "serve", "wire", "_cffi_backend", "_openssl", "cryptography"}
    assert not tops & {"dataclasses", "inspect", "pathlib", "email", "http", "decimal", "tempfile", "subprocess"}
    assert not {
        each
        for each in modules
        if each.startswith(("score.dev", "score.keep", "score.models", "score.publish", "serve.dev"))
    }
    assert "serve.handler" not in modules


def test_definitions_say_who_can_score() -> None:
    """The tag of a model has its scope, its subject, and the scope of each dataset that it reads."""
    (text,) = [tag["description"] for tag in _document()["tags"] if tag["name"] == "delay"]
    assert text.endswith("scope `delay:score` and the scope of `flight-delays`, subject `carrier` and `sub`")
    assert json.loads(render_models({"wine": WINE}))[0]["direct"] is True
    assert REQUIRED is IRIS.sent["petal_width"].missing
    assert check_models([MODELS["delay"]], {"flight-delays": Served("flight-delays", ("tenant",), None)})
