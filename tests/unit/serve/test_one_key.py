"""V5 and V14 from end to end: an issuer whose key file has one key, good or bad, or cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve.handler import build_dependencies, build_handler
from serve.storage import Storage
from serve.tokens.key_cache import FRESHNESS
from serve.tokens.key_sources import open_source
from tests.unit.serve.kit import (
    ALGORITHMS,
    AUDIENCE,
    FORMS,
    ISSUER,
    NOW,
    SERVED,
    Answered,
    Table,
    event,
    item,
    jwks,
    public_jwk,
    sign,
)
from tests.unit.serve.test_key_sets import REFUSED, Refused

Ask = Callable[..., Answered]
BAD = (sign(kid="bad"), sign(algorithm="ES256", kid="bad"), sign(algorithm="EdDSA", kid="bad"), sign(kid=...))


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    """The log."""
    return []


@pytest.fixture
def ask(tmp_path: Path, lines: list[dict[str, Any]]) -> Ask:
    """Call a handler built from its environment, with the test's `jwks.json`; only the table is in memory."""
    return _deploy(tmp_path, lines)


def _deploy(tmp_path: Path, lines: list[dict[str, Any]]) -> Ask:
    issuers = [{"issuer": ISSUER, "audience": AUDIENCE, "leeway": 0, "keys": f"file:{tmp_path}/jwks.json"}]
    parts = build_dependencies({"LARDER_TABLE": "table", "LARDER_ISSUERS": json.dumps(issuers)}, SERVED)
    clock = {"now": NOW}
    parts = parts._replace(
        storage=Storage(Table(item("a")).send, "table"),
        now=lambda: clock["now"],
        write=lambda line: lines.append(json.loads(line)),
    )
    handler = build_handler(parts)

    def ask(token: str, form: str = "rest", name: str = "a", now: float = NOW) -> Answered:
        clock["now"] = now
        path = f"/v1/flight-delays/{name}"
        return Answered(handler(event(form, "GET", path, {}, {"Authorization": f"Bearer {token}"}), None))

    return ask


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_good_key_is_enough(tmp_path: Path, algorithm: str) -> None:
    """With and without `alg`, `use` and `key_ops`: its own tokens are 200 or 404, all others 401."""
    changes: tuple[dict[str, Any], ...] = (
        {}, {"alg": None}, {"use": None}, {"alg": None, "use": None}, {"key_ops": ["verify"]},
        {"alg": None, "use": None, "key_ops": ["verify"]}, {"use": None, "key_ops": ["sign", "verify"]},
    )  # fmt: skip
    other = "ES256" if algorithm == "RS256" else "RS256"
    good, renamed = sign(algorithm=algorithm), sign(algorithm=algorithm, kid="another")
    strange, forged = sign(algorithm=other), sign(algorithm=other, kid=f"{algorithm}-0")
    for change in changes:
        if algorithm == "PS256" and "alg" in change:
            continue  # an RSA key without `alg` is for RS256
        (tmp_path / "jwks.json").write_text(jwks(public_jwk(algorithm, **change)))
        ask = _deploy(tmp_path, [])
        for form in FORMS:
            assert ask(good, form).status == 200, change
            assert ask(good, form, "none").status == 404, change
            assert ask(renamed, form).status == 401, change
            assert ask(strange, form).status == 401, change
            assert ask(forged, form).status == 401, change


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_one_bad_key_is_a_401_to_every_token(
    ask: Ask, lines: list[dict[str, Any]], tmp_path: Path, case: Refused
) -> None:
    """The key set was read and has no trusted key, so no token can be valid; a retry does not change that."""
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [case.jwk]}))
    kid = case.jwk.get("kid") if isinstance(case.jwk, dict) else None
    tokens = (*BAD, sign(algorithm="ES256", kid=kid))
    for form in FORMS:
        for token in tokens:
            answer = ask(token, form)
            assert (answer.status, answer.json["code"]) == (401, "invalid_token")
            assert lines[-1]["reason"] in ("unknown-kid", "no-kid")


def test_two_keys_of_one_name_are_a_401(ask: Ask, tmp_path: Path) -> None:
    """A kid that names two keys names none."""
    (tmp_path / "jwks.json").write_text(jwks(public_jwk("RS256"), public_jwk("RS256", which=1, kid="RS256-0")))
    assert ask(sign()).status == 401


@pytest.mark.parametrize("content", [None, "", "<html>", '{"keys": {}}', '{"keys": [], "keys": []}'])
def test_an_unreadable_key_file_is_a_503(ask: Ask, tmp_path: Path, content: str | None) -> None:
    """No file, or one without a key set: nothing is known about a token, until there is one."""
    path = tmp_path / "jwks.json"
    if content is not None:
        path.write_text(content)
    for form in FORMS:
        answer = ask(sign(), form)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert ask("x").status == 401, "a text that is no token is none whatever the keys are"
    path.write_text(jwks(public_jwk("RS256")))
    assert ask(sign(), now=NOW + FRESHNESS.retry + 1).status == 200  # to read took a moment
    assert open_source(f"file:{path}", {})()[0].name == "jwks.json"
