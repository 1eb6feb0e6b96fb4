"""The settings that relax a check relax it for each claim and header that they are about, and for nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from serve.access import build_subject
from serve.datasets import Served
from serve.tokens.jwks import parse_jwks
from serve.tokens.jwt import InvalidToken, Policy, verify
from tests.unit.serve.kit import AUDIENCE, ISSUER, NOW, all_keys, claims, jwks, public_jwk, sign

INTEGER: dict[str, Any] = {"allow_integer_subject": True}
LIST: dict[str, Any] = {"allow_list_subject": True}
# The settings, the value of the claim that is the subject, and the subject; None: 401.
SUBJECTS: list[tuple[dict[str, Any], Any, str | None]] = [
    *(({}, value, None) for value in (7, ["7"], [7], {"a": "7"}, None, "", [])),
    *((INTEGER, value, None) for value in (7.0, True, ["7"], [7], 2**53, -(2**53), {"7": 7})),
    *((INTEGER, value, str(value)) for value in (7, 0, -7, 2**53 - 1, "7")),
    *((LIST, value, None) for value in (7, [7], ["7", "8"], [], [["7"]], [""], {"0": "7"})),
    (LIST, ["7"], "7"),
    (INTEGER | LIST, [7], "7"),
    (INTEGER | LIST, [True], None),
    (INTEGER | LIST, [[7]], None),
]


@pytest.mark.parametrize("claim", ["sub", "client_id", "jti", "carrier", ("airline", "number")])
def test_a_subject_can_be_an_integer_or_a_list_of_one(claim: str | tuple[str, ...]) -> None:
    """Whichever claim it is, including those for which RFC 9068 has a type."""
    dataset = Served("a", ("who",), None)
    for settings, value, expected in SUBJECTS:
        policy = Policy(ISSUER, AUDIENCE, subject_claims=(("who", claim),), **settings)
        given = claims() | ({claim: value} if isinstance(claim, str) else {claim[0]: {claim[1]: value}})
        token = sign(given)
        if expected is None:
            with pytest.raises(InvalidToken, match=r"malformed-claim|bad-subject"):
                build_subject(verify(token, all_keys(), policy, NOW), dataset, policy)
        else:
            assert build_subject(verify(token, all_keys(), policy, NOW), dataset, policy) == (expected,)


NONE: dict[str, Any] = {}
ONE, TWO = {"x5t": "t", "x5t#S256": "s"}, {"x5t": "t2", "x5t#S256": "s2"}
# Members of two keys in the set, those of the header, and the key that is used; None: none, or it is ambiguous.
WITHOUT_KID: list[tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any], int | None]] = [
    (NONE, None, NONE, 0),
    (NONE, TWO, NONE, None),
    (ONE, TWO, {"x5t": "t"}, 0),
    (ONE, TWO, {"x5t": "t2"}, 1),
    (ONE, TWO, {"x5t#S256": "s"}, 0),
    (ONE, TWO, {"x5t#S256": "s2"}, 1),
    (ONE, TWO, ONE, 0),
    (ONE, TWO, {"x5t": "t", "x5t#S256": "s2"}, None),
    ({"x5t": "t"}, {"x5t": "t2"}, ONE, 0),
    ({"x5t#S256": "s"}, TWO, ONE, 0),
    (ONE, TWO, {"x5t": "RS256-1"}, 1),
    (ONE, TWO, {"x5t#S256": "RS256-1"}, 1),
    (ONE, ONE, ONE, None),
    (ONE, None, {"x5t": "other"}, None),
    (NONE, None, {"x5t": "other"}, None),
    *((NONE, None, {name: value}, None) for name in ("x5t", "x5t#S256") for value in ("", None, [], ["t"], 1)),
    ({"x5t": ["t"], "x5t#S256": 1}, None, {"x5t": ["t"]}, None),
    (ONE, TWO, {"x5t": "t", "kid": None}, None),
]


@pytest.mark.parametrize(("first", "second", "header", "which"), WITHOUT_KID)
def test_a_token_without_kid_has_one_key(
    first: dict[str, Any], second: dict[str, Any] | None, header: dict[str, Any], which: int | None
) -> None:
    """The only key, or the only key of its certificate: with either thumbprint (RFC 7515 sections 4.1.7 and 4.1.8)."""
    keys = [public_jwk("RS256", **first)] + ([] if second is None else [public_jwk("RS256", which=1, **second)])
    policy = Policy(ISSUER, AUDIENCE, allow_missing_kid=True)
    for signer in range(2):
        token = sign(which=signer, header={"alg": "RS256"} | header)
        if signer == which:
            assert verify(token, parse_jwks(jwks(*keys)).keys, policy, NOW)["sub"] == "client-1"
        else:
            with pytest.raises(InvalidToken):
                verify(token, parse_jwks(jwks(*keys)).keys, policy, NOW)
