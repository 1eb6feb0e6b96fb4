"""The environment is read once, in one place, and an error names the variable."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from serve.datasets import Served
from serve.settings import SETTINGS, parse_issuers, parse_settings
from serve.tokens.jwt import Policy
from tests.unit.serve.kit import SERVED

ISSUER = {"issuer": "https://issuer.example.com/", "audience": "larder", "keys": "ssm:/larder/dev/keys"}


def _env(issuers: Any = (ISSUER,), **others: str) -> dict[str, str]:
    return {"LARDER_TABLE": "table", "LARDER_ISSUERS": json.dumps(issuers)} | others


def test_the_required_settings() -> None:
    """A table and one issuer; everything else has a default."""
    settings = parse_settings(_env(), SERVED)
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


def test_a_policy_without_settings_is_the_default_one() -> None:
    """A policy that is built in code is as strict as one from the environment."""
    assert Policy(ISSUER["issuer"], ISSUER["audience"]) == parse_settings(_env(), SERVED).issuers[0].policy


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
    settings = parse_settings(_env([full, ISSUER | {"issuer": "https://other.example/"}], **others), SERVED)
    assert settings.realm == "flights"
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.environment == "qa"
    policy = settings.issuers[0].policy
    assert (policy.algorithms, policy.leeway, policy.scope_claims) == (frozenset({"ES256"}), 2.5, ("scp",))
    assert (policy.require_at_jwt, policy.require_iat) == (True, False)


def test_every_member_of_an_issuer() -> None:
    """All settings of docs/identity-providers.md, with values that differ from the defaults, are in the policy."""
    every = {
        "issuer": "https://login.example.com/{tid}/",
        "audience": ["one", "two"],
        "keys": "https://login.example.com/keys",
        "algorithms": ["RS512", "Ed25519"],
        "leeway": 0,
        "require_at_jwt": True,
        "require_iat": False,
        "require_claims": [{"claim": ["a", "b"], "values": ["x", 1, True]}],
        "datasets": ["flight-delays"],
        "models": ["iris"],
        "audience_claim": "client_id",
        "tenants": "any",
        "allow_missing_kid": True,
        "scope_claims": [["realm_access", "roles"], "scp"],
        "scope_separator": ",",
        "scopes": {"flight-delays": None},
        "subject_claims": {"carrier": ["x.y"]},
        "allow_integer_subject": True,
        "allow_list_subject": True,
    }
    assert every.keys() == SETTINGS.keys()
    ((policy, keys),) = parse_settings(_env([every]), SERVED).issuers
    assert keys == every["keys"]
    assert policy == Policy(
        issuer="https://login.example.com/{tid}/",
        audience=("one", "two"),
        algorithms=frozenset({"RS512", "Ed25519"}),
        leeway=0,
        require_at_jwt=True,
        require_iat=False,
        require_claims=((("a", "b"), ("x", 1, True)),),
        datasets=frozenset({"flight-delays"}),
        models=frozenset({"iris"}),
        audience_claim="client_id",
        tenants=frozenset({"any"}),
        allow_missing_kid=True,
        scope_claims=(("realm_access", "roles"), "scp"),
        scope_separator=",",
        scopes=(("flight-delays", None),),
        subject_claims=(("carrier", "x.y"),),
        allow_integer_subject=True,
        allow_list_subject=True,
    )


ORIGINS: dict[str, bool] = {
    "https://app.example.com": True, "http://localhost:3000": True, "https://[2001:db8::1]:8443": True,
    "https://127.0.0.1": True, "https://a.example, https://b.example:444": True, "http://a.example:443": True,
    "null": False, "*": False, "https://*.example.com": False, "https://app.example.com/": False,
    "https://app.example.com/path": False, "https://app.example.com?q": False, "https://app.example.com#f": False,
    "app.example.com": False, "ftp://app.example.com": False, "https://": False, "https://APP.example.com": False,
    "HTTPS://app.example.com": False, "https://app.example.com:443": False, "http://app.example.com:80": False,
    "https://app.example.com:99999": False, "https://app.example.com:0": False, "https://app.example.com:": False,
    "https://app.example.com:08443": False, "https://u:p@app.example.com": False, "https://a b.example.com": False,
    "https://[::1": False, "https://ex\u00e4mple.com": False, "https://a.example;https://b.example": False,
    "https://a.example,https://a.example": False, "https://a.example, null": False,
}  # fmt: skip


@pytest.mark.parametrize(("origins", "is_good"), ORIGINS.items())
def test_origins_are_exact(origins: str, is_good: bool) -> None:
    """H8: an origin that no browser sends, or that several pages share (`null`), is refused, and named."""
    if is_good:
        found = parse_settings(_env(LARDER_CORS_ORIGINS=origins), SERVED).cors_origins
        assert list(found) == origins.split(", ")
    else:
        with pytest.raises(ValueError, match=r"^LARDER_CORS_ORIGINS (must list exact origins|has an origin twice)"):
            parse_settings(_env(LARDER_CORS_ORIGINS=origins), SERVED)


TENANT = "11111111-2222-4333-8444-555555555555"
TENANTS = {"issuer": "https://login.example.com/{tid}/v2.0", "tenants": [TENANT]}
# Setting, values that are refused. The message names the place, the setting, what was expected and what was found.
REFUSED: dict[str, tuple[Any, ...]] = {
    "issuer": ("", " ", " x", "x ", "x\n", "x\x00y", 1, None, ["x"], {}, "{tid}/{tid}",
               "*", "https://*.example.com/", "https://x/{tenantid}/", "https://x/{tid", "https://x/}"),
    "audience": ("", " x", "x\t", [], [""], ["a", "a"], ["a", " b"], [1], None, 1, {}, True, "*",
                 ["a", "https://*.example.com"]),
    "keys": ("", " ssm:/x", 1, None, ["ssm:/x"]),
    "algorithms": ([], "RS256", ["RS256", "RS256"], ["rs256"], ["none"], ["HS256"], [["RS256"]], [None], None,
                   ["ES256K"]),
    "leeway": (-1, 301, True, "10", None, [10], 1e3),
    "require_at_jwt": ("yes", 1, None, []),
    "require_iat": (0, "false", None),
    "require_claims": ([], {}, [{}], [{"claim": "a"}], [{"claim": "a", "values": []}], [{"claim": "a", "values": "b"}],
                       [{"claim": "a", "values": [1.5]}], [{"claim": "a", "values": [None]}],
                       [{"claim": "a.b", "values": ["c"]}],
                       [{"claim": "a", "values": ["b"], "c": 1}], {"a": ["b"]}, None,
                       *([{"claim": "a", "values": values}] for values in ([""], [" b"], ["b", "b"], [1, 1]))),
    "datasets": ([], ["flight-delay"], "flight-delays", [1], ["flight-delays", "flight-delays"], None),
    "models": ([], "iris", [1], ["iris", "iris"], [""], None),
    "audience_claim": ("", "X.client", "realm.client", [], [""], [1], ["a", ""], 'a"b', "a\\b", "\u00e4", None, 1),
    "tenants": ([], ["x"], "x", [TENANT.replace("1", "A")], [TENANT, TENANT], None, ["any"], True),
    "allow_missing_kid": ("yes", 1, None),
    "scope_claims": ([], "scp", [""], ["scp", "scp"], ["realm_access.roles"], [[]], [1], None, {},
                     ["scp", ["scp"]]),
    "scope_separator": ("", ";", ", ", None, 1, [","]),
    "scopes": ({}, [], None, "x", {"flight-delays": ""}, {"flight-delays": "a b"}, {"flight-delays": 'a"b'},
               {"other": "x"}, {"flight-delays": 1}, {"flight-delays": ["x"]}),
    "subject_claims": ({}, [], None, {"carrier": ""}, {"carrier": "a.b"}, {"carrier": []}, {"other": "x"},
                       {"carrier": 1}),
    "allow_integer_subject": ("yes", 1, None),
    "allow_list_subject": ("yes", 1, None),
}  # fmt: skip


@pytest.mark.parametrize(("setting", "value"), [(name, one) for name, values in REFUSED.items() for one in values])
def test_no_value_is_silently_ignored(setting: str, value: Any) -> None:
    """A value that would have no effect, or another one than it seems to have, is refused by name."""
    issuer = ISSUER | (TENANTS if setting == "tenants" else {}) | {setting: value}
    with pytest.raises(ValueError, match=rf"^LARDER_ISSUERS\[1\]: {setting} (must|has)"):
        parse_settings(_env([ISSUER | {"issuer": "first"}, issuer]), SERVED)


_A_CLAIM = 'a claim\'s name, or the list of names that leads to a nested claim, e.g. ["realm_access", "roles"]'
_A_FLAG = "true or false"
EXPECTED = {
    "issuer": "a string without blanks around it, exactly as in iss (no *, and no braces except {tid})",
    "audience": "a string, or a list of strings, without * or blanks around them",
    "keys": "a string: the location of the issuer's keys",
    "algorithms": "a list of some of ES256, ES384, ES512, Ed25519, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512",
    "leeway": "0 to 300 seconds",
    "require_at_jwt": _A_FLAG,
    "require_iat": _A_FLAG,
    "require_claims": 'a list such as [{"claim": "token_use", "values": ["access"]}]',
    "datasets": "a list of datasets",
    "models": "a list of models",
    "audience_claim": _A_CLAIM,
    "tenants": 'a list of tenant ids (GUIDs in lower case), or "any"',
    "allow_missing_kid": _A_FLAG,
    "scope_claims": f"a list; each of them {_A_CLAIM}",
    "scope_separator": '" " or ","',
    "scopes": "an object: dataset -> its scope at this issuer, or null for none",
    "subject_claims": f"an object: claim of a dataset's subject -> {_A_CLAIM}",
    "allow_integer_subject": _A_FLAG,
    "allow_list_subject": _A_FLAG,
}


def _refusal(env: dict[str, str]) -> str:
    with pytest.raises(ValueError, match=r"^LARDER_") as caught:
        parse_settings(env, SERVED)
    return str(caught.value)


def test_a_refusal_says_what_is_expected_and_what_was_found() -> None:
    """For each setting, and for what all of them have in common; a long value is cut off."""
    for name, expected in EXPECTED.items():
        found = _refusal(_env([ISSUER | {name: []}]))
        assert found == f"LARDER_ISSUERS[0]: {name} must be {expected}, not []"
    assert EXPECTED.keys() == SETTINGS.keys()
    for size, shown in ((98, repr("x" * 98)), (99, repr("x" * 99)[:100] + "...")):
        assert _refusal(_env([ISSUER | {"datasets": "x" * size}])).endswith(f"not {shown}")
    members = "an object with the members issuer, audience and keys"
    assert _refusal(_env([ISSUER, 1])) == f"LARDER_ISSUERS[1] must be {members}, not 1"
    unknown = _refusal(_env([ISSUER | {"z": 1, "b": 2}]))
    assert unknown == f"LARDER_ISSUERS[0] has unknown members: b, z (known: {', '.join(EXPECTED)})"
    for name in ("issuer", "audience", "keys"):
        without = {key: value for key, value in ISSUER.items() if key != name}
        assert _refusal(_env([without])) == f"LARDER_ISSUERS[0]: {name} must be {EXPECTED[name]}; it is missing"
    scopes = {"flight-delays": "a b"}
    assert f"scopes must be {EXPECTED['scopes']}, not" in _refusal(_env([ISSUER | {"scopes": scopes}]))
    with pytest.raises(ValueError, match=r"datasets has 'x', which is not a dataset \(known: a, b\)$"):
        parse_issuers(json.dumps([ISSUER | {"datasets": ["x"]}]), TWO)
    with pytest.raises(ValueError, match=r"subject_claims has 'x', .* \(known: a_id, b_id\)$"):
        parse_issuers(json.dumps([ISSUER | {"subject_claims": {"x": "y"}}]), TWO)


def test_values_at_their_bounds_are_accepted() -> None:
    """And names that only look like paths or like other values."""
    for name, value in (
        ("leeway", 0), ("leeway", 300), ("leeway", 300.0), ("audience_claim", "https://a.b/c"),
        ("audience_claim", "urn:a.b"), ("audience_claim", "/a.b"), ("scope_claims", ["a.b/c", ["a.b", "c"]]),
        ("require_claims", [{"claim": "a", "values": ["1", 1, True]}]), ("scopes", {"flight-delays": "a,b"}),
        ("issuer", "https://a b/"), ("subject_claims", {"carrier": ["a", "b"]}), ("scope_separator", " "),
    ):  # fmt: skip
        parse_settings(_env([ISSUER | {name: value}]), SERVED)
    for realm in ("X b", "~", "!#$%&'()"):
        assert parse_settings(_env(LARDER_REALM=realm), SERVED).realm == realm
    for realm in ('a"', "a\\", "\u00e4", "a\x7f"):
        assert _refusal(_env(LARDER_REALM=realm)) == "LARDER_REALM must be printable ASCII without quotes"


def test_refused_covers_each_setting() -> None:
    """A new setting needs its own refusals."""
    assert REFUSED.keys() == SETTINGS.keys()


TWO = {name: Served(name, (f"{name}_id",), None) for name in ("a", "b")}


@pytest.mark.parametrize(
    ("issuer", "message"),
    [
        ({"datasets": ["a"], "scopes": {"a": None, "b": "x"}}, "scopes has 'b', which is not in datasets"),
        (
            {"datasets": ["b"], "subject_claims": {"a_id": "x"}},
            "subject_claims has 'a_id', which no dataset's subject has (known: b_id",
        ),
        (
            {"scopes": {"a": "read,a"}, "scope_separator": ","},
            "scopes has 'read,a' for 'a', which scope_separator would",
        ),
        ({"scopes": {"a": "read,a"}}, None),
        ({"datasets": ["b"], "scopes": {"b": "x"}, "subject_claims": {"b_id": "x"}}, None),
        ({"require_claims": [{"claim": "a", "values": [1, True, "1"]}]}, None),
    ],
)
def test_settings_fit_together(issuer: dict[str, Any], message: str | None) -> None:
    """A setting that another one makes ineffective is refused; one that only looks similar is not."""
    if message is None:
        parse_issuers(json.dumps([ISSUER | issuer]), TWO)
        return
    with pytest.raises(ValueError, match=rf"^LARDER_ISSUERS\[0\]: {re.escape(message)}"):
        parse_issuers(json.dumps([ISSUER | issuer]), TWO)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"issuer": "a", "issuer": "b", "audience": "c", "keys": "ssm:/k"}]', "an object has a member twice"),
        (
            '[{"issuer": "a", "audience": "c", "keys": "ssm:/k", "scopes": {"x": "a", "x": "b"}}]',
            "an object has a member twice",
        ),
        ("\ud800", "not JSON"),
        (json.dumps([ISSUER | {"issuer": "https://x/{tid}"}]), "tenants must list the accepted tenants"),
        (json.dumps([ISSUER | {"tenants": [TENANT]}]), "tenants must list the accepted tenants"),
        (json.dumps([ISSUER | TENANTS, ISSUER | {"issuer": f"https://login.example.com/{TENANT}/v2.0"}]), "twice"),
        (json.dumps([ISSUER | {"issuer": f"https://login.example.com/{TENANT}/v2.0"}, ISSUER | TENANTS]), "twice"),
    ],
)
def test_ambiguous_issuers_are_refused(text: str, message: str) -> None:
    """A member with two meanings, or a token of two issuers."""
    with pytest.raises(ValueError, match=message):
        parse_settings(_env() | {"LARDER_ISSUERS": text}, SERVED)


def test_an_issuer_that_does_not_match_the_template_is_another_issuer() -> None:
    """One that has only the template's start or end can be listed, too."""
    start, end = f"https://login.example.com/{TENANT}", f"{TENANT}/v2.0"
    for other in (start, end, f"https://login.example.com/{TENANT}/v1.0"):
        both = [ISSUER | TENANTS, ISSUER | {"issuer": other}]
        assert len(parse_issuers(json.dumps(both), TWO)) == len(parse_issuers(json.dumps(both[::-1]), TWO)) == 2


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "LARDER_TABLE is not set"),
        ({"LARDER_TABLE": "t"}, "LARDER_ISSUERS is not set"),
        (_env() | {"LARDER_ISSUERS": "{"}, "not JSON"),
        (_env([]), "at least one"),
        (_env({}), "at least one"),
        (_env([1]), "must be an object"),
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
        (_env(LARDER_TABLE=" t"), "LARDER_TABLE"),
    ],
)
def test_a_mistake_is_named(env: dict[str, str], message: str) -> None:
    """Serve does not start with half of its settings, or with a mistyped policy."""
    with pytest.raises(ValueError, match=message):
        parse_settings(env, SERVED)
