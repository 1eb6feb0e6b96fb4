"""Verify tokens of several issuers, with a cache of recently verified tokens."""

from _thread import allocate_lock  # `threading` takes 0.7 ms more to import
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from serve.tokens.jwt import TENANT, InvalidToken, Policy, find_issuer, peek_claims, split_token, verify_token
from serve.tokens.key_cache import KeyStore
from serve.tokens.signing_key import SigningKey

CACHED_TOKENS = 512  # of 8 KiB at most
CACHED_SECONDS = 60


class Issuer(NamedTuple):
    """An issuer: its policy and its keys, which no other issuer shares."""

    policy: Policy
    keys: KeyStore


class Trusted(NamedTuple):
    """A token that was verified.

    `partitions` has the partition key that it gives access to by dataset, and the subject by `models/{model}`, as far
    as they were checked: they follow from the claims and the policy alone, so a cached token needs no second check.
    """

    claims: Mapping[str, Any]
    policy: Policy
    kid: str
    partitions: dict[str, str]


class _Cached(NamedTuple):
    trusted: Trusted
    issuer: Issuer
    keys: Mapping[str, SigningKey]
    start: float
    end: float


class Verifier:
    """Verifies tokens of several issuers and caches the valid ones. Threads can share it.

    A token is cached by its whole text, until it expires or for 60 s, and only while its issuer's key set is the one
    that it was verified with (V13).
    """

    def __init__(self, issuers: list[Issuer]) -> None:
        self._of_tenants = [issuer for issuer in issuers if TENANT in issuer.policy.issuer]
        self._issuers = {issuer.policy.issuer: issuer for issuer in issuers if TENANT not in issuer.policy.issuer}
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        # Every use of the cache is several operations, between which another thread can evict the token.
        self._lock = allocate_lock()

    def verify(self, token: str, now: float) -> Trusted:
        """Verify a token.

        Raises:
            InvalidToken: the token is not valid.
            KeysUnavailable: its issuer's keys cannot be read.
        """
        cached = self._recall(token, now)
        if cached is not None and cached.issuer.keys.current(now) is cached.keys:
            return cached.trusted
        parts = split_token(token)
        claims = peek_claims(parts)
        issuer = self._find_issuer(claims)
        keys = issuer.keys.current(now)
        try:
            verified = verify_token(parts, claims, keys, issuer.policy, now)
        except InvalidToken as error:
            if not _can_be_new_key(error, issuer.policy):
                raise
            keys = issuer.keys.renewed(now)
            verified = verify_token(parts, claims, keys, issuer.policy, now)
        trusted = Trusted(verified.claims, issuer.policy, verified.kid, {})
        end = min(verified.claims["exp"], now + CACHED_SECONDS)
        self._remember(token, _Cached(trusted, issuer, keys, now, end))
        return trusted

    def remembers(self, token: str, now: float) -> bool:
        """Return whether `verify` returns for this token without waiting; `now` can be a time that is still to come."""
        cached = self._recall(token, now)
        return cached is not None and cached.issuer.keys.is_ready(now)

    def _find_issuer(self, claims: Mapping[str, Any]) -> Issuer:
        """Return the issuer whose keys must verify a token with these claims, none of which is verified."""
        found = self._issuers.get(claims["iss"])
        if found is not None:
            return found
        for issuer in self._of_tenants:
            if find_issuer(claims, issuer.policy) == claims["iss"]:
                return issuer
        raise InvalidToken("wrong-issuer")

    def _recall(self, token: str, now: float) -> _Cached | None:
        with self._lock:
            cached = self._cache.get(token)
            if cached is not None:
                self._cache.move_to_end(token)
        return cached if cached is not None and cached.start <= now < cached.end else None

    def _remember(self, token: str, cached: _Cached) -> None:
        with self._lock:
            self._cache[token] = cached
            self._cache.move_to_end(token)
            if len(self._cache) > CACHED_TOKENS:
                self._cache.popitem(last=False)


def _can_be_new_key(error: InvalidToken, policy: Policy) -> bool:
    """Return whether reading the keys again can help: the kid is new, or a token without kid has another key."""
    if error.reason == "unknown-kid":
        return True
    return policy.allow_missing_kid and error.reason in ("no-kid", "bad-signature", "wrong-algorithm")
