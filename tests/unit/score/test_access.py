"""Who can score: the token decides, as in the read API, also on the datasets whose items are features."""

from __future__ import annotations

from typing import Any

import pytest

from serve.tokens.jwt import Policy
from tests.unit.score.kit import SCOPES, VIRGINICA, WINE, App, delay_version
from tests.unit.serve.attacks import cases
from tests.unit.serve.kit import NOW, POLICY, claims, item, sign

IRIS = {"instance": VIRGINICA}
DELAY = {"instance": {"departure_delay": 1, "flight_id": "a"}}
LATE = '{"prediction": {"late": 0.25}}'


@pytest.mark.parametrize(
    ("changes", "policy", "model", "status", "challenge"),
    [
        ({}, {}, "iris", 200, None),
        ({"scope": "news:score"}, {}, "iris", 403, 'scope="iris:score"'),
        ({"scope": None}, {}, "iris", 403, 'scope="iris:score"'),
        ({"scope": None}, {}, "wine", 422, None),  # a model without a scope accepts any valid token
        ({"sub": None}, {}, "iris", 401, "sub"),
        ({"sub": "a\u200bb"}, {}, "iris", 401, "sub"),
        ({"exp": int(NOW) - 60}, {}, "iris", 401, "expired"),
        ({"aud": "other"}, {}, "iris", 401, "audience"),
        ({}, {"datasets": frozenset({"flight-delays"})}, "iris", 403, "this model"),
        ({}, {"datasets": frozenset({"flight-delays"}), "models": frozenset({"iris"})}, "iris", 200, None),
        ({}, {"models": frozenset({"news"})}, "iris", 403, "this model"),
        ({}, {}, "delay", 200, None),
        ({"scope": "delay:score"}, {}, "delay", 403, 'scope="flight-delays:read"'),
        ({"scope": "flight-delays:read"}, {}, "delay", 403, 'scope="delay:score"'),
        ({"carrier": None}, {}, "delay", 401, "carrier"),
        ({}, {"models": frozenset({"delay"}), "datasets": frozenset({"others"})}, "delay", 403, "this model"),
    ],
)
def test_scopes_issuers_and_subjects(changes: Any, policy: Any, model: str, status: int, challenge: str | None) -> None:
    """The token needs the model's scope, that of each dataset whose items are features, and valid subject claims."""
    app = App(item("a", LATE), policies=(POLICY._replace(**policy),))
    body = {"iris": IRIS, "wine": {}, "delay": DELAY}[model]
    answer = app.post(body, model, sign(claims(**{"scope": SCOPES} | changes)))
    assert answer.status == status
    if challenge:
        assert challenge in answer.headers["www-authenticate"]


def test_every_attack_on_a_token_fails_here_too() -> None:
    """The cases of the read API: a bad token is a 401 before a model is loaded, a good one scores."""
    body = {"instance": {"alcohol": 1, "region": "north"}}
    models = {"wine": WINE._replace(subject=("carrier",))}  # some good tokens of the cases have no `sub`
    apps: dict[Policy, App] = {}
    for case in cases():
        if isinstance(case.token, str):
            app = apps.setdefault(case.policy, App(policies=(case.policy,), models=models))
            asked = len(app.bucket.asked)
            answer = app.post(body, "wine", case.token or " ")
            assert answer.status == (200 if case.reason is None else 401), case.name
            if case.reason is not None:
                assert app.line["reason"] == case.reason, case.name
                assert len(app.bucket.asked) == asked


@pytest.mark.parametrize("form", ["rest", "http", "alb", "function-url"])
def test_no_part_of_a_request_names_another_subject(form: str) -> None:
    """Another carrier's item with the same id is missing, like an item that does not exist."""
    app = App(item("a", LATE), item("only-aa", LATE, pk="flight-delays#AA"))
    for flight in ("only-aa", "nobodys"):
        body = {"instance": {"departure_delay": 1, "flight_id": flight}}
        answer = app.post(body, "delay", form=form, carrier="AA", query=None)
        assert answer.json["prediction"] == {"value": -99.0, "stored": {"batch_late": {"missing": "absent"}}}
    assert {request["Key"]["pk"]["S"] for _, request in app.table.asked} == {"flight-delays#B6"}


def test_a_line_has_a_hashed_subject_and_nothing_of_the_request() -> None:
    """A log line has no token, no claim, no feature and no prediction_id."""
    app = App(item("secret-flight", LATE))
    app.post({"instance": {"departure_delay": 1439.25, "flight_id": "secret-flight"}}, "delay")
    assert len(app.line["subject"]) == 16
    for secret in ("B6", "client-1", "secret", "1439.25", "eyJ"):
        assert secret not in app.lines[-1]


@pytest.mark.parametrize(
    ("event_", "expected"),
    [
        ({"model": "wine", "values": {"alcohol": 2.5, "red": True, "region": "south"}}, 112.5),
        ({"values": {"alcohol": 2.5, "region": "north"}}, 2.5),  # wine is the only model with `direct`
        ({"instance": {"alcohol": 2.5, "region": "north"}}, 2.5),
        ({"model": "iris", "instance": VIRGINICA}, "not_found"),
        ({"model": "delay", "instance": {"departure_delay": 1, "flight_id": "a"}}, "not_found"),
        ({"model": "unknown", "instance": {}}, "not_found"),
        ({"model": ["wine"], "instance": {}}, "not_found"),
        ({}, "invalid_instance"),
        ({"values": {"alcohol": float("nan"), "region": "north"}}, "invalid_instance"),
        ({"values": {"alcohol": float("inf"), "region": "north"}}, "invalid_instance"),
        ({"values": {"alcohol": True, "region": "north"}}, "invalid_instance"),
    ],
)
def test_an_invocation_without_a_token(event_: Any, expected: Any) -> None:
    """It works only for models with `direct`; the answer is the prediction, or problem details."""
    app = App(item("a", LATE))
    answer = app.handler(event_, None)
    assert isinstance(answer, dict)
    if isinstance(expected, str):
        assert answer["code"] == expected
        assert app.line["code"] == expected
    else:
        assert answer["prediction"] == {"value": expected}
    assert app.table.asked == [], "stored features belong to a token's subject"
    assert app.line["use_case"] == "direct"


def test_direct_is_ignored_for_a_model_with_stored_features() -> None:
    """Without a token there is no subject whose items could be read."""
    app = App(item("a", LATE))
    app.bucket.put(delay_version())
    models = {"delay": app.parts.models["delay"]._replace(direct=True)}
    app = App(item("a", LATE), models=models)
    answer = app.handler({"model": "delay", "instance": {"departure_delay": 1, "flight_id": "a"}}, None)
    assert isinstance(answer, dict)
    assert answer["code"] == "not_found"
