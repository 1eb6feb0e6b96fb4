"""The environment is read once, in one place, and a mistake in it names the variable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve.settings import parse_settings
from serve.tokens.jwt import Policy

ISSUER = {"issuer": "https://issuer.example.com/", "audience": "larder", "keys": "ssm:/larder/dev/keys"}


def _env(issuers: Any = (ISSUER,), **others: str) -> dict[str, str]:
    return {"LARDER_TABLE": "table", "LARDER_ISSUERS": json.dumps(issuers)} | others


def test_the_least_that_is_needed() -> None:
    """A table and one issuer; everything else has a default."""
    settings = parse_settings(_env())
    assert (settings.table, settings.realm, settings.cors_origins, settings.environment) == (
        "table",
        "larder",
        (),
        "local",
    )
    (one,) = settings.issuers
    assert one.keys == "ssm:/larder/dev/keys"
    assert one.policy.algorithms == {"RS256", "PS256", "ES256", "ES384", "EdDSA"}
    assert (one.policy.leeway, one.policy.require_at_jwt, one.policy.require_iat) == (10, False, True)
    assert one.policy.scope_claims == ("scope", "scp")


def test_a_bare_policy_is_the_default_one() -> None:
    """A policy that is made by hand is as strict as one from the environment."""
    assert Policy(ISSUER["issuer"], ISSUER["audience"]) == parse_settings(_env()).issuers[0].policy


def test_everything_that_can_be_set() -> None:
    """Each member of an issuer's policy, and each variable."""
    full = ISSUER | {
        "algorithms": ["ES256"], "leeway": 2.5, "require_at_jwt": True, "require_iat": False, "scope_claims": ["scp"]
    }  # fmt: skip
    others = {
        "LARDER_REALM": "flights",
        "LARDER_CORS_ORIGINS": "https://a.example, https://b.example,",
        "LARDER_ENVIRONMENT": "qa",
    }
    settings = parse_settings(_env([full, ISSUER | {"issuer": "https://other.example/"}], **others))
    assert settings.realm == "flights"
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.environment == "qa"
    policy = settings.issuers[0].policy
    assert (policy.algorithms, policy.leeway, policy.scope_claims) == (frozenset({"ES256"}), 2.5, ("scp",))
    assert (policy.require_at_jwt, policy.require_iat) == (True, False)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "LARDER_TABLE is not set"),
        ({"LARDER_TABLE": "t"}, "LARDER_ISSUERS is not set"),
        (_env() | {"LARDER_ISSUERS": "{"}, "not JSON"),
        (_env([]), "at least one"),
        (_env({}), "at least one"),
        (_env([1]), "not an object"),
        (_env([ISSUER, ISSUER]), "twice"),
        (_env([ISSUER | {"algorithm": "RS256"}]), "unknown members: algorithm"),
        (_env([ISSUER | {"issuer": ""}]), "issuer must be a string"),
        (_env([ISSUER | {"audience": []}]), "audience must be a string, or a list"),
        (_env([ISSUER | {"audience": ["a", 1]}]), "audience must be a string, or a list"),
        (_env([{"issuer": "x", "audience": "y"}]), "keys must be a string"),
        (_env([ISSUER | {"algorithms": ["HS256"]}]), "algorithms must be"),
        (_env([ISSUER | {"algorithms": ["none"]}]), "algorithms must be"),
        (_env([ISSUER | {"algorithms": []}]), "algorithms must be"),
        (_env([ISSUER | {"algorithms": "RS256"}]), "algorithms must be"),
        (_env([ISSUER | {"leeway": -1}]), "leeway"),
        (_env([ISSUER | {"leeway": 301}]), "leeway"),
        (_env([ISSUER | {"leeway": True}]), "leeway"),
        (_env([ISSUER | {"leeway": "10"}]), "leeway"),
        (_env([ISSUER | {"leeway": float("nan")}]), "not JSON: NaN"),
        (_env([ISSUER | {"require_at_jwt": "yes"}]), "true or false"),
        (_env([ISSUER | {"require_iat": 0}]), "true or false"),
        (_env([ISSUER | {"scope_claims": "scp"}]), "scope_claims"),
        (_env(LARDER_REALM='a"b'), "LARDER_REALM"),
        (_env(LARDER_REALM="a\nb"), "LARDER_REALM"),
        (_env(LARDER_CORS_ORIGINS="*"), "exact origins"),
    ],
)
def test_a_mistake_is_named(env: dict[str, str], message: str) -> None:
    """Nothing starts with half of its settings, or with a policy that somebody mistyped."""
    with pytest.raises(ValueError, match=message):
        parse_settings(env)
