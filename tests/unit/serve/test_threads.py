"""Threads share one verifier: a valid token is never refused because of another thread."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serve.tokens.jwks import KeyDocument
from serve.tokens.jwt import InvalidToken
from serve.tokens.key_cache import FRESHNESS, KeyStore, KeysUnavailable, Unreadable
from serve.tokens.verifier import Issuer, Verifier
from tests.unit.serve.kit import NOW, POLICY, claims, jwks, public_jwk, sign


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class SlowDict(OrderedDict[str, Any]):
    """A dictionary that lets other threads run after each look-up."""

    def get(self, key: str, default: Any = None) -> Any:
        """Look up, then wait."""
        found = super().get(key, default)
        time.sleep(0.0005)
        return found


def test_the_cache_loses_no_token_to_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads, and more tokens than the cache has room for: one thread evicts what another looks up."""
    monkeypatch.setattr("serve.tokens.verifier.CACHED_TOKENS", 2)
    document = KeyDocument("jwks.json", jwks(public_jwk("RS256")).encode())
    verifier = Verifier([Issuer(POLICY, KeyStore(lambda _: [document], lambda event, details: None))])
    verifier._cache = SlowDict()
    tokens = [sign(claims(jti=str(number))) for number in range(3)]

    def verify(thread: int) -> None:
        for turn in range(60):
            number = (thread + turn // 3) % 3  # twice from the cache, unless it is evicted
            assert verifier.verify(tokens[number], NOW + turn % 2).claims["jti"] == str(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(verify, range(8)))
    assert len(verifier._cache) <= 2


def test_a_new_key_is_found_by_all_threads_that_need_it() -> None:
    """While one thread reads the keys for a new kid, others with that kid wait for them: none is refused."""
    documents = [jwks(public_jwk("ES256"))]
    reads = []

    def read(_: float) -> list[KeyDocument]:
        reads.append(documents[-1])
        time.sleep(0.05)
        return [KeyDocument("jwks.json", reads[-1].encode())]

    verifier = Verifier([Issuer(POLICY, KeyStore(read, lambda event, details: None))])
    verifier.verify(sign(algorithm="ES256"), NOW)
    documents.append(jwks(public_jwk("ES256"), public_jwk("ES256", which=1)))
    tokens = [sign(claims(jti=str(number)), algorithm="ES256", which=1) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        kids = {trusted.kid for trusted in pool.map(lambda token: verifier.verify(token, NOW + 1), tokens)}
    assert kids == {"ES256-1"}
    assert len(reads) == 2


def test_a_source_that_hangs_delays_one_thread() -> None:
    """The others use the keys that were read before, also for tokens that were not verified before.

    Only a token with an unknown kid waits: its key can be among those that are being read.
    """
    documents = [jwks(public_jwk("ES256"))]
    begun, release = threading.Event(), threading.Event()

    def read(_: float) -> list[KeyDocument]:
        if len(documents) > 1:
            begun.set()
            release.wait(20)
        return [KeyDocument("jwks.json", documents[-1].encode())]

    verifier = Verifier([Issuer(POLICY, KeyStore(read, lambda event, details: None))])
    known, other, new = (
        sign(claims(jti=jti, exp=int(NOW) + 3600), algorithm="ES256", which=which)
        for jti, which in (("a", 0), ("b", 0), ("c", 1))
    )
    verifier.verify(known, NOW)
    documents.append(jwks(public_jwk("ES256"), public_jwk("ES256", which=1)))
    old = NOW + FRESHNESS.max_age
    with ThreadPoolExecutor(4) as pool:
        try:
            reader = pool.submit(verifier.verify, known, old)
            assert begun.wait(10)
            for token in (known, other):
                assert pool.submit(verifier.verify, token, old).result(10).kid == "ES256-0"
            waiting = pool.submit(verifier.verify, new, old)
            time.sleep(0.05)
            assert not waiting.done()
            assert not reader.done()
        finally:
            release.set()
        assert (reader.result(10).kid, waiting.result(10).kid) == ("ES256-0", "ES256-1")


def test_a_source_that_has_failed_and_hangs_delays_one_thread() -> None:
    """Also without keys: the others respond at once, so that the tokens of other issuers keep their threads."""
    begun, release = threading.Event(), threading.Event()

    def read(_: float) -> list[KeyDocument]:
        if is_hanging:
            begun.set()
            release.wait(20)
        raise Unreadable("away")

    store, is_hanging = KeyStore(read, lambda event, details: None, clock=lambda: 0.0), False
    with pytest.raises(KeysUnavailable):
        store.current(NOW)
    is_hanging = True
    with ThreadPoolExecutor(2) as pool:
        try:
            pool.submit(store.current, NOW + FRESHNESS.retry)
            assert begun.wait(10)
            with pytest.raises(KeysUnavailable):
                pool.submit(store.current, NOW + FRESHNESS.retry).result(10)
        finally:
            release.set()


def test_threads_wait_for_the_first_keys() -> None:
    """While one thread reads them; none responds that there are no keys."""
    readings = []

    def read(_: float) -> list[KeyDocument]:
        readings.append(1)
        time.sleep(0.05)
        return [KeyDocument("jwks.json", jwks(public_jwk("ES256")).encode())]

    store = KeyStore(read, lambda event, details: None)
    with ThreadPoolExecutor(8) as pool:
        assert {kid for keys in pool.map(store.current, [NOW] * 8) for kid in keys} == {"ES256-0"}
    assert len(readings) == 1


def test_a_token_without_kid_finds_the_new_only_key() -> None:
    """If kid can be missing, a signature of another key causes a reading, at most once per cool-down."""
    documents = [jwks(public_jwk("RS256"))]
    reads = []

    def read(_: float) -> list[KeyDocument]:
        reads.append(documents[-1])
        return [KeyDocument("jwks.json", documents[-1].encode())]

    policy = POLICY._replace(allow_missing_kid=True)
    store = KeyStore(read, lambda event, details: None, allow_missing_kid=True)
    verifier = Verifier([Issuer(policy, store)])
    assert verifier.verify(sign(kid=...), NOW).kid == "RS256-0"
    documents.append(jwks({name: value for name, value in public_jwk("RS256", which=1).items() if name != "kid"}))
    assert len(verifier.verify(sign(which=1, kid=...), NOW + 1).kid) == 43
    with pytest.raises(InvalidToken, match="bad-signature"):
        verifier.verify(sign(kid=..., header={"alg": "RS256"}), NOW + 2)
    documents.append(jwks(public_jwk("RS256"), public_jwk("RS256", which=1)))
    with pytest.raises(InvalidToken, match="no-kid"):
        verifier.verify(sign(kid=...), NOW + 2 + FRESHNESS.cool_down)
    assert len(reads) == 3
    assert verifier.verify(sign(), NOW + 3 + FRESHNESS.cool_down).kid == "RS256-0"
    with pytest.raises(InvalidToken, match="no-kid"):
        Verifier([Issuer(POLICY, store)]).verify(sign(kid=...), NOW + 3 + FRESHNESS.cool_down)
