"""Parse key documents, JWKS or PEM, into usable keys and refused keys with reasons.

`parse_jwks(document).keys` is the `keys` argument of `serve.tokens.jwt.verify`.
"""

import json
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from serve.tokens.signing_key import DEFAULT_ALGORITHMS, BadKey, SigningKey, UnusedKey, build_signing_key
from serve.tokens.strict import Ambiguous, parse_base64url, parse_json

_CURVES = {"P-256": (SECP256R1, 32), "P-384": (SECP384R1, 48), "P-521": (SECP521R1, 66)}
_THUMBPRINT = {
    "RSA": ("e", "kty", "n"),
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
}  # RFC 7638, 8037: in this order
_KEPT = {"x5t": "x5t", "x5t#S256": "x5t_s256", "issuer": "issuer"}  # member of a JWK -> member of SigningKey
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


# Common faults of a document, by its first bytes.
_UNREADABLE = {
    b"\xef\xbb\xbf": "begins with a byte order mark; store it as UTF-8 without one",
    b"\xff\xfe\x00\x00": "is UTF-32; store it as UTF-8",
    b"\x00\x00\xfe\xff": "is UTF-32; store it as UTF-8",
    b"\xff\xfe": "is UTF-16; store it as UTF-8",
    b"\xfe\xff": "is UTF-16; store it as UTF-8",
    b"\x1f\x8b": "is gzip, which was not requested; serve or store it as plain JSON",
    b"<": "is HTML or XML, not a JWKS document",
}


class BadKeySet(Exception):
    """The document is neither JWKS nor PEM."""


class KeyDocument(NamedTuple):
    """One file, object or parameter; the kid of a PEM is its name."""

    name: str
    data: bytes


class RefusedKey(NamedTuple):
    """A key that is not used, and the reason."""

    kid: str
    reason: str


class KeySet(NamedTuple):
    """Usable keys by kid, and the others. If `keys` is empty, every token is invalid.

    `refused` keys are faults of the key set. `unused` keys are for another purpose or algorithm, which is not a fault:
    every key set of Keycloak has one for encryption.
    """

    keys: Mapping[str, SigningKey]
    refused: tuple[RefusedKey, ...]
    unused: tuple[RefusedKey, ...] = ()


def parse_keys(
    documents: Iterable[KeyDocument],
    algorithms: frozenset[str] = DEFAULT_ALGORITHMS,
    *,
    allow_missing_kid: bool = False,
) -> KeySet:
    """Parse all documents of one issuer into one key set. One bad key does not disable the rest (V5).

    If a kid occurs twice, both keys are refused.

    Args:
        documents: JWKS or PEM.
        algorithms: those that the issuer's policy allows.
        allow_missing_kid: use a key without kid, under its thumbprint (RFC 7638).

    Raises:
        BadKeySet: a document is neither JWKS nor PEM.
    """
    entries = [entry for document in documents for entry in _split_document(document)]
    if allow_missing_kid:
        entries = [(_give_kid(source), source) if _lacks_kid(source) else (kid, source) for kid, source in entries]
    times = Counter(kid for kid, _ in entries)
    keys: dict[str, SigningKey] = {}
    refused: list[RefusedKey] = []
    unused: list[RefusedKey] = []
    for kid, source in entries:
        try:
            if times[kid] > 1:
                raise BadKey("kid is not unique")
            keys[kid] = (
                _parse_pem(kid, source, algorithms) if isinstance(source, bytes) else parse_jwk(source, algorithms)
            )
        except UnusedKey as error:
            unused.append(RefusedKey(kid, str(error)))
        except BadKey as error:
            refused.append(RefusedKey(kid, str(error)))
    return KeySet(keys, tuple(refused), tuple(unused))


def parse_jwks(document: str | bytes | Mapping[str, Any]) -> KeySet:
    """Parse one JWKS document (RFC 7517 section 5): text, or parsed JSON.

    Raises:
        BadKeySet: the document is not a JWKS.
    """
    if isinstance(document, Mapping):
        try:
            document = json.dumps(document)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadKeySet("not a JWKS document") from error
    try:
        data = document.encode() if isinstance(document, str) else document
    except UnicodeEncodeError as error:
        raise BadKeySet("not a JWKS document") from error
    return parse_keys([KeyDocument("jwks.json", data)])


def parse_jwk(jwk: object, algorithms: frozenset[str] = DEFAULT_ALGORITHMS) -> SigningKey:
    """Parse one JWK for the algorithms that a policy allows.

    Raises:
        UnusedKey: the key is not for signatures, or the policy does not allow its algorithm or type.
        BadKey: the key is symmetric, private, weak, or malformed.
    """
    if isinstance(jwk, Ambiguous):
        raise BadKey("a member occurs twice")
    if not isinstance(jwk, dict):
        raise BadKey("not an object")
    if jwk.get("kty") == "oct" or any(member in jwk for member in _PRIVATE):
        raise BadKey("private or symmetric (kty oct): it must not be published among public keys")
    _check_purpose(jwk)
    if "alg" in jwk and not isinstance(jwk["alg"], str):
        raise BadKey("alg is not a string")
    if "alg" in jwk and jwk["alg"] not in algorithms:
        raise UnusedKey("its algorithm (alg) is not one that the issuer's settings allow")
    try:
        public_key = _load(jwk)
    except BadKey:
        raise
    except (ValueError, TypeError) as error:  # checks of cryptography: off the curve, an even exponent, ...
        raise BadKey("not a valid key of its type") from error
    key = build_signing_key(jwk.get("kid"), public_key, jwk.get("alg"), algorithms)
    return key._replace(**{field: jwk[name] for name, field in _KEPT.items() if isinstance(jwk.get(name), str)})


def _check_purpose(jwk: Mapping[str, Any]) -> None:
    """Check `use` and `key_ops` (RFC 7517 sections 4.2 and 4.3), which can have values that are not registered."""
    if "use" in jwk and jwk["use"] != "sig":
        use = jwk["use"]
        raise (BadKey if not isinstance(use, str) or use.lower() in ("", "sig") else UnusedKey)("use is not sig")
    if "key_ops" in jwk:
        operations = jwk["key_ops"]
        if not isinstance(operations, list) or not all(isinstance(one, str) for one in operations):
            raise BadKey("key_ops is not a list of strings")
        if "verify" not in operations:
            raise (BadKey if not operations or "sign" in operations else UnusedKey)("key_ops has no verify")


def _split_document(document: KeyDocument) -> list[tuple[str, Any]]:
    """Split a document into (kid, JWK or PEM)."""
    for start, what in _UNREADABLE.items():
        if document.data.lstrip().startswith(start):
            raise BadKeySet(f"{document.name}: {what}")
    if document.data.lstrip().startswith(b"-----BEGIN "):
        return [(document.name.rpartition("/")[2].removesuffix(".pem"), document.data)]
    try:
        keys = parse_json(document.data, mark_ambiguous=True)["keys"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadKeySet(f"{document.name}: neither a JWKS document nor PEM") from error
    if not isinstance(keys, list):
        raise BadKeySet(f"{document.name}: keys is not a list")
    return [(_name(jwk, number), jwk) for number, jwk in enumerate(keys)]


def _name(jwk: object, number: int) -> str:
    kid = jwk.get("kid") if isinstance(jwk, dict) else None
    return kid if isinstance(kid, str) and kid else f"(key {number} without kid)"


def _lacks_kid(source: object) -> bool:
    return isinstance(source, dict) and "kid" not in source


def _give_kid(jwk: dict[str, Any]) -> str:
    """Give a JWK its thumbprint as kid, and return it (RFC 7638 section 3)."""
    members = {name: jwk.get(name) for name in _THUMBPRINT.get(str(jwk.get("kty")), ())}
    text = json.dumps(members, separators=(",", ":"), default=str)
    kid: str = urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()
    jwk["kid"] = kid
    return kid


def _load(jwk: Mapping[str, Any]) -> object:
    kind, curve_name = jwk.get("kty"), jwk.get("crv")
    if kind == "RSA":
        return RSAPublicNumbers(e=_integer(jwk, "e"), n=_integer(jwk, "n")).public_key()
    if not isinstance(kind, str) or not kind:
        raise BadKey("kty is missing or not a string")
    if kind not in ("EC", "OKP"):  # RFC 7517 section 5: types that are not understood should be ignored
        raise UnusedKey("kty is not RSA, EC or OKP")
    if not isinstance(curve_name, str) or not curve_name:
        raise BadKey("crv is missing or not a string")
    if kind == "EC" and curve_name in _CURVES:
        curve, size = _CURVES[curve_name]
        x, y = _integer(jwk, "x", size), _integer(jwk, "y", size)
        return EllipticCurvePublicNumbers(x, y, curve()).public_key()
    if kind == "OKP" and curve_name == "Ed25519":
        return Ed25519PublicKey.from_public_bytes(_octets(jwk, "x", 32))
    raise UnusedKey("crv is not one of P-256, P-384, P-521 and Ed25519, or not for this kty")


def _integer(jwk: Mapping[str, Any], member: str, size: int | None = None) -> int:
    return int.from_bytes(_octets(jwk, member, size), "big")


def _octets(jwk: Mapping[str, Any], member: str, size: int | None) -> bytes:
    text = jwk.get(member)
    if not isinstance(text, str):
        raise BadKey(f"{member} is missing")
    octets = parse_base64url(text)
    if size is not None and len(octets) != size:  # RFC 7518 section 6.2.1.2: at full length
        raise BadKey(f"{member} is not {size} bytes long")
    return octets


def _parse_pem(kid: str, data: bytes, algorithms: frozenset[str]) -> SigningKey:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # slow to import, and PEM is rare

    if b"PRIVATE" in data:
        raise BadKey("private: it must not be published among public keys")
    try:
        public_key = load_pem_public_key(data)
    except (ValueError, TypeError) as error:
        raise BadKey("not a public key in PEM") from error
    try:
        return build_signing_key(kid, public_key, None, algorithms)
    except UnusedKey as error:  # an operator stored this key on purpose, so this is a fault
        raise BadKey(str(error)) from error
