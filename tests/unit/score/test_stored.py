"""Stored features: each reason for a missing value, the number of calls, and failures of DynamoDB."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from score.model import REQUIRED
from serve.item import Item
from tests.unit.score.kit import DELAY, MODELS, App
from tests.unit.serve.kit import NOW, item
from wire.errors import Unavailable

AS_OF = "2023-11-14T22:13:20Z"  # of the kit's items: now
USED = {"as_of": AS_OF, "run": 1}


def _late(body: str | bytes | None, **changes: Any) -> list[Item]:
    return [item("a", body, **changes)]


def _body(text: str) -> list[Item]:
    return _late(f'{{"prediction": {text}}}')


OLD = Item("flight-delays#B6", "a", '{"prediction": {"late": 0.5}}', "0001.1699870399999.00000007", int(NOW) + 60)


@pytest.mark.parametrize(
    ("items", "value", "used"),
    [
        (_body('{"late": 0.25}'), 26.0, USED),
        (_late(gzip.compress(b'{"prediction": {"late": 0.25}}')), 26.0, USED),
        (_body('{"late": 1}'), 101.0, USED),
        ([], -99.0, {"missing": "absent"}),
        (_late(None), -99.0, {**USED, "missing": "removed"}),
        (_late('{"prediction": {"late": 0.25}}', expires_at=int(NOW)), -99.0, {**USED, "missing": "expired"}),
        ([OLD], -99.0, {"as_of": "2023-11-13T10:13:19.999Z", "run": 7, "missing": "too_old"}),
        ([OLD._replace(order="0001.1699870400000.00000007")], 51.0, {"as_of": "2023-11-13T10:13:20Z", "run": 7}),
        (_body('{"late": null}'), -99.0, {**USED, "missing": "null"}),
        (_body("{}"), -99.0, {**USED, "missing": "null"}),
        (_body("[0.5]"), -99.0, {**USED, "missing": "null"}),
        (_body('{"late": "0.5"}'), -99.0, {**USED, "missing": "unusable"}),
        (_body('{"late": true}'), -99.0, {**USED, "missing": "unusable"}),
    ],
)
def test_each_reason_for_a_missing_value_has_a_name(items: list[Item], value: float, used: Any) -> None:
    """The definition has the value for a missing one; answer and log have the item that was used, or the reason."""
    app = App(*items)
    answer = app.post({"instance": {"departure_delay": 1, "flight_id": "a"}}, "delay")
    assert answer.json["prediction"] == {"value": value, "stored": {"batch_late": used}}
    assert app.line["missing"] == ({used["missing"]: 1} if "missing" in used else {})
    assert app.line["Missing"] == int("missing" in used)
    assert app.line["stored"] == ({f"{used['as_of']} run {used['run']}": 1} if "run" in used else {})


def test_a_missing_required_stored_feature_is_a_422() -> None:
    """The pointer names the member of the request that is a part of the prediction_id."""
    features = {**DELAY.features, "batch_late": DELAY.stored["batch_late"]._replace(missing=REQUIRED)}
    app = App(models={"delay": DELAY._replace(features=features)})
    answer = app.post({"instances": [{"departure_delay": 1, "flight_id": "a"}]}, "delay")
    assert answer.status == 422
    assert answer.json["errors"] == [
        {
            "pointer": "/instances/0/flight_id",
            "detail": "the model requires 'batch_late', and there is no stored prediction (absent)",
        }
    ]


@pytest.mark.parametrize("error", [Unavailable("no response in time"), Unavailable("throttled")])
def test_storage_that_is_down_is_a_503_and_never_a_missing_value(error: Exception) -> None:
    """It is unknown which items exist: a score with the definition's value could be wrong, without an error."""
    app = App(*_body('{"late": 0.25}'))
    app.table.error = error
    for instances in (
        [{"departure_delay": 1, "flight_id": "a"}],
        [{"departure_delay": 1, "flight_id": x} for x in "ab"],
    ):
        answer = app.post({"instances": instances}, "delay")
        assert (answer.status, answer.json["code"]) == (503, "unavailable")


def test_many_instances_need_one_call_and_each_item_once() -> None:
    """A hundred instances with fifty items are one BatchGetItem; if it returns a part, a second one gets the rest."""
    app = App(*(item(f"f{number}", f'{{"prediction": {{"late": {number}}}}}') for number in range(50)))
    app.table.most = 30
    instances = [{"departure_delay": 0, "flight_id": f"f{number % 50}"} for number in range(100)]
    answer = app.post({"instances": instances}, "delay")
    assert [each["value"] for each in answer.json["predictions"]] == [100.0 * (number % 50) for number in range(100)]
    assert [name for name, _ in app.table.asked] == ["BatchGetItem"] * 2
    assert len(app.table.asked[0][1]["RequestItems"]["table"]["Keys"]) == 50


@pytest.mark.parametrize(
    ("id_", "instance", "key"),
    [
        ("{flight_id}", {"flight_id": "2024-01-02.JFK.B6"}, "2024-01-02.JFK.B6"),
        ("{day}.{flight_id}", {"day": "2024-01-02", "flight_id": "B6"}, "2024-01-02.B6"),
        ("flight-{departure_delay}", {}, "flight-5"),
        ("profile", {}, "profile"),
    ],
)
def test_an_id_is_made_of_the_request(id_: str, instance: Any, key: str) -> None:
    """It has members that are not features, numbers of features, or no part of the request."""
    features = {**DELAY.features, "batch_late": DELAY.stored["batch_late"]._replace(id=id_)}
    app = App(item(key, '{"prediction": {"late": 0.5}}'), models={"delay": DELAY._replace(features=features)})
    answer = app.post({"instance": {"departure_delay": 5, **instance}}, "delay")
    assert answer.json["prediction"]["value"] == 55.0


def test_the_table_is_not_read_for_a_model_without_stored_features() -> None:
    """It is also not read for a request that is refused."""
    app = App()
    app.post({"instance": {"departure_delay": 9999, "flight_id": "a"}}, "delay")
    app.post(["a good game"], "news")
    assert app.table.asked == []
    assert set(MODELS) == {"iris", "wine", "news", "delay"}
