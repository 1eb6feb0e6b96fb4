"""Every case of the attack set has its result: from the verifier, and from the handler in every event form."""

from __future__ import annotations

from itertools import groupby
from typing import cast

import pytest

from serve.handler import build_handler
from serve.tokens.jwt import InvalidToken, Policy, verify
from serve.tokens.verifier import Trusted, Verifier
from tests.unit.serve.attacks import Case, cases
from tests.unit.serve.kit import FORMS, ISSUER, NOW, POLICY, Answered, App, all_keys, event, item, sign


def test_the_set_is_as_large_as_it_was() -> None:
    """No case is lost without notice."""
    assert len(cases()) >= 740
    assert sum(case.reason is None for case in cases()) >= 60


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name.encode("unicode_escape").decode())
def test_the_verifier_gives_the_reason(case: Case) -> None:
    """A token is refused for the one rule that it breaks, and accepted if it breaks none."""
    if case.reason is None:
        assert verify(case.token, all_keys(), case.policy, NOW)["iss"] == ISSUER
        return
    with pytest.raises(InvalidToken) as caught:
        verify(case.token, all_keys(), case.policy, NOW)
    assert caught.value.reason == case.reason


def _by_policy() -> list[tuple[Policy, list[Case]]]:
    with_text = [case for case in cases() if isinstance(case.token, str)]
    ordered = sorted(with_text, key=lambda case: str(case.policy))
    return [(policy, list(group)) for policy, group in groupby(ordered, key=lambda case: case.policy)]


@pytest.mark.parametrize("form", FORMS)
def test_the_handler_returns_401_for_all_that_the_verifier_refuses(form: str) -> None:
    """In every event form a bad token is a 401 `invalid_token`, a valid one a 200, and nothing is a 500."""
    for policy, group in _by_policy():
        app = App(item("a", '{"x":1}'), policies=(policy,))
        for case in group:
            answer = app.call("/v1/flight-delays/a", case.token, form=form)
            assert answer.status == (200 if case.reason is None else 401), case.name
            if case.reason is not None:
                assert answer.json["code"] == "invalid_token", case.name
                assert 'error="invalid_token"' in answer.headers["www-authenticate"]
                assert app.line["reason"] == case.reason, case.name
                assert "subject" not in app.line
        assert all(request["Key"]["pk"]["S"] == "flight-delays#B6" for _, request in app.table.asked)


@pytest.mark.parametrize("broken", [ZeroDivisionError("x"), TypeError("x"), KeyError("secret"), RecursionError()])
def test_a_token_that_breaks_the_verifier_is_a_401(broken: Exception) -> None:
    """V14: any error of the verification is a 401, and the log says that it was an error of the verifier."""

    class Broken:
        def verify(self, token: str, now: float) -> Trusted:
            raise broken

    app = App(item("a"))
    handler = build_handler(app.parts._replace(verifier=cast("Verifier", Broken())))
    answer = Answered(handler(event("rest", "GET", "/v1/flight-delays/a", {}, {"Authorization": "Bearer x"}), None))
    assert (answer.status, answer.json["code"]) == (401, "invalid_token")
    assert app.line["reason"] == f"verifier-broke: {type(broken).__name__}"
    assert app.table.asked == []


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256K", "rs512"])
def test_no_policy_and_no_key_can_allow_another_algorithm(algorithm: str) -> None:
    """V3: a key and a policy that are built in code for an algorithm outside of the standard ones have no effect."""
    key = all_keys()["RS256-0"]._replace(algorithm=algorithm)
    policy = POLICY._replace(algorithms=frozenset({algorithm}))
    with pytest.raises(InvalidToken, match="wrong-algorithm"):
        verify(sign(alg=algorithm), {"RS256-0": key}, policy, NOW)
