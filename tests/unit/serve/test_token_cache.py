"""The key of the cache of verified tokens: the whole text of a token, and nothing that two tokens can share."""

from __future__ import annotations

from typing import Any

import pytest

from serve.tokens.jwks import KeyDocument
from serve.tokens.jwt import InvalidToken
from serve.tokens.key_cache import KeyStore
from serve.tokens.verifier import Issuer, Verifier
from tests.unit.serve.kit import NOW, POLICY, all_jwks, b64, claims, jwks, public_jwk, sign


def _verifier(*documents: str) -> Verifier:
    issuers = []
    for number, document in enumerate(documents or (all_jwks(),)):
        policy = POLICY._replace(issuer=POLICY.issuer + "x" * number)
        found = [KeyDocument("jwks.json", document.encode())]
        issuers.append(Issuer(policy, KeyStore(lambda _, found=found: found, lambda *_: None)))  # type: ignore[misc]
    return Verifier(issuers)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_change_in_any_part_of_a_cached_token_is_detected(part: int, algorithm: str) -> None:
    """Header, payload or signature, at the beginning, in the middle or at the end: it is another token."""
    verifier, good = _verifier(), sign(algorithm=algorithm)
    verifier.verify(good, NOW)
    pieces = good.split(".")
    for place in (0, 1, len(pieces[part]) // 2, len(pieces[part]) - 2, len(pieces[part]) - 1):
        text = pieces[part]
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        with pytest.raises(InvalidToken):
            verifier.verify(".".join([*pieces[:part], changed, *pieces[part + 1 :]]), NOW)
    for odd in (good.swapcase(), good.lower(), f" {good}", f"{good} ", f"{good}=", good[:-1], f"{good}.", good + "A"):
        with pytest.raises(InvalidToken):
            verifier.verify(odd, NOW)
    assert verifier.verify(good, NOW).claims["carrier"] == "B6"


SHARED: tuple[dict[str, Any], ...] = (
    {"carrier": "AA"},
    {"tenant": "other"},
    {"scope": "other:read"},
    {"exp": int(NOW) + 601},
    {"iat": int(NOW) - 11},
)


@pytest.mark.parametrize("change", SHARED)
def test_tokens_that_share_most_claims_are_distinguished(change: dict[str, Any]) -> None:
    """The same sub, jti, kid and times, and one claim that differs: each keeps its own claims, in any order."""
    verifier = _verifier()
    one, other = (claims(jti="1", **changes) for changes in ({}, change))
    tokens = [(sign(payload, algorithm="ES256"), payload) for payload in (one, other, one)]
    for token, payload in [*tokens, *reversed(tokens)]:
        assert verifier.verify(token, NOW).claims == payload


def test_two_signatures_of_one_payload_are_two_tokens() -> None:
    """ECDSA gives another signature each time: both are valid, and an invented third is not."""
    verifier = _verifier()
    one, other = sign(algorithm="ES256"), sign(algorithm="ES256")
    assert one != other
    assert verifier.verify(one, NOW).claims == verifier.verify(other, NOW).claims
    with pytest.raises(InvalidToken, match="bad-signature"):
        verifier.verify(f"{one.rpartition('.')[0]}.{b64(bytes(64))}", NOW)


def test_the_same_kid_of_two_issuers_is_two_keys() -> None:
    """A cached token of one issuer does not affect the other's key with the same kid."""
    document = [jwks(public_jwk("ES256", kid="same", which=which)) for which in (0, 1)]
    verifier = _verifier(*document)
    issuers = [POLICY.issuer, POLICY.issuer + "x"]
    for turn in range(2):
        for number, issuer in enumerate(issuers):
            trusted = verifier.verify(
                sign(claims(iss=issuer, jti=str(turn)), algorithm="ES256", which=number, kid="same"), NOW
            )
            assert (trusted.policy.issuer, trusted.kid) == (issuer, "same")
            crossed = sign(claims(iss=issuers[1 - number]), algorithm="ES256", which=number, kid="same")
            with pytest.raises(InvalidToken, match="bad-signature"):
                verifier.verify(crossed, NOW)


def test_a_long_token_is_cached_by_its_whole_text() -> None:
    """A text that is the beginning or the end of a cached token, or shares it, is another token."""
    verifier = _verifier()
    long, other = (sign(claims(pad="x" * 5000, carrier=carrier), algorithm="ES256") for carrier in ("B6", "AA"))
    assert verifier.verify(long, NOW).claims["carrier"] == "B6"
    assert verifier.verify(other, NOW).claims["carrier"] == "AA"
    for size in (*(2**power for power in range(5, 13)), 5000, 6000, len(long) - 1):
        for part in (long[:size], long[-size:], long[:size] + "." + long[size:]):
            with pytest.raises(InvalidToken):
                verifier.verify(part, NOW)
    assert verifier.verify(long, NOW).claims["carrier"] == "B6"


def test_the_token_that_was_used_least_recently_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more tokens than the bound; one that is verified anew, because its time in the cache is over, is used too."""
    monkeypatch.setattr("serve.tokens.verifier.CACHED_TOKENS", 3)
    verifier = _verifier()
    tokens = {name: sign(claims(jti=name), algorithm="ES256") for name in "abcdef"}
    kept = []
    for name, now in [*((name, NOW) for name in "abcabd"), ("a", NOW + 60), ("e", NOW + 60), ("f", NOW + 60)]:
        verifier.verify(tokens[name], now)
        kept.append("".join(known for known in tokens if tokens[known] in verifier._cache))
    assert kept == ["a", "ab", "abc", "abc", "abc", "abd", "abd", "ade", "aef"]
