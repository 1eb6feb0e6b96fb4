"""V13: keys are cached, read again in time and for an unknown kid; the last good set is kept for a while."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serve.tokens.jwks import KeyDocument
from serve.tokens.jwt import InvalidToken, Parts, verify_token
from serve.tokens.key_cache import CLOCKS, FRESHNESS, REFRESH_SECONDS, KeyStore, KeysUnavailable, Unreadable
from serve.tokens.verifier import CACHED_SECONDS, CACHED_TOKENS, Issuer, Verifier
from tests.unit.serve.kit import NOW, POLICY, App, claims, item, jwks, public_jwk, sign


class Source:
    """A location of keys: a document that tests change, the limit of each reading, and how long it takes."""

    def __init__(self, *keys: Mapping[str, Any]) -> None:
        self.document = jwks(*keys)
        self.error: Exception | None = None
        self.limits: list[float] = []
        self.seconds = self.clock = 0.0
        self.reports: list[tuple[str, Mapping[str, object]]] = []
        self.store = KeyStore(
            self.read, lambda event, details: self.reports.append((event, details)), clock=lambda: self.clock
        )

    @property
    def readings(self) -> int:
        """How often it was read."""
        return len(self.limits)

    def read(self, seconds: float) -> list[KeyDocument]:
        """Read it."""
        self.limits.append(seconds)
        self.clock += min(self.seconds, seconds)
        if self.error:
            raise self.error
        if self.seconds > seconds:
            raise Unreadable("no response in time")
        return [KeyDocument("jwks.json", self.document.encode())]


OLD, NEW = public_jwk("ES256", kid="old"), public_jwk("ES256", kid="new", which=1)


def _token(kid: str, **changes: Any) -> str:
    which = {"old": 0, "new": 1}.get(kid, 0)
    return sign(claims(**changes), algorithm="ES256", which=which, kid=kid)


def test_keys_are_ready_if_they_are_there_without_waiting() -> None:
    """The source is not read for the answer, and a thread that reads it is not waited for."""
    source = Source(OLD)
    assert not source.store.is_ready(NOW)
    source.store.current(NOW)
    old = NOW + FRESHNESS.max_age
    for now, is_ready in ((NOW, True), (old - 1, True), (old, False), (NOW - CLOCKS, True), (NOW - CLOCKS - 1, False)):
        assert source.store.is_ready(now) is is_ready
    with ThreadPoolExecutor(1) as other, source.store._lock:
        assert other.submit(source.store.is_ready, NOW).result(10)
        assert other.submit(source.store.current, NOW).result(10)
    assert source.readings == 1


def test_keys_are_read_once_until_they_are_old() -> None:
    """The source is read at first, and again only after `max_age`."""
    source = Source(OLD)
    first = source.store.current(NOW)
    assert source.store.current(NOW + FRESHNESS.max_age - 1) is first
    assert source.readings == 1
    assert source.store.current(NOW + FRESHNESS.max_age) is first, "the same keys are the same object"
    assert source.readings == 2
    source.document = jwks(NEW)
    assert list(source.store.current(NOW + 2 * FRESHNESS.max_age)) == ["new"]
    assert source.readings == 3


def test_changed_keys_of_the_same_names_are_another_set() -> None:
    """Another key or another algorithm with an old kid is detected."""
    source = Source(OLD)
    first = source.store.current(NOW)
    source.document = jwks(NEW | {"kid": "old"})
    second = source.store.current(NOW + FRESHNESS.max_age)
    assert second is not first
    rsa = public_jwk("RS256", kid="old")
    source.document = jwks(rsa)
    third = source.store.current(NOW + 2 * FRESHNESS.max_age)
    source.document = jwks(rsa | {"alg": "PS256"})
    assert source.store.current(NOW + 3 * FRESHNESS.max_age) is not third


def test_an_unknown_kid_reads_at_most_once_per_cool_down() -> None:
    """A flood of invented kids costs one reading per cool-down, and a new key is found at once."""
    source = Source(OLD)
    verifier = Verifier([Issuer(POLICY, source.store)])
    verifier.verify(_token("old"), NOW)
    source.document = jwks(OLD, NEW)
    assert verifier.verify(_token("new"), NOW + 1).kid == "new"
    assert source.readings == 2
    for second in range(int(FRESHNESS.cool_down)):
        with pytest.raises(InvalidToken, match="unknown-kid"):
            verifier.verify(sign(algorithm="ES256", kid=f"invented-{second}"), NOW + 1 + second)
    assert source.readings == 2
    with pytest.raises(InvalidToken, match="unknown-kid"):
        verifier.verify(sign(algorithm="ES256", kid="invented"), NOW + 1 + FRESHNESS.cool_down)
    assert source.readings == 3


def test_only_an_unknown_kid_causes_a_reading() -> None:
    """A bad signature, another algorithm or an expired token does not cause one."""
    source = Source(OLD)
    verifier = Verifier([Issuer(POLICY, source.store)])
    for token in (_token("old")[:-4] + "AAAA", sign(algorithm="RS256", kid="old"), _token("old", exp=1), "x"):
        with pytest.raises(InvalidToken):
            verifier.verify(token, NOW)
    assert source.readings == 1


@pytest.mark.parametrize("broken", ["error", "garbage"])
def test_the_last_good_set_is_kept_for_a_bounded_time(broken: str) -> None:
    """If the source fails or returns garbage, the old keys are used until `keep` has passed, and no longer."""
    source = Source(OLD)
    first = source.store.current(NOW)
    if broken == "error":
        source.error = Unreadable("away")
    else:
        source.document = "<html>"
    assert source.store.current(NOW + FRESHNESS.max_age) is first
    assert source.store.current(NOW + FRESHNESS.keep - 1) is first
    assert "keys-unreadable" in [event for event, _ in source.reports]
    with pytest.raises(KeysUnavailable):
        source.store.current(NOW + FRESHNESS.keep)
    source.error, source.document = None, jwks(OLD)
    assert list(source.store.current(NOW + FRESHNESS.keep + FRESHNESS.retry)) == ["old"]


def test_a_failing_source_is_not_read_at_every_request() -> None:
    """After a failure it is not read for `retry` seconds, whatever the requests."""
    source = Source(OLD)
    source.error = Unreadable("away")
    for second in (0, 1, FRESHNESS.retry - 1):
        with pytest.raises(KeysUnavailable):
            source.store.current(NOW + second)
    assert source.readings == 1
    source.error = None
    assert list(source.store.current(NOW + FRESHNESS.retry)) == ["old"]
    assert source.readings == 2


def test_a_source_that_fails_is_read_less_often_while_there_are_keys() -> None:
    """Once in `cool_down`, since each reading delays a request; again after `retry` for a token with an unknown kid."""
    source = Source(OLD)
    source.store.current(NOW)
    source.error = Unreadable("away")
    old = NOW + FRESHNESS.max_age
    for second in (0, FRESHNESS.retry, FRESHNESS.cool_down - 1):
        assert list(source.store.current(old + second)) == ["old"]
    assert source.readings == 2
    source.store.current(old + FRESHNESS.cool_down)
    assert source.readings == 3
    source.store.renewed(old + FRESHNESS.cool_down + FRESHNESS.retry - 1)
    assert source.readings == 3
    source.error, source.document = None, jwks(OLD, NEW)
    later = old + 2 * FRESHNESS.cool_down + FRESHNESS.retry - 1  # of `cool_down`, and of `retry`
    assert list(source.store.renewed(later)) == ["old", "new"]


def test_a_refresh_delays_a_request_by_a_second_at_most() -> None:
    """While there are keys to use, unless the last reading took longer than half of that: it is given twice its time.

    Without keys, or for a token with an unknown kid, the source has the time that it has by itself.
    """
    source = Source(OLD)
    source.store.current(NOW)
    source.store.current(NOW + FRESHNESS.max_age)
    source.seconds = 1.5
    source.store.renewed(NOW + FRESHNESS.max_age)
    for turn in (2, 3):
        source.store.current(NOW + turn * FRESHNESS.max_age)
    source.error = Unreadable("away")
    source.store.current(NOW + 4 * FRESHNESS.max_age)
    with pytest.raises(KeysUnavailable):
        source.store.current(NOW + 3 * FRESHNESS.max_age + FRESHNESS.keep)
    infinite = float("inf")
    assert source.limits == [infinite, REFRESH_SECONDS, infinite, 3, 3, 3, infinite]


def test_a_source_that_has_become_slow_is_still_read() -> None:
    """Each refresh that is too short is followed by one of twice its time, so that a removed key is not kept in use."""
    source = Source(OLD, NEW)
    source.store.current(NOW)
    source.document, source.seconds = jwks(NEW), 3.5
    now = NOW + FRESHNESS.max_age
    for kids in (["old", "new"], ["old", "new"], ["new"]):
        assert list(source.store.current(now)) == kids
        now += FRESHNESS.cool_down + source.seconds
    source.seconds = 0.1
    for _ in range(2):
        now += FRESHNESS.max_age
        source.store.current(now)
    assert source.limits[1:] == [REFRESH_SECONDS, 2, 4, 7, REFRESH_SECONDS]


def test_a_source_that_fails_at_once_is_given_no_more_time() -> None:
    """Only a refresh that took long is followed by a longer one; what a request without keys waited does not count."""
    source = Source(OLD)
    source.store.current(NOW)
    source.error = Unreadable("away")
    source.store.current(NOW + FRESHNESS.max_age)
    source.seconds = 4
    source.store.renewed(NOW + FRESHNESS.max_age + FRESHNESS.cool_down)
    source.store.current(NOW + FRESHNESS.max_age + 3 * FRESHNESS.cool_down)
    infinite = float("inf")
    assert source.limits == [infinite, REFRESH_SECONDS, infinite, REFRESH_SECONDS]


def test_the_pause_after_a_failure_begins_when_it_has_failed() -> None:
    """A source that fails after four seconds is not read a second later: of five seconds, four would be lost."""
    source = Source(OLD)
    source.error, source.seconds = Unreadable("away"), 4
    for second in (0, 4, 4 + FRESHNESS.retry - 0.1):
        with pytest.raises(KeysUnavailable):
            source.store.current(NOW + second)
    assert source.readings == 1
    source.error = None
    assert list(source.store.current(NOW + 4 + FRESHNESS.retry)) == ["old"]


def test_a_clock_that_went_back_does_not_freeze_the_keys() -> None:
    """A reading in the future is ignored."""
    source = Source(OLD)
    source.store.current(NOW)
    source.document = jwks(NEW)
    assert list(source.store.current(NOW - 1000)) == ["new"]


def test_a_clock_that_is_a_moment_behind_reads_nothing_again() -> None:
    """Neither after a reading, nor after a reading for an unknown kid or one that failed: by ten seconds, not more."""
    for behind, readings in ((0.0, 2), (CLOCKS, 2), (CLOCKS + 1, 3)):
        source = Source(OLD)
        source.store.current(NOW)
        source.store.renewed(NOW)
        source.store.renewed(NOW - behind)
        assert source.readings == readings
        failing = Source(OLD)
        failing.error = Unreadable("x")
        for now in (NOW, NOW - behind):
            with pytest.raises(KeysUnavailable):
                failing.store.current(now)
        assert failing.readings == readings - 1


def test_an_empty_set_is_used() -> None:
    """An issuer that publishes no keys has withdrawn them all; it is reported, because it can be a mistake."""
    source = Source(OLD)
    source.store.current(NOW)
    source.document = jwks()
    assert source.store.current(NOW + FRESHNESS.max_age) == {}
    detail = "the key set has no keys: every token is refused"
    assert source.reports == [("key-refused", {"kid": "", "detail": detail})]


def test_a_set_without_a_usable_key_is_used() -> None:
    """A document that was read is not a failure: the old keys are not kept, and each refusal is reported."""
    source = Source(OLD)
    source.store.current(NOW)
    source.document = jwks(OLD | {"use": "enc"})
    assert source.store.current(NOW + FRESHNESS.max_age) == {}
    assert source.reports == [("key-refused", {"kid": "old", "detail": "use is not sig"})]


def test_refused_keys_are_reported() -> None:
    """An operator learns which key is not used, and why."""
    source = Source(OLD, public_jwk("RS256", kid="weak", key_ops=[]))
    source.store.current(NOW)
    assert source.reports == [("key-refused", {"kid": "weak", "detail": "key_ops has no verify"})]


def test_a_key_for_something_else_is_no_failure() -> None:
    """If there is a usable key, one for encryption (Keycloak) or for another algorithm is not reported."""
    others = (public_jwk("RS256", kid="enc", use="enc", alg="RSA-OAEP"), public_jwk("ES512"), public_jwk("PS512"))
    source = Source(OLD, *others)
    assert list(source.store.current(NOW)) == ["old"]
    assert source.reports == []
    source.document = jwks(*others)
    assert source.store.current(NOW + FRESHNESS.max_age) == {}
    assert [details["kid"] for _, details in source.reports] == ["enc", "ES512-0", "PS512-0"], "no token can be valid"


def test_rotation() -> None:
    """Add the new key, wait, sign with it, remove the old one: no token is refused, and the old key ends in time."""
    source = Source(OLD)
    verifier = Verifier([Issuer(POLICY, source.store)])
    now = NOW
    old_token = _token("old", exp=int(NOW) + 7200)
    assert verifier.verify(old_token, now).kid == "old"
    source.document = jwks(OLD, NEW)  # 1. both are published
    now += FRESHNESS.max_age
    assert verifier.verify(old_token, now).kid == "old"
    new_token = _token("new", exp=int(NOW) + 7200)  # 2. the issuer signs with the new one
    assert verifier.verify(new_token, now).kid == "new"
    assert verifier.verify(old_token, now).kid == "old"
    source.document = jwks(NEW)  # 3. the old one is removed; a token signed with it that was just verified ends with it
    now += FRESHNESS.max_age
    with pytest.raises(InvalidToken, match="unknown-kid"):
        verifier.verify(old_token, now)
    assert verifier.verify(new_token, now).kid == "new"


def _counting(source: Source, monkeypatch: pytest.MonkeyPatch) -> tuple[Verifier, list[str]]:
    done: list[str] = []
    real = verify_token

    def counted(token: Parts, *rest: Any) -> Any:
        done.append(f"{token.signed_part}.{token.signature}")
        return real(token, *rest)

    monkeypatch.setattr("serve.tokens.verifier.verify_token", counted)
    return Verifier([Issuer(POLICY, source.store)]), done


def test_a_verified_token_is_cached_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 60 s the same text is not verified again; after that it is."""
    verifier, done = _counting(Source(OLD), monkeypatch)
    token = _token("old")
    for second in (0, 1, CACHED_SECONDS - 1):
        assert verifier.verify(token, NOW + second).claims["carrier"] == "B6"
    assert len(done) == 1
    verifier.verify(token, NOW + CACHED_SECONDS)
    assert len(done) == 2


def test_a_cached_token_ends_with_its_exp() -> None:
    """A token that expires within the minute is refused from exactly that second on."""
    verifier = Verifier([Issuer(POLICY, Source(OLD).store)])
    token = _token("old", exp=int(NOW) + 5)
    verifier.verify(token, NOW)
    verifier.verify(token, NOW + 4.9)
    with pytest.raises(InvalidToken, match="expired"):
        verifier.verify(token, NOW + 5)


def test_a_cached_token_is_identified_by_its_whole_text() -> None:
    """The payload of one token with the signature of another is not valid, even if both were just verified."""
    verifier = Verifier([Issuer(POLICY, Source(OLD).store)])
    one, other = _token("old", carrier="AA"), _token("old", carrier="B6")
    verifier.verify(one, NOW)
    verifier.verify(other, NOW)
    head, _, signature = other.split(".")
    with pytest.raises(InvalidToken, match="bad-signature"):
        verifier.verify(f"{head}.{one.split('.')[1]}.{signature}", NOW)
    assert verifier.verify(one, NOW).claims["carrier"] == "AA"


def test_a_cached_token_ends_with_its_key_set() -> None:
    """If any token causes a reading, and a key is gone, its tokens are refused from then on."""
    source = Source(OLD)
    verifier = Verifier([Issuer(POLICY, source.store)])
    token = _token("old")
    verifier.verify(token, NOW)
    source.document = jwks(NEW)
    assert verifier.verify(_token("new"), NOW + 1).kid == "new"
    with pytest.raises(InvalidToken, match="unknown-kid"):
        verifier.verify(token, NOW + 1)


def test_refused_tokens_are_not_cached() -> None:
    """A token that is not valid yet is accepted when its time has come."""
    verifier = Verifier([Issuer(POLICY, Source(OLD).store)])
    token = _token("old", nbf=int(NOW) + 5)
    with pytest.raises(InvalidToken, match="not-yet-valid"):
        verifier.verify(token, NOW)
    verifier.verify(token, NOW + 5)


def test_a_cached_token_is_not_used_before_its_time() -> None:
    """If the clock goes back, a token is verified as of that time."""
    verifier = Verifier([Issuer(POLICY, Source(OLD).store)])
    token = _token("old", nbf=int(NOW))
    verifier.verify(token, NOW)
    with pytest.raises(InvalidToken, match="not-yet-valid"):
        verifier.verify(token, NOW - 1)


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are more tokens than there is room for, the least recently used ones are evicted."""
    verifier, done = _counting(Source(OLD), monkeypatch)
    monkeypatch.setattr("serve.tokens.verifier.CACHED_TOKENS", 3)
    tokens = [_token("old", jti=str(number)) for number in range(4)]
    for token in tokens[:3]:
        verifier.verify(token, NOW)
    verifier.verify(tokens[0], NOW)
    verifier.verify(tokens[3], NOW)
    assert len(verifier._cache) == 3
    done.clear()
    verifier.verify(tokens[0], NOW)
    assert done == []
    verifier.verify(tokens[1], NOW)
    assert done == [tokens[1]]
    assert CACHED_TOKENS == 512


def test_issuers_verify_only_their_own_tokens() -> None:
    """A key of one issuer signs nothing for another, whatever the kid; each has its own audience."""
    other = POLICY._replace(issuer="https://other.example.com/", audience="other")
    first, second = Source(OLD), Source(NEW | {"kid": "old"})
    verifier = Verifier([Issuer(POLICY, first.store), Issuer(other, second.store)])
    good = sign(claims(iss=other.issuer, aud="other"), algorithm="ES256", which=1, kid="old")
    assert verifier.verify(good, NOW).policy is other
    assert verifier.verify(_token("old"), NOW).policy is POLICY
    for odd, reason in (
        (sign(claims(iss=other.issuer, aud="other"), algorithm="ES256", kid="old"), "bad-signature"),
        (sign(algorithm="ES256", which=1, kid="old"), "bad-signature"),
        (sign(claims(iss=other.issuer), algorithm="ES256", which=1, kid="old"), "wrong-audience"),
        (sign(claims(aud="other"), algorithm="ES256", kid="old"), "wrong-audience"),
        (sign(claims(iss="https://third.example.com/"), algorithm="ES256", kid="old"), "wrong-issuer"),
        (sign(claims(iss=None), algorithm="ES256", kid="old"), "wrong-issuer"),
    ):
        with pytest.raises(InvalidToken, match=reason):
            verifier.verify(odd, NOW)


def test_without_keys_the_answer_is_503_and_with_the_last_good_ones_200() -> None:
    """Through the handler: without keys nothing is known about a token, which is not the caller's mistake."""
    app = App(item("a"))
    app.read_error = Unreadable("away")
    answer = app.call("/v1/flight-delays/a", sign())
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert app.line["reason"] == "keys"
    app.read_error = None
    app.now += FRESHNESS.retry
    assert app.call("/v1/flight-delays/a", sign()).status == 200
    app.read_error = Unreadable("away")
    app.now += FRESHNESS.max_age
    assert app.call("/v1/flight-delays/a", sign()).status == 200
    assert app.call("/v1/flight-delays/a", sign(kid="new")).status == 401
