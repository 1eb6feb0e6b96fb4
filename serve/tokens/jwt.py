"""Verify a bearer token: token, keys, policy and time in; claims out, or one error. It fetches nothing.

    keys = parse_jwks(document).keys                                # serve.tokens.jwks; a JWKS as a string or dict
    policy = Policy(issuer="https://issuer.example.com/", audience="larder")
    claims = verify(token, keys, policy, now=time.time())           # or InvalidToken

An attacker controls everything in a token until its signature is verified, and claims that an honest issuer signed can
still contain text from its users. The rules V1 to V14 are those of RFC 7515, 7519, 8725, 9068 and of the
public test vectors for them; each is marked where it is enforced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from serve.tokens.signing_key import ALGORITHMS, SigningKey, is_signed
from serve.tokens.strict import parse_base64url, parse_json

MAX_TOKEN_BYTES = 8 * 1024  # API Gateway takes 10,240 bytes of headers in all
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\Z")
_TYPES = ("at+jwt", "application/at+jwt", "jwt")  # compared in lower case


class InvalidToken(Exception):
    """The token is not valid: the only error of this module, and always a 401.

    `reason` is one of a fixed set of words, never text from the token, so it can be logged.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Policy(NamedTuple):
    """Requirements for one issuer's tokens. Times are in seconds.

    `scope_claims` names the claims with scopes: a string of words (RFC 8693 `scope`), or a list of words (`scp`).
    """

    issuer: str
    audience: str
    algorithms: frozenset[str] = ALGORITHMS
    leeway: float = 10
    require_at_jwt: bool = False
    require_iat: bool = True
    scope_claims: tuple[str, ...] = ("scope", "scp")


class Signed(NamedTuple):
    """A token whose signature is valid; its payload is not checked yet."""

    kid: str
    header: dict[str, Any]
    payload: bytes


class Verified(NamedTuple):
    """The claims of a verified token, and the kid of its key."""

    kid: str
    claims: dict[str, Any]


def verify(token: str, keys: Mapping[str, SigningKey], policy: Policy, now: float) -> dict[str, Any]:
    """Verify a token of one issuer and return its claims.

    Args:
        token: the compact serialisation, as it came after `Bearer `; a value that is not a `str` is a malformed token.
        keys: the issuer's own keys by kid, as in `serve.tokens.jwks.parse_jwks(document).keys`; can be empty.
        policy: requirements for this issuer; `Policy(issuer, audience)` has the defaults.
        now: epoch seconds.

    Returns:
        Every claim of the payload as parsed JSON: `dict` with `str`, `int`, `float`, `bool`, `None`, `list`, `dict`.

    Raises:
        InvalidToken: `reason` says why; nothing else is raised (V14).
    """
    return verify_token(token, keys, policy, now).claims


def verify_token(token: str, keys: Mapping[str, SigningKey], policy: Policy, now: float) -> Verified:
    """Verify as `verify` does, and return the kid as well."""
    signed = check_signature(token, keys, policy)
    claims = _parse_object(signed.payload)
    check_claims(claims, policy, now)
    return Verified(signed.kid, claims)


def check_signature(token: str, keys: Mapping[str, SigningKey], policy: Policy) -> Signed:
    """Check format, header and signature; the payload can be any bytes.

    Raises:
        InvalidToken: reason `unknown-kid` if no key has the token's kid; reading the keys again can help.
    """
    head, payload, signature = _split(token)
    header = _parse_object(_decode(head))
    key = _find_key(header, keys, policy)
    signed_part = token[: len(head) + 1 + len(payload)].encode()
    if not is_signed(key, _decode(signature), signed_part):
        raise InvalidToken("bad-signature")
    return Signed(key.kid, header, _decode(payload))


def check_claims(claims: Mapping[str, Any], policy: Policy, now: float) -> None:
    """Check issuer, audience and times of signed claims.

    Raises:
        InvalidToken: a claim is missing, has another type, or does not meet the policy.
    """
    if claims.get("iss") != policy.issuer:  # V10
        raise InvalidToken("wrong-issuer")
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or not all(isinstance(one, str) for one in audiences):
        raise InvalidToken("malformed-claim")
    if policy.audience not in audiences:
        raise InvalidToken("wrong-audience")
    for name in ("sub", "jti", "client_id"):
        if name in claims and not isinstance(claims[name], str):
            raise InvalidToken("malformed-claim")
    _check_times(claims, policy, now)


def peek_issuer(token: str) -> str:
    """Return the unverified issuer of a token, to choose the keys that must verify it.

    Raises:
        InvalidToken: the token is not a JWT with an issuer.
    """
    _, payload, _ = _split(token)
    issuer = _parse_object(_decode(payload)).get("iss")
    if not isinstance(issuer, str):
        raise InvalidToken("wrong-issuer")
    return issuer


def _split(token: str) -> tuple[str, str, str]:
    if not isinstance(token, str) or len(token) > MAX_TOKEN_BYTES:  # V12
        raise InvalidToken("malformed")
    found = _COMPACT.match(token)  # V1; `\Z`, since `$` would take a line feed at the end
    if found is None:
        raise InvalidToken("malformed")
    return found[1], found[2], found[3]


def _decode(part: str) -> bytes:
    try:
        return parse_base64url(part)  # V2
    except ValueError as error:
        raise InvalidToken("malformed") from error


def _parse_object(data: bytes) -> dict[str, Any]:
    try:
        value = parse_json(data)  # V8
    except ValueError as error:
        raise InvalidToken("malformed") from error
    if not isinstance(value, dict):
        raise InvalidToken("malformed")
    return value


def _find_key(header: Mapping[str, Any], keys: Mapping[str, SigningKey], policy: Policy) -> SigningKey:
    """Return the only key that can have signed the token; `jwk`, `jku`, `x5u` and `x5c` are ignored (V4)."""
    if "crit" in header or "b64" in header:  # V6: an unknown extension must not be ignored
        raise InvalidToken("unsupported-header")
    if "cty" in header:  # V7: a token within a token
        raise InvalidToken("nested")
    kind = header.get("typ")
    if "typ" in header and not (isinstance(kind, str) and kind.lower() in _TYPES):
        raise InvalidToken("wrong-type")
    if policy.require_at_jwt and (kind is None or kind.lower() == "jwt"):
        raise InvalidToken("wrong-type")
    kid = header.get("kid")
    if not isinstance(kid, str):  # V4: no kid, no key; not even when there is only one
        raise InvalidToken("no-kid")
    key = keys.get(kid)
    if key is None:
        raise InvalidToken("unknown-kid")
    # V3: the key decides the algorithm; the header must agree, and the policy must allow it.
    if header.get("alg") != key.algorithm or key.algorithm not in policy.algorithms or key.algorithm not in ALGORITHMS:
        raise InvalidToken("wrong-algorithm")
    return key


def _check_times(claims: Mapping[str, Any], policy: Policy, now: float) -> None:
    """V9. The leeway is added to limits, not claims: a claim can be an integer too large for a float."""
    for name in ("exp", "iat", "nbf"):
        if name in claims and type(claims[name]) not in (int, float):  # a bool is an int to isinstance
            raise InvalidToken("malformed-claim")
    if "exp" not in claims or ("iat" not in claims and policy.require_iat):
        raise InvalidToken("missing-claim")
    if claims["exp"] <= now - policy.leeway:
        raise InvalidToken("expired")
    if claims.get("nbf", 0) > now + policy.leeway or claims.get("iat", 0) > now + policy.leeway:
        raise InvalidToken("not-yet-valid")
