"""Verify a bearer token: token, keys, policy and time in; claims or one exception out. Nothing is fetched here.

    keys = parse_jwks(document).keys                                # serve.tokens.jwks; a JWKS as a string or dict
    policy = Policy(issuer="https://issuer.example.com/", audience="larder")
    claims = verify(token, keys, policy, now=time.time())           # or InvalidToken

An attacker controls everything in a token until its signature is verified, and claims that an honest issuer signed can
still contain text from its users. The rules V1 to V14 come from RFC 7515, 7519, 8725 and 9068 and the public test
vectors for them; each is marked where it is enforced.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from serve.tokens.signing_key import ALGORITHMS, DEFAULT_ALGORITHMS, SigningKey, is_signed
from serve.tokens.strict import parse_base64url, parse_json

MAX_TOKEN_BYTES = 8 * 1024  # API Gateway takes 10,240 bytes of headers in all
_TYPES = ("at+jwt", "application/at+jwt", "jwt")  # compared in lower case
TENANT = "{tid}"  # in a policy's issuer: the token's own claim tid
ANY_TENANT = "any"
TENANT_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z"  # compiled at its first use, which few deployments have

Claim = str | tuple[str, ...]  # a claim's name, or the names that lead to a claim within objects


class InvalidToken(Exception):
    """The token is not valid: the only error of this module, and always a 401.

    `reason` is one of a fixed set of words, and `claim` is a name from the settings. Neither is text from the token, so
    both can be logged and returned.
    """

    def __init__(self, reason: str, claim: Claim = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.claim = claim if isinstance(claim, str) else ".".join(claim)


class Policy(NamedTuple):
    """Requirements for one issuer's tokens, and what they give access to. Times are in seconds.

    docs/identity-providers.md explains each member with its risk; `serve.settings` parses and checks them.
    """

    issuer: str  # exactly `iss`; with TENANT in it, the token's tenant is inserted
    audience: str | tuple[str, ...]  # one of them
    algorithms: frozenset[str] = DEFAULT_ALGORITHMS
    leeway: float = 10
    require_at_jwt: bool = False
    require_iat: bool = True
    scope_claims: tuple[Claim, ...] = ("scope", "scp")  # a string of words (RFC 8693 `scope`), or a list (`scp`)
    audience_claim: Claim = "aud"
    tenants: frozenset[str] = frozenset()  # for TENANT; ANY_TENANT in it allows all
    require_claims: tuple[tuple[Claim, tuple[str | int, ...]], ...] = ()  # claim, its accepted values
    allow_missing_kid: bool = False
    scope_separator: str = " "
    scopes: tuple[tuple[str, str | None], ...] = ()  # dataset, its scope at this issuer (None: it needs none)
    datasets: frozenset[str] | None = None  # those that this issuer gives access to; None: all
    models: frozenset[str] | None = None  # models that its tokens can score with; None: all, but none with `datasets`
    subject_claims: tuple[tuple[str, Claim], ...] = ()  # claim of a subject, its place in this issuer's tokens
    allow_integer_subject: bool = False
    allow_list_subject: bool = False


class Parts(NamedTuple):
    """A token that is not verified: its parts as text, without the payload, and the decoded payload."""

    head: str
    signed_part: str  # head and payload, as they are signed
    signature: str
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
    return verify_token(split_token(token), None, keys, policy, now).claims


def split_token(token: str) -> Parts:
    """Split a token; nothing of it is verified.

    Raises:
        InvalidToken: it is not in compact form, or its payload is not strictly encoded.
    """
    if not isinstance(token, str) or len(token) > MAX_TOKEN_BYTES:  # V12
        raise InvalidToken("malformed")
    parts = token.split(".")  # V1
    if len(parts) != 3 or not all(parts):
        raise InvalidToken("malformed")
    head, payload, signature = parts
    return Parts(head, token[: len(head) + 1 + len(payload)], signature, _decode(payload))


def verify_token(
    token: Parts, claims: dict[str, Any] | None, keys: Mapping[str, SigningKey], policy: Policy, now: float
) -> Verified:
    """Verify as `verify` does, and return the kid as well; `claims` are those of `peek_claims`, if it was called."""
    key = check_signature(token, keys, policy)
    if claims is None:
        claims = _parse_object(token.payload)
    check_claims(claims, policy, now)
    _check_key_issuer(key, claims, policy)
    return Verified(key.kid, claims)


def check_signature(token: Parts, keys: Mapping[str, SigningKey], policy: Policy) -> SigningKey:
    """Check header and signature, and return the key; the payload can be any bytes.

    Raises:
        InvalidToken: reason `unknown-kid` if no key has the token's kid; reading the keys again can help.
    """
    key = _find_key(_parse_header(token.head), keys, policy)
    if not is_signed(key, _decode(token.signature), token.signed_part.encode()):
        raise InvalidToken("bad-signature")
    return key


def check_claims(claims: Mapping[str, Any], policy: Policy, now: float) -> None:
    """Check issuer, audience and times of signed claims.

    Raises:
        InvalidToken: a claim is missing, has another type, or does not meet the policy.
    """
    issuer = find_issuer(claims, policy)
    if issuer is None or claims.get("iss") != issuer:  # V10
        raise InvalidToken("wrong-issuer")
    _check_audience(claims, policy)
    kinds = (str, *([int] if policy.allow_integer_subject else []), *([list] if policy.allow_list_subject else []))
    for name in ("sub", "jti", "client_id"):
        if name in claims and type(claims[name]) not in kinds:
            raise InvalidToken("malformed-claim", name)
    _check_times(claims, policy, now)
    for claim, accepted in policy.require_claims:
        value = get_claim(claims, claim)
        if value is None:
            raise InvalidToken("missing-claim", claim)
        values = value if isinstance(value, list) else [value]
        if not any(type(one) is type(other) and one == other for one in values for other in accepted):
            raise InvalidToken("wrong-claim", claim)


def find_issuer(claims: Mapping[str, Any], policy: Policy) -> str | None:
    """Return the exact `iss` that a policy requires of a token with these claims; None if it accepts none.

    For a provider with many tenants (TENANT in the policy's issuer), the claim `tid` names the tenant.
    """
    if TENANT not in policy.issuer:
        return policy.issuer
    tenant = claims.get("tid")
    if not isinstance(tenant, str) or not re.match(TENANT_ID, tenant):
        return None
    is_accepted = tenant in policy.tenants or ANY_TENANT in policy.tenants
    return policy.issuer.replace(TENANT, tenant) if is_accepted else None


def get_claim(claims: Mapping[str, Any], claim: Claim) -> Any:
    """Return the value of a claim; None if it is missing or null."""
    if isinstance(claim, str):
        return claims.get(claim)
    value: Any = claims
    for name in claim:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def peek_claims(token: Parts) -> dict[str, Any]:
    """Return the claims of a token without verifying it, to choose the issuer whose keys must verify it.

    Raises:
        InvalidToken: the token is not a JWT with an issuer.
    """
    claims = _parse_object(token.payload)
    if not isinstance(claims.get("iss"), str):
        raise InvalidToken("wrong-issuer")
    return claims


def _check_key_issuer(key: SigningKey, claims: Mapping[str, Any], policy: Policy) -> None:
    """Check that the key can sign for the token's tenant.

    Entra's key set for all tenants also has keys for a single tenant. The member `issuer` of a key names the tenant, or
    contains `{tenantid}` if the key is for all tenants.
    """
    if TENANT in policy.issuer and key.issuer and key.issuer.replace("{tenantid}", claims["tid"]) != claims["iss"]:
        raise InvalidToken("wrong-issuer")


def _check_audience(claims: Mapping[str, Any], policy: Policy) -> None:
    value = get_claim(claims, policy.audience_claim)
    values = [value] if isinstance(value, str) else value
    if value is None and policy.audience_claim not in claims:
        raise InvalidToken("missing-claim", policy.audience_claim)
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise InvalidToken("malformed-claim", policy.audience_claim)
    accepted = (policy.audience,) if isinstance(policy.audience, str) else policy.audience
    if not any(one in values for one in accepted):
        raise InvalidToken("wrong-audience")


@lru_cache(64)  # all tokens that an issuer signs with one key have the same header; it must not be modified
def _parse_header(head: str) -> Mapping[str, Any]:
    return _parse_object(_decode(head))


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
    key = _find_by_kid(header, keys, policy)
    # V3: the key decides the algorithm; the header must agree, and the policy must allow it.
    if header.get("alg") != key.algorithm or key.algorithm not in policy.algorithms or key.algorithm not in ALGORITHMS:
        raise InvalidToken("wrong-algorithm")
    return key


def _find_by_kid(header: Mapping[str, Any], keys: Mapping[str, SigningKey], policy: Policy) -> SigningKey:
    kid = header.get("kid")
    if "kid" not in header and policy.allow_missing_kid:
        return _find_without_kid(header, keys)
    if not isinstance(kid, str):  # V4: no kid, no key; not even when there is only one
        raise InvalidToken("no-kid")
    key = keys.get(kid)
    if key is None:
        # A key for an algorithm that the policy does not allow is never in the set, so reading again cannot help.
        is_allowed = isinstance(header.get("alg"), str) and header["alg"] in policy.algorithms
        raise InvalidToken("unknown-kid" if is_allowed else "wrong-algorithm")
    return key


def _find_without_kid(header: Mapping[str, Any], keys: Mapping[str, SigningKey]) -> SigningKey:
    """Return the key whose certificate the header names, or the only key of the set.

    RFC 7515, sections 4.1.7 and 4.1.8. Providers that send x5t also use it as kid, and the kid of a PEM is its file
    name.
    """
    found = list(keys.values())
    named = [header[name] for name in ("x5t", "x5t#S256") if name in header]
    if named:
        found = [key for key in found if any(one and one in (key.kid, key.x5t, key.x5t_s256) for one in named)]
        if not found:
            raise InvalidToken("unknown-kid")
    if len(found) != 1:
        raise InvalidToken("no-kid")
    (key,) = found
    return key


def _check_times(claims: Mapping[str, Any], policy: Policy, now: float) -> None:
    """V9. The leeway is added to limits, not claims: a claim can be an integer too large for a float."""
    for name in ("exp", "iat", "nbf"):
        if name in claims and type(claims[name]) not in (int, float):  # a bool is an int to isinstance
            raise InvalidToken("malformed-claim", name)
    for name in ("exp", "iat") if policy.require_iat else ("exp",):
        if name not in claims:
            raise InvalidToken("missing-claim", name)
    if claims["exp"] <= now - policy.leeway:
        raise InvalidToken("expired")
    if any(claims[name] > now + policy.leeway for name in ("nbf", "iat") if name in claims):
        raise InvalidToken("not-yet-valid")
