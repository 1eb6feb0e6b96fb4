"""Verify tokens of several issuers, with a cache of recently verified tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from serve.tokens.jwt import InvalidToken, Policy, peek_issuer, verify_token
from serve.tokens.key_cache import KeyStore
from serve.tokens.signing_key import SigningKey

CACHED_TOKENS = 512  # of 8 KiB at most
CACHED_SECONDS = 60


class Issuer(NamedTuple):
    """An issuer: its policy and its keys, which no other issuer shares."""

    policy: Policy
    keys: KeyStore


class Trusted(NamedTuple):
    """A token that was verified."""

    claims: Mapping[str, Any]
    policy: Policy
    kid: str


class _Cached(NamedTuple):
    trusted: Trusted
    issuer: Issuer
    keys: Mapping[str, SigningKey]
    start: float
    end: float


class Verifier:
    """Verifies tokens of several issuers and caches the valid ones.

    A token is cached by its whole text, until it expires or for 60 s, and only while its issuer's key set is the one
    that it was verified with (V13).
    """

    def __init__(self, issuers: list[Issuer]) -> None:
        self._issuers = {issuer.policy.issuer: issuer for issuer in issuers}
        self._cache: OrderedDict[str, _Cached] = OrderedDict()

    def verify(self, token: str, now: float) -> Trusted:
        """Verify a token.

        Raises:
            InvalidToken: the token is not valid.
            KeysUnavailable: its issuer's keys cannot be read.
        """
        cached = self._cache.get(token)
        if cached is not None:
            if cached.start <= now < cached.end and cached.issuer.keys.current(now) is cached.keys:
                self._cache.move_to_end(token)
                return cached.trusted
            del self._cache[token]
        issuer = self._issuers.get(peek_issuer(token))
        if issuer is None:
            raise InvalidToken("wrong-issuer")
        keys = issuer.keys.current(now)
        try:
            verified = verify_token(token, keys, issuer.policy, now)
        except InvalidToken as error:
            if error.reason != "unknown-kid":
                raise
            keys = issuer.keys.renewed(now)
            verified = verify_token(token, keys, issuer.policy, now)
        trusted = Trusted(verified.claims, issuer.policy, verified.kid)
        self._cache[token] = _Cached(trusted, issuer, keys, now, min(verified.claims["exp"], now + CACHED_SECONDS))
        if len(self._cache) > CACHED_TOKENS:
            self._cache.popitem(last=False)
        return trusted
