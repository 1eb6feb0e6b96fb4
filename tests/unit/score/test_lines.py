"""The log line of a request, which carries its metrics: labels, scores and missing features by model and version."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from server.metrics import find_metrics
from tests.unit.score.kit import VIRGINICA, App, alias_of, iris_version, share_of
from tests.unit.serve.kit import claims, item, sign

SETOSA = {"sepal_length": 5, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
LATE = item("a", '{"prediction": {"late": 0.25}}')


def read_metrics(app: App) -> Counter[tuple[str, ...]]:
    """Add up the metrics of all lines; each by its name and its finest dimensions, without service and environment."""
    found: Counter[tuple[str, ...]] = Counter()
    for document in map(json.loads, app.lines):
        for name, unit, dimensions in find_metrics(document):
            if unit == "Count":
                found[name, *(str(document[each]) for each in dimensions[2:])] += document[name]
    return found


@pytest.mark.parametrize(
    ("instances", "labels"), [([VIRGINICA], 1), ([SETOSA, VIRGINICA], 2), ([VIRGINICA, VIRGINICA], 1)]
)
def test_labels_are_counted_by_model_and_version(instances: Any, labels: int) -> None:
    """A line has one label as a dimension, so that each further label has a line; the request is counted once."""
    app = App()
    answer = app.post({"instances": instances}).json
    version = answer["model"]["version"]
    metrics = read_metrics(app)
    counted = {name[-1]: number for name, number in metrics.items() if name[0] == "Labels"}
    assert counted == Counter(each["label"] for each in answer["predictions"])
    assert {name[1:3] for name in metrics if name[0] == "Labels"} == {("iris", version)}
    assert (metrics["Requests", "score"], metrics["Instances", "iris", version]) == (1, len(instances))
    assert len([line for line in app.lines if "Labels" in line]) == labels
    assert "Labels" not in {name for name, *_ in read_metrics(_refused())}


def _refused() -> App:
    app = App()
    assert app.post({"instance": {}}).status == 422
    return app


def test_the_scores_of_a_request_are_a_distribution_of_its_version() -> None:
    """Each instance is one value, and the canary's values are its own."""
    app, canary = App(), iris_version(0.5)
    app.bucket.put(canary)
    app.bucket.point(alias_of(iris_version(), canary=share_of(canary, 1.0)))
    answer = app.post({"instances": [VIRGINICA, SETOSA]}).json
    assert answer["model"]["version"] == canary[1].version == app.line["Version"]
    assert app.line["role"] == "canary"
    assert app.line["Score"] == pytest.approx([each["probability"] for each in answer["predictions"]], abs=1e-4)


@pytest.mark.parametrize(
    ("model", "body", "missing"),
    [
        ("wine", {"values": {"alcohol": 1, "red": True, "region": "north"}}, None),
        ("wine", {"values": {"region": "north"}}, {"omitted": 2}),
        ("wine", {"instances": [{"region": "north", "red": None}, {"region": "south", "red": True}]}, {"omitted": 3}),
        ("delay", {"instance": {"departure_delay": 1, "flight_id": "a"}}, {}),
        ("delay", {"instances": [{"departure_delay": 1, "flight_id": name} for name in "abc"]}, {"absent": 2}),
    ],
)
def test_missing_features_are_counted_with_their_reason(model: str, body: Any, missing: Any) -> None:
    """Those that a request omits and those that are not stored are one metric; the line has each reason."""
    app = App(LATE)
    assert app.post(body, model).status == 200
    assert app.line.get("missing") == missing
    assert app.line["Missing"] == sum((missing or {}).values())


def test_what_a_token_gives_access_to_is_remembered_for_each_model() -> None:
    """A token that has scored with one model still needs the scope of another, and that of the other's dataset."""
    app, token = App(LATE), sign(claims(scope="iris:score delay:score"))
    for _ in range(2):
        assert app.post({"instance": VIRGINICA}, "iris", token).status == 200
        assert app.post(["game"], "news", token).status == 403
        assert app.post({"instance": {"departure_delay": 1, "flight_id": "a"}}, "delay", token).status == 403
    assert app.table.asked == []
