"""Requests and responses of the scoring API, through the handler, in every event form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import pytest

from score.contract import MAX_BODY_BYTES
from score.dev.laptop import split
from score.model import Number
from score.scorer import MAX_ROWS, Row, Scorer
from tests.unit.score.kit import IRIS, IRIS_WEIGHTS, NEWS_WEIGHTS, SCOPES, VIRGINICA, App, iris_version, softmax
from tests.unit.serve.kit import FORMS, claims, item, sign
from tests.unit.serve.kit import App as ServeApp
from tests.unit.server.kit import ask, build

APP = App()
LIVE = iris_version()[1].version
P = round(softmax(IRIS_WEIGHTS, list(VIRGINICA.values()))[2], 4)
PREDICTION = {"label": "virginica", "probability": P}
MODEL = {"name": "iris", "version": LIVE}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_base64", [True, False])
def test_one_instance_is_scored_in_every_event_form(form: str, is_base64: bool) -> None:
    """API Gateway sends each body in base64, other front doors as text: both are the same request."""
    answer = APP.post({"instance": VIRGINICA}, form=form, is_base64=is_base64)
    assert (answer.status, answer.json) == (200, {"prediction": PREDICTION, "model": MODEL})
    assert answer.headers["larder-model-version"] == LIVE
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("model", "body", "expected"),
    [
        ("iris", {"instances": [VIRGINICA, VIRGINICA]}, {"predictions": [PREDICTION] * 2, "model": MODEL}),
        ("iris", VIRGINICA, {"prediction": PREDICTION}),
        ("wine", {"values": {"alcohol": 1.5, "red": True, "region": "south"}}, {"prediction": {"value": 111.5}}),
        ("wine", {"values": {"alcohol": 1, "region": "north"}}, {"prediction": {"value": 1.0}}),
        ("news", ["a good game", "space, the engine"], ["sport", "science"]),
    ],
)
def test_each_form_of_a_model_has_its_answer(model: str, body: Any, expected: Any) -> None:
    """Predictions are in the order of the instances; each form of a request has its own form of answer."""
    assert APP.post(body, model).json == expected


def _changed(**changes: Any) -> dict[str, Any]:
    return {"instance": {name: each for name, each in (VIRGINICA | changes).items() if each is not ...}}


S = "/instance/sepal_length"
WINE = "/instance/alcohol"


@pytest.mark.parametrize(
    ("model", "body", "pointer", "detail"),
    [
        ("iris", _changed(sepal_length="5.9"), S, "expected a number of at least 0 and of at most 30; found a text"),
        ("iris", _changed(sepal_length=True), S, "found a boolean"),
        ("iris", _changed(sepal_length=None), S, "found null"),
        ("iris", _changed(sepal_length=...), S, "found nothing"),
        ("iris", _changed(sepal_length=[5.9]), S, "found a list"),
        ("iris", _changed(sepal_length={}), S, "found an object"),
        ("iris", _changed(sepal_length=-0.1), S, "out of range"),
        ("iris", _changed(sepal_length=10**400), S, "too large"),
        ("iris", _changed(**{"a/b~c": 1}), "/instance/a~1b~0c", "unknown member"),
        ("iris", {"instance": 5}, "/instance", "expected an object of features; found a number"),
        ("iris", {"instances": [VIRGINICA, {}]}, "/instances/1/sepal_length", "found nothing"),
        ("iris", {"instances": {}}, "/instances", "expected a list; found an object"),
        ("iris", {"instances": []}, "/instances", "expected 1 to 100 instances; found 0"),
        ("iris", {"instances": [VIRGINICA] * (MAX_ROWS + 1)}, "/instances", "found 101: send several requests"),
        ("iris", {"instance": VIRGINICA, "other": 1}, "", "expected {"),
        ("iris", {"values": VIRGINICA}, "", "found values"),
        ("iris", ["text"], "", "found a list"),
        ("iris", "text", "", "found a text"),
        ("iris", None, "", "found null"),
        ("iris", {**VIRGINICA, "sepal_width": "3"}, "/sepal_width", "found a text"),
        ("wine", {"instance": {"alcohol": "1", "region": "south"}}, WINE, "found a text"),
        ("wine", {"values": {"red": 1, "region": "south"}}, "/values/red", "expected true or false; found a number"),
        ("wine", {"instance": {"region": "west"}}, "/instance/region", "expected one of north, south; found another"),
        ("wine", {"instance": {"region": 1}}, "/instance/region", "found a number"),
        ("news", ["good", 5], "/1", "expected a text of at most 100 characters; found a number"),
        ("news", ["x" * 101], "/0", "found 101 characters"),
        ("news", ["a\0b"], "/0", "without the character U+0000"),
        ("news", [None], "/0", "found null"),
        ("news", [], "", "expected 1 to 100 instances"),
        ("delay", {"instance": {"departure_delay": 1}}, "/instance/flight_id", "found nothing"),
        ("delay", {"instance": {"departure_delay": 1, "flight_id": "a b"}}, "/instance/flight_id", "prediction_id"),
        ("delay", {"instance": {"departure_delay": 1, "flight_id": ".."}}, "/instance/flight_id", "valid prediction"),
        (
            "delay",
            {"instance": {"departure_delay": 1, "flight_id": "a", "batch_late": 1}},
            "/instance/batch_late",
            "unknown",
        ),
    ],
)
def test_an_invalid_instance_is_a_422_with_its_place(model: str, body: Any, pointer: str, detail: str) -> None:
    """Each error has a pointer into the body, what was expected, and the type that was found, but never a value."""
    answer = APP.post(body, model)
    assert (answer.status, answer.json["code"]) == (422, "invalid_instance")
    (error,) = [each for each in answer.json["errors"] if each["pointer"] == pointer][:1]
    assert detail in error["detail"]
    assert APP.line["reason"] == "invalid-instance"


def test_a_float_model_refuses_numbers_out_of_range_of_a_float() -> None:
    """1e39 is infinite in 32 bits: most models would give a meaningless answer."""
    app = App(models={"iris": IRIS._replace(features=dict.fromkeys(IRIS.features, Number()))})
    answer = app.post(_changed(petal_width=1e39))
    assert answer.status == 422
    assert answer.json["errors"] == [
        {"pointer": "/instance/petal_width", "detail": "expected a number from -3.40282e+38 to 3.40282e+38"}
    ]


def test_no_more_than_twenty_errors_are_listed_and_no_value_is_repeated() -> None:
    """If a caller sends secrets as features, no error and no log line has them."""
    body = {"instances": [dict.fromkeys(VIRGINICA, "a secret") | {"x" * 500: "a secret"} for _ in range(100)]}
    answer = APP.post(body)
    assert len(answer.json["errors"]) == 20
    assert "secret" not in answer.body.decode()
    assert "secret" not in APP.lines[-1]
    assert max(len(each["pointer"]) for each in answer.json["errors"]) < 100


DEEP = b'{"instance": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"instance": {}} x',
        b'\xef\xbb\xbf{"instance": {}}',
        b'{"instance": "\xff"}',
        b'{"instance": {"sepal_length": NaN}}',
        b'{"instance": {"sepal_length": -Infinity}}',
        b'{"instance": {"sepal_length": 1e999}}',
        b'{"instance": {"sepal_length": 1' + b"0" * 5000 + b"}}",
        b'{"instance": {"sepal_length": 1, "sepal_length": 2}}',
        b'{"instance": {}, "instance": {}}',
        b'{"instance": {"a": "\\ud800"}}',
        DEEP,
        json.dumps({"instance": VIRGINICA}).encode("utf-16"),
    ],
    ids=range(14),
)
def test_a_body_that_is_not_strict_json_is_a_400(body: bytes) -> None:
    """A body that two parsers could read differently is refused."""
    answer = APP.post(body)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert APP.line["reason"] == "malformed-body"


@pytest.mark.parametrize(
    ("headers", "body", "is_base64", "status", "code"),
    [
        ({"Content_Type": "text/plain"}, b"{}", True, 415, "unsupported_media_type"),
        ({"Content_Type": "application/json; charset=latin-1"}, b"{}", True, 415, "unsupported_media_type"),
        ({"Content_Encoding": "gzip"}, b"{}", True, 415, "unsupported_media_type"),
        ({"Content_Type": "application/json;charset=UTF-8"}, {"instance": VIRGINICA}, True, 200, None),
        ({"Accept": "text/html"}, {"instance": VIRGINICA}, True, 406, "not_acceptable"),
        ({}, b" " * (MAX_BODY_BYTES + 1), True, 413, "content_too_large"),
        ({}, b" " * (MAX_BODY_BYTES * 2), False, 413, "content_too_large"),
        ({}, json.dumps({"instance": VIRGINICA}).encode().ljust(MAX_BODY_BYTES), True, 200, None),
    ],
)
def test_media_type_and_size(headers: Any, body: Any, is_base64: bool, status: int, code: str | None) -> None:
    """Only JSON in UTF-8 without a content coding is accepted, up to exactly the largest size."""
    answer = APP.post(body, is_base64=is_base64, **headers)
    assert (answer.status, answer.json.get("code")) == (status, code)


@pytest.mark.parametrize("body", ["not base64!", "é", "YQ", 5, ["a"], {"a": 1}])
def test_the_body_of_an_event_is_not_base64(body: Any) -> None:
    """A principal that can invoke the function can send any event."""
    made: dict[str, Any] = {"httpMethod": "POST", "path": "/v1/models/iris/score", "requestContext": {"requestId": "r"}}
    made |= {
        "headers": {"Authorization": f"Bearer {sign(claims(scope=SCOPES))}"},
        "body": body,
        "isBase64Encoded": True,
    }
    result = APP.handler(made, None)
    assert isinstance(result, dict)
    assert result["statusCode"] == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/models/iris/score", 405, "POST, OPTIONS"),
        ("POST", "/v1/models/iris", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/v1/models/iris/score", 204, "POST, OPTIONS"),
        ("OPTIONS", "/v1/models/iris", 204, "GET, HEAD, OPTIONS"),
        ("POST", "/v1/models/unknown/score", 404, None),
        ("POST", "/v1/models/iris/score/", 404, None),
        ("GET", "/v1/models/", 404, None),
        ("GET", "/v1/flight-delays", 404, None),
    ],
)
def test_paths_and_methods(method: str, path: str, status: int, allow: str | None) -> None:
    """Each path has its methods; an unknown model is a 404 before the token is verified, as in the read API."""
    answer = APP.post({}, method=method, path=path, token="none")
    assert (answer.status, answer.headers.get("allow")) == (status, allow)


def test_a_model_describes_itself() -> None:
    """GET returns the members of a request, and the version that answers; HEAD returns the same headers."""
    answer = APP.post(b"", method="GET", path="/v1/models/delay")
    assert answer.json["features"] == [
        {"name": "departure_delay", "type": "number", "required": True, "low": -60, "high": 1440},
        {
            "name": "batch_late",
            "type": "stored",
            "dataset": "flight-delays",
            "id": "{flight_id}",
            "at": "/prediction/late",
        },
        {"name": "flight_id", "type": "prediction_id", "required": True},
    ]
    assert APP.post(b"", method="GET", path="/v1/models/iris").json["labels"] == ["setosa", "versicolor", "virginica"]
    assert (APP.post(b"", method="HEAD", path="/v1/models/iris").status, LIVE) == (
        200,
        APP.post(b"", method="HEAD", path="/v1/models/iris").headers["larder-model-version"],
    )


def test_an_explanation_is_the_change_without_each_feature() -> None:
    """A feature whose value is the baseline contributes nothing; another one, the change of the probability."""
    instance = VIRGINICA | {"petal_length": 1.0}
    answer = APP.post({"instance": instance}, query={"explain": "true"}).json["prediction"]
    row = list(instance.values())
    predicted = softmax(IRIS_WEIGHTS, row)
    baseline = [*row[:2], VIRGINICA["petal_length"], row[3]]
    place = predicted.index(max(predicted))
    expected = predicted[place] - softmax(IRIS_WEIGHTS, baseline)[place]
    assert answer["contributions"] == {
        "sepal_length": 0,
        "sepal_width": 0,
        "petal_length": pytest.approx(expected, abs=1e-5),
        "petal_width": 0,
    }


def test_an_explanation_of_a_text_has_its_tokens() -> None:
    """A token's contribution is that of all terms that contain it; an unknown token can split an n-gram."""
    answer = APP.post(["a good unknown game"], "news", query={"explain": "true"}).json
    tokens = answer["predictions"][0]["tokens"]
    probability = softmax(NEWS_WEIGHTS, [0, 0, 1, 0, 0])[0]
    assert tokens == {
        "game": pytest.approx(probability - 0.5, abs=1e-5),
        "good": pytest.approx(0, abs=1e-5),
        "unknown": pytest.approx(probability - _bigram(), abs=1e-5),
    }


def _bigram() -> float:
    length = (1.5**2 + 2.5**2) ** 0.5
    return softmax(NEWS_WEIGHTS, [0, 0, 1.5 / length, 2.5 / length, 0])[0]


def test_an_explanation_ends_with_the_time_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is also checked between the variants of one text."""
    text = " ".join(f"t{letter}" for letter in "abcdefghijklmnopqrstuvwxy")
    sizes: list[int] = []
    predict = Scorer.predict_tokens

    def predict_tokens(scorer: Scorer, row: Row, feature: str, texts: Sequence[Sequence[str]]) -> Any:
        sizes.append(len(texts))
        return predict(scorer, row, feature, texts)

    monkeypatch.setattr(Scorer, "predict_tokens", predict_tokens)
    assert APP.post([text], "news", query={"explain": "true"}).status == 200
    assert sizes == [10, 10, 5]
    monkeypatch.setattr("score.handler.REQUEST_SECONDS", 0.0)
    found = APP.post([text], "news", query={"explain": "true"})
    assert (found.status, found.json["code"], found.headers["retry-after"]) == (503, "unavailable", "1")
    assert APP.line["reason"] == "explanation-too-slow"
    assert len(sizes) == 3
    assert APP.post([text], "news").status == 200


@pytest.mark.parametrize(
    ("query", "instances", "status"),
    [
        ({"explain": "false"}, 1, 200),
        ({"explain": "yes"}, 1, 400),
        ({"other": "1"}, 1, 400),
        ({"explain": "true"}, 11, 400),
    ],
)
def test_the_query_of_a_score(query: Any, instances: int, status: int) -> None:
    """It has only `explain`, true or false, and true for ten instances at most."""
    assert APP.post({"instances": [VIRGINICA] * instances}, query=query).status == status


def test_the_laptop_server_passes_requests_for_models_to_score() -> None:
    """They arrive with their body; all other requests go to the read API."""
    app = build(split(ServeApp(item("a", '{"x":1}')).handler, cast(Any, APP.handler)))
    token = sign(claims(scope=f"{SCOPES} flight-delays:read"))
    for method, path, body, expected in (
        ("POST", b"/v1/models/iris/score", VIRGINICA, {"prediction": PREDICTION}),
        ("GET", b"/v1/flight-delays/a", None, {"x": 1}),
    ):
        data = json.dumps(body).encode() if body else b""
        headers = [(b"authorization", f"Bearer {token}".encode()), (b"content-length", str(len(data)).encode())]
        answer = ask(app, path, method, headers=[*headers, (b"content-type", b"application/json")], parts=[data])
        assert (answer.status, answer.json) == (200, expected)
